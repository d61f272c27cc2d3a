"""The messages between a host and a task's process over the task's control socket.

The process runs the user's code, so the host believes it only about the task that was assigned to it. The
field ``task`` in its messages is only for people who read them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from agent.common.failure import Failure
from agent.common.message import Counter, Message, Name, OptionalName, Port, Vocabulary
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.names import JobName, TaskName
from agent.rainstorm.messages.fields import (
    Counts,
    Endpoints,
    Identity,
    Inside,
    JobFile,
    Positions,
    Quotes,
    References,
)


@dataclass(frozen=True, slots=True)
class Assign(Message):
    """Run this task from the end of a committed epoch; earlier assignments are void.

    With ``in_place`` the process already has the committed state.
    """

    kind: ClassVar[str] = "assign"
    job: JobName
    task: TaskName
    generation: Counter
    spec: JobFile
    header: SourceHeader
    survey: bool
    identity: Identity
    epoch: Counter
    done: bool
    segments: References
    in_place: bool
    positions: Positions
    counts: Counts
    term: Counter = 0


@dataclass(frozen=True, slots=True)
class Start(Message):
    """All tasks of the generation are prepared: connect and run."""

    kind: ClassVar[str] = "start"
    generation: Counter
    endpoints: Endpoints
    inside: Inside
    epoch: Counter


@dataclass(frozen=True, slots=True)
class Trigger(Message):
    """End ``epoch``; ``committed`` is the last epoch that can no longer be taken back."""

    kind: ClassVar[str] = "trigger"
    generation: Counter
    epoch: Counter
    committed: Counter


Command = Assign | Start | Trigger
TO_TASK: Vocabulary[Command] = Vocabulary("command to a task", Assign, Start, Trigger)


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first message of a process, assigned or not."""

    kind: ClassVar[str] = "hello"
    pid: Counter
    port: Port = 0


@dataclass(frozen=True, slots=True)
class Prepared(Message):
    """The task is at the end of the committed epoch and listens for its inputs."""

    kind: ClassVar[str] = "prepared"
    generation: Counter
    host: Name
    port: Port
    quotes: Quotes
    task: OptionalName = ""


@dataclass(frozen=True, slots=True)
class Snapshot(Message):
    """The task hands over an epoch; ``state_bytes`` of the payload are state, the rest is output."""

    kind: ClassVar[str] = "snapshot"
    generation: Counter
    epoch: Counter
    state_bytes: Counter
    base: bool
    positions: Positions
    done: bool
    records: Counter
    bytes: Counter
    task: OptionalName = ""


@dataclass(frozen=True, slots=True)
class EpochWanted(Message):
    """The task has ended (``done``) or must not take more into the epoch."""

    kind: ClassVar[str] = "epoch-wanted"
    generation: Counter
    done: bool
    task: OptionalName = ""


@dataclass(frozen=True, slots=True)
class Failed(Message):
    """The task met an error after which it cannot continue in this generation."""

    kind: ClassVar[str] = "error"
    generation: Counter
    error: Failure
    task: OptionalName = ""


TaskMessage = Prepared | Snapshot | EpochWanted | Failed
FIRST_OF_TASK: Vocabulary[Hello] = Vocabulary("first message of a task", Hello, tag="t")
FROM_TASK: Vocabulary[TaskMessage] = Vocabulary(
    "message of a task", Prepared, Snapshot, EpochWanted, Failed, tag="t"
)
