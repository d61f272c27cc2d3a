"""The blocks on this node's disk: data files that hold payload only, and the journal that says what they are.

A small payload is written to the journal (durable) and to the block's file (page cache, flushed when the
journal starts a new segment); a large one goes to the block's file alone, which is flushed before its journal
entry is written, so that no large byte is written twice. One thread writes all entries and flushes many of
them at once (group commit): while a flush runs the next batch gathers. Sealed blocks are contiguous files, so
the kernel can send them (``FileSlice``).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.common.errors import Corrupt, DiskFailed, DiskFull, NotFound, has_no_room
from agent.hydfs.core.block import (
    OPEN,
    PROMISED,
    SEALED,
    BlockKey,
    BlockMeta,
    Broken,
    DroppedEntry,
    Entry,
    PromiseEntry,
    RecordEntry,
    SealedEntry,
    StateEntry,
    apply,
    pack_entry,
    unpack_entry,
)
from agent.hydfs.shell.blockfile import Part
from agent.hydfs.shell.journal import SEGMENT_BYTES, Journal, sync_folder
from agent.wire.codec.framing import Buffer
from agent.wire.connection import FileSlice

logger = logging.getLogger("agent.hydfs.shell.store")

INLINE_BYTES_MAX = 64 * 1024
# One flush serves at most this much: more would make the first in the batch wait too long.
BATCH_ENTRIES_MAX = 256
BATCH_BYTES_MAX = 8 * 1024 * 1024
OPEN_FILES_MAX = 64
SCAN_BYTES = 1024 * 1024
# Blocks of a put arrive side by side; those with different numbers do not wait for each other.
DECISION_LOCKS = 64

Done = Callable[[str], None]


@dataclass(slots=True)
class _Job:
    entry: Entry
    data: Buffer
    done: Done
    prepare: Callable[[], None] | None = None
    code: str = ""


class Store:
    """The data folder of a node."""

    def __init__(
        self,
        root: Path,
        *,
        reserve_bytes: int,
        on_crash: Callable[[BaseException], None],
        segment_bytes: int = SEGMENT_BYTES,
    ) -> None:
        self.root = root
        self.index: dict[BlockKey, BlockMeta] = {}
        self._blocks = root / "blocks"
        self._quarantine = root / "quarantine"
        self._reserve = reserve_bytes
        self._segment_bytes = self._restart_above = segment_bytes
        self._on_crash = on_crash
        self._journal = Journal(root / "journal")
        self._files: OrderedDict[BlockKey, int] = OrderedDict()
        self._unsynced: dict[BlockKey, None] = {}
        self._verified: dict[BlockKey, None] = {}
        self._broken = Broken()
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._parts = 0
        self._lock = threading.Lock()
        self._deciding = [threading.Lock() for _ in range(DECISION_LOCKS)]
        self._thread = threading.Thread(target=self._run, name="hydfs-journal", daemon=True)

    def start(self) -> None:
        """Recovers what the disk holds and starts the writer thread.

        Raises:
            Corrupt: the journal is damaged before its end.
        """
        self._blocks.mkdir(parents=True, exist_ok=True)
        try:
            self._journal.recover(self._replay)
        except Corrupt:
            self._close_files()
            raise
        self._drop_strangers()
        if self._journal.torn:
            self._doubt()
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Writes what is queued, stops the thread and closes the files."""
        self._jobs.put(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)
        self._close_files()
        self._journal.close()

    def _close_files(self) -> None:
        with self._lock:
            while self._files:
                os.close(self._files.popitem()[1])

    def submit(
        self, entry: Entry, data: Buffer, done: Done, prepare: Callable[[], None] | None = None
    ) -> None:
        """Queues an entry; ``done(code)`` is called by the writer thread once it is durable (code empty) or
        refused. ``prepare`` runs in that thread before the entry is written.
        """
        self._jobs.put(_Job(entry, data, done, prepare))

    def write(self, entry: Entry, prepare: Callable[[], None] | None = None, timeout_s: float = 30.0) -> None:
        """Writes an entry and waits until it is durable.

        Raises:
            DiskFull: the disk has no room.
        """
        answer: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.submit(entry, b"", answer.put, prepare)
        try:
            code = answer.get(timeout=timeout_s)
        except queue.Empty:
            raise DiskFailed("the journal does not get its entries to the disk") from None
        if code:
            raise DiskFull(f"no room for the journal in {self.root}", hint="free space on this node's disk")

    def slice(self, key: BlockKey, offset: int, length: int) -> FileSlice:
        """Returns a part of a block for sending; the receiver of the slice closes it.

        Raises:
            NotFound: this node does not hold these bytes.
            Corrupt: the block does not match its checksum; it was put into quarantine.
        """
        meta = self.index.get(key)
        if meta is None or offset + length > meta.length:
            raise NotFound(f"block {key[1]} of file id {key[0]} is not on this node up to {offset + length}")
        if meta.state == SEALED and key not in self._verified:
            self._verify(meta)
        try:
            return FileSlice(os.open(self._path(key), os.O_RDONLY), offset, length)
        except FileNotFoundError:
            raise NotFound(f"block {key[1]} of file id {key[0]} was dropped from this node") from None

    def crc_of(self, key: BlockKey, length: int) -> int:
        """Returns the checksum of the first ``length`` bytes of a block's file."""
        crc = 0
        with open(self._path(key), "rb", buffering=0) as file:
            left = length
            while left:
                piece = file.read(min(left, SCAN_BYTES))
                if not piece:
                    return -1
                crc = zlib.crc32(piece, crc)
                left -= len(piece)
        return crc

    def free_bytes(self) -> int:
        """Returns the room above the reserve."""
        stat = os.statvfs(self.root)
        return stat.f_bavail * stat.f_frsize - self._reserve

    def receive(self, key: BlockKey) -> Part:
        """Returns a new file that takes a whole block piece by piece."""
        with self._lock:
            self._parts += 1
            number = self._parts
        return Part(self, key, self._blocks / f"{key[0]}.{key[1]}.{number}.part")

    def deciding(self, key: BlockKey) -> threading.Lock:
        """Returns the lock under which a copy is looked at and its fate is written: both belong together.

        Otherwise a whole copy that arrives between the look and the writing would be dropped as a short one.
        """
        return self._deciding[key[1] % DECISION_LOCKS]

    def adopt(self, part: Part, name: str) -> None:
        """Makes a received block this node's copy, durably."""

        def prepare() -> None:  # in the writer thread: an older copy of the block may have its file in use
            self._close(part.key)
            os.rename(part.path, self._path(part.key))
            sync_folder(self._blocks)

        with self.deciding(part.key):
            self.write(SealedEntry(part.key, name, part.length, part.crc), prepare)
        self._verified[part.key] = None

    def quarantine(self, key: BlockKey) -> None:
        """Takes a damaged copy out of use; the bytes stay for a look."""
        self._quarantine.mkdir(exist_ok=True)
        logger.error("block_quarantined file_id=%s number=%d", *key)
        with contextlib.suppress(FileNotFoundError):
            os.rename(self._path(key), self._quarantine / f"{key[0]}.{key[1]}")
        self.write(DroppedEntry(key))

    def _path(self, key: BlockKey) -> Path:
        return self._blocks / f"{key[0]}.{key[1]}"

    def _verify(self, meta: BlockMeta) -> None:
        if self.crc_of(meta.key, meta.length) != meta.crc:
            self.quarantine(meta.key)
            raise Corrupt(
                f"block {meta.key[1]} of {meta.name!r} does not match its checksum on this node",
                hint="the copy was put into quarantine; it is copied again from another node",
            )
        if len(self._verified) > 65536:
            self._verified.clear()
        self._verified[meta.key] = None

    def _replay(self, body: bytes) -> None:
        entry = unpack_entry(body)
        if isinstance(entry, RecordEntry) and entry.data is not None:
            self._write_data(entry.key, entry.data, entry.record.offset)
            self._unsynced[entry.key] = None
        apply(self.index, entry)

    def _drop_strangers(self) -> None:
        known = {self._path(key).name for key in self.index}
        for path in self._blocks.iterdir():
            if path.name not in known:
                path.unlink()
        self._unsynced = {key: None for key in self._unsynced if key in self.index}

    def _doubt(self) -> None:
        for key, meta in self.index.items():
            if meta.state in (OPEN, PROMISED):
                self.index[key] = replace(meta, doubtful=True)
        self._sync_blocks()
        self._restart_journal()

    def _file(self, key: BlockKey) -> int:
        with self._lock:
            descriptor = self._files.get(key)
            if descriptor is None:
                descriptor = os.open(self._path(key), os.O_RDWR | os.O_CREAT, 0o600)
                self._files[key] = descriptor
                if len(self._files) > OPEN_FILES_MAX:
                    os.close(self._files.popitem(last=False)[1])
            self._files.move_to_end(key)
            return descriptor

    def _write_data(self, key: BlockKey, data: Buffer, offset: int) -> None:
        view = memoryview(data)
        while view:
            count = os.pwrite(self._file(key), view, offset)
            offset += count
            view = view[count:]

    def _run(self) -> None:
        try:
            while True:
                jobs = self._gather()
                if jobs is None:
                    return
                self._commit(jobs)
        except BaseException as error:
            logger.exception("journal_crashed root=%s", self.root)
            self._on_crash(error)

    def _gather(self) -> list[_Job] | None:
        first = self._jobs.get()
        if first is None:
            return None
        jobs, size = [first], len(first.data)
        while len(jobs) < BATCH_ENTRIES_MAX and size < BATCH_BYTES_MAX:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            jobs.append(job)
            size += len(job.data)
        return jobs

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            self._write_payloads(jobs)
            good = [job for job in jobs if not job.code]
            self._write_entries(good)
        except OSError as error:
            # After a failed flush the kernel may have dropped the pages: nothing can be trusted any more.
            raise DiskFailed(f"the disk of {self.root} failed: {error}") from error
        for job in good:
            if not job.code:
                apply(self.index, job.entry)
                self._broken.written(job.entry)
                self._after(job.entry)
        for job in jobs:
            job.done(job.code)
        if self._journal.size > self._restart_above:
            self._shorten_journal()

    def _write_payloads(self, jobs: list[_Job]) -> None:
        full = self.free_bytes() < sum(len(job.data) for job in jobs)
        flush: dict[BlockKey, None] = {}
        for job in jobs:
            entry = job.entry
            if job.prepare is not None:
                job.prepare()
            if not isinstance(entry, RecordEntry):
                continue
            if full or not self._broken.admits(entry):
                self._refuse(job)
                continue
            try:
                self._write_data(entry.key, job.data, entry.record.offset)
            except OSError as error:
                if not has_no_room(error):
                    raise
                self._refuse(job)
                continue
            if len(job.data) > INLINE_BYTES_MAX:
                flush[entry.key] = None
            else:
                self._unsynced[entry.key] = None
                job.entry = replace(entry, data=job.data)
        for key in flush:
            os.fdatasync(self._file(key))
            self._unsynced.pop(key, None)

    def _write_entries(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            self._journal.append(pack_entry(job.entry) for job in jobs)
        except OSError as error:
            if not has_no_room(error):
                raise
            for job in jobs:
                self._refuse(job)

    def _refuse(self, job: _Job) -> None:
        job.code = "DISK_FULL"
        self._broken.refused(job.entry)

    def _after(self, entry: Entry) -> None:
        match entry:
            case SealedEntry(key=key, length=length):
                path = self._path(key)
                if path.exists() and path.stat().st_size > length:
                    os.truncate(path, length)
            case DroppedEntry(key=key):
                self._forget(key)
            case RecordEntry() | PromiseEntry() | StateEntry():
                pass

    def _forget(self, key: BlockKey) -> None:
        self._unsynced.pop(key, None)
        self._verified.pop(key, None)
        self._close(key)
        with contextlib.suppress(FileNotFoundError):
            self._path(key).unlink()

    def _close(self, key: BlockKey) -> None:
        with self._lock:
            descriptor = self._files.pop(key, None)
        if descriptor is not None:
            os.close(descriptor)

    def _shorten_journal(self) -> None:
        self._sync_blocks()
        try:
            self._restart_journal()
            self._restart_above = self._segment_bytes
        except OSError as error:
            if not has_no_room(error):
                raise
            # The long one is good; it is tried again when it has grown as much again.
            self._restart_above = self._journal.size + self._segment_bytes
            logger.warning("journal_not_shortened root=%s error=%s", self.root, error)

    def _sync_blocks(self) -> None:
        for key in list(self._unsynced):
            if key in self.index and self._path(key).exists():
                os.fdatasync(self._file(key))
        self._unsynced.clear()
        sync_folder(self._blocks)

    def _restart_journal(self) -> None:
        self._journal.restart(pack_entry(StateEntry(meta)) for meta in list(self.index.values()))
