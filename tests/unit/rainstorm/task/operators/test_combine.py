"""The rows that are sent to the aggregation of a key: partial results, or every tuple."""

from __future__ import annotations

import pytest

from agent.rainstorm.task.batches import from_lines
from agent.rainstorm.task.operators import combine
from agent.rainstorm.task.operators.combine import Combine, Project
from tests.unit.rainstorm.rows import batch, rows_of

KV = ("k", "v")


def test_a_combiner_sends_one_row_a_key_and_epoch() -> None:
    """Partial results are held until the epoch ends, but never longer."""
    operator = Combine({"key": "k"}, KV)
    assert operator.process(batch(KV, [b"a", b""], [b"b", b""], [b"a", b""])) == []
    assert rows_of(*operator.end_epoch()) == [(b"a", b"2"), (b"b", b"1")]
    assert operator.end_epoch() == operator.end_input() == []
    operator.process(batch(KV, [b"a", b""]))
    operator.reset()
    assert operator.end_epoch() == [], "a reset forgets unsent rows"


def test_a_combiner_holds_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many keys it sends its rows in the middle of an epoch, and loses nothing."""
    monkeypatch.setattr(combine, "KEYS_MAX", 2)
    operator = Combine({"key": "k", "function": "sum", "value": "v"}, KV)
    found = operator.process(batch(KV, [b"a", b"1.5"], [b"b", b"2"]))
    assert rows_of(*found) == [(b"a", b"1.5"), (b"b", b"2")]
    assert operator.end_epoch() == []


def test_line_keys_are_without_line_end() -> None:
    """Equal lines with different line ends are one key, for the combiner and for single tuples."""
    lines = from_lines(b"a\r\na\nb")
    counter = Combine({}, ("line",))
    counter.process(lines)
    assert rows_of(*counter.end_epoch()) == [(b"a", b"2"), (b"b", b"1")]
    assert rows_of(*Project({}, ("line",)).process(lines)) == [(b"a", b"1"), (b"a", b"1"), (b"b", b"1")]


def test_project_sends_every_tuple() -> None:
    """One row per tuple: (key, 1) to count, (key, value) to sum."""
    rows = batch(KV, [b"a", b"5"], [b"a", b""])
    assert rows_of(*Project({"key": "k"}, KV).process(rows)) == [(b"a", b"1")] * 2
    summed = Project({"key": "v", "function": "sum", "value": "k"}, KV).process(batch(KV, [b"5", b"a"]))
    assert rows_of(*summed) == [(b"a", b"5")]
