"""Incoming transfers: whole blocks that arrive in pieces, from the gateway of a put or from repair."""

from __future__ import annotations

from collections.abc import Callable

from agent.common.errors import Fenced, InvalidMessage, Overloaded
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.hydfs.core.block import SEALED, BlockKey
from agent.hydfs.core.events import BlockSealed
from agent.hydfs.messages.block import StorePiece
from agent.hydfs.shell.blockfile import Part
from agent.hydfs.shell.store import Store
from agent.wire.endpoint import Call

# Each transfer is an open file. A node that puts or repairs sends a handful of blocks at a time.
PARTS_MAX = 64
IDLE_S_MAX = 60.0


class Transfers:
    """The blocks that other agents are sending to this one."""

    def __init__(self, store: Store, post: Callable[[BlockSealed], None]) -> None:
        self.store = store
        self.post = post
        self._parts: dict[tuple[str, BlockKey], tuple[Part, float]] = {}
        # The number of parts, both those that wait for their next piece and those being written.
        self._taken = 0
        self._lock = threads.lock()

    def take(self, piece: StorePiece, call: Call) -> Done:
        """Takes one piece; the last one makes the block durable here."""
        key = (piece.file_id, piece.number)
        end = piece.offset + len(call.payload)
        if not call.payload or end > piece.length or piece.last != (end == piece.length):
            raise InvalidMessage(f"piece at {piece.offset} of block {key[1]} does not fit its length")
        slot = (piece.sender, key)
        if self._is_repeated(slot, piece, end):
            return Done()
        part = self._claim(slot, piece)
        kept = False
        try:
            part.write(call.payload)
            if piece.last:
                part.finish(piece.name, piece.length, piece.crc)
                self.post(BlockSealed(key, piece.name, part.length, part.crc))
            else:
                kept = self._keep(slot, part)
        finally:
            if not kept:
                self._discard(part)
        return Done()

    def abandon_idle(self) -> None:
        """Aborts transfers whose sender has sent nothing for a while."""
        now = clock.monotonic()
        with self._lock:
            old = [slot for slot, (_, at) in self._parts.items() if now - at > IDLE_S_MAX]
            parts = [self._parts.pop(slot)[0] for slot in old]
        for part in parts:
            self._discard(part)

    def close(self) -> None:
        """Aborts all transfers."""
        with self._lock:
            parts = [part for part, _ in self._parts.values()]
            self._parts.clear()
        for part in parts:
            self._discard(part)

    def _is_repeated(self, slot: tuple[str, BlockKey], piece: StorePiece, end: int) -> bool:
        """Tells whether the piece was taken before (its answer was lost), or the whole block is here."""
        meta = self.store.index.get(slot[1])
        if meta is not None and meta.state == SEALED and (meta.length, meta.crc) == (piece.length, piece.crc):
            return True
        with self._lock:
            part, _ = self._parts.get(slot, (None, 0.0))
            return part is not None and part.length == end

    def _claim(self, slot: tuple[str, BlockKey], piece: StorePiece) -> Part:
        """Returns the part that the piece continues, or a new one, for the calling thread alone."""
        with self._lock:
            part, _ = self._parts.pop(slot, (None, 0.0))
        if piece.offset and part is not None and part.length == piece.offset:
            return part
        if part is not None:
            self._discard(part)
        if piece.offset:
            raise Fenced(f"block {piece.number} of {piece.name!r}: a piece is missing before {piece.offset}")
        self.abandon_idle()
        with self._lock:
            if self._taken >= PARTS_MAX:
                raise Overloaded(f"too many incoming block transfers ({PARTS_MAX})", hint="try again later")
            self._taken += 1
        try:
            return self.store.receive(slot[1])
        except BaseException:
            with self._lock:
                self._taken -= 1
            raise

    def _keep(self, slot: tuple[str, BlockKey], part: Part) -> bool:
        with self._lock:
            if slot in self._parts:
                return False  # the sender has started again
            self._parts[slot] = (part, clock.monotonic())
            return True

    def _discard(self, part: Part) -> None:
        with self._lock:
            self._taken -= 1
        part.abandon()
