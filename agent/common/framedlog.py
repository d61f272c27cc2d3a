"""The format of a framed log: records one behind another, each with its length and its CRC-32.

A record that does not match its checksum was either interrupted by a crash or damaged by the disk. What
follows it tells which. The **torn-tail rule**: a bad record with nothing good behind it is a write that
a crash interrupted. It was never acknowledged, so it is cut off. A bad record with a good one behind it means
that the disk lost bytes that it had confirmed. Then the log is ``Corrupt`` and nothing is cut.

The search for a good record covers the whole rest of the log. A record may begin at any byte, so candidates
are found by the beginning of their bodies (``Layout.lead``). The total size of the bodies that are checked is
bounded; beyond it the log counts as corrupt, which is the safe side.

A payload may hold bytes of such a log, a copy of a journal for instance. If the write of this payload is
torn, the log counts as corrupt although it is not. That is the safe side, too.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from agent.common.errors import Corrupt, RecordTooLarge

Buffer = bytes | bytearray | memoryview
# Returns bytes of a log from an offset on; fewer than requested only at its end.
Read = Callable[[int, int], bytes]

HEADER = struct.Struct(">II")
# A log is read in pieces of this size, or of the size of a record if that is larger.
WINDOW_BYTES = 1024 * 1024
# Longer than a header and the lead of any body.
EDGE_BYTES = 64
# How many bytes of bodies a search checks: seconds of CRC-32. Real logs need a few megabytes; only bytes
# crafted to look like the beginnings of records need more.
SEARCH_BYTES_MAX = 4 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """How the records of one kind of log look.

    ``lead`` is a regular expression that every body begins with. The length in a header does not count the
    first ``uncounted_bytes`` of the body (the spool keeps a kind there).
    """

    lead: bytes
    body_bytes_max: int
    uncounted_bytes: int = 0
    _candidate: re.Pattern[bytes] = field(init=False)
    _lead: re.Pattern[bytes] = field(init=False)

    def __post_init__(self) -> None:
        # A look-ahead finds candidates that overlap; the length's first byte is small.
        first = re.escape(bytes([self.body_bytes_max >> 24]))
        candidate = b"(?=[\\x00-" + first + b"].{7}(?:" + self.lead + b"))"
        object.__setattr__(self, "_candidate", re.compile(candidate, re.DOTALL))
        object.__setattr__(self, "_lead", re.compile(self.lead, re.DOTALL))

    def record(self, body: Buffer) -> bytes:
        """Returns the bytes that the log holds for a body.

        Raises:
            RecordTooLarge: a reader would take it for damage.
        """
        self.check(body)
        return HEADER.pack(len(body) - self.uncounted_bytes, zlib.crc32(body)) + body

    def check(self, body: Buffer) -> None:
        """Refuses a body that could not be read back.

        Raises:
            RecordTooLarge: it is longer than ``body_bytes_max``.
        """
        if len(body) > self.body_bytes_max:
            raise RecordTooLarge(
                f"a log record of {len(body)} bytes is larger than {self.body_bytes_max}",
                hint="this is a defect, or a name or value without a bound of its own",
            )
        if self._lead.match(body) is None:
            raise ValueError(f"a log record begins with {bytes(body[:16])!r}, which its format does not know")

    def body_bytes(self, header: bytes) -> int:
        """Returns the length of the body that a header announces; 0 when it cannot be one."""
        if len(header) < HEADER.size:
            return 0
        size = int(HEADER.unpack(header)[0]) + self.uncounted_bytes
        return size if self.uncounted_bytes < size <= self.body_bytes_max else 0

    def matches(self, header: bytes, body: bytes) -> bool:
        """Tells whether a body is complete and belongs to the header."""
        return len(body) == self.body_bytes(header) > 0 and zlib.crc32(body) == HEADER.unpack(header)[1]

    def candidates(self, window: bytes) -> Iterator[int]:
        """Yields where in a window a record might begin."""
        return (found.start() for found in self._candidate.finditer(window))


@dataclass(frozen=True, slots=True)
class Record:
    """A good record: where it begins and ends in its log, and its body."""

    offset: int
    body: bytes

    @property
    def end(self) -> int:
        """Returns the offset behind it."""
        return self.offset + HEADER.size + len(self.body)


def records(layout: Layout, read: Read, size: int) -> Iterator[Record]:
    """Yields the records of a log of ``size`` bytes up to the first one that is not good."""
    window = _Window(read)
    offset = 0
    while offset < size and (found := _record(layout, window, offset)) is not None:
        yield found
        offset = found.end


def check_tail(layout: Layout, read: Read, end: int, size: int, where: str) -> None:
    """Makes sure that the bytes behind the last good record, which ends at ``end``, are a torn tail.

    Raises:
        Corrupt: they are not, or cannot be told from damage.
    """
    found = find_behind(layout, read, end, size)
    if found is not None:
        raise Corrupt(
            f"{where} is damaged at byte {end}, with good records behind it (at byte {found})",
            hint="the disk is corrupt: replace it and let this node join with an empty data folder",
        )


def find_behind(
    layout: Layout, read: Read, bad: int, size: int, search_bytes_max: int = SEARCH_BYTES_MAX
) -> int | None:
    """Returns the offset of a good record behind the bad one at ``bad``; None when there is none.

    When the search has checked ``search_bytes_max``, it returns the next candidate without a check.
    """
    window = _Window(read)
    begin, checked = bad + 1, 0
    while begin < size:
        data = read(begin, WINDOW_BYTES)
        for at in layout.candidates(data):
            offset = begin + at
            length = layout.body_bytes(data[at : at + HEADER.size])
            if not length or offset + HEADER.size + length > size:
                continue
            checked += length
            if checked > search_bytes_max or _record(layout, window, offset) is not None:
                return offset
        if len(data) < WINDOW_BYTES:
            break
        # A header and the beginning of a body may lie across the edge of two windows.
        begin += len(data) - EDGE_BYTES
    return None


def _record(layout: Layout, window: _Window, offset: int) -> Record | None:
    header = window.bytes(offset, HEADER.size)
    length = layout.body_bytes(header)
    if not length:
        return None
    body = window.bytes(offset + HEADER.size, length)
    return Record(offset, body) if layout.matches(header, body) else None


class _Window:
    """The most recently read piece of a log."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._begin = 0
        self._data = b""

    def bytes(self, offset: int, length: int) -> bytes:
        """Returns bytes of the log; fewer than requested only at its end."""
        at = offset - self._begin
        if at < 0 or at + length > len(self._data):
            self._data = self._read(offset, max(length, WINDOW_BYTES))
            self._begin, at = offset, 0
        return self._data[at : at + length]
