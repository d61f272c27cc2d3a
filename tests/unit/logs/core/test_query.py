"""The allowed searches, the arguments of grep, and how its output is read."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common import message
from agent.common.errors import RainStormError
from agent.logs.core.query import OutputReader, Query, query_of
from agent.logs.messages import StartSearch


def _query(**fields: Any) -> Query:
    request = message.decode(StartSearch, {"search": "s", "pattern": b"x", **fields})
    return query_of(request, 1000, 10.0)


@pytest.mark.parametrize(
    "fields",
    [
        {"pattern": b"a\0b"},
        {"pattern": b"x" * 1_000_000},
        {"pattern": None},
        {"extended": True, "fixed": True},
        {"ignore_case": "yes"},
        {"after": -1},
        {"max_count": True},
        {"context": 10**12},
        {"files": ["../node.yml"]},
        {"files": ["/etc/passwd"]},
        {"files": [""]},
        {"files": ["a\nb"]},
        {"files": "tasks.log"},
        {"files": ["x"] * 65},
        {"files": ["x"] * 1025},
        {"files": [b"x"]},
        {"since": float("nan")},
        {"output_bytes_max": -1},
        {"search": ""},
        {"system": ["/var/log/../../etc/shadow"]},
        {"since": 20.0, "until": 10.0},
        {"time_limit_s": -1},
    ],
)
def test_a_search_that_makes_no_sense_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(RainStormError) as refused:
        _query(**fields)
    assert refused.value.code in ("USAGE", "INVALID_MESSAGE")


def test_a_hostile_pattern_stays_the_argument_of_e() -> None:
    words = _query(pattern=b"--file=/etc/shadow", ignore_case=True, after=0, max_count=3).arguments("a.log")
    assert words[-3:] == [b"-e", b"--file=/etc/shadow", b"-"]
    assert words[5:-3] == [b"-i", b"-A0", b"-m3"]


def test_the_limits_of_the_agent_bound_those_of_the_caller() -> None:
    query = _query(output_bytes_max=10**9, time_limit_s=99.0)
    assert (query.output_bytes_max, query.time_limit_s) == (1000, 10.0)
    assert _query(output_bytes_max=7, time_limit_s=0.5).time_limit_s == 0.5


def _read(query: Query, *chunks: bytes, skipped_lines: int = 0) -> tuple[bytes, int, int]:
    reader = OutputReader(query, "a.log")
    reader.skipped_lines = skipped_lines
    shown = b"".join(reader.feed(chunk) for chunk in chunks)
    return shown, reader.matches, reader.lines


def test_matches_are_distinguished_from_context_and_separators() -> None:
    output = b"a.log-a.log:x\na.log:x\n--\na.log:\ra.log:y\n"
    assert _read(_query(context=1), output[:20], output[20:]) == (output, 2, 4)
    assert _read(_query(), output) == (output, 4, 4)
    assert _read(_query(count=True), b"a.log:1", b"7\n") == (b"a.log:17\n", 17, 1)


def test_line_numbers_count_from_the_beginning_of_the_file() -> None:
    shown, _, _ = _read(
        _query(line_numbers=True, context=1), b"a.log-1-3:4\na.log:2:x\n--\n", skipped_lines=10
    )
    assert shown == b"a.log-11-3:4\na.log:12:x\n--\n"
