"""The client of the logs agent over a real socket."""

from __future__ import annotations

from typing import Any

import pytest

from agent.logs.messages import StartSearch
from tests.unit.logs.place import LINES, Place


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["-e", "error"], {"pattern": b"error"}),
        (["-i", "-n", "-e", "ERROR"], {"pattern": b"ERROR", "ignore_case": True, "line_numbers": True}),
        (["-v", "-c", "-e", "error"], {"pattern": b"error", "invert": True, "count": True}),
        (["-F", "-C2", "-e", "line 0007"], {"pattern": b"line 0007", "fixed": True, "context": 2}),
        (["-E", "-m3", "-e", "(fine|d)$"], {"pattern": b"(fine|d)$", "extended": True, "max_count": 3}),
        (["-e", "nothing like it"], {"pattern": b"nothing like it"}),
    ],
)
def test_a_search_prints_what_grep_prints(place: Place, words: list[str], fields: dict[str, Any]) -> None:
    (place.logs / "a.log").write_bytes(LINES)
    expected = place.grep(*words, "-")
    output, summary = place.search(**fields)
    assert output == expected
    assert (summary.files, summary.searched_bytes, summary.cut, summary.problems) == (1, len(LINES), "", ())
    assert summary.lines == output.count(b"\n")


def test_closing_the_generator_ends_the_search(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES * 400)
    pieces = place.agent.search(StartSearch("-", b""))
    next(pieces)
    pieces.close()
    assert place.searches.status() == "0 searches"
