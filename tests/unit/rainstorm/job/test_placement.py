"""The nodes of tasks, the splits of a source, and the task that reads each split."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.rainstorm.job import placement
from agent.rainstorm.job.placement import Extent
from tests.properties import examples

NODES = ["n1", "n2", "n3", "n4"]


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


@settings(max_examples=examples(60))
@given(extents(), st.integers(1, 6), st.sampled_from([1, 5, 20]), st.data())
def test_splits_cover_the_source_once(
    parts: list[Extent], tasks: int, smallest: int, draws: st.DataObject
) -> None:
    """For any blocks, the splits adjoin in order from the first byte to the last, each has one task, and no
    task gets much more than its share.
    """
    nodes = draws.draw(st.lists(st.sampled_from([*NODES, ""]), min_size=tasks, max_size=tasks))
    before = placement.SPLIT_BYTES_MIN
    placement.SPLIT_BYTES_MIN = smallest
    try:
        made = placement.splits(parts, nodes)
    finally:
        placement.SPLIT_BYTES_MIN = before
    assert [split.index for split in made] == list(range(len(made)))
    assert (made[0].start, made[-1].end) == (parts[0].start, parts[-1].end)
    assert all(one.end == other.start for one, other in itertools.pairwise(made))
    assert all(split.start < split.end for split in made) or parts[0].start == parts[-1].end
    assert all(0 <= split.task < tasks for split in made)
    total = parts[-1].end - parts[0].start
    largest = max(split.end - split.start for split in made)
    loads = [sum(split.end - split.start for split in made if split.task == task) for task in range(tasks)]
    assert max(loads) <= placement.OVERLOAD * total / tasks + largest
    assert sum(loads) == total


def test_splits_go_next_to_their_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as all tasks get about the same, every split is read from a disk of the task's own machine."""
    monkeypatch.setattr(placement, "SPLIT_BYTES_MIN", 1)
    parts = [Extent(100 * n, 100 * n + 100, (NODES[n % 2], NODES[2 + n % 2])) for n in range(4)]
    made = placement.splits(parts, ["n1", "n2"])
    for split in made:
        block = parts[split.start // 100]
        assert ["n1", "n2"][split.task] in block.replicas
    assert sum(split.task for split in made) * 2 == len(made)


def test_source_tasks_go_to_the_nodes_that_hold_most() -> None:
    """Different nodes, those with the most bytes of the file first; more tasks than nodes share."""
    parts = [Extent(0, 10, ("n3", "n1")), Extent(10, 40, ("n4", "n1")), Extent(40, 45, ("gone",))]
    assert placement.homes(parts, 3, NODES) == ["n1", "n4", "n3"]
    assert placement.homes(parts, 6, NODES) == ["n1", "n4", "n3", "n2", "n1", "n4"]
    assert placement.homes(parts, 2, []) == []


PLACEMENTS = st.dictionaries(st.sampled_from([f"0.{n}" for n in range(9)]), st.sampled_from([*NODES, "gone"]))


@given(st.integers(1, 9), st.permutations(NODES), st.integers(1, 4), PLACEMENTS)
def test_tasks_stay_where_they_can(count: int, order: list[str], usable: int, keep: dict[str, str]) -> None:
    """A task whose node is usable stays; the others go to the least loaded nodes, the first on a tie."""
    tasks = [f"0.{n}" for n in range(count)]
    nodes = order[:usable]
    placed = placement.place(tasks, nodes, keep)
    assert sorted(placed) == sorted(tasks)
    stayed = {task for task in tasks if keep.get(task) in nodes}
    assert all(placed[task] == keep[task] for task in stayed)
    load = {node: sum(placed[task] == node for task in stayed) for node in nodes}
    for task in [task for task in tasks if task not in stayed]:
        least = min(load.values())
        assert placed[task] == next(node for node in nodes if load[node] == least)
        load[placed[task]] += 1
