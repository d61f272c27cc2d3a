"""Follows the logs of many nodes: the newest lines, and then each new one as it is written.

One thread per node asks the node's agent repeatedly, with the positions of the last answer. If the agent
stops or the connection breaks, the thread asks with the same positions until it gets an answer, so no line is
skipped or repeated.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.common.errors import RainStormError, UsageError
from agent.logs.messages import PositionFields
from ops.cluster.connections import Connections

# How long an agent holds a request, and so how long a thread outlives a reader that stopped.
WAIT_S = 1.0
RETRY_S = (0.2, 2.0)
WAITING_MAX = 32


@dataclass(frozen=True, slots=True)
class Lines:
    """Whole lines of one file of a node."""

    node: str
    file: str
    data: bytes


@dataclass(frozen=True, slots=True)
class Trouble:
    """A node does not answer, or (without an error) answers again."""

    node: str
    error: RainStormError | None


class Following:
    """Reads some nodes' logs; iterate over it. Without ``follow`` it ends after the existing lines."""

    def __init__(
        self,
        connections: Connections,
        nodes: Sequence[str],
        *,
        files: Sequence[str],
        tail: int,
        since: float | None,
        follow: bool,
    ) -> None:
        self.missing: dict[str, RainStormError] = {}
        self.refused: UsageError | None = None
        self._connections = connections
        self._nodes = nodes
        self._files = files
        self._tail = tail
        self._since = since
        self._follow = follow
        self._stopping = threading.Event()
        self._waiting: queue.Queue[Lines | Trouble | None] = queue.Queue(WAITING_MAX)

    def __iter__(self) -> Iterator[Lines | Trouble]:
        for node in self._nodes:
            threading.Thread(target=self._run, args=(node,), name=f"follow-{node}", daemon=True).start()
        left = len(self._nodes)
        try:
            while left:
                found = self._waiting.get()
                if found is None:
                    left -= 1
                else:
                    yield found
        finally:
            self._stopping.set()

    def _run(self, node: str) -> None:
        try:
            self._read(node)
        finally:
            self._put(None)

    def _read(self, node: str) -> None:
        positions: tuple[PositionFields, ...] | None = None
        pause_s, announced = RETRY_S[0], False
        while not self._stopping.is_set():
            try:
                positions, pieces = self._ask(node, positions)
            except UsageError as error:
                self.refused = error
                break
            except RainStormError as error:
                self.missing[node] = error
                if not self._follow:
                    break
                if not announced:
                    self._put(Trouble(node, error))
                announced = True
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, RETRY_S[1])
                continue
            if announced:
                self._put(Trouble(node, None))
            pause_s, announced = RETRY_S[0], False
            self.missing.pop(node, None)
            for file, data in pieces or ():
                self._put(Lines(node, file, data))
            if pieces == () and not self._follow:
                break

    def _ask(
        self, node: str, positions: tuple[PositionFields, ...] | None
    ) -> tuple[tuple[PositionFields, ...], tuple[tuple[str, bytes], ...] | None]:
        client = self._connections.logs(node)
        if positions is None:
            begun = client.follow(None, files=self._files, tail=self._tail, since=self._since)
            return begun.positions, None
        found = client.follow(positions, files=self._files, wait_s=WAIT_S if self._follow else 0.0)
        return found.positions, found.pieces

    def _put(self, item: Lines | Trouble | None) -> None:
        # The reader may have stopped (Ctrl-C, head), so never wait indefinitely for space in the queue.
        while not self._stopping.is_set():
            try:
                self._waiting.put(item, timeout=0.2)
                return
            except queue.Full:
                continue
