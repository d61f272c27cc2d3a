"""The filter: by a column, by the whole record, by lines of either kind of line end."""

from __future__ import annotations

from typing import Any

import pytest

from agent.rainstorm.task.batches import from_lines, to_output
from agent.rainstorm.task.operators.filter import Filter
from tests.unit.rainstorm.rows import batch, rows_of

KV = ("k", "v")


def kept(options: dict[str, Any], *values: bytes) -> list[bytes]:
    """Returns which values of column ``k`` pass a filter."""
    found = Filter({"column": "k", **options}, KV).process(batch(KV, *((value, b"") for value in values)))
    return [row[0] for row in rows_of(*found)]


def kept_lines(options: dict[str, Any], data: bytes) -> bytes:
    """Returns which lines pass a filter."""
    return b"".join(map(to_output, Filter(options, ("line",)).process(from_lines(data))))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"equals": "Stop"}, [b"Stop"]),
        ({"equals": "Stop", "invert": True}, [b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n"]),
        ({"contains": "Stop"}, [b"Stop", b"All Stop", b"Stop\n"]),
        ({"contains": ""}, [b"Stop", b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n"]),
        ({"matches": "^[Ss]top"}, [b"Stop", b"stop", b"Stop\n"]),
        ({"matches": r"top\Z"}, [b"Stop", b"All Stop", b"stop"]),
        ({"matches": "^$"}, [b""]),
        ({"matches": "[Ss]t", "invert": True}, [b""]),
        ({"equals": "nothing"}, []),
    ],
)
def test_filter_by_column(options: dict[str, Any], expected: list[bytes]) -> None:
    """equals is the whole value, contains a part of it, matches a search; invert keeps the others."""
    assert kept(options, b"Stop", b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n") == expected


def test_filter_by_the_whole_record() -> None:
    """Column * is the record as it would be written, so a pattern may reach over several fields."""
    rows = batch(KV, (b"a", b"1"), (b"a,b", b"1"), (b"b", b"a"), (b"", b"\xff"))
    cases: list[tuple[dict[str, Any], list[bytes]]] = [
        ({"matches": "^a,1$"}, [b"a"]),
        ({"contains": "a"}, [b"a", b"a,b", b"b"]),
        ({"equals": '"a,b",1'}, [b"a,b"]),
        ({"contains": "a", "invert": True}, [b""]),
    ]
    for options, expected in cases:
        found = Filter({"column": "*", **options}, KV).process(rows)
        assert [row[0] for row in rows_of(*found)] == expected


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("^a.b$", "aéb"),
        (r"^\w+$", "ñandú"),
        ("(?i)É", "é"),
        ("^[éà]$", "à"),
        ("\\u00e9", "é"),
        ("(?u)^.$", "東"),
    ],
)
def test_a_regular_expression_is_about_characters(pattern: str, value: str) -> None:
    """A pattern works on text, not on UTF-8 bytes."""
    assert kept({"matches": pattern}, value.encode(), b"\xff\xff") == [value.encode()]


@pytest.mark.parametrize(
    "options", [{"equals": "abc"}, {"contains": "bc"}, {"matches": "bc$"}, {"matches": r"^abc\Z"}]
)
def test_filters_on_lines_do_not_see_the_line_end(options: dict[str, Any]) -> None:
    """CRLF and LF files are filtered alike; a line that passes keeps its line end."""
    assert kept_lines(options, b"abc\r\nx\nabc\n\nabc") == b"abc\r\nabc\nabc\n"


def test_line_ends_are_part_of_no_line() -> None:
    """A search for a line end finds one only inside a line."""
    assert kept_lines({"contains": "\n"}, b"a\nb\r\n") == b""
    assert kept_lines({"contains": "\r"}, b"a\r\nb\rc\n") == b"b\rc\n"
    assert kept_lines({"equals": ""}, b"\n\r\na\n") == b"\n\r\n"
    assert kept_lines({"equals": "a\r"}, b"a\r\na\r\r\n") == b"a\r\r\n"


def test_filter_on_a_csv_column_called_line() -> None:
    """A CSV column ``line`` is compared like any other."""
    found = Filter({"column": "line", "equals": "U2"}, ("line",)).process(batch(["line"], [b"U2"], [b"U3"]))
    assert rows_of(*found) == [(b"U2",)]
