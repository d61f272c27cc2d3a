"""Requests to the stream engine: any node answers, whichever node leads.

A wrong argument is a ``UsageError``, and nothing is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, DeadlineExceeded, NotLeader, RainStormError, Unreachable
from agent.common.message import R, Request, check_arguments
from agent.common.shell import clock, threads
from agent.rainstorm.messages import client as messages
from agent.rainstorm.messages.client import KilledTask
from agent.rainstorm.messages.status import JobStatus, TaskStatus
from agent.wire.client import Client, Target

__all__ = ["JobStatus", "KilledTask", "RainstormClient", "TaskStatus"]

TIMEOUT_S = 10.0
# A newly elected leader needs about this long to read the logs.
LEADERLESS_S = 15.0
RETRY_S = 0.1
WAIT_SLICE_S = 20.0
CANCEL_TIMEOUT_S = 30.0


class RainstormClient:
    """Asks one of several nodes; if it cannot be reached, asks the next one."""

    def __init__(self, client: Client, targets: Sequence[Target]) -> None:
        self._client = client
        self._targets = list(targets)

    def submit(self, job: Any) -> str:
        """Submits a job file's content and returns the job's id.

        Raises:
            JobInvalid: the job file is wrong.
            NotFound: the source does not exist.
            AlreadyExists: the destination exists.
        """
        return self._ask(messages.Submit(job), repeat=False).job

    def jobs(self) -> list[JobStatus]:
        """Returns the status of all jobs, the newest first."""
        return list(self._ask(messages.Jobs()).jobs)

    def job(self, job: str) -> JobStatus:
        """Returns the status of one job; the beginning of its id is enough."""
        return self._ask(messages.Job(job)).status

    def wait(self, job: str, timeout_s: float) -> JobStatus:
        """Returns the status of a job once it has ended, or its current status after ``timeout_s``."""
        deadline = Deadline(clock.monotonic(), timeout_s)
        while True:
            wait_s = min(WAIT_SLICE_S, deadline.remaining(clock.monotonic()))
            found = self._ask(messages.Wait(job, wait_s), wait_s).status
            if found.has_ended or deadline.expired(clock.monotonic()):
                return found

    def tasks(self) -> list[TaskStatus]:
        """Returns all tasks of all running jobs."""
        return [task for job in self.jobs() for task in job.tasks]

    def cancel(self, job: str) -> JobStatus:
        """Ends a job and returns its status; its committed output stays."""
        return self._ask(messages.Cancel(job), CANCEL_TIMEOUT_S).status

    def kill_task(
        self, node: str | None = None, task: str | None = None, pid: int | None = None
    ) -> KilledTask:
        """Kills (SIGKILL) the first task that fits, and returns which one it was.

        Raises:
            NotFound: no running task fits.
        """
        return self._ask(messages.Kill(node, task, pid), repeat=False).killed

    def _ask(self, request: Request[R], extra_s: float = 0.0, *, repeat: bool = True) -> R:
        """Asks node after node, and waits while the cluster has no leader.

        The time limit begins with the first failure: a leader may be lost near the end of a long wait.
        """
        check_arguments(request)
        outage: Deadline | None = None
        failure: RainStormError = Unreachable("no node of the cluster is known", hint="fab status")
        while True:
            for target in list(self._targets):
                try:
                    return self._client.ask(target, request, timeout_s=TIMEOUT_S + extra_s).message
                except NotLeader as error:
                    failure = error
                    break
                except (ConnectionLost, DeadlineExceeded) as error:
                    if not repeat:
                        raise
                    failure = error
                except Unreachable as error:
                    failure = error
                # The next request begins with a node that is up.
                self._targets.append(self._targets.pop(0))
            outage = outage or Deadline(clock.monotonic(), LEADERLESS_S)
            if outage.expired(clock.monotonic()):
                raise failure
            threads.sleep(RETRY_S)
