"""Times of lines, and where in a file a time begins."""

from __future__ import annotations

import random
from datetime import UTC, datetime

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
    data, times, at = b"", [], NOW
    for _ in range(lines):
        at += rng.random() * 10
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
    for wanted in [0.0, 1e12, *(rng.uniform(NOW - 5, times[-1][1] + 5) for _ in range(20))]:
        expected = next((offset for offset, at in times if at >= wanted - 1e-6), len(data))
        assert find_time(read, len(data), wanted, NOW) == expected


def test_a_stream_is_limited_to_the_same_range(seed: int) -> None:
    rng = random.Random(seed)
    data, times = _log(rng, 200)
    since, until = times[50][1], times[120][1]
    chunks = (data[begin : begin + 777] for begin in range(0, len(data), 777))
    limited = RangeFilter(since - 1e-3, until - 1e-3, NOW)
    assert b"".join(limited.feed(chunks)) == data[times[50][0] : times[120][0]]
    assert limited.skipped_lines == data[: times[50][0]].count(b"\n")
