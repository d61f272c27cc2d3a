"""A position in a log file, which identifies the file by more than its name.

Names change when logs rotate, and inodes are used again when files are deleted. So a position carries both
the inode and a checksum of the file's first bytes: the file with that inode continues from the position only
if it still begins the same and is no shorter.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace

from agent.logs.messages import HEAD_BYTES, PositionFields

# The key of the journal; no file has it.
JOURNAL_KEY = (-1, -1)
# A beginning as long as a time stamp and a few words tells a file from another.
SHORT_HEAD_BYTES = 32
Key = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Seen:
    """A log file as a scan found it; ``head`` holds its first bytes, None when nothing has changed."""

    log: str
    age: int
    device: int
    inode: int
    size: int
    head: bytes | None = b""
    packed: bool = False

    @property
    def key(self) -> Key:
        """Returns the key that identifies the file as long as it exists."""
        return (self.device, self.inode)

    @property
    def live(self) -> bool:
        """Tells whether this is the file that the log is currently written to."""
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
    # For the journal, which has no offsets of its own.
    cursor: str = ""

    @property
    def key(self) -> Key:
        """Returns the key of the file whose position it is."""
        return (self.device, self.inode)

    @property
    def tells_apart(self) -> bool:
        """Tells whether so much of the file's beginning is known that no other file begins like it."""
        return self.head_bytes >= SHORT_HEAD_BYTES

    def begins_like(self, head: bytes | None) -> bool:
        """Tells whether a file with these first bytes has the same beginning as this one."""
        if head is None or len(head) < self.head_bytes:
            return False
        return zlib.crc32(head[: self.head_bytes]) == self.head_crc

    def continues_in(self, seen: Seen) -> bool:
        """Tells whether ``seen`` can be the same file, perhaps grown."""
        return seen.size >= self.offset and self.begins_like(seen.head)

    def found_in(self, seen: Seen) -> Position:
        """Returns the position in the file where it was found, with all that is known of its beginning."""
        found = self if seen.key == self.key else replace(self, device=seen.device, inode=seen.inode)
        if seen.head is None or len(seen.head) <= self.head_bytes:
            return found
        return found._beginning_with(seen.head)

    def shortened_to(self, copy: Seen) -> Position:
        """Returns the position with as much of its beginning as a copy has, unless that is too short."""
        if copy.head is None or not SHORT_HEAD_BYTES <= len(copy.head) < self.head_bytes:
            return self
        return self._beginning_with(copy.head)

    def _beginning_with(self, head: bytes) -> Position:
        return replace(self, head_bytes=len(head), head_crc=zlib.crc32(head))

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

    @property
    def fields(self) -> PositionFields:
        """Returns the position as it is sent and stored: ``Position(*fields)`` is the same again."""
        return (
            self.log,
            self.device,
            self.inode,
            self.number,
            self.offset,
            self.head_bytes,
            self.head_crc,
            self.cursor,
        )


def whole_lines(data: bytes, *, cut: bool) -> bytes:
    """Returns the complete lines of ``data``; with ``cut`` all of it when it has no line end."""
    end = data.rfind(b"\n") + 1
    return data[:end] if end or not cut else data
