"""The effects that a job asks the leader's shell to carry out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.rainstorm.messages.commands import Command
from agent.rainstorm.messages.joblog import JobLogRecord


@dataclass(frozen=True, slots=True)
class Tell:
    """Effect: send a command to the agent of a node."""

    node: str
    message: Command


@dataclass(frozen=True, slots=True)
class AppendLog:
    """Effect: append records to the job's log and report back with ``token``."""

    job: str
    token: int
    records: Sequence[JobLogRecord]


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Effect: the job has ended; wake the clients that wait for it and delete its temporary files."""

    job: str


@dataclass(frozen=True, slots=True)
class DeleteFiles:
    """Effect: delete segment files that are no longer needed."""

    names: Sequence[str]


Effect = Tell | AppendLog | JobEnded | DeleteFiles
