"""Where one stands in a log file, told apart from every other file by more than its name.

Names change when logs rotate, and inodes are used again when files are deleted. So a position carries both
the inode and a checksum of the file's first bytes: the file with that inode goes on from the position only
if it still begins the same and is no shorter.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Any

# Log lines begin with their time: two files that share their first kibibyte are copies.
HEAD_BYTES = 1024
# No file has it: the journal, which is no file.
JOURNAL_KEY = (-1, -1)
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A log file as a look at the disk found it; ``head`` is how it begins, None when nothing has changed."""

    log: str
    age: int
    device: int
    inode: int
    size: int
    head: bytes | None = b""
    packed: bool = False

    @property
    def key(self) -> Key:
        """Returns which file it is, as long as it exists."""
        return (self.device, self.inode)

    @property
    def live(self) -> bool:
        """Tells whether it has the name under which the log is written."""
        return self.age == 0 and not self.packed


@dataclass(frozen=True, slots=True)
class Position:
    """How far a file has been read."""

    log: str
    device: int
    inode: int
    number: int
    offset: int = 0
    head_bytes: int = 0
    head_crc: int = 0
    # Of the journal, which has no offsets of its own.
    cursor: str = ""

    @property
    def key(self) -> Key:
        """Returns which file it is about."""
        return (self.device, self.inode)

    def begins_like(self, seen: Seen) -> bool:
        """Tells whether a file begins as this one did."""
        if seen.head is None or len(seen.head) < self.head_bytes:
            return False
        return zlib.crc32(seen.head[: self.head_bytes]) == self.head_crc

    def goes_on_in(self, seen: Seen) -> bool:
        """Tells whether ``seen`` is the same file, perhaps grown."""
        return seen.head is None or (seen.size >= self.offset and self.begins_like(seen))

    def advanced(self, data: bytes) -> Position:
        """Returns the position behind ``data``, which was read here."""
        missing = HEAD_BYTES - self.head_bytes
        head = data[:missing] if self.head_bytes == self.offset else b""
        return replace(
            self,
            offset=self.offset + len(data),
            head_bytes=self.head_bytes + len(head),
            head_crc=zlib.crc32(head, self.head_crc),
        )

    def to_wire(self) -> list[Any]:
        """Returns the position as plain values."""
        return [
            self.log,
            self.device,
            self.inode,
            self.number,
            self.offset,
            self.head_bytes,
            self.head_crc,
            self.cursor,
        ]


def position_from_wire(value: Any) -> Position:
    """Returns the position that ``to_wire`` made."""
    log, *numbers, cursor = value
    device, inode, number, offset, head_bytes, head_crc = (int(each) for each in numbers)
    return Position(str(log), device, inode, number, offset, head_bytes, head_crc, str(cursor))


def whole_lines(data: bytes, *, cut: bool) -> bytes:
    """Returns the lines of ``data`` that are complete; all of it when ``cut`` and there is no line end."""
    end = data.rfind(b"\n") + 1
    return data[:end] if end or not cut else data
