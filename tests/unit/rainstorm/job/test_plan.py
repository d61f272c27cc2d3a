"""Plans: the operators that share a task, the ways of tuples, the columns that are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.common.errors import JobInvalid
from agent.rainstorm.job import plan
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.spec import parse
from tests.unit.rainstorm.chain import job_file

HEADER = SourceHeader(("a", "b", "c"), 6, 100, ((0, 6, 50, 0), (1, 50, 100, 0)), 1000, "id")
NODES = ["n1", "n2", "n3", "n4"]


def planned(*stages: dict[str, Any], format: str = "csv") -> plan.Plan:
    """Returns the plan of these stages over columns a, b, c (or over lines)."""
    header = HEADER if format == "csv" else replace(HEADER, columns=(plan.LINE,))
    return plan.make(parse(job_file(*stages, format=format)), header)


def shape(made: plan.Plan) -> list[tuple[str, int, str]]:
    """Returns the operators, the task count and the output of each vertex."""
    return [("+".join(s.operator for s in v.operators), v.tasks, v.output) for v in made.vertices]


FILTER = {"operator": "filter", "column": "b", "equals": "x"}
COUNT = {"operator": "aggregate-by-key", "key": "c"}
SELECT = {"operator": "transform", "select": ["c", "b"]}
IDENTITY = {"operator": "identity"}


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([IDENTITY], [("identity", 1, "sink")]),
        ([FILTER, SELECT], [("filter+transform", 1, "sink")]),
        ([FILTER, {**SELECT, "tasks": 3}], [("filter", 1, "rebalance"), ("transform", 3, "sink")]),
        ([COUNT], [("combine", 1, "hash"), ("aggregate-by-key", 1, "sink")]),
        (
            [{**FILTER, "tasks": 2}, {**COUNT, "tasks": 3}],
            [("filter+combine", 2, "hash"), ("aggregate-by-key", 3, "sink")],
        ),
        (
            [{**FILTER, "tasks": 2}, {**COUNT, "tasks": 2, "emit": "tuple"}],
            [("filter+project", 2, "hash"), ("aggregate-by-key", 2, "sink")],
        ),
        (
            [IDENTITY, {**COUNT, "emit": "epoch"}, IDENTITY],
            [("identity+combine", 1, "hash"), ("aggregate-by-key+identity", 1, "sink")],
        ),
        (
            [COUNT, {**COUNT, "key": "count", "tasks": 2}],
            [
                ("combine", 1, "hash"),
                ("aggregate-by-key+combine", 1, "hash"),
                ("aggregate-by-key", 2, "sink"),
            ],
        ),
    ],
)
def test_stages_are_chained(stages: list[dict[str, Any]], expected: list[tuple[str, int, str]]) -> None:
    """Only a change of the task count or a key makes tuples travel; an aggregation is fed by a combiner,
    or by single tuples when each one's result is asked for.
    """
    made = planned(*stages)
    assert shape(made) == expected
    assert made.tasks() == [f"{v}.{i}" for v, (_, tasks, _) in enumerate(expected) for i in range(tasks)]
    assert plan.vertex_of(made.tasks()[-1]) == len(expected) - 1
    assert plan.index_of(made.tasks()[-1]) == expected[-1][1] - 1


@pytest.mark.parametrize(
    ("stages", "needed"),
    [
        ([IDENTITY], None),
        ([FILTER], None),
        ([FILTER, SELECT], ("b", "c")),
        ([{**FILTER, "column": "*"}, COUNT], None),
        ([{**SELECT, "select": ["a"]}, {**FILTER, "column": "a"}], ("a",)),
        ([COUNT], ("c",)),
        ([FILTER, COUNT], ("b", "c")),
        ([{**COUNT, "function": "sum", "value": "a"}], ("a", "c")),
        ([{**COUNT, "emit": "tuple"}], ("c",)),
    ],
)
def test_only_needed_columns_are_parsed(stages: list[dict[str, Any]], needed: tuple[str, ...] | None) -> None:
    """Columns that no operator of the first chain uses and nothing writes are not even converted."""
    assert plan.needed_columns(planned(*stages).vertices[0]) == needed


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ([{**FILTER, "column": "d"}], "stages[0]: no column 'd'"),
        ([{**SELECT, "select": ["a", "z"]}], "stages[0]: no column 'z'"),
        ([SELECT, {**FILTER, "column": "a"}], "stages[1]: no column 'a'"),
        ([{**COUNT, "key": "d"}], "stages[0]: no column 'd'"),
        ([{**COUNT, "function": "sum", "value": "d"}], "stages[0]: no column 'd'"),
        ([COUNT, FILTER], "stages[1]: no column 'b'"),
    ],
)
def test_a_column_that_does_not_arrive_is_refused(stages: list[dict[str, Any]], says: str) -> None:
    """A column must be in the file and must survive the earlier stages; the hint names the columns."""
    with pytest.raises(JobInvalid) as caught:
        planned(*stages)
    assert says in caught.value.message
    assert caught.value.hint.startswith("columns here: ")


def test_lines_are_gone_after_an_aggregation() -> None:
    """After an aggregation of lines there are no lines for a filter."""
    with pytest.raises(JobInvalid, match=r"stages\[1\]: after an aggregation"):
        planned({"operator": "aggregate-by-key"}, {"operator": "filter", "equals": "x"}, format="lines")
    before = planned({"operator": "filter", "equals": "x"}, {"operator": "aggregate-by-key"}, format="lines")
    assert plan.needed_columns(before.vertices[0]) == (plan.LINE,)


def test_the_splits_are_those_of_the_header() -> None:
    """The facts that the submission found are the same for all tasks and generations."""
    assert planned(IDENTITY).splits == (plan.Split(0, 6, 50, 0), plan.Split(1, 50, 100, 0))


@pytest.mark.parametrize("split", [(1, 50, 100, 1), (1, 60, 50, 0), (1, 50, 101, 0)])
def test_a_split_that_does_not_fit_the_job_is_refused(split: tuple[int, int, int, int]) -> None:
    """A split without a source task would never be read, and no one would notice."""
    with pytest.raises(JobInvalid, match="split 1 of the source"):
        plan.make(parse(job_file(IDENTITY, format="csv")), replace(HEADER, splits=((0, 6, 50, 0), split)))
