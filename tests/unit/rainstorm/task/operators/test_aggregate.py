"""Aggregation: numbers, exact sums, and the time at which values leave."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rainstorm.task.operators.aggregate import AggregateByKey, add, number, text_of
from tests.unit.rainstorm.rows import batch, rows_of

KV = ("k", "v")


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"", 0), (b"  ", 0), (b" 12 ", 12), (b"-0", 0), (b"+7", 7), (b"1.50", Decimal("1.50")), (b"1e2", 100)],
)
def test_numbers(text: bytes, value: int | Decimal) -> None:
    """Integers and decimals with blanks around them; an empty field counts as zero."""
    assert number(text) == value


@pytest.mark.parametrize("text", [b"x", b"1,5", b"nan", b"inf", b"-Infinity", b"0x10", b"\xff", b"1 2"])
def test_what_is_no_number_is_refused(text: bytes) -> None:
    """A sum with a value that is not a finite number would be wrong, so it is an error."""
    with pytest.raises(ValueError, match="number"):
        number(text)


@given(st.permutations(["0.1", "1e25", "-1e25", "12345678901234567890123456789", "1e-30", "3"]))
def test_sums_do_not_depend_on_the_order(texts: list[str]) -> None:
    """Additions are exact, so any order and any grouping gives the same digits."""
    whole = split = 0
    for text in texts:
        whole = add(whole, number(text.encode()))  # type: ignore[assignment]
    for part in (texts[:3], texts[3:]):
        partial: Any = 0
        for text in part:
            partial = add(partial, number(text.encode()))
        split = add(split, number(text_of(partial)))  # type: ignore[assignment]
    expected = b"12345678901234567890123456792.100000000000000000000000000001"
    assert text_of(whole) == text_of(split) == expected


def aggregate(emit: str, *, function: str = "count") -> AggregateByKey:
    """Returns an aggregation over (key, partial) rows."""
    return AggregateByKey({"key": "k", "function": function, "emit": emit}, KV)


def test_emit_final_gives_each_key_once_at_the_end() -> None:
    """Nothing leaves before the input has ended; then every key with its total, sorted."""
    operator = aggregate("final")
    assert operator.process(batch(KV, [b"b", b"2"], [b"a", b"1"], [b"b", b"3"])) == []
    assert operator.end_epoch() == []
    assert rows_of(*operator.end_input()) == [(b"a", b"1"), (b"b", b"5")]
    assert aggregate("final").end_input() == []


def test_emit_epoch_gives_the_keys_that_changed() -> None:
    """At the end of an epoch the changed keys leave with their running values, then no more."""
    operator = aggregate("epoch")
    assert operator.state is not None
    operator.process(batch(KV, [b"a", b"1"], [b"b", b"1"]))
    assert sorted(rows_of(*operator.end_epoch())) == [(b"a", b"1"), (b"b", b"1")]
    operator.state.close_epoch(1)
    operator.process(batch(KV, [b"a", b"4"]))
    assert rows_of(*operator.end_epoch()) == [(b"a", b"5")]
    operator.state.close_epoch(2)
    assert operator.end_epoch() == []
    assert operator.end_input() == []


def test_emit_tuple_runs_without_a_gap() -> None:
    """Every tuple gives the value that it brought its key to."""
    found = aggregate("tuple").process(batch(KV, [b"a", b"1"], [b"b", b"1"], [b"a", b"1"]))
    assert rows_of(*found) == [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")]
    assert [column for one in found for column in one.schema.names] == ["k", "count"]
