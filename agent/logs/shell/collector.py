"""Collects this node's logs into HyDFS: scans the files, spools new lines, sends what was spooled.

There are two threads. One scans the log folder, lets the core decide and makes records durable in the spool.
The other sends them, one after the other, at a bounded rate. While HyDFS cannot be reached the spool fills;
when it is full nothing more is read, and the lines wait in their log files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from agent.common.config import LogsConfig
from agent.common.deadline import Deadline
from agent.common.errors import AlreadyExists, Corrupt, DiskFailed, InvalidMessage, NotFound, RainStormError
from agent.common.shell import clock, threads
from agent.hydfs.client import HydfsClient
from agent.logs.core.collector import (
    ChunkRead,
    Collector,
    Effect,
    JournalRead,
    ReadChunk,
    Record,
    RecordStored,
    Scanned,
    StoreRecord,
)
from agent.logs.core.position import Key, Seen
from agent.logs.messages import HEAD_BYTES, CollectionStatus
from agent.logs.shell import journald as journal
from agent.logs.shell import sources
from agent.logs.shell.archive import PREFIX
from agent.logs.shell.retention import INTERVAL_S as RETENTION_INTERVAL_S
from agent.logs.shell.retention import Retention
from agent.logs.shell.sources import LogFile
from agent.logs.shell.spool import Spool

logger = logging.getLogger("agent.logs.shell.collector")

APPEND_TIMEOUT_S = 10.0
# How often a waiting thread shows that it makes progress.
PROGRESS_INTERVAL_S = 1.0
SPOOL_RETRY_S = 5.0
RETRY_S = (0.5, 10.0)
# The allowed names of logs, because they become part of names in HyDFS.
LOG_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,99}")
UNPACKED_BYTES_MAX = 1024 * 1024 * 1024
# Each read of the journal starts a process.
JOURNAL_INTERVAL_S = 5.0
JOURNAL_ENTRIES = 500


class Collection:
    """The threads around the collector."""

    def __init__(
        self,
        node: str,
        folder: Path,
        spool_folder: Path,
        knobs: LogsConfig,
        hydfs: HydfsClient,
        *,
        record_bytes_max: int,
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.name = "log-scan"
        self._progress = 0
        self._progressed = threads.condition()
        self._node = node
        self._folder = folder
        self._knobs = knobs
        self._hydfs = hydfs
        self._on_crash = on_crash
        # Guards core and spool: the sender's acknowledgements may start a segment, which holds a snapshot.
        self._lock = threads.lock()
        self._record_bytes_max = record_bytes_max
        self._spool_folder = spool_folder
        self._core = self._fresh_core()
        self._spool: Spool | None = None
        self._stopping = threads.event()
        self._stored = threads.event()
        self._scanned: dict[Key, tuple[int, int]] = {}
        self._unpacked: dict[Key, tuple[int, bytes]] = {}
        self._paths: dict[Key, LogFile] = {}
        self._full = False
        self._troubles: dict[str, str] = {}
        self._sent_bytes = 0
        self._retention = Retention(node, knobs, hydfs)
        self._units = journal.Units(knobs.journal_units)
        self._journal_at = float("-inf")
        self._threads = [
            threads.thread("log-scan", self._guarded, self._scan_loop),
            threads.thread("log-send", self._guarded, self._send_loop),
        ]

    def start(self) -> None:
        """Starts; if the spool cannot be opened, tries again until it can."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends both threads; what was not sent is sent after the next start."""
        self._stopping.set()
        self._stored.set()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(timeout_s)
        with self._lock:
            if self._spool is not None:
                self._spool.close()

    def status(self) -> CollectionStatus:
        """Returns the progress of the collection."""
        with self._lock:
            spool = self._spool
            return CollectionStatus(
                collects=True,
                waiting_records=spool.unsent_records if spool is not None else 0,
                waiting_bytes=spool.size_bytes if spool is not None else 0,
                unread_bytes=self._core.unread_bytes(),
                lost_bytes=self._core.lost_bytes,
                sent_bytes=self._sent_bytes,
                spool_full=self._full,
                trouble="; ".join(list(self._troubles.values())),
            )

    def makes_progress(self, timeout_s: float) -> bool:
        """Tells whether the thread that scans the logs makes progress within ``timeout_s``."""
        with self._progressed:
            before = self._progress
            return self._progressed.wait_for(lambda: self._progress != before, timeout_s)

    def _note_progress(self) -> None:
        with self._progressed:
            self._progress += 1
            self._progressed.notify_all()

    def _guarded(self, loop: Callable[[], None]) -> None:
        try:
            loop()
        except BaseException as error:
            logger.exception("collection_crashed")
            self._on_crash(error)

    def _note_trouble(self, about: str, text: str) -> None:
        # Logged once: these lines are collected, too.
        if about not in self._troubles:
            logger.warning("collection_waits about=%s error=%s", about, text)
        self._troubles[about] = text

    def _fresh_core(self) -> Collector:
        size = self._knobs.collected_file_bytes
        return Collector(target_bytes_max=size, record_bytes_max=self._record_bytes_max)

    def _open_spool(self) -> bool:
        """Reads what the process before this one left; returns whether that was possible."""
        core = self._fresh_core()
        try:
            spool = Spool(self._spool_folder, core.snapshot)
            spool.recover(core.restore, core.apply)
        except RainStormError as error:
            # Searches still work, whatever the state of the disk.
            self._note_trouble("spool", f"the spool cannot be opened: {_text(error)}")
            return False
        self._troubles.pop("spool", None)
        with self._lock:
            self._core, self._spool = core, spool
        self._stored.set()
        return True

    # Scanning

    def _scan_loop(self) -> None:
        self._rest(self._knobs.collect_delay_s)
        while not self._stopping.is_set():
            if self._spool is None and not self._open_spool():
                self._rest(SPOOL_RETRY_S)
                continue
            self._note_progress()
            self._scan()
            self._rest(self._knobs.collect_interval_s)

    def _rest(self, duration_s: float) -> None:
        deadline = Deadline(clock.monotonic(), duration_s)
        while not (self._stopping.is_set() or deadline.expired(clock.monotonic())):
            self._note_progress()
            self._stopping.wait(min(PROGRESS_INTERVAL_S, deadline.remaining(clock.monotonic())))

    def _scan(self) -> None:
        day = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%d")
        files = sources.in_folder(self._folder) + sources.allowed_system_files(self._knobs.system_files)
        seen = []
        for file in files:
            with contextlib.suppress(OSError):  # rotated or deleted meanwhile, or damaged
                found = self._see(file)
                if found is not None:
                    seen.append(found)
        for memory in (self._scanned, self._paths, self._unpacked):
            _keep(memory, {each.key for each in seen})
        with self._lock:
            lost = self._core.lost_bytes
            effects = self._core.handle(clock.monotonic(), Scanned(tuple(seen), day))
            if self._core.lost_bytes > lost:
                logger.warning("log_lost bytes=%d", self._core.lost_bytes - lost)
        self._full = False
        for effect in effects:
            # Records that follow one that could not be stored must not be stored before it.
            if not self._full:
                self._carry_out(effect)
        self._read_journal()

    def _read_journal(self) -> None:
        now = clock.monotonic()
        if now < self._journal_at:
            return
        self._journal_at = now + JOURNAL_INTERVAL_S
        while self._units.known() and not (self._full or self._stopping.is_set()):
            with self._lock:
                cursor = self._core.journal_cursor()
            try:
                found = journal.read(self._units.known(), cursor, JOURNAL_ENTRIES, self._record_bytes_max)
            except (OSError, ValueError) as error:
                self._note_trouble("journal", f"the journal cannot be read: {error}")
                return
            self._troubles.pop("journal", None)
            if not found.data:
                return
            with self._lock:
                event = JournalRead(journal.LOG, found.data, found.cursor)
                effects = self._core.handle(now, event)
            for effect in effects:
                self._carry_out(effect)

    def _see(self, file: LogFile) -> Seen | None:
        log = self._log_name(file)
        if not LOG_NAME.fullmatch(log):
            return None
        key = file.key
        self._paths[key] = file
        size, head = file.size, None
        mark = (file.size, file.modified_ns)
        with self._lock:
            known = self._core.knows(key)
        if file.packed:
            size, head = self._measure(file)
        elif not (known and self._scanned.get(key) == mark):
            with sources.opened(file) as descriptor:
                head = os.pread(descriptor, HEAD_BYTES, 0)
        self._scanned[key] = mark
        return Seen(log, file.age, file.device, file.inode, size, head, bool(file.packed))

    def _log_name(self, file: LogFile) -> str:
        # A file of the system keeps its path, told apart from the node's own.
        return file.log.replace("/", "+").lstrip("+") if file.log.startswith("/") else file.log

    def _measure(self, file: LogFile) -> tuple[int, bytes]:
        """Returns how long a compressed file's contents are, and how they begin."""
        key = file.key
        if key not in self._unpacked:
            size, head = 0, b""
            with contextlib.closing(sources.unpacked_file(file)) as chunks:
                for chunk in chunks:
                    head += chunk[: HEAD_BYTES - len(head)]
                    size += len(chunk)
                    if size > UNPACKED_BYTES_MAX or self._stopping.is_set():
                        break
            self._unpacked[key] = (size, head)
        return self._unpacked[key]

    def _carry_out(self, effect: Effect) -> None:
        waiting = [effect]
        while waiting and not self._stopping.is_set():
            self._note_progress()
            match waiting.pop():
                case ReadChunk(key=key, number=number, offset=offset, length=length):
                    data, head = self._read(key, offset, length)
                    with self._lock:
                        event = ChunkRead(key, number, offset, data, head)
                        waiting += self._core.handle(clock.monotonic(), event) if data else []
                case StoreRecord(record=record):
                    waiting += self._store(record)

    def _store(self, record: Record) -> list[Effect]:
        with self._lock:
            if self._spool is None:  # it failed at a record before this one
                return []
            if self._spool.size_bytes + len(record.data) > self._knobs.spool_bytes:
                self._full = True
                return []
            try:
                self._spool.store(record)
            except RainStormError as error:
                self._full = True
                self._note_trouble("spool", f"the spool cannot be written: {_text(error)}")
                if isinstance(error, DiskFailed):
                    # The contents of the spool are read again before anything is added.
                    self._spool.close()
                    self._spool = None
                return []
            self._troubles.pop("spool", None)
            effects = self._core.handle(clock.monotonic(), RecordStored(record))
        self._stored.set()
        return effects

    def _read(self, key: Key, offset: int, length: int) -> tuple[bytes, bytes]:
        """Returns bytes of a file, and the first bytes that the file had after that read."""
        file = self._paths[key]
        try:
            if file.packed:
                return sources.unpacked_part(file, offset, length), sources.unpacked_part(file, 0, HEAD_BYTES)
            with sources.opened(file) as descriptor:
                return os.pread(descriptor, length, offset), os.pread(descriptor, HEAD_BYTES, 0)
        except OSError:
            return b"", b""  # the next scan will find the reason

    # Sending

    def _send_loop(self) -> None:
        pause_s = RETRY_S[0]
        while not self._stopping.is_set():
            self._stored.clear()
            about = "spool"
            try:
                spool, record = self._first()
                if spool is None or record is None:
                    self._retention.run()
                    if not self._stopping.is_set():
                        self._stored.wait(RETENTION_INTERVAL_S)
                    continue
                about = "hydfs"
                self._append(record, spool.identity)
            except RainStormError as error:
                self._note_trouble(about, _text(error))
                self._stopping.wait(pause_s)
                pause_s = min(2 * pause_s, RETRY_S[1])
                continue
            pause_s = RETRY_S[0]
            if self._troubles.pop("hydfs", ""):
                logger.info("collection_resumed")
            with self._lock:
                if self._spool is spool:  # it was not opened again meanwhile
                    spool.acknowledge()
                self._sent_bytes += len(record.data)
            self._stopping.wait(len(record.data) / self._knobs.collect_bytes_per_s)

    def _first(self) -> tuple[Spool | None, Record | None]:
        """Returns the spool and its next record; those that are damaged are dropped, by name.

        Raises:
            DiskFailed: the spool cannot be read.
        """
        with self._lock:
            spool = self._spool
            while spool is not None:
                try:
                    return spool, spool.first()
                except (Corrupt, InvalidMessage) as error:
                    logger.error("spool_record_dropped error=%s", error)
                    spool.acknowledge()
        return None, None

    def _append(self, record: Record, identity: str) -> None:
        position, target = record.position, record.target
        name = f"{PREFIX}{self._node}/{position.log}/{target.number:06d}-{target.day}"
        writer = f"logs-{self._node}-{identity}-{position.number}"

        def append() -> None:
            self._hydfs.append(
                name, record.data, writer=writer, sequence=record.sequence, timeout_s=APPEND_TIMEOUT_S
            )

        try:
            append()
        except NotFound:
            with contextlib.suppress(AlreadyExists):
                self._hydfs.create(name, timeout_s=APPEND_TIMEOUT_S)
            append()


def _keep(memory: dict[Key, Any], keys: set[Key]) -> None:
    for key in [key for key in memory if key not in keys]:
        del memory[key]


def _text(error: RainStormError) -> str:
    return f"[{error.code}] {error.message}"
