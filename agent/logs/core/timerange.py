"""The time of a log line, and the place in a log where a time begins.

Lines begin with their time: RFC 3339 (ours; without a zone it is UTC) or the traditional ``Nov 20 13:35:57``
of syslog, whose year is the latest that is not after a reference time. A line without a time (a traceback)
belongs to the line above it. A log grows in the order of time, except for up to ``DISORDER_S`` between
processes that write the same file. So a range of time is a range of the file, from its first line that is not
too early to its first line that is too late, and bisection finds it.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable, Generator, Iterator

RFC3339 = re.compile(rb"(\d{4})-(\d\d)-(\d\d)[T ](\d\d):(\d\d):(\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
SYSLOG = re.compile(rb"([A-Z][a-z]{2}) ([ \d]\d) (\d\d):(\d\d):(\d\d) ")
MONTHS = {name.encode(): number for number, name in enumerate(calendar.month_abbr) if number}
DISORDER_S = 2.0
DAY_S = 86400.0
# A place without a time in this many bytes does not help the bisection, which then tries earlier places.
LOOK_BYTES = 256 * 1024
LINE_BYTES_MAX = 8 * 1024 * 1024

# Read(offset, length) returns up to ``length`` bytes from ``offset`` on.
Read = Callable[[int, int], bytes]


def time_of(line: bytes, reference: float) -> float | None:
    """Returns when a line was written, in seconds since 1970, or None when it has no time."""
    found = RFC3339.match(line)
    if found:
        year, month, day, hour, minute, second = (int(found[i]) for i in range(1, 7))
        if not (1 <= month <= 12 and 1 <= day <= 31 and year >= 1970):
            return None
        whole = calendar.timegm((year, month, day, hour, minute, second))
        fraction = float(b"0." + found[7]) if found[7] else 0.0
        return whole + fraction - _zone_s(found[8])
    found = SYSLOG.match(line)
    if found and found[1] in MONTHS:
        day, hour, minute, second = (int(found[i]) for i in range(2, 6))
        year = 1970 + int(reference // (365.2425 * DAY_S))
        for candidate in (year + 1, year, year - 1):
            whole = calendar.timegm((candidate, MONTHS[found[1]], day, hour, minute, second))
            if whole <= reference + DAY_S:
                return float(whole)
    return None


def _zone_s(zone: bytes | None) -> float:
    if zone is None or zone == b"Z":
        return 0.0
    hours, minutes = int(zone[1:3]), int(zone[-2:])
    return (-1 if zone[:1] == b"-" else 1) * (hours * 3600.0 + minutes * 60.0)


def find_time(read: Read, size: int, wanted: float, reference: float) -> int:
    """Returns the offset of the first line written at ``wanted`` or later, or ``size`` if there is none."""
    low, high = 0, size
    # Every line that begins before ``low`` is certainly too early.
    while high - low > LOOK_BYTES:
        middle = (low + high) // 2
        found = _first_time(read, middle, min(high, middle + LOOK_BYTES), reference)
        if found is not None and found[1] < wanted - DISORDER_S:
            low = found[0]
        else:
            high = middle
    for offset, at in _times(read, low, size, reference):
        if at >= wanted:
            return offset
    return size


def _first_time(read: Read, start: int, end: int, reference: float) -> tuple[int, float] | None:
    """Returns offset and time of the first line after ``start`` that has a time."""
    data = read(start, end - start)
    begin = data.find(b"\n") + 1
    while begin:
        at = time_of(data[begin : begin + 64], reference)
        if at is not None:
            return start + begin, at
        begin = data.find(b"\n", begin) + 1
    return None


def _times(read: Read, start: int, end: int, reference: float) -> Iterator[tuple[int, float]]:
    """Yields offset and time of each line from ``start``, where one begins, that has a time."""
    offset = start
    carried = b""
    while offset < end:
        data = read(offset, min(LOOK_BYTES, end - offset))
        if not data:
            return
        whole, newline, rest = (carried + data).rpartition(b"\n")
        begin = offset - len(carried)
        offset += len(data)
        if not newline:
            carried = rest[:LOOK_BYTES]
            if len(rest) > LOOK_BYTES:
                return  # not lines
            continue
        carried = rest
        for line in whole.split(b"\n"):
            at = time_of(line, reference)
            if at is not None:
                yield begin, at
            begin += len(line) + 1
    if carried:
        at = time_of(carried, reference)
        if at is not None:
            yield end - len(carried), at


class RangeFilter:
    """Passes the lines of a stream from the first that is not too early to the first that is too late."""

    def __init__(self, since: float | None, until: float | None, reference: float) -> None:
        self.skipped_lines = 0
        self.ended = False
        self._since = since
        self._until = until
        self._reference = reference
        self._rest = b""

    def feed(self, chunks: Generator[bytes, None, None]) -> Generator[bytes, None, None]:
        """Yields those lines of the chunks that are in the range."""
        for chunk in chunks:
            whole, newline, self._rest = (self._rest + chunk).rpartition(b"\n")
            if newline:
                yield self._pass(whole.split(b"\n"), b"\n")
            elif len(self._rest) > LINE_BYTES_MAX:  # not lines
                yield self._pass([self._rest], b"")
                self._rest = b""
            if self.ended:
                return
        if self._rest:
            yield self._pass([self._rest], b"")

    def _pass(self, lines: list[bytes], end: bytes) -> bytes:
        first = 0
        if self._since is not None:
            while first < len(lines):
                at = time_of(lines[first], self._reference)
                if at is not None and at >= self._since:
                    self._since = None
                    break
                first += 1
            self.skipped_lines += first
        last = first
        if self._until is None:
            last = len(lines)
        while last < len(lines):
            at = time_of(lines[last], self._reference)
            if at is not None and self._until is not None and at >= self._until:
                self.ended = True
                break
            last += 1
        return b"".join(line + end for line in lines[first:last])
