"""Whole blocks on their way in, piece by piece, from a put's gateway or from a repair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.common.errors import Fenced, Unavailable
from agent.common.shell import clock, threads
from agent.hydfs.core.block import BlockKey
from agent.hydfs.core.events import BlockSealed
from agent.hydfs.shell.blockfile import Part
from agent.hydfs.shell.store import Store
from agent.wire.server import Reply, Request

PARTS_MAX = 64
IDLE_S_MAX = 60.0


class Incoming:
    """The blocks that other agents are sending to this one."""

    def __init__(self, store: Store, post: Callable[[Any], None]) -> None:
        self.store = store
        self.post = post
        self._parts: dict[tuple[str, BlockKey], tuple[Part, float]] = {}
        self._lock = threads.lock()

    def take(self, request: Request) -> Reply:
        """Takes one piece; with the last one the block is here, durably."""
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        offset, name = int(fields["offset"]), str(fields["name"])
        slot = (str(fields["sender"]), key)
        with self._lock:
            part, _ = self._parts.pop(slot, (None, 0.0))
        if offset == 0:
            if part is not None:
                part.abandon()
            self._abandon_old_parts()
            part = self.store.receive(key)
        if part is None or part.length != offset:
            if part is not None:
                part.abandon()
            raise Fenced(f"block {key[1]} of {name!r}: a piece is missing before {offset}")
        part.write(request.payload)
        if fields["last"]:
            part.finish(name, int(fields["length"]), int(fields["crc"]))
            self.post(BlockSealed(key, name, part.length, part.crc))
        else:
            with self._lock:
                self._parts[slot] = (part, clock.monotonic())
        return Reply()

    def _abandon_old_parts(self) -> None:
        now = clock.monotonic()
        with self._lock:
            old = [slot for slot, (_, at) in self._parts.items() if now - at > IDLE_S_MAX]
            parts = [self._parts.pop(slot)[0] for slot in old]
            full = len(self._parts) >= PARTS_MAX
        for part in parts:
            part.abandon()
        if full:
            raise Unavailable(f"{PARTS_MAX} blocks are on their way to this node already")

    def close(self) -> None:
        """Gives up the blocks that are on their way in."""
        with self._lock:
            parts = [part for part, _ in self._parts.values()]
            self._parts.clear()
        for part in parts:
            part.abandon()
