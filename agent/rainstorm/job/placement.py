"""Places tasks on nodes, cuts the source into splits, and assigns the splits to tasks (a core).

A task stays on its node as long as it can; the others go to the least loaded nodes. A read from the disk of
the same machine costs a fraction of a read from another one. So source tasks begin on the nodes that hold
most of the file, and each split goes to a task that has a replica of it on its node, as long as that keeps
all tasks about equally loaded.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.rainstorm.job.plan import Split

# Several splits per task keep tasks equally busy; below this size there is one split for each task.
SPLITS_PER_TASK = 4
SPLIT_BYTES_MIN = 1024 * 1024
# How much more than its share a task may get for locality.
OVERLOAD = 1.1


@dataclass(frozen=True, slots=True)
class Extent:
    """Bytes [start, end) of the source and the nodes that hold them."""

    start: int
    end: int
    replicas: tuple[str, ...]


def place(tasks: Sequence[str], nodes: Sequence[str], keep: Mapping[str, str]) -> dict[str, str]:
    """Returns the node of each task: the one in ``keep`` if it is usable, otherwise the least loaded one.

    Ties go to the node that comes first in ``nodes``.
    """
    load = dict.fromkeys(nodes, 0)
    placed = {task: keep[task] for task in tasks if keep.get(task) in load}
    for node in placed.values():
        load[node] += 1
    for task in tasks:
        if task not in placed:
            node = min(nodes, key=lambda name: load[name])
            placed[task] = node
            load[node] += 1
    return placed


def homes(extents: Sequence[Extent], tasks: int, nodes: Sequence[str]) -> list[str]:
    """Returns the node of each source task: different nodes, those that hold most of the file first."""
    held = dict.fromkeys(nodes, 0)
    for extent in extents:
        for node in extent.replicas:
            if node in held:
                held[node] += extent.end - extent.start
    best = sorted(held, key=lambda node: (-held[node], nodes.index(node)))
    return [best[number % len(best)] for number in range(tasks)] if best else []


def splits(extents: Sequence[Extent], task_nodes: Sequence[str]) -> list[Split]:
    """Returns the splits of the source with the task that reads each of them."""
    total = sum(extent.end - extent.start for extent in extents)
    tasks = len(task_nodes)
    few = -(-total // tasks)
    target = max(1, total // (SPLITS_PER_TASK * tasks), min(SPLIT_BYTES_MIN, few))
    parts = [part for extent in extents for part in _cut(extent, target)]
    load = [0] * tasks
    share = OVERLOAD * total / tasks
    chosen: dict[int, int] = {}
    # Parts with the fewest local tasks choose first; the others have room to move.
    local = [[task for task in range(tasks) if task_nodes[task] in part.replicas] for part in parts]
    for number in sorted(range(len(parts)), key=lambda at: (len(local[at]) or tasks + 1, at)):
        size = parts[number].end - parts[number].start
        candidates = [task for task in local[number] if load[task] + size <= share] or list(range(tasks))
        task = min(candidates, key=lambda candidate: (load[candidate], candidate))
        chosen[number] = task
        load[task] += size
    return [Split(number, part.start, part.end, chosen[number]) for number, part in enumerate(parts)]


def _cut(extent: Extent, target: int) -> list[Extent]:
    size = extent.end - extent.start
    count = max(1, -(-size // target))
    edges = [extent.start + size * number // count for number in range(count + 1)]
    return [Extent(begin, end, extent.replicas) for begin, end in itertools.pairwise(edges)]
