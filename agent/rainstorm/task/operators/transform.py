"""Transform: keeps the named columns, in the order named."""

from __future__ import annotations

import pyarrow as pa

from agent.rainstorm.task.batches import column_of
from agent.rainstorm.task.operators.base import Operator


class Transform(Operator):
    """Option: ``select``, a list of columns."""

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns the tuples with only the selected columns."""
        names = list(self.options["select"])
        return [pa.RecordBatch.from_arrays([column_of(batch, name) for name in names], names=names)]
