"""Filter: keeps the tuples whose column (or whole line) equals, contains or matches something."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from agent.rainstorm.job.plan import LINE, RECORD
from agent.rainstorm.task.batches import bare, column_of, records_of, take_rows
from agent.rainstorm.task.operators.base import Operator

LINE_END = re.compile("[\\r\\n]")


class Filter(Operator):
    """Options: ``column`` (the whole line if missing, the whole CSV record if ``*``), one of
    ``equals``, ``contains``, ``matches``; ``invert``.

    ``matches`` is a regular expression of Python's ``re`` searched anywhere in the value.
    """

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        super().__init__(options, columns)
        self._column = str(options.get("column", LINE))
        self._invert = bool(options.get("invert", False))
        self._pattern = re.compile(options["matches"]) if "matches" in options else None

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns the tuples that pass."""
        values = records_of(batch) if self._column == RECORD else column_of(batch, self._column)
        mask = self._test(values)
        kept = take_rows(batch, pc.invert(mask) if self._invert else mask)
        return [kept] if kept.num_rows else []

    def _test(self, values: pa.Array) -> pa.BooleanArray:
        options = self.options
        if "equals" in options:
            wanted = options["equals"].encode()
            if self._column == LINE:  # a line includes its line end
                ends = [b"\r\n"] if wanted.endswith(b"\r") else [b"\n", b"\r\n"]
                return pc.is_in(values, pa.array([wanted + end for end in ends], pa.binary()))
            return pc.equal(values, pa.scalar(wanted, pa.binary()))
        if "contains" in options and not (self._column == LINE and LINE_END.search(options["contains"])):
            return pc.match_substring(values, options["contains"].encode())
        found = values.to_pylist() if self._column != LINE else map(bare, values.to_pylist())
        if self._pattern is None:
            part = options["contains"].encode()
            return pa.array([part in value for value in found], pa.bool_())
        search = self._pattern.search
        texts = (value.decode("utf-8", "surrogateescape") for value in found)
        return pa.array([search(text) is not None for text in texts], pa.bool_())
