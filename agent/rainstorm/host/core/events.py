"""The events of a node's part in all jobs (past tense), and the effects that it asks for (imperative)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.common.failure import Failure
from agent.rainstorm.job.segment import Reference
from agent.rainstorm.messages import commands, control, reports


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """The leader has sent a command."""

    command: commands.Command


@dataclass(frozen=True, slots=True)
class TaskPrepared:
    """A task has gone back to the committed epoch and listens for its inputs."""

    job: str
    task: str
    generation: int
    host: str
    port: int
    pid: int
    quotes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task hands over an epoch: its description, its state and its output."""

    job: str
    task: str
    said: control.Snapshot
    state: bytes
    output: bytes


@dataclass(frozen=True, slots=True)
class TaskWantsEpoch:
    """A task has ended (``done``) or must not take more into the epoch."""

    job: str
    task: str
    generation: int
    done: bool


@dataclass(frozen=True, slots=True)
class TaskGone:
    """A task's process ended, or the task met an error after which it cannot continue."""

    job: str
    task: str
    generation: int
    cause: str
    error: Failure | None


@dataclass(frozen=True, slots=True)
class SegmentsAppended:
    """The segments of an epoch are durable: ``references`` has the pieces of each part, in order."""

    job: str
    generation: int
    epoch: int
    references: Sequence[Sequence[Reference]]


@dataclass(frozen=True, slots=True)
class OutputPublished:
    """The output of a sink task's epoch is in the destination file."""

    job: str
    epoch: int
    task: str


@dataclass(frozen=True, slots=True)
class PublicationRefused:
    """The output can never be published: the destination file no longer exists, for instance."""

    job: str
    epoch: int
    task: str
    error: Failure


@dataclass(frozen=True, slots=True)
class AssignTask:
    """Effect: have a process run a task from a committed epoch, in place if the process may be kept."""

    job: str
    task: str
    generation: int
    in_place: bool
    command: control.Assign


@dataclass(frozen=True, slots=True)
class TellTask:
    """Effect: send a command to the process of a task."""

    job: str
    task: str
    command: control.Start | control.Trigger


@dataclass(frozen=True, slots=True)
class KillTask:
    """Effect: end the process of a task."""

    job: str
    task: str


@dataclass(frozen=True, slots=True)
class AppendSegments:
    """Effect: append all parts to the node's segment file of the job with one append."""

    job: str
    generation: int
    epoch: int
    parts: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class PublishOutput:
    """Effect: append output to the destination, idempotently; ``output`` is None when it must be read from
    ``references``.
    """

    job: str
    epoch: int
    task: str
    sink: str
    references: Sequence[Reference]
    output: bytes | None


@dataclass(frozen=True, slots=True)
class Report:
    """Effect: tell the leader."""

    report: reports.Report


Event = (
    CommandReceived
    | TaskPrepared
    | TaskSnapshot
    | TaskWantsEpoch
    | TaskGone
    | SegmentsAppended
    | OutputPublished
    | PublicationRefused
)
Effect = AssignTask | TellTask | KillTask | AppendSegments | PublishOutput | Report
