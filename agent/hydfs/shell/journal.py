"""The journal of a node: one append-only log for all its blocks, flushed before anything is answered.

Entries are framed by length and CRC-32. Segments are replaced whole: a new one starts with the state of every
block, is made durable under a temporary name and renamed; only then are older ones removed. At recovery a bad
entry at the very end is a torn write that was never answered and is cut off; a bad one with good entries
behind it means that the disk lies, and the journal refuses to open.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from agent.common.errors import Corrupt

FRAME = struct.Struct(">II")
SEGMENT_BYTES = 32 * 1024 * 1024
ENTRY_BYTES_MAX = 1024 * 1024
# How far behind a bad entry a good one is looked for: more than the largest entry with its payload.
SEARCH_BYTES = 256 * 1024


def frame(body: bytes) -> bytes:
    """Returns the entry as it stands in the journal."""
    return FRAME.pack(len(body), zlib.crc32(body)) + body


def read_frame(data: bytes, offset: int) -> tuple[bytes | None, int]:
    """Returns the entry at ``offset`` and the offset behind it; None when there is no good one."""
    start = offset + FRAME.size
    if start > len(data):
        return None, offset
    length, crc = FRAME.unpack_from(data, offset)
    if not 0 < length <= ENTRY_BYTES_MAX or start + length > len(data):
        return None, offset
    body = data[start : start + length]
    return (body, start + length) if zlib.crc32(body) == crc else (None, offset)


class Journal:
    """The segments in one folder; used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # That a tail was cut off is kept on disk until what follows from it is: this process may end before.
        self._torn_path = folder / "torn"
        self.torn = False
        self.size = 0
        self._number = 0
        self._file = -1

    def recover(self, take: Callable[[bytes], None]) -> None:
        """Gives every entry to ``take``, oldest first, and opens the newest segment for appending.

        Raises:
            Corrupt: an entry before the end is damaged.
        """
        for leftover in self._folder.glob("*.new"):
            leftover.unlink()
        self.torn = self._torn_path.exists()
        segments = sorted(self._folder.glob("*.log"))
        for path in segments:
            last = path == segments[-1]
            data = path.read_bytes()
            end = 0
            for body, behind in _entries(data):
                take(body)
                end = behind
            if end < len(data):
                self._cut(path, data, end, last)
            self.size = end
        self._number = int(segments[-1].stem) if segments else 1
        self._file = self._open(self._path(self._number))

    def append(self, bodies: Iterable[bytes]) -> None:
        """Writes the entries and waits until they are on stable storage.

        Raises:
            OSError: nothing was written (ENOSPC), or the disk failed.
        """
        data = b"".join(frame(body) for body in bodies)
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
        except OSError:
            os.ftruncate(self._file, self.size)
            raise
        os.fdatasync(self._file)
        self.size += len(data)

    def restart(self, bodies: Iterable[bytes]) -> None:
        """Starts a new segment that begins with ``bodies`` and removes the older ones.

        Raises:
            OSError: there is no room for it (ENOSPC), then the older ones go on; or the disk failed.
        """
        path = self._path(self._number + 1)
        fresh = path.with_suffix(".new")
        size = 0
        try:
            with open(fresh, "wb") as file:
                for body in bodies:
                    size += file.write(frame(body))
                file.flush()
                os.fsync(file.fileno())
            os.rename(fresh, path)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        os.close(self._file)
        self._file = self._open(path)
        self._number += 1
        self.size = size
        for old in self._folder.glob("*.log"):
            if int(old.stem) < self._number:
                old.unlink()
        self._torn_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the segment."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:08d}.log"

    def _open(self, path: Path) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        sync_folder(self._folder)
        return descriptor

    def _cut(self, path: Path, data: bytes, end: int, last: bool) -> None:
        behind = range(end + 1, min(len(data), end + SEARCH_BYTES))
        if not last or any(read_frame(data, start)[0] is not None for start in behind):
            raise Corrupt(
                f"journal {path} is damaged at byte {end}, with good entries behind it",
                hint="the disk lies: replace it and let the node join with an empty data folder",
            )
        self.torn = True
        self._torn_path.touch()
        sync_folder(self._folder)
        with open(path, "r+b") as file:
            file.truncate(end)
            os.fsync(file.fileno())


def _entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    offset = 0
    while offset < len(data):
        body, offset = read_frame(data, offset)
        if body is None:
            return
        yield body, offset


def sync_folder(folder: Path) -> None:
    """Makes the names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
