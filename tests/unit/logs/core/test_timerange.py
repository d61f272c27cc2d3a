"""The times of lines, and the place in a file where a time begins."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.logs.core.timerange import RangeFilter, find_time, time_of

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()


@pytest.mark.parametrize(
    ("line", "at"),
    [
        (b"2026-11-20T11:59:59.250Z INFO x", NOW - 0.75),
        (b"2026-11-20 12:00:00,5 x", NOW + 0.5),
        (b"2026-11-20T13:00:01+01:00 x", NOW + 1),
        (b"2026-11-20T09:30:00.000000-0230 x", NOW),
        (b"Nov 20 12:00:03 host x", NOW + 3),
        (b"Dec 31 23:59:59 host x", datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()),
        (b"  File x", None),
        (b"2026-99-20T11:59:59Z", None),
        (b"", None),
    ],
)
def test_times(line: bytes, at: float | None) -> None:
    assert time_of(line, NOW) == at


def _log(rng: random.Random, lines: int) -> tuple[bytes, list[tuple[int, float]]]:
    """Returns a log, with the offset and time of each line; the times are whole milliseconds."""
    data, times, at = b"", [], NOW
    for _ in range(lines):
        at = NOW + round(at - NOW + rng.uniform(0.002, 10), 3)
        times.append((len(data), at))
        stamp = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").encode()
        data += stamp + b" text\n" + b"  more of it\n" * rng.choice((0, 0, 3)) + b"x" * rng.choice((0, 900))
        data = data if data.endswith(b"\n") else data + b"\n"
    return data, times


def test_a_time_is_found_by_bisection(seed: int) -> None:
    rng = random.Random(seed)
    data, times = _log(rng, 3000)

    def read(offset: int, length: int) -> bytes:
        return data[offset : offset + length]

    assert len(data) > 1_000_000
    last_ms = round((times[-1][1] - NOW) * 1000)
    # Half a millisecond from every line, so that no rounding decides.
    between = [NOW + (rng.randrange(-5000, last_ms + 5000) + 0.5) / 1000 for _ in range(20)]
    for wanted in [0.0, 1e12, *between]:
        expected = next((offset for offset, at in times if at >= wanted), len(data))
        assert find_time(read, len(data), wanted, NOW) == expected


def test_a_stream_is_limited_to_the_same_range(seed: int) -> None:
    rng = random.Random(seed)
    data, times = _log(rng, 200)
    since, until = times[50][1], times[120][1]
    chunks = (data[begin : begin + 777] for begin in range(0, len(data), 777))
    limited = RangeFilter(since - 0.0005, until - 0.0005, NOW)
    assert b"".join(limited.feed(chunks)) == data[times[50][0] : times[120][0]]
    assert limited.skipped_lines == data[: times[50][0]].count(b"\n")


def _reader(data: bytes) -> Any:
    return lambda offset, length: data[offset : offset + length]


def test_a_syslog_line_has_the_latest_year_that_is_not_after_the_reference() -> None:
    first = datetime(2026, 1, 1, 0, 0, 5, tzinfo=UTC).timestamp()
    assert (
        time_of(b"Dec 31 23:59:59 host x", first)
        == datetime(2025, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()
    )
    assert time_of(b"Jan  1 00:00:00 host x", first) == first - 5
    assert time_of(b"Xyz  1 00:00:00 host x", first) is None


def test_a_log_without_times_has_no_place_for_a_time() -> None:
    for data in (b"", b"no time\n" * 200_000, b"x" * 1_000_000):
        assert find_time(_reader(data), len(data), NOW, NOW) == len(data)


def test_a_last_line_without_an_end_counts() -> None:
    data = b"2026-11-20T11:59:00Z a\n2026-11-20T12:00:00Z b"
    assert find_time(_reader(data), len(data), NOW, NOW) == 23
    assert find_time(_reader(b"no time"), 7, NOW, NOW) == 7


def test_a_file_that_shrinks_while_it_is_read_ends_the_search() -> None:
    data = b"2026-11-20T11:59:00Z a\n"
    assert find_time(_reader(data), 10 * len(data), NOW, NOW) == 10 * len(data)


def test_a_long_line_is_read_over_several_chunks() -> None:
    data = b"2026-11-20T11:59:00Z " + b"x" * 300_000 + b"\n2026-11-20T12:00:00Z b\n"
    assert find_time(_reader(data), len(data), NOW, NOW) == data.rindex(b"2026")


def _filtered(chunks: list[bytes], since: float | None = None, until: float | None = None) -> bytes:
    limited = RangeFilter(since, until, NOW)
    return b"".join(limited.feed(each for each in chunks))


def test_a_stream_may_lack_its_last_line_end_and_lines_altogether() -> None:
    line = b"2026-11-20T12:00:00Z x"
    assert _filtered([line[:7], line[7:]], NOW) == line
    assert _filtered([line], NOW + 1) == b""
    assert _filtered([line + b"\n", line], until=NOW) == b""
    binary = b"\xff" * (9 * 1024 * 1024)
    assert _filtered([binary, b"rest"]) == binary + b"rest"
