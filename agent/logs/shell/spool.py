"""Records on their way to HyDFS, on disk: what was stored here survives SIGKILL and power failures.

A row of segment files. An entry is a header (length, CRC-32, kind) and its payload; each segment begins
with a snapshot of the collector's state, so that the older ones can be deleted as soon as their records
have arrived. Every record is synced before it counts. Acknowledgements are not: a record that is sent
again is recognised by HyDFS. A torn tail is what a crash interrupted: it never counted, and is cut off.
"""

from __future__ import annotations

import contextlib
import logging
import os
import struct
import uuid
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from agent.logs.core.collector import Record, record_from_wire

logger = logging.getLogger("agent.logs.shell.spool")

ENTRY = struct.Struct(">IIc")
SNAPSHOT, RECORD, ACKNOWLEDGED = b"s", b"r", b"a"
SEGMENT_BYTES_MAX = 8 * 1024 * 1024
# An entry is a record of half a mebibyte at most, or a snapshot of a thousand positions.
ENTRY_BYTES_MAX = 4 * 1024 * 1024


@dataclass(slots=True)
class _Unsent:
    """Where a record is that has not arrived in HyDFS yet."""

    segment: int
    offset: int
    size: int


class Spool:
    """The durable queue between log files and HyDFS."""

    def __init__(self, folder: Path, snapshot: Callable[[], Mapping[str, Any]]) -> None:
        self._folder = folder
        self._snapshot = snapshot
        self._segments: deque[int] = deque()
        self._sizes: dict[int, int] = {}
        self._unsent: deque[_Unsent] = deque()
        self._file = -1
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.identity = self._identity()

    @property
    def unsent_records(self) -> int:
        """Returns how many records have not arrived yet."""
        return len(self._unsent)

    @property
    def size_bytes(self) -> int:
        """Returns how much of the disk the records that have not arrived take."""
        return sum(each.size for each in self._unsent)

    def recover(self, restore: Callable[[Mapping[str, Any]], None], apply: Callable[[Record], None]) -> None:
        """Reads what an earlier life left: the latest state before its records, then those."""
        numbers = sorted(int(path.stem) for path in self._folder.glob("*.spool"))
        for number in numbers:
            end = 0
            for offset, kind, payload in self._entries(number):
                value = msgpack.unpackb(payload, raw=False, strict_map_key=False)
                end = offset + ENTRY.size + len(payload)
                if kind == SNAPSHOT:
                    restore(value)
                elif kind == RECORD:
                    apply(record_from_wire(value))
                    self._unsent.append(_Unsent(number, offset, len(payload)))
                elif self._unsent and value == [self._unsent[0].segment, self._unsent[0].offset]:
                    self._unsent.popleft()
            path = self._path(number)
            if end < path.stat().st_size:
                logger.info("spool_tail_cut segment=%d from=%d", number, end)
                os.truncate(path, end)
            self._segments.append(number)
            self._sizes[number] = end
        self._open_segment((numbers[-1] if numbers else 0) + 1)
        self._delete_sent()

    def store(self, record: Record) -> None:
        """Makes a record durable.

        Raises:
            OSError: it is not; nothing of it stays.
        """
        payload = msgpack.packb(record.to_wire(), use_bin_type=True)
        if self._sizes[self._segments[-1]] >= SEGMENT_BYTES_MAX:
            self._open_segment(self._segments[-1] + 1)
        offset = self._write(RECORD, payload, sync=True)
        self._unsent.append(_Unsent(self._segments[-1], offset, len(payload)))

    def first(self) -> Record | None:
        """Returns the oldest record that has not arrived yet."""
        if not self._unsent:
            return None
        at = self._unsent[0]
        descriptor = os.open(self._path(at.segment), os.O_RDONLY | os.O_CLOEXEC)
        try:
            payload = os.pread(descriptor, at.size, at.offset + ENTRY.size)
        finally:
            os.close(descriptor)
        return record_from_wire(msgpack.unpackb(payload, raw=False))

    def acknowledge(self) -> None:
        """Takes note that the oldest record has arrived."""
        sent = self._unsent.popleft()
        with contextlib.suppress(OSError):  # it will be sent again, and recognised
            self._write(ACKNOWLEDGED, msgpack.packb([sent.segment, sent.offset]), sync=False)
            if not self._unsent and self._sizes[self._segments[-1]] >= SEGMENT_BYTES_MAX // 8:
                self._open_segment(self._segments[-1] + 1)
        self._delete_sent()

    def close(self) -> None:
        """Closes the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _identity(self) -> str:
        # Positions and numbers begin anew when this folder was lost: so must the writers' names.
        path = self._folder / "identity"
        with contextlib.suppress(FileNotFoundError):
            found = path.read_text("ascii").strip()
            if found:
                return found
        made = uuid.uuid4().hex[:12]
        fresh = path.with_suffix(".new")
        fresh.write_text(made + "\n", "ascii")
        descriptor = os.open(fresh, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
        self._sync_folder()
        return made

    def _open_segment(self, number: int) -> None:
        before = self._file
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        self._file = os.open(self._path(number), flags, 0o640)
        self._segments.append(number)
        self._sizes[number] = 0
        try:
            self._write(SNAPSHOT, msgpack.packb(self._snapshot(), use_bin_type=True), sync=True)
            self._sync_folder()
        except OSError:
            # Without its snapshot a segment may not take records: the old one goes on.
            self.close()
            self._file = before
            self._segments.pop()
            del self._sizes[number]
            self._path(number).unlink(missing_ok=True)
            raise
        if before >= 0:
            os.close(before)

    def _delete_sent(self) -> None:
        # An acknowledgement in the newest segment may be of a record in the oldest: both go in order.
        needed = self._unsent[0].segment if self._unsent else self._segments[-1]
        while self._segments[0] < needed:
            number = self._segments.popleft()
            del self._sizes[number]
            self._path(number).unlink(missing_ok=True)

    def _write(self, kind: bytes, payload: bytes, *, sync: bool) -> int:
        number = self._segments[-1]
        offset = self._sizes[number]
        entry = ENTRY.pack(len(payload), zlib.crc32(kind + payload), kind) + payload
        try:
            view = memoryview(entry)
            written = 0
            while written < len(entry):
                written += os.pwrite(self._file, view[written:], offset + written)
            if sync:
                os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, offset)
            raise
        self._sizes[number] = offset + len(entry)
        return offset

    def _entries(self, number: int) -> Iterator[tuple[int, bytes, bytes]]:
        data = self._path(number).read_bytes()
        offset = 0
        while offset + ENTRY.size <= len(data):
            size, crc, kind = ENTRY.unpack_from(data, offset)
            payload = data[offset + ENTRY.size : offset + ENTRY.size + size]
            if size > ENTRY_BYTES_MAX or len(payload) < size or zlib.crc32(kind + payload) != crc:
                return
            yield offset, kind, payload
            offset += ENTRY.size + size

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.spool"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
