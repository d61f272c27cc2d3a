"""Plans: what shares a task, how tuples get on, which columns are read, where tasks and splits go."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.common.errors import JobInvalid
from agent.rainstorm.job import keygroups, plan
from agent.rainstorm.job import placement as locality
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.placement import Extent
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
    """What no operator of the first chain looks at and nothing writes is not even converted."""
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
    """A column must be in the file and still be there after what comes before; the hint says which are."""
    with pytest.raises(JobInvalid) as caught:
        planned(*stages)
    assert says in caught.value.message
    assert caught.value.hint.startswith("columns here: ")


def test_lines_are_gone_after_an_aggregation() -> None:
    """A filter on whole lines has nothing to look at behind an aggregation of lines."""
    with pytest.raises(JobInvalid, match=r"stages\[1\]: after an aggregation"):
        planned({"operator": "aggregate-by-key"}, {"operator": "filter", "equals": "x"}, format="lines")
    before = planned({"operator": "filter", "equals": "x"}, {"operator": "aggregate-by-key"}, format="lines")
    assert plan.needed_columns(before.vertices[0]) == (plan.LINE,)


def test_the_splits_are_those_of_the_header() -> None:
    """What the submission found out is the same for all tasks and generations."""
    assert planned(IDENTITY).splits == (plan.Split(0, 6, 50, 0), plan.Split(1, 50, 100, 0))


@pytest.mark.parametrize("split", [(1, 50, 100, 1), (1, 60, 50, 0), (1, 50, 101, 0)])
def test_a_split_that_does_not_fit_the_job_is_refused(split: tuple[int, int, int, int]) -> None:
    """One without a source task would never be read, and nobody would notice."""
    with pytest.raises(JobInvalid, match="split 1 of the source"):
        plan.make(parse(job_file(IDENTITY, format="csv")), replace(HEADER, splits=((0, 6, 50, 0), split)))


PLACEMENTS = st.dictionaries(st.sampled_from([f"0.{n}" for n in range(9)]), st.sampled_from([*NODES, "gone"]))


@given(st.integers(1, 9), st.permutations(NODES), st.integers(1, 4), PLACEMENTS)
def test_tasks_stay_where_they_can(count: int, order: list[str], usable: int, keep: dict[str, str]) -> None:
    """A task whose node is usable stays; the others go where the fewest are, first of the nodes on a tie."""
    tasks = [f"0.{n}" for n in range(count)]
    nodes = order[:usable]
    placed = plan.place(tasks, nodes, keep)
    assert sorted(placed) == sorted(tasks)
    stayed = {task for task in tasks if keep.get(task) in nodes}
    assert all(placed[task] == keep[task] for task in stayed)
    load = {node: sum(placed[task] == node for task in stayed) for node in nodes}
    for task in [task for task in tasks if task not in stayed]:
        least = min(load.values())
        assert placed[task] == next(node for node in nodes if load[node] == least)
        load[placed[task]] += 1


@st.composite
def extents(draw: st.DrawFn) -> list[Extent]:
    """Adjoining extents from some start, as the blocks of a file are."""
    start = draw(st.integers(0, 3))
    found = []
    for size in draw(st.lists(st.integers(1, 40), max_size=6)) or [0]:
        replicas = tuple(draw(st.lists(st.sampled_from(NODES), unique=True, max_size=3)))
        found.append(Extent(start, start + size, replicas))
        start += size
    return found


@settings(max_examples=60)
@given(extents(), st.integers(1, 6), st.sampled_from([1, 5, 20]), st.data())
def test_splits_cover_the_source_once(
    parts: list[Extent], tasks: int, smallest: int, draws: st.DataObject
) -> None:
    """For any blocks: the splits adjoin, in order, from the first byte to the last; each has one task; no
    task gets much more than its share.
    """
    nodes = draws.draw(st.lists(st.sampled_from([*NODES, ""]), min_size=tasks, max_size=tasks))
    before = locality.SPLIT_BYTES_MIN
    locality.SPLIT_BYTES_MIN = smallest
    try:
        made = locality.splits(parts, nodes)
    finally:
        locality.SPLIT_BYTES_MIN = before
    assert [split.index for split in made] == list(range(len(made)))
    assert (made[0].start, made[-1].end) == (parts[0].start, parts[-1].end)
    assert all(one.end == other.start for one, other in itertools.pairwise(made))
    assert all(split.start < split.end for split in made) or parts[0].start == parts[-1].end
    assert all(0 <= split.task < tasks for split in made)
    total = parts[-1].end - parts[0].start
    largest = max(split.end - split.start for split in made)
    loads = [sum(split.end - split.start for split in made if split.task == task) for task in range(tasks)]
    assert max(loads) <= locality.OVERLOAD * total / tasks + largest
    assert sum(loads) == total


def test_splits_go_next_to_their_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as all tasks get about the same, every split is read from the disk of the same machine."""
    monkeypatch.setattr(locality, "SPLIT_BYTES_MIN", 1)
    parts = [Extent(100 * n, 100 * n + 100, (NODES[n % 2], NODES[2 + n % 2])) for n in range(4)]
    made = locality.splits(parts, ["n1", "n2"])
    for split in made:
        block = parts[split.start // 100]
        assert ["n1", "n2"][split.task] in block.replicas
    assert sum(split.task for split in made) * 2 == len(made)


def test_source_tasks_go_to_the_nodes_that_hold_most() -> None:
    """Different nodes, those with the most bytes of the file first; more tasks than nodes share."""
    parts = [Extent(0, 10, ("n3", "n1")), Extent(10, 40, ("n4", "n1")), Extent(40, 45, ("gone",))]
    assert locality.homes(parts, 3, NODES) == ["n1", "n4", "n3"]
    assert locality.homes(parts, 6, NODES) == ["n1", "n4", "n3", "n2", "n1", "n4"]
    assert locality.homes(parts, 2, []) == []


@given(st.integers(1, 64), st.lists(st.binary(max_size=8), max_size=50))
def test_every_key_has_one_task(tasks: int, keys: list[bytes]) -> None:
    """Key groups are dealt out evenly in one run each, and equal keys always meet."""
    table = keygroups.table(tasks)
    sizes = [int((table == task).sum()) for task in range(tasks)]
    assert sum(sizes) == keygroups.KEY_GROUPS
    assert max(sizes) - min(sizes) <= 1
    assert sorted(table) == list(table)
    assert keygroups.targets(keys, table).tolist() == [table[keygroups.key_group(key)] for key in keys]


def test_the_hash_is_the_same_everywhere() -> None:
    """MurmurHash3, whose values are known: another hash would split a key's count over two tasks."""
    assert keygroups.key_group(b"") == 0
    assert keygroups.key_group(b"hello") == 0x248BFA47 % 720
