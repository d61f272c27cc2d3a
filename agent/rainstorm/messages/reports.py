"""The reports of hosts to the current leader of a job.

A report of an older generation changes nothing. ``generation`` is 0 if the report is about committed
output, which belongs to no generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from agent.common.failure import Failure
from agent.common.message import Counter, Done, Message, Name, OptionalName, Port, Request, Text, Vocabulary
from agent.rainstorm.job.names import TASKS_MAX, JobName, TaskName
from agent.rainstorm.messages.fields import Positions, Quotes, References


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a prepared task listens, and its process."""

    host: Name
    port: Port
    pid: Counter
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class TaskEpoch:
    """The result that one task handed over at the end of an epoch; ``state`` and ``sink`` are durable.

    ``base`` means that the state is complete rather than a delta; ``done`` that the task has ended.
    """

    base: bool
    positions: Positions
    done: bool
    records: Counter
    bytes: Counter
    state: References = ()
    sink: References = ()


@dataclass(frozen=True, slots=True)
class Prepared(Message):
    """All tasks that a node has in the job are ready to start."""

    kind: ClassVar[str] = "prepared"
    job: JobName
    generation: Counter
    endpoints: Annotated[dict[TaskName, Endpoint], Meta(max_length=TASKS_MAX)]
    quotes: Quotes
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class Acknowledged(Message):
    """All tasks that a node has in the job have handed over an epoch, and it is durable."""

    kind: ClassVar[str] = "ack"
    job: JobName
    generation: Counter
    epoch: Counter
    tasks: Annotated[dict[TaskName, TaskEpoch], Meta(max_length=TASKS_MAX)]
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class EpochWanted(Message):
    """A task has ended (``done``) or must not take more into the epoch."""

    kind: ClassVar[str] = "epoch-wanted"
    job: JobName
    generation: Counter
    task: TaskName
    done: bool
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class Published(Message):
    """The output of a sink task's epoch is in the destination file."""

    kind: ClassVar[str] = "published"
    job: JobName
    epoch: Counter
    task: TaskName
    generation: Counter = 0
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class PublicationRefused(Message):
    """The output of a sink task's epoch can never be published."""

    kind: ClassVar[str] = "publication-refused"
    job: JobName
    epoch: Counter
    task: TaskName
    error: Failure
    generation: Counter = 0
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class TaskFailed(Message):
    """A task's process ended, or the task met an error after which it cannot continue."""

    kind: ClassVar[str] = "task-failed"
    job: JobName
    generation: Counter
    task: TaskName
    cause: Text
    error: Failure | None = None
    node: OptionalName = ""


Report = Prepared | Acknowledged | EpochWanted | Published | PublicationRefused | TaskFailed
REPORTS: Vocabulary[Report] = Vocabulary(
    "report to the leader", Prepared, Acknowledged, EpochWanted, Published, PublicationRefused, TaskFailed
)


@dataclass(frozen=True, slots=True)
class ReportRequest(Request[Done]):
    """Carries one report to the leader."""

    kind: ClassVar[str] = "rainstorm.report"
    reply: ClassVar[type[Any]] = Done
    report: dict[str, Any]

    @classmethod
    def of(cls, report: Report) -> ReportRequest:
        """Returns the request that carries a report."""
        return cls(REPORTS.encode(report))

    def message(self) -> Report:
        """Returns the report.

        Raises:
            InvalidMessage: there is no valid report.
        """
        return REPORTS.decode(self.report)
