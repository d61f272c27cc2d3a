"""A framed log on disk: an appended record is on stable storage, or is not there.

``agent.common.framedlog`` has the format and the torn-tail rule. The rules for the file are these:

* When the disk has no room for a write, the part that was written is removed durably before the error is
  raised. Otherwise a record that was refused could come back after a crash.
* After a failed sync the log cannot be used any more: the kernel may have dropped unwritten pages.
* The kernel may still show the pages that it dropped, and a later sync does not fail (Rebello et al., ATC
  2020). So a log that is opened is rewritten before anything relies on what was read from it.
* The name of a new log is durable before its first record.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Iterator

from agent.common.errors import Corrupt, DiskFailed, DiskFull, has_no_room
from agent.common.framedlog import HEADER, Buffer, Layout, check_tail, records
from agent.common.shell import disk

# Takes the offset of a record and its body.
Take = Callable[[int, bytes], None]


def nothing_to_note() -> None:
    """The default for ``before_cut``: does nothing."""


class FramedLog:
    """One file of records; used by one thread at a time."""

    def __init__(self, path: disk.Path, layout: Layout, *, mode: int = 0o600) -> None:
        self.path = os.fspath(path)
        self.size = 0
        self._layout = layout
        self._mode = mode
        self._descriptor = -1
        self._failed = False
        self._dirty = False

    def open(self, take: Take, *, before_cut: Callable[[], None] = nothing_to_note) -> bool:
        """Hands every record to ``take`` and opens the log, which is made if it is missing, for appending.

        ``before_cut`` is called before a torn tail is cut off. Returns whether there was one.

        Raises:
            Corrupt: the log is damaged; it is left as it is.
            DiskFull: it cannot be made.
            DiskFailed: it cannot be read or written.
        """
        crc = 0

        def take_and_sum(offset: int, body: bytes) -> None:
            nonlocal crc
            crc = zlib.crc32(self._layout.record(body), crc)
            take(offset, body)

        try:
            self._descriptor = disk.open(self.path, os.O_RDWR | os.O_CREAT, self._mode)
            # Even if it existed: a process that was killed may have made it.
            disk.sync_folder(os.path.dirname(self.path) or ".")
            size = disk.fstat(self._descriptor).size
            self.size = replay(self._descriptor, self._layout, size, take_and_sum, self.path)
            if self.size < size:
                before_cut()
            if size:
                self._write_anew(crc)
            return self.size < size
        except OSError as error:
            self.close()
            raise disk.failure(error, f"the log {self.path} cannot be opened") from error
        except BaseException:
            self.close()
            raise

    def create(self, bodies: Iterable[Buffer]) -> None:
        """Makes a log with these records, replacing any existing one, and opens it for appending.

        Raises:
            RecordTooLarge: one of them is too large; nothing has changed.
            DiskFull: there is no room; nothing has changed.
            DiskFailed: the log cannot be used any more.
        """
        try:
            size = write_log(self.path, self._layout, bodies, self._mode)
            self._reopen()
        except OSError as error:
            raise self._broken("opened again", error) from error
        except DiskFailed:
            self.fail()
            raise
        self.size, self._dirty = size, False

    def append(self, bodies: Iterable[Buffer], *, sync: bool = True) -> int:
        """Writes records and returns the offset of the first; with ``sync`` they are on stable storage.

        Raises:
            RecordTooLarge: one of them is too large; nothing was written.
            DiskFull: there is no room; nothing was written.
            DiskFailed: they may be there or not; the log cannot be used any more.
        """
        data = b"".join(self._layout.record(body) for body in bodies)
        self._check_usable()
        try:
            disk.pwrite_fully(self._descriptor, data, self.size)
        except OSError as error:
            raise self._taken_back(error) from error
        self._dirty = True
        if sync:
            self.sync()
        offset = self.size
        self.size += len(data)
        return offset

    def sync(self) -> None:
        """Waits until everything that was appended is on stable storage.

        Raises:
            DiskFailed: it may be there or not; the log cannot be used any more.
        """
        self._check_usable()
        if not self._dirty:
            return
        try:
            disk.fdatasync(self._descriptor)
        except OSError as error:
            raise self._broken("synced", error) from error
        self._dirty = False

    def fail(self) -> None:
        """Refuses every later use: another file may have replaced this one."""
        self._failed = True

    def rewrite(self, bodies: Iterable[Buffer]) -> None:
        """Replaces all records by others, at once and durably.

        Raises:
            RecordTooLarge: one of them is too large; the log stays as it was.
            DiskFull: there is no room; the log stays as it was.
            DiskFailed: the log cannot be used any more.
        """
        self._check_usable()
        self.create(bodies)

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            disk.close(descriptor)

    def _write_anew(self, crc: int) -> None:
        """Puts the records that were read on stable storage, even if a sync of an earlier process failed.

        A new file replaces this one. On a full disk the same bytes are written over themselves,
        which makes the kernel write them again.

        Raises:
            OSError: they may not be there.
        """
        try:
            disk.write_durably(self.path, self._pieces(crc), self._mode)
            self._reopen()
        except OSError as error:
            if not has_no_room(error):
                raise
            offset = 0
            for piece in self._pieces(crc):
                disk.pwrite_fully(self._descriptor, piece, offset)
                offset += len(piece)
            disk.ftruncate(self._descriptor, self.size)
            disk.fsync(self._descriptor)

    def _pieces(self, crc: int) -> Iterator[bytes]:
        """Yields the records that were read.

        Raises:
            DiskFailed: the kernel dropped pages meanwhile and read older ones from the disk.
        """
        offset, found = 0, 0
        while offset < self.size:
            piece = disk.pread_fully(self._descriptor, min(disk.READ_BYTES, self.size - offset), offset)
            found = zlib.crc32(piece, found)
            offset += len(piece)
            if not piece or (offset == self.size and found != crc):
                raise DiskFailed(
                    f"the log {self.path} changed while it was read", hint="check the disk: dmesg"
                )
            yield piece

    def _reopen(self) -> None:
        """Opens the file that now has the log's name, and closes the one that had it before."""
        fresh = disk.open(self.path, os.O_RDWR)
        self.close()
        self._descriptor = fresh

    def _taken_back(self, error: OSError) -> DiskFull | DiskFailed:
        """Durably removes what a refused write left, and returns the error to raise."""
        if not has_no_room(error):
            return self._broken("written", error)
        try:
            disk.ftruncate(self._descriptor, self.size)
            disk.fdatasync(self._descriptor)
        except OSError as second:
            return self._broken("written", second)
        return DiskFull(f"no room for the log {self.path}", hint="free space on this node's disk: df -h")

    def _broken(self, verb: str, error: OSError) -> DiskFailed:
        self.fail()
        return DiskFailed(f"the log {self.path} cannot be {verb}: {error}", hint="check the disk: dmesg")

    def _check_usable(self) -> None:
        if self._failed:
            raise DiskFailed(f"the log {self.path} failed earlier", hint="check the disk: dmesg")


