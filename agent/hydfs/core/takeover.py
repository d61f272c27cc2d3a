"""Sealing a block whose coordinator is down: promises first, then the longest copy.

Any replica may run this at any time. It asks all replicas for a durable promise to take no more records. Once
enough have promised (``filetable.needed_promises``), the old coordinator can no longer acknowledge anything,
and the longest copy among them holds every record that it ever acknowledged. Records beyond the acknowledged
ones may stay: a retry of their writer finds them as duplicates. A copy that may have lost its tail to a
damaged journal, or all of it to a new disk, counts only when every replica has answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.hydfs.core.block import BlockKey, WriterMark
from agent.hydfs.core.events import SealBlock
from agent.hydfs.core.filetable import needed_promises


@dataclass(frozen=True, slots=True)
class PromiseReceived:
    """Event: a replica promised and described its copy."""

    peer: str
    length: int
    crc: int
    writers: dict[str, WriterMark]
    doubtful: bool


@dataclass(frozen=True, slots=True)
class PromiseFailed:
    """Event: a replica cannot be reached or refuses."""

    peer: str


@dataclass(frozen=True, slots=True)
class AskPromise:
    """Effect: ask ``peer`` to promise."""

    peer: str


@dataclass(frozen=True, slots=True)
class Fail:
    """Effect: the block cannot be sealed now."""

    code: str
    message: str


Effect = AskPromise | SealBlock | Fail


class Takeover:
    """One attempt to seal one block."""

    def __init__(
        self, key: BlockKey, name: str, replicas: Sequence[str], ack: str, base: int, *, timeout_s: float
    ) -> None:
        self._key = key
        self._name = name
        self._replicas = tuple(replicas)
        self._needed = needed_promises(ack, len(self._replicas))
        self._base = base
        self._timeout = timeout_s
        self._deadline: float | None = None
        self._promises: dict[str, PromiseReceived] = {}
        self._failed: dict[str, None] = {}

    def start(self, now: float) -> list[Effect]:
        """Asks every replica."""
        self._deadline = now + self._timeout
        return [AskPromise(replica) for replica in self._replicas]

    def handle(self, now: float, event: PromiseReceived | PromiseFailed | None) -> list[Effect]:
        """Takes an answer, or the time-out (None)."""
        if self._deadline is None:
            return []
        match event:
            case PromiseReceived(peer=peer):
                self._promises[peer] = event
            case PromiseFailed(peer=peer):
                self._failed[peer] = None
            case None:
                if now < self._deadline:
                    return []
        everybody = len(self._promises) == len(self._replicas)
        waiting = len(self._promises) + len(self._failed) < len(self._replicas)
        if waiting and now < self._deadline:
            return []
        self._deadline = None
        sound = [promise for promise in self._promises.values() if everybody or not promise.doubtful]
        if len(sound) < self._needed:
            return [
                Fail(
                    "UNAVAILABLE",
                    f"block {self._key[1]} of {self._name!r} cannot be sealed: {len(sound)} of its replicas "
                    f"{', '.join(self._replicas)} answer, {self._needed} must",
                )
            ]
        return [self._decide(sound)]

    def next_deadline(self) -> float | None:
        """Returns when the attempt times out."""
        return self._deadline

    def _decide(self, promises: list[PromiseReceived]) -> SealBlock:
        best = max(promises, key=lambda promise: promise.length)
        holders = tuple(
            promise.peer
            for promise in self._promises.values()
            if (promise.length, promise.crc) == (best.length, best.crc)
        )
        writers = {writer: (mark[0], self._base + mark[1], mark[2]) for writer, mark in best.writers.items()}
        lost = tuple(replica for replica in self._replicas if replica not in self._promises)
        return SealBlock(self._key, self._name, best.length, best.crc, holders, writers, lost)
