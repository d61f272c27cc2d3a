"""The disk of a simulated store agent: its journal, what it has applied of it, and the slots of its voter."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import msgpack

from agent.common.register import Slot
from agent.hydfs.block import (
    OPEN,
    PROMISED,
    BlockKey,
    BlockMeta,
    DroppedEntry,
    Entry,
    RecordEntry,
    SealedEntry,
    apply,
    pack_entry,
    unpack_entry,
)
from agent.hydfs.journal import frame, read_frame
from tests.simulation.hydfs_rpc import ballot
from tests.simulation.world import Node


@dataclass(frozen=True)
class Bugs:
    """Rules to break on purpose."""

    forget_promise: bool = False
    ack_early: bool = False
    forget_writers: bool = False
    ack_before_sync: bool = False


class StoreDisk:
    """What a store agent has on its disk; it is read again at every start."""

    def __init__(self, node: Node, bugs: Bugs) -> None:
        self.node = node
        self.bugs = bugs
        self.index: dict[BlockKey, BlockMeta] = {}
        self.data: dict[BlockKey, bytearray] = {}
        self.slots: dict[str, Slot] = {}
        self._pending: list[tuple[Entry, Callable[[], None]]] = []
        self._syncing = False
        self._recover()

    def _recover(self) -> None:
        data = self.node.disk.read("journal")
        offset = 0
        while True:
            body, offset = read_frame(data, offset)
            if body is None:
                break
            self._apply(unpack_entry(body))
        if offset < len(data):
            self.node.disk.truncate("journal", offset)
            for key, meta in self.index.items():
                if meta.state in (OPEN, PROMISED):
                    self.index[key] = dataclasses.replace(meta, doubtful=True)
        for key, promised, accepted, value in msgpack.Unpacker(_Reader(self.node.disk.read("slots"))):
            self.slots[key] = Slot(ballot(promised), ballot(accepted), value)

    def _apply(self, entry: Entry) -> None:
        if isinstance(entry, RecordEntry):
            assert entry.data is not None
            kept = self.data.setdefault(entry.key, bytearray())
            kept[entry.record.offset :] = entry.data
        if isinstance(entry, DroppedEntry):
            self.data.pop(entry.key, None)
        apply(self.index, entry)
        if isinstance(entry, SealedEntry):
            del self.data.setdefault(entry.key, bytearray())[entry.length :]

    def persist(self, entry: Entry, done: Callable[[], None] = lambda: None) -> None:
        """Writes an entry; ``done`` is called when it is durable and applied."""
        self.node.disk.append("journal", frame(pack_entry(entry)))
        self._pending.append((entry, done))
        if self.bugs.ack_before_sync:
            self._finish()
        elif not self._syncing:
            self._sync()

    def is_pending(self, key: BlockKey) -> bool:
        """Tells whether an entry about the block is written but not yet durable."""
        return any(getattr(entry, "key", None) == key for entry, _ in self._pending)

    def _sync(self) -> None:
        self._syncing = True
        count = len(self._pending)

        def synced() -> None:
            self._syncing = False
            ready, self._pending = self._pending[:count], self._pending[count:]
            if self._pending:
                self._sync()
            for entry, done in ready:
                self._apply(entry)
                done()

        self.node.disk.sync("journal", synced)

    def _finish(self) -> None:
        ready, self._pending = self._pending, []
        for entry, done in ready:
            self._apply(entry)
            self.node.after(0.0, done)


class _Reader:
    """Bytes as a file, for msgpack."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, size: int) -> bytes:
        piece, self._data = self._data[:size], self._data[size:]
        return piece
