"""Filter: keeps the tuples whose column (or whole line) equals, contains or matches something."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agent.rainstorm.batches import take_rows
from agent.rainstorm.operators.base import Operator
from agent.rainstorm.plan import LINE


class Filter(Operator):
    """Options: ``column`` (the whole line when missing), one of ``equals``, ``contains``, ``matches``;
    ``invert``.

    ``matches`` is a regular expression of Python's ``re`` searched anywhere in the value.
    """

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        super().__init__(options, columns)
        self._column = str(options.get("column", LINE))
        self._invert = bool(options.get("invert", False))
        self._pattern = re.compile(options["matches"].encode()) if "matches" in options else None

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns the tuples that pass."""
        values = batch.column(batch.schema.get_field_index(self._column))
        mask = self._test(values)
        kept = take_rows(batch, pc.invert(mask) if self._invert else mask)
        return [kept] if kept.num_rows else []

    def _test(self, values: pa.Array) -> pa.BooleanArray:
        options = self.options
        if "equals" in options:
            wanted = options["equals"].encode()
            if self._column == LINE:  # a line keeps its line end; CRLF and LF files are meant alike
                return pc.is_in(values, pa.array([wanted + b"\n", wanted + b"\r\n"], pa.binary()))
            return pc.equal(values, pa.scalar(wanted, pa.binary()))
        if "contains" in options:
            return pc.match_substring(values, options["contains"].encode())
        assert self._pattern is not None
        search = self._pattern.search
        return pa.array([search(_bare(value)) is not None for value in values.to_pylist()], pa.bool_())


def _bare(line: bytes) -> bytes:
    # `$` must see the end of the text, not the line end that a line carries along.
    return line.rstrip(b"\r\n")
