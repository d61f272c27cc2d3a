"""The requests of clients to a rainstorm agent, and of one agent to another on their behalf."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from agent.common.message import LIST_MAX, Counter, Duration, Name, OptionalName, Request, Text
from agent.rainstorm.job.names import JobName, TaskName
from agent.rainstorm.messages.status import JobStatus


@dataclass(frozen=True, slots=True)
class Submitted:
    """The id of the job that was submitted."""

    job: JobName


@dataclass(frozen=True, slots=True)
class Submit(Request[Submitted]):
    """Checks a job, makes it durable and starts it; ``job`` is a job file, whatever it holds."""

    kind: ClassVar[str] = "rainstorm.submit"
    reply: ClassVar[type[Any]] = Submitted
    job: Any
    # The receiver must be the leader: it answers or refuses, and does not pass the request on.
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class JobList:
    """All jobs, the newest first; ended jobs come without their commits."""

    jobs: Annotated[tuple[JobStatus, ...], Meta(max_length=LIST_MAX)]


@dataclass(frozen=True, slots=True)
class Jobs(Request[JobList]):
    """Asks for all jobs."""

    kind: ClassVar[str] = "rainstorm.jobs"
    reply: ClassVar[type[Any]] = JobList
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class OneJob:
    """One job."""

    status: JobStatus


@dataclass(frozen=True, slots=True)
class Job(Request[OneJob]):
    """Asks for the job whose id begins with ``job``."""

    kind: ClassVar[str] = "rainstorm.job"
    reply: ClassVar[type[Any]] = OneJob
    job: Name
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class Wait(Request[OneJob]):
    """Asks for a job's status once it has ended, or for its current status after ``wait_s``."""

    kind: ClassVar[str] = "rainstorm.wait"
    reply: ClassVar[type[Any]] = OneJob
    job: Name
    wait_s: Duration
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class Cancel(Request[OneJob]):
    """Ends a job; its committed output stays."""

    kind: ClassVar[str] = "rainstorm.cancel"
    reply: ClassVar[type[Any]] = OneJob
    job: Name
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class KilledTask:
    """The task process that was killed."""

    job: JobName
    task: TaskName
    pid: Counter
    node: OptionalName = ""


@dataclass(frozen=True, slots=True)
class Killed:
    """The answer to ``Kill`` and ``KillLocal``."""

    killed: KilledTask


@dataclass(frozen=True, slots=True)
class Kill(Request[Killed]):
    """Kills the first running task that fits the given fields."""

    kind: ClassVar[str] = "rainstorm.kill"
    reply: ClassVar[type[Any]] = Killed
    node: OptionalName | None = None
    task: Text | None = None
    pid: Counter | None = None
    forwarded: bool = False


@dataclass(frozen=True, slots=True)
class KillLocal(Request[Killed]):
    """Kills a task process of the node that is asked."""

    kind: ClassVar[str] = "rainstorm.kill-local"
    reply: ClassVar[type[Any]] = Killed
    task: Text | None = None
    pid: Counter | None = None
