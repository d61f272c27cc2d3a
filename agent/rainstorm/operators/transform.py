"""Transform: keeps the named columns, in the order named."""

from __future__ import annotations

import pyarrow as pa

from agent.rainstorm.operators.base import Operator


class Transform(Operator):
    """Option: ``select``, a list of columns."""

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns the tuples with the selected columns only."""
        return [batch.select(list(self.options["select"]))]
