"""The blocks on this node's disk: data files that hold only payload, and the journal that describes them.

A small payload is written to the journal (durable) and to the block's file (page cache, flushed when the
journal starts a new segment). A large one goes only to the block's file, which is flushed before the journal
entry is written, so that large payloads are not written twice. One thread writes all entries and flushes many
of them at once (group commit): while a flush runs the next batch gathers. Sealed blocks are contiguous files,
so the kernel can send them (``FileSlice``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from agent.common.errors import (
    Corrupt,
    DiskFailed,
    DiskFull,
    InvalidMessage,
    NotFound,
    Overloaded,
    RecordTooLarge,
    Unavailable,
    has_no_room,
)
from agent.common.shell import disk, threads
from agent.common.shell.worker import BatchWorker
from agent.hydfs.core.block import (
    OPEN,
    PROMISED,
    SEALED,
    BlockKey,
    BlockMeta,
    DroppedEntry,
    Entry,
    PromiseEntry,
    RecordEntry,
    RefusedCopies,
    SealedEntry,
    StateEntry,
    apply,
    pack_entry,
    unpack_entry,
)
from agent.hydfs.core.errors import error_of
from agent.hydfs.shell.blockfile import BlockFiles, Part
from agent.hydfs.shell.journal import LAYOUT, SEGMENT_BYTES, Journal
from agent.wire.codec.framing import Buffer
from agent.wire.connection import FileSlice

logger = logging.getLogger("agent.hydfs.shell.store")

INLINE_BYTES_MAX = 64 * 1024
# One flush serves at most this much: with more, the first entry of the batch would wait too long.
BATCH_ENTRIES_MAX = 256
BATCH_BYTES_MAX = 8 * 1024 * 1024
# Each block has one append in progress and each request one entry: some hundreds wait, about one
# for each connection and open block.
WAITING_ENTRIES_MAX = 4096
# Refused journal entries that are kept for inspection: each is at most as large as an entry may be.
REFUSED_KEPT_MAX = 16
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
        self._folder = root / "blocks"
        self._files = BlockFiles(self._folder)
        self._quarantine = root / "quarantine"
        self._reserve = reserve_bytes
        self._segment_bytes = self._restart_above = segment_bytes
        self._on_crash = on_crash
        self._journal = Journal(root / "journal")
        self._verified: dict[BlockKey, None] = {}
        self._refusals = RefusedCopies()
        # Journal entries that were not valid; they are in the quarantine.
        self.refused_entries = 0
        self._parts = 0
        self._lock = threads.lock()
        self._deciding = [threads.lock() for _ in range(DECISION_LOCKS)]
        self._writer: BatchWorker[_Job] = BatchWorker(
            "hydfs-journal",
            self._commit,
            WAITING_ENTRIES_MAX,
            items_max=BATCH_ENTRIES_MAX,
            size_max=BATCH_BYTES_MAX,
            size_of=lambda job: len(job.data),
            on_error=self._crashed,
            on_drop=lambda job: job.done(Unavailable.code),
        )

    def start(self) -> None:
        """Recovers the contents of the disk and starts the writer thread.

        Raises:
            Corrupt: the journal is damaged before its end.
            DiskFull, DiskFailed: the folder cannot be read or written.
        """
        try:
            disk.make_folder_durably(self._folder)
            self._journal.recover(self._replay)
            if self.refused_entries:
                self._files.move_others(self.index, self._quarantine)  # a lost entry may describe one
            else:
                self._files.remove_others(self.index)
            if self._journal.torn or self.refused_entries:
                self._doubt()
        except OSError as error:
            self._close()
            raise disk.failure(error, f"the store {self.root} cannot be recovered") from error
        except BaseException:
            self._close()
            raise
        self._writer.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Writes what is queued, stops the thread and closes the files."""
        self._writer.stop(drain=True, timeout_s=timeout_s)
        self._close()

    def _close(self) -> None:
        self._files.close()
        self._journal.close()

    def _crashed(self, error: Exception) -> bool:
        """Ends the agent with its writer: the entries in progress may or may not be on the disk."""
        self._on_crash(error)
        return False

    def submit(
        self, entry: Entry, data: Buffer, done: Done, prepare: Callable[[], None] | None = None
    ) -> None:
        """Queues an entry; ``done(code)`` is called once it is durable (code empty) or refused.

        The writer thread calls it, and ``prepare`` before it writes the entry. If the entry cannot be queued,
        ``done`` is called at once.
        """
        job = _Job(entry, data, done, prepare)
        if not self._writer.try_submit(job):
            self._refuse(job, Overloaded.code if self._writer.is_alive else Unavailable.code)
            done(job.code)

    def write(self, entry: Entry, prepare: Callable[[], None] | None = None, timeout_s: float = 30.0) -> None:
        """Writes an entry and waits until it is durable.

        Raises:
            DiskFull: the disk has no room.
            DiskFailed: it was not written in time; it may be later.
            Overloaded, Unavailable: too many entries wait, or the store has stopped.
        """
        answer: threads.Future[str] = threads.future()
        self.submit(entry, b"", answer.set_result, prepare)
        try:
            code = answer.result(timeout_s)
        except TimeoutError:
            raise DiskFailed(f"the journal in {self.root} wrote nothing in time ({timeout_s} s)") from None
        if code == DiskFull.code:
            raise DiskFull(f"no room for the journal in {self.root}", hint="free space on this node's disk")
        if code:
            raise error_of(code, f"the journal in {self.root} does not take an entry")

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
            return FileSlice(self._files.reader(key), offset, length)
        except FileNotFoundError:
            raise NotFound(f"block {key[1]} of file id {key[0]} was dropped from this node") from None

    def crc_of(self, key: BlockKey, length: int) -> int:
        """Returns the checksum of the first ``length`` bytes of a block's file."""
        return self._files.crc_of(key, length)

    def free_bytes(self) -> int:
        """Returns the room above the reserve."""
        return disk.free_bytes(self.root) - self._reserve

    def receive(self, key: BlockKey) -> Part:
        """Returns a new file that takes a whole block piece by piece."""
        with self._lock:
            self._parts += 1
            number = self._parts
        return Part(self, key, self._folder / f"{key[0]}.{key[1]}.{number}.part")

    def deciding(self, key: BlockKey) -> threads.Lock:
        """Returns the lock under which a copy is examined and the decision about it is written.

        Without it, a whole copy that arrives between the two would be dropped as a short one.
        """
        return self._deciding[key[1] % DECISION_LOCKS]

    def adopt(self, part: Part, name: str) -> None:
        """Durably makes a received block this node's copy."""

        def prepare() -> None:  # in the writer thread: an older copy of the block may be using its file
            self._files.replace(part.key, part.path)

        with self.deciding(part.key):
            self.write(SealedEntry(part.key, name, part.length, part.crc), prepare)
        self._verified[part.key] = None

    def quarantine(self, key: BlockKey) -> None:
        """Moves a damaged copy to the quarantine; its bytes stay for inspection."""
        logger.error("block_quarantined file_id=%s number=%d", *key)
        self._files.move_away(key, self._quarantine)
        self.write(DroppedEntry(key))

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
        try:
            entry = unpack_entry(body)
        except InvalidMessage as error:
            self._set_aside(body, error)
            return
        if isinstance(entry, RecordEntry) and entry.data is not None:
            self._files.write(entry.key, entry.data, entry.record.offset)
        apply(self.index, entry)

    def _set_aside(self, body: bytes, error: InvalidMessage) -> None:
        """Moves an entry that is not valid to the quarantine."""
        self.refused_entries += 1
        logger.error(
            "journal_entry_refused root=%s number=%d error=%s", self.root, self.refused_entries, error
        )
        if self.refused_entries <= REFUSED_KEPT_MAX:
            disk.makedirs(self._quarantine)
            disk.write_durably(self._quarantine / f"entry.{self.refused_entries}", body)

    def _doubt(self) -> None:
        """Marks copies whose records may be incomplete, and begins a new journal with the state that is left.

        A refused entry may have been a promise, so no open copy takes any more records: each is sealed.
        """
        for key, meta in self.index.items():
            if meta.state in (OPEN, PROMISED):
                state = PROMISED if self.refused_entries else meta.state
                self.index[key] = replace(meta, state=state, doubtful=True)
        self._files.sync_all(self.index)
        self._restart_journal()

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
                self._refusals.written(job.entry)
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
            if full or not self._refusals.admits(entry):
                self._refuse(job, DiskFull.code)
                continue
            try:
                self._files.write(entry.key, job.data, entry.record.offset)
            except OSError as error:
                if not has_no_room(error):
                    raise
                self._refuse(job, DiskFull.code)
                continue
            if len(job.data) > INLINE_BYTES_MAX:
                flush[entry.key] = None
            else:
                job.entry = replace(entry, data=job.data)
        if flush:
            self._files.sync(flush)

    def _write_entries(self, jobs: list[_Job]) -> None:
        bodies = [body for job in jobs if (body := self._pack(job)) is not None]
        if not bodies:
            return
        try:
            self._journal.append(bodies)
        except DiskFull as error:
            for job in jobs:
                self._refuse(job, error.code)

    def _pack(self, job: _Job) -> bytes | None:
        """Returns the entry of a job; refuses one that is too large, and later ones of the same block."""
        if not self._refusals.admits(job.entry):
            self._refuse(job, RecordTooLarge.code)
            return None
        body = pack_entry(job.entry)
        try:
            LAYOUT.check(body)
        except RecordTooLarge as error:
            self._refuse(job, error.code)
            return None
        return body

    def _refuse(self, job: _Job, code: str) -> None:
        job.code = code
        self._refusals.refused(job.entry)

    def _after(self, entry: Entry) -> None:
        match entry:
            case SealedEntry(key=key, length=length):
                self._files.cut(key, length)
            case DroppedEntry(key=key):
                self._verified.pop(key, None)
                self._files.remove(key)
            case RecordEntry() | PromiseEntry() | StateEntry():
                pass

    def _shorten_journal(self) -> None:
        self._files.sync_all(self.index)
        try:
            self._restart_journal()
            self._restart_above = self._segment_bytes
        except (DiskFull, RecordTooLarge) as error:
            # The long journal is still good; shortening is tried again when it has grown by as much again.
            self._restart_above = self._journal.size + self._segment_bytes
            logger.warning("journal_not_shortened root=%s error=%s", self.root, error)

    def _restart_journal(self) -> None:
        self._journal.restart(pack_entry(StateEntry(meta)) for meta in list(self.index.values()))
