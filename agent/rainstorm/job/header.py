"""The facts about a job's source that a submission finds; they are the same in every generation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from agent.common.message import LIST_MAX, Counter, OptionalName
from agent.rainstorm.job.names import TASKS_MAX, TaskName

# A CSV file with more columns than this is rejected.
COLUMNS_MAX = 10_000
# The first record of a file, whose fields name the columns, is at most this long.
HEADER_BYTES_MAX = 1024 * 1024
# Fits one frame of a channel, with room to spare.
BATCH_BYTES_MAX = 8 * 1024 * 1024

ColumnName = Annotated[str, Meta(max_length=HEADER_BYTES_MAX)]
# Index, start, end and task, as in ``plan.Split``.
SplitFields = tuple[Counter, Counter, Counter, Counter]


@dataclass(frozen=True, slots=True)
class SourceHeader:
    """The columns of the source, the bytes that hold its records, and how they are divided among tasks.

    ``homes`` names for each source task the node that holds most of what it reads.
    """

    columns: Annotated[tuple[ColumnName, ...], Meta(max_length=COLUMNS_MAX)]
    data_start: Counter
    data_end: Counter
    splits: Annotated[tuple[SplitFields, ...], Meta(max_length=LIST_MAX)]
    batch_bytes: Annotated[int, Meta(ge=1, le=BATCH_BYTES_MAX)]
    file_id: OptionalName
    homes: Annotated[dict[TaskName, OptionalName], Meta(max_length=TASKS_MAX)] = field(default_factory=dict)
