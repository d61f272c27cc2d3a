"""The status of jobs and tasks for clients; the index of jobs keeps that of ended jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from agent.common.failure import Failure
from agent.common.message import LIST_MAX, Counter, Number, OptionalName, Text, Wall
from agent.rainstorm.job.names import TASKS_MAX, JobName, TaskName

# Final states. A job whose log cannot be read is not in a final state: a leader of another release may read
# it.
ENDED_STATES = ("finished", "failed", "cancelled")
UNREADABLE = "unreadable"


@dataclass(frozen=True, slots=True)
class CommitStatus:
    """A committed epoch: ``records`` were read by then, ``at`` is wall-clock time."""

    epoch: Counter
    generation: Counter
    records: Counter
    at: Wall


@dataclass(frozen=True, slots=True)
class RecoveryStatus:
    """A generation after the first; ``seconds`` is the time until its first commit, None before that."""

    generation: Counter
    cause: Text
    at: Wall
    seconds: Number | None = None


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """The node of a task of a running job; ``pid`` is None while the task is being started."""

    job: JobName
    task: TaskName
    stage: Counter
    operator: Text
    node: OptionalName
    pid: Counter | None
    state: OptionalName
    lines_per_s: Number = 0.0


@dataclass(frozen=True, slots=True)
class JobStatus:
    """One job; instants are wall-clock seconds; ``lines_total`` is 0 because the lines are not counted."""

    job: JobName
    name: Text
    state: OptionalName
    error: Failure | None
    submitted_at: Wall
    finished_at: Wall | None
    elapsed_s: Number
    epochs_committed: Counter
    epoch: Counter
    lines_read: Counter
    lines_total: Counter
    bytes_read: Counter
    bytes_total: Counter
    lines_per_s: Number
    generation: Counter
    commits: Annotated[tuple[CommitStatus, ...], Meta(max_length=LIST_MAX)]
    recoveries: Annotated[tuple[RecoveryStatus, ...], Meta(max_length=LIST_MAX)]
    tasks: Annotated[tuple[TaskStatus, ...], Meta(max_length=TASKS_MAX)]
    sink: Text
    leader: OptionalName
    term: Counter

    @property
    def has_ended(self) -> bool:
        """Tells whether the job will never run again."""
        return self.state in ENDED_STATES
