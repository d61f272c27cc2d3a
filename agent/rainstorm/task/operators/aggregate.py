"""Aggregate by key: a running count or sum for every key, exactly once.

Input rows are (key, partial): a combiner upstream has already added up the values of a key in the epoch, so
one row may stand for many tuples. ``emit`` says when results leave: ``final`` once at the end of the input,
``epoch`` the changed keys at the end of every epoch, ``tuple`` the new value for every single tuple (then
partials are single tuples and counts run 1, 2, 3, … without a gap).

Sums are exact: integers stay integers, and other numbers are ``decimal.Decimal``. So the order of additions,
which differs from run to run, cannot change the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Context, Decimal
from typing import Any

import pyarrow as pa

from agent.rainstorm.job.plan import LINE
from agent.rainstorm.task.operators.base import Operator
from agent.rainstorm.task.state.keyed import KeyedState

Number = int | Decimal
# Decimal's default of 28 digits would round, and then the order of additions would change the sum.
EXACT = Context(prec=1000)


def number(text: bytes) -> Number:
    """Returns the exact number in ``text``; an empty field counts as zero.

    Raises:
        ValueError: it is not a number.
    """
    bare = text.strip()
    if not bare:
        return 0
    try:
        return int(bare)
    except ValueError:
        pass  # not an integer; try Decimal
    try:
        value = Decimal(bare.decode("utf-8"))
    except (ArithmeticError, UnicodeDecodeError):
        raise ValueError(f"{text!r} is not a number") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return value


def text_of(value: Number) -> bytes:
    """Returns a number in plain digits, without an exponent."""
    return (str(value) if isinstance(value, int) else f"{value:f}").encode()


def add(one: Number, other: Number) -> Number:
    """Returns the exact sum."""
    if isinstance(one, int) and isinstance(other, int):
        return one + other
    return EXACT.add(one, other)


class AggregateByKey(Operator):
    """Options: ``key``, ``function`` count or sum, ``value`` (the column of a sum), ``emit``."""

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        super().__init__(options, columns)
        self.state = KeyedState()
        self._emit = options.get("emit", "final")
        self._names = [str(options.get("key", LINE)), str(options.get("function", "count"))]

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Adds the partials; returns results only if the job asks for every tuple's."""
        assert self.state is not None
        state = self.state
        results: list[bytes] = []
        keys = batch.column(0).to_pylist()
        for key, partial in zip(keys, batch.column(1).to_pylist(), strict=True):
            before = state.get(key)  # 0.00 is a value, not a missing one: its digits show in the result
            value = number(partial) if before is None else add(before, number(partial))
            state.set(key, value)
            if self._emit == "tuple":
                results.append(text_of(value))
        return [self._rows(keys, results)] if results else []

    def end_epoch(self) -> list[pa.RecordBatch]:
        """Returns the keys changed in this epoch when ``emit`` is ``epoch``."""
        assert self.state is not None
        return self._all(list(self.state.changed())) if self._emit == "epoch" else []

    def end_input(self) -> list[pa.RecordBatch]:
        """Returns every key when ``emit`` is ``final``."""
        assert self.state is not None
        return self._all(sorted(self.state.items())) if self._emit == "final" else []

    def _all(self, items: list[tuple[bytes, Number]]) -> list[pa.RecordBatch]:
        if not items:
            return []
        return [self._rows([key for key, _ in items], [text_of(value) for _, value in items])]

    def _rows(self, keys: list[bytes], values: list[bytes]) -> pa.RecordBatch:
        columns = [pa.array(keys, pa.binary()), pa.array(values, pa.binary())]
        return pa.RecordBatch.from_arrays(columns, names=self._names)
