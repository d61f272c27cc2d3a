"""Types of fields that several messages have."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta

from agent.common.message import LIST_MAX, Counter, Name, Port
from agent.rainstorm.job.names import TASKS_MAX, TaskName
from agent.rainstorm.job.segment import Reference

# A job file as it was submitted; each user of the field parses it with ``job.spec.parse``, which checks it.
JobFile = dict[str, Any]
# The first byte of each split that has not been processed.
Positions = Annotated[dict[Counter, Counter], Meta(max_length=LIST_MAX)]
# For each split whether the byte before it lies inside quotes.
Inside = Annotated[dict[Counter, bool], Meta(max_length=LIST_MAX)]
# The number of quotes in each split.
Quotes = Annotated[dict[Counter, Counter], Meta(max_length=LIST_MAX)]
References = Annotated[tuple[Reference, ...], Meta(max_length=LIST_MAX)]
ReferencesByTask = Annotated[dict[TaskName, References], Meta(max_length=TASKS_MAX)]
# Records and bytes that a task has taken in.
Counts = tuple[Counter, Counter]
CountsByTask = Annotated[dict[TaskName, Counts], Meta(max_length=TASKS_MAX)]
# The node of each task.
Placement = Annotated[dict[TaskName, Name], Meta(max_length=TASKS_MAX)]
# Where each task listens.
Endpoints = Annotated[dict[TaskName, tuple[Name, Port]], Meta(max_length=TASKS_MAX)]
# The certificate and key of one generation take about 500 bytes; 0 where they are not added yet.
Identity = Annotated[bytes, Meta(max_length=64 * 1024)]
