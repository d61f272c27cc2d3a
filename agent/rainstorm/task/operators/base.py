"""The contract of an operator inside a task.

The task calls ``process`` for every batch, ``end_epoch`` when the epoch's barrier has come in on all inputs
(before the state is closed), and ``end_input`` once when all inputs have ended. Operators that keep state
keep it only in ``state``, because epochs, rollbacks and checkpoints cover nothing else. Anything else that an
operator holds must be empty after ``end_epoch``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from agent.rainstorm.task.state.keyed import KeyedState


class Operator:
    """Passes batches on unchanged; the base of all operators."""

    #: None for operators without state.
    state: KeyedState | None = None

    def __init__(self, options: Mapping[str, Any], columns: Sequence[str]) -> None:
        self.options = options
        self.columns = tuple(columns)

    def process(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """Returns the output for one batch."""
        return [batch]

    def end_epoch(self) -> list[pa.RecordBatch]:
        """Returns the output that must leave before the epoch ends."""
        return []

    def end_input(self) -> list[pa.RecordBatch]:
        """Returns the output that must leave when no more input will come."""
        return []

    def reset(self) -> None:
        """Forgets everything of the current epoch that is not in ``state``."""
