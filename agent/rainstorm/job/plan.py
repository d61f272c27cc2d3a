"""Turns a job into tasks: which operators share a task, how many tasks there are, and how tuples get from one
to the next.

Stages that need no repartitioning are chained into one vertex: a tuple passes from operator to operator by a
function call. The source belongs to the first vertex, the sink to the last. An aggregation starts a new
vertex, because its tuples are hashed by key. The vertex before it ends in a combiner that sends one row for
each key and epoch, unless the job asks for the result of every single tuple.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.common.errors import JobInvalid
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.spec import JobSpec, StageSpec

# The only column of format lines; its name cannot be that of a CSV column.
LINE = "\0line"
# A filter on this column of CSV tests the record as it would be written.
RECORD = "*"


@dataclass(frozen=True, slots=True)
class OperatorPlan:
    """One operator of a chain with its options and its input columns."""

    operator: str
    options: Mapping[str, Any]
    columns: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class VertexPlan:
    """Operators that run in one task. ``output`` is ``hash`` (by the first column), ``rebalance`` or
    ``sink``.
    """

    operators: tuple[OperatorPlan, ...]
    tasks: int
    output: str


@dataclass(frozen=True, slots=True)
class Split:
    """A byte range of the source file: the records whose first byte lies in [start, end) belong to it."""

    index: int
    start: int
    end: int
    task: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the tasks of a job need to know; the same for every generation."""

    vertices: tuple[VertexPlan, ...]
    splits: tuple[Split, ...]
    columns: tuple[str, ...]
    data_start: int
    data_end: int

    def tasks(self) -> list[str]:
        """Returns the names of all tasks, ``<vertex>.<index>``, in order."""
        return [f"{v}.{i}" for v, vertex in enumerate(self.vertices) for i in range(vertex.tasks)]


def vertex_of(task: str) -> int:
    """Returns the vertex number in a task's name."""
    return int(task.split(".")[0])


def index_of(task: str) -> int:
    """Returns the index within its vertex in a task's name."""
    return int(task.split(".")[1])


def make(spec: JobSpec, header: SourceHeader) -> Plan:
    """Returns the plan of a job; ``header`` has the facts about its source that the submission found.

    Raises:
        JobInvalid: an operator names a column that does not reach it, or a split belongs to no source task.
    """
    vertices: list[VertexPlan] = []
    chain: list[OperatorPlan] = []
    tasks = spec.stages[0].tasks
    flowing = header.columns
    for number, stage in enumerate(spec.stages):
        _check_columns(stage, flowing, number)
        if stage.operator == "aggregate-by-key":
            chain.extend(_before_aggregation(stage, flowing))
            vertices.append(VertexPlan(tuple(chain), tasks, "hash"))
            chain, tasks = [], stage.tasks
        elif stage.tasks != tasks:
            vertices.append(VertexPlan(tuple(chain), tasks, "rebalance"))
            chain, tasks = [], stage.tasks
        chain.append(OperatorPlan(stage.operator, stage.options, flowing))
        flowing = output_columns(stage, flowing)
    vertices.append(VertexPlan(tuple(chain), tasks, "sink"))
    splits = tuple(Split(*numbers) for numbers in header.splits)
    for split in splits:
        if split.task >= spec.stages[0].tasks or not split.start <= split.end <= header.data_end:
            raise JobInvalid(f"split {split.index} of the source does not fit the job")
    return Plan(tuple(vertices), splits, header.columns, header.data_start, header.data_end)


def output_columns(stage: StageSpec, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the columns that leave an operator."""
    if stage.operator == "transform":
        return tuple(stage.options["select"])
    if stage.operator == "aggregate-by-key":
        return (str(stage.options.get("key", LINE)), str(stage.options.get("function", "count")))
    return columns


def needed_columns(vertex: VertexPlan) -> tuple[str, ...] | None:
    """Returns the source columns that a chain uses, or None when it needs all of them."""
    needed: list[str] = []
    for step in vertex.operators:
        options = step.options
        if step.operator == "filter" and options.get("column") == RECORD:
            return None
        if step.operator == "filter":
            needed.append(str(options.get("column", LINE)))
        elif step.operator == "transform":
            return _ordered(step.columns, [*needed, *options["select"]])
        elif step.operator in ("combine", "project"):
            wanted = [str(options.get("key", LINE))]
            if options.get("function") == "sum":
                wanted.append(str(options["value"]))
            return _ordered(step.columns, [*needed, *wanted])
    return None


def _ordered(columns: tuple[str, ...], needed: list[str]) -> tuple[str, ...]:
    return tuple(column for column in columns if column in needed)


def _before_aggregation(stage: StageSpec, columns: tuple[str, ...]) -> list[OperatorPlan]:
    kind = "project" if stage.options.get("emit") == "tuple" else "combine"
    return [OperatorPlan(kind, stage.options, columns)]


def _check_columns(stage: StageSpec, columns: tuple[str, ...], number: int) -> None:
    options = stage.options
    named = [options[key] for key in ("column", "key", "value") if key in options]
    if stage.operator == "transform":
        named += options["select"]
    if stage.operator == "filter" and "column" not in options and columns != (LINE,):
        raise JobInvalid(
            f"job file, stages[{number}]: after an aggregation there are no lines to filter",
            hint="filter first, or read the source as format csv and name a column",
        )
    for column in named:
        whole = stage.operator == "filter" and column == RECORD
        if column not in columns and not whole:
            raise JobInvalid(
                f"job file, stages[{number}]: no column {column!r} reaches operator {stage.operator}",
                hint=f"columns here: {', '.join(columns)}",
            )
