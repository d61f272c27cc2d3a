"""Combine and project: the last step before tuples are hashed to an aggregation.

``Combine`` adds up each key within the epoch and sends one row for each key when the epoch ends (a combiner
in the sense of MapReduce 4.3, cut at epochs so that it has nothing to persist). ``Project`` sends every tuple
as (key, 1) or (key, value), for jobs that ask for each tuple's result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agent.rainstorm.job.plan import LINE
from agent.rainstorm.task.batches import bare, column_of
from agent.rainstorm.task.operators.aggregate import Number, add, number, text_of
from agent.rainstorm.task.operators.base import Operator

# About 10 MB of Python objects: with more keys than this, a combiner sends its rows early.
KEYS_MAX = 100_000


class _ByKey(Operator):
    """Finds the key and value columns."""

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        super().__init__(options, columns)
        self._key = str(options.get("key", LINE))
        self._value = str(options["value"]) if options.get("function") == "sum" else None

    def _keys(self, keys: list[bytes]) -> list[bytes]:
        return [bare(key) for key in keys] if self._key == LINE else keys


class Combine(_ByKey):
    """Adds up partial results until the epoch ends."""

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        super().__init__(options, columns)
        self._partial: dict[bytes, Number] = {}

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Adds a batch; returns rows only when there are too many keys to hold."""
        partial = self._partial
        keys = column_of(batch, self._key)
        if self._value is None:
            counted = pc.value_counts(keys)
            found = self._keys(counted.field("values").to_pylist())
            for key, count in zip(found, counted.field("counts").to_pylist(), strict=True):
                partial[key] = partial.get(key, 0) + count
        else:
            values = column_of(batch, self._value).to_pylist()
            for key, value in zip(keys.to_pylist(), values, strict=True):
                partial[key] = add(partial.get(key, 0), number(value))
        return self.end_epoch() if len(partial) >= KEYS_MAX else []

    def end_epoch(self) -> list[pa.RecordBatch]:
        """Returns one row for each key seen since the last time."""
        if not self._partial:
            return []
        keys = pa.array(list(self._partial), pa.binary())
        values = pa.array([text_of(value) for value in self._partial.values()], pa.binary())
        self._partial = {}
        return [pa.RecordBatch.from_arrays([keys, values], names=["key", "partial"])]

    def end_input(self) -> list[pa.RecordBatch]:
        """Returns the remaining rows."""
        return self.end_epoch()

    def reset(self) -> None:
        """Forgets the partial results of the current epoch."""
        self._partial = {}


class Project(_ByKey):
    """Turns every tuple into a row (key, 1) or (key, value)."""

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns one row for each tuple."""
        keys = column_of(batch, self._key)
        if self._key == LINE:
            keys = pa.array(self._keys(keys.to_pylist()), pa.binary())
        if self._value is None:
            values = pa.array([b"1"] * len(keys), pa.binary())
        else:
            values = column_of(batch, self._value)
        return [pa.RecordBatch.from_arrays([keys, values], names=["key", "partial"])]