def write_log(path: disk.Path, layout: Layout, bodies: Iterable[Buffer], mode: int = 0o600) -> int:
    """Durably replaces ``path`` by a log with these records and returns its size.

    Raises:
        RecordTooLarge, DiskFull: nothing has changed.
        DiskFailed: it is unknown which of the two logs a crash leaves.
    """
    try:
        return disk.write_durably(path, (layout.record(body) for body in bodies), mode)
    except OSError as error:
        raise disk.failure(error, f"the log {os.fspath(path)} cannot be rewritten") from error


def replay(descriptor: int, layout: Layout, size: int, take: Take, where: str) -> int:
    """Hands the records of an open log to ``take`` and returns where the last good one ends.

    Raises:
        Corrupt: there are good records behind a bad one.
    """

    def read(offset: int, length: int) -> bytes:
        return disk.pread_fully(descriptor, length, offset)

    end = 0
    for record in records(layout, read, size):
        take(record.offset, record.body)
        end = record.end
    if end < size:
        check_tail(layout, read, end, size, f"the log {where}")
    return end


def read_record(descriptor: int, layout: Layout, offset: int, body_bytes: int, where: str) -> bytes:
    """Returns the body of the record at ``offset``.

    Raises:
        Corrupt: there is no such record of this size.
        DiskFailed: it cannot be read.
    """
    try:
        data = disk.pread_fully(descriptor, HEADER.size + body_bytes, offset)
    except OSError as error:
        raise disk.failure(error, f"the log {where} cannot be read") from error
    header, body = data[: HEADER.size], data[HEADER.size :]
    if len(body) != body_bytes or not layout.matches(header, body):
        raise Corrupt(
            f"the record at byte {offset} of the log {where} is damaged", hint="check the disk: dmesg"
        )
    return body
