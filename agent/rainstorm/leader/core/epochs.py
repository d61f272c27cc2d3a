"""The epoch in flight, as the leader sees it: which tasks have acknowledged it, and what they handed over.

One epoch is in flight at a time. It starts with a trigger to all agents of the job, is complete when every
task has acknowledged it, and ends when its commit record is in the job log (Flink's two-phase commit with
the job log as the commit point; reference: Carbone et al. 2017, "State Management in Apache Flink", section
4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from agent.rainstorm.job.plan import Split
from agent.rainstorm.messages.joblog import CommitRecord
from agent.rainstorm.messages.reports import TaskEpoch

# An epoch that takes this long plus ten intervals means that a task has stalled.
EPOCH_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Epoch:
    """One epoch between trigger and commit."""

    number: int
    generation: int
    triggered_at: float
    tasks: Sequence[str]
    acks: dict[str, TaskEpoch] = field(default_factory=dict)
    committing: bool = False

    def acknowledge(self, tasks: Mapping[str, TaskEpoch]) -> bool:
        """Notes what an agent handed over for its tasks; returns whether the epoch is complete."""
        for task, found in tasks.items():
            if task in self.tasks:
                self.acks[task] = found
        return len(self.acks) == len(self.tasks)

    def missing(self) -> list[str]:
        """Returns the tasks that have not acknowledged."""
        return [task for task in self.tasks if task not in self.acks]

    def commit_record(self, published: int) -> CommitRecord:
        """Returns the record that makes the epoch happen."""
        acks = {task: self.acks[task] for task in self.tasks}
        return CommitRecord(
            epoch=self.number,
            generation=self.generation,
            positions={split: at for found in acks.values() for split, at in found.positions.items()},
            base={task: found.state for task, found in acks.items() if found.state and found.base},
            delta={task: found.state for task, found in acks.items() if found.state and not found.base},
            sink={task: found.sink for task, found in acks.items() if found.sink},
            done=tuple(task for task, found in acks.items() if found.done),
            counts={task: (found.records, found.bytes) for task, found in acks.items()},
            published=published,
        )

    def files(self) -> list[str]:
        """Returns the segment files that the epoch was written to."""
        return [file for ack in self.acks.values() for file, _, _ in (*ack.state, *ack.sink)]


def wrong_position(splits: Mapping[int, Split], data_end: int, task: str, found: TaskEpoch) -> str:
    """Returns the problem of positions that a task must not commit, or ''; a task runs user code."""
    for index, position in found.positions.items():
        split = splits.get(index)
        if split is None or task != f"0.{split.task}":
            return f"split {index} belongs to another task"
        if not split.start <= position <= data_end:
            return f"position {position} lies outside split {index}"
    return ""
