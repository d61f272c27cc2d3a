"""The commands of a leader to the hosts of its jobs' tasks.

Each command carries the leader's term: a host ignores those of an older term than it has seen, and those of
an older generation of the job.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from agent.common.message import LIST_MAX, Counter, Done, Message, Name, Request, Vocabulary
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.names import TASKS_MAX, JobName, TaskName
from agent.rainstorm.messages.fields import (
    Counts,
    Endpoints,
    Identity,
    Inside,
    JobFile,
    Positions,
    References,
)


@dataclass(frozen=True, slots=True)
class TaskStart:
    """The start of a task: its committed state, its positions, and whether its process may be kept.

    ``positions`` covers all splits; only source tasks get it.
    """

    epoch: Counter
    done: bool = False
    segments: References = ()
    in_place: bool = False
    positions: Positions = field(default_factory=dict)
    counts: Counts = (0, 0)


@dataclass(frozen=True, slots=True)
class Deploy(Message):
    """Prepare these tasks for a new generation; ``survey`` asks source tasks to count quotes.

    ``identity`` is the certificate that the tasks of this generation share.
    """

    kind: ClassVar[str] = "deploy"
    job: JobName
    term: Counter
    generation: Counter
    spec: JobFile
    header: SourceHeader
    tasks: Annotated[dict[TaskName, TaskStart], Meta(max_length=TASKS_MAX)]
    survey: bool = False
    identity: Identity = b""


@dataclass(frozen=True, slots=True)
class Start(Message):
    """All tasks are prepared: connect and run, from the end of ``epoch``."""

    kind: ClassVar[str] = "start"
    job: JobName
    term: Counter
    generation: Counter
    endpoints: Endpoints
    inside: Inside
    epoch: Counter


@dataclass(frozen=True, slots=True)
class Trigger(Message):
    """End ``epoch``; ``committed`` is the last epoch that can no longer be taken back."""

    kind: ClassVar[str] = "trigger"
    job: JobName
    term: Counter
    generation: Counter
    epoch: Counter
    committed: Counter


@dataclass(frozen=True, slots=True)
class Publish(Message):
    """Append the committed output of a sink task to the destination."""

    kind: ClassVar[str] = "publish"
    job: JobName
    term: Counter
    generation: Counter
    epoch: Counter
    task: TaskName
    sink: Name
    references: References


@dataclass(frozen=True, slots=True)
class Stop(Message):
    """End all tasks of the job on this node."""

    kind: ClassVar[str] = "stop"
    job: JobName
    term: Counter
    generation: Counter


@dataclass(frozen=True, slots=True)
class Keep(Message):
    """End all jobs but these; the numbers are their generations."""

    kind: ClassVar[str] = "keep"
    term: Counter
    jobs: Annotated[dict[JobName, Counter], Meta(max_length=LIST_MAX)]


@dataclass(frozen=True, slots=True)
class Ping(Message):
    """Asks only for an answer."""

    kind: ClassVar[str] = "ping"
    term: Counter


Command = Deploy | Start | Trigger | Publish | Stop | Keep | Ping
COMMANDS: Vocabulary[Command] = Vocabulary(
    "command of the leader", Deploy, Start, Trigger, Publish, Stop, Keep, Ping
)


@dataclass(frozen=True, slots=True)
class CommandRequest(Request[Done]):
    """Carries one command to a host."""

    kind: ClassVar[str] = "rainstorm.command"
    reply: ClassVar[type[Any]] = Done
    message: dict[str, Any]

    @classmethod
    def of(cls, command: Command) -> CommandRequest:
        """Returns the request that carries a command."""
        return cls(COMMANDS.encode(command))

    def command(self) -> Command:
        """Returns the command.

        Raises:
            InvalidMessage: there is no valid command.
        """
        return COMMANDS.decode(self.message)
