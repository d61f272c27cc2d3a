"""The epoch in flight, as the leader sees it: who has acknowledged it and what they handed over.

One epoch is in flight at a time. It starts with a trigger to all agents of the job, is complete when every
task has acknowledged it, and is over when its commit record is in the job log (Flink's two-phase commit with
the job log as the commit point; reference: Carbone et al. 2017, "State Management in Apache Flink", section
4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.rainstorm.leader.core.joblog import Record

# An epoch that takes this long beside ten intervals means that a task hangs.
EPOCH_TIMEOUT_S = 5.0


@dataclass(slots=True)
class Epoch:
    """One epoch between trigger and commit."""

    number: int
    generation: int
    triggered_at: float
    tasks: Sequence[str]
    acks: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    committing: bool = False

    def acknowledge(self, tasks: Mapping[str, Mapping[str, Any]]) -> bool:
        """Notes what an agent handed over for its tasks; returns whether the epoch is complete."""
        for task, found in tasks.items():
            if task in self.tasks:
                self.acks[task] = found
        return len(self.acks) == len(self.tasks)

    def missing(self) -> list[str]:
        """Returns the tasks that have not acknowledged."""
        return [task for task in self.tasks if task not in self.acks]

    def commit_record(self, published: int) -> Record:
        """Returns the record that makes the epoch happen."""
        positions: dict[int, int] = {}
        base: dict[str, Any] = {}
        delta: dict[str, Any] = {}
        sink: dict[str, Any] = {}
        for task in self.tasks:
            found = self.acks[task]
            positions.update({int(split): int(position) for split, position in found["positions"].items()})
            if found["state"]:
                (base if found["base"] else delta)[task] = found["state"]
            if found["sink"]:
                sink[task] = found["sink"]
        return {
            "t": "commit",
            "e": self.number,
            "g": self.generation,
            "positions": positions,
            "base": base,
            "delta": delta,
            "sink": sink,
            "done": [task for task in self.tasks if self.acks[task]["done"]],
            "counts": {task: [self.acks[task]["records"], self.acks[task]["bytes"]] for task in self.tasks},
            "published": published,
        }

    def files(self) -> list[str]:
        """Returns the segment files that the epoch was written to."""
        references = [found for ack in self.acks.values() for found in (*ack["state"], *ack["sink"])]
        return [str(file) for file, _, _ in references]
