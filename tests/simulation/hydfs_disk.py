"""The disk of a simulated store agent: its journal and what it has applied of it.

Entries are written in batches, as by ``agent.hydfs.shell.store``: while one is on its way to the disk the
next one gathers. A batch whose payloads do not fit above the reserve loses its records, and a disk without
any room refuses all of it; what follows a refused record is refused too (``block.RefusedCopies``). Payloads
are in the journal, as those of small appends are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from agent.common.errors import DiskFull
from agent.common.framedlog import records
from agent.hydfs.core.block import (
    OPEN,
    PROMISED,
    BlockKey,
    BlockMeta,
    DroppedEntry,
    Entry,
    PromiseEntry,
    Record,
    RecordEntry,
    RefusedCopies,
    SealedEntry,
    apply,
    pack_entry,
    unpack_entry,
)
from agent.hydfs.shell.journal import LAYOUT
from tests.simulation.world import Node

FILE = "journal"
BATCH_ENTRIES_MAX = 4
# A batch that does not fit has been written in part when that turns out.
REFUSAL_S = 0.002
REFUSED_PROMISE = "a full disk refused a promise"
REFUSED_FOLLOWER = "a record was under way behind a refused one"

Done = Callable[[str], None]


@dataclass(frozen=True)
class Bugs:
    """Rules to break on purpose."""

    forget_promise: bool = False
    ack_early: bool = False
    forget_writers: bool = False
    ack_before_sync: bool = False
    count_refused_promise: bool = False
    write_behind_refused: bool = False
    forget_dropped: bool = False


def nothing(code: str) -> None:
    """Whether it could be written does not matter."""


@dataclass(slots=True)
class _Job:
    entry: Entry
    done: Done
    # The payload of a block that arrived whole, for ``entry`` to make it this node's copy.
    whole: RecordEntry | None = None
    code: str = ""

    def entries(self) -> list[Entry]:
        return [self.entry] if self.whole is None else [self.whole, self.entry]


class StoreDisk:
    """What a store agent has on its disk; it is read again at every start."""

    def __init__(self, node: Node, bugs: Bugs) -> None:
        self.node = node
        self.bugs = bugs
        self.index: dict[BlockKey, BlockMeta] = {}
        self.data: dict[BlockKey, bytearray] = {}
        self._broken = RefusedCopies()
        self._jobs: list[_Job] = []
        self._batch: list[_Job] = []
        self._recover()

    def _recover(self) -> None:
        data = self.node.disk.read(FILE)
        offset = 0
        for record in records(LAYOUT, lambda at, length: data[at : at + length], len(data)):
            self._apply(unpack_entry(record.body))
            offset = record.end
        if offset < len(data):
            self.node.disk.truncate(FILE, offset)
            for key, meta in self.index.items():
                if meta.state in (OPEN, PROMISED):
                    self.index[key] = dataclasses.replace(meta, doubtful=True)

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

    def persist(self, entry: Entry, done: Done = nothing) -> None:
        """Writes an entry; ``done(code)`` follows once it is durable and applied (code empty) or refused."""
        self._queue(_Job(entry, done))

    def _queue(self, job: _Job) -> None:
        self._jobs.append(job)
        if not self._batch:
            self._commit()

    def adopt(self, key: BlockKey, name: str, data: bytes, crc: int, done: Done) -> None:
        """Makes a block that arrived whole this node's copy, as ``persist`` does."""
        whole = RecordEntry(key, name, "", Record(0, len(data), crc, "", 0, 0), data)
        self._queue(_Job(SealedEntry(key, name, len(data), crc), done, whole))

    def has_room(self, size: int) -> bool:
        """Tells whether ``size`` bytes fit above the reserve."""
        return not self.node.disk.full and self.node.disk.free_bytes >= size

    def is_pending(self, key: BlockKey) -> bool:
        """Tells whether an entry about the block is not yet durable or refused."""
        return any(getattr(job.entry, "key", None) == key for job in (*self._batch, *self._jobs))

    def _commit(self) -> None:
        jobs = self._batch = self._jobs[:BATCH_ENTRIES_MAX]
        del self._jobs[:BATCH_ENTRIES_MAX]
        if self.bugs.write_behind_refused:
            self._broken = RefusedCopies()
        self._write(jobs)
        if self.bugs.ack_before_sync:
            self.node.after(0.0, self._committed)
        elif all(job.code for job in jobs):
            self.node.after(REFUSAL_S, self._committed)
        else:
            self.node.disk.sync(FILE, self._committed)

    def _write(self, jobs: list[_Job]) -> None:
        records = [job for job in jobs if isinstance(job.entry, RecordEntry)]
        if not self.has_room(sum(_size(job.entry) for job in records)):
            self._refuse(records)
        for job in records:
            if not job.code and not self._broken.admits(job.entry):
                self.node.world.hit(REFUSED_FOLLOWER)
                self._refuse([job])
        good = [job for job in jobs if not job.code]
        size = self.node.disk.size(FILE)
        try:
            self.node.disk.append(FILE, _pack(good))
        except DiskFull:
            self.node.disk.truncate(FILE, size)
            self._refuse(good)

    def _refuse(self, jobs: list[_Job]) -> None:
        for job in jobs:
            job.code = "DISK_FULL"
            self._broken.refused(job.entry)
            if isinstance(job.entry, PromiseEntry):
                self.node.world.hit(REFUSED_PROMISE)

    def _committed(self) -> None:
        jobs = self._batch
        for job in jobs:
            if not job.code:
                for entry in job.entries():
                    self._apply(entry)
                self._broken.written(job.entry)
        for job in jobs:
            job.done(job.code)
        self._batch = []
        if self._jobs:
            self._commit()


def _pack(jobs: list[_Job]) -> bytes:
    return b"".join(LAYOUT.record(pack_entry(entry)) for job in jobs for entry in job.entries())


def _size(entry: Entry) -> int:
    return len(entry.data or b"") if isinstance(entry, RecordEntry) else 0
