"""Requests to the stream engine: any node answers, whoever leads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, DeadlineExceeded, NotLeader, RainStormError, Unreachable
from agent.common.shell import clock, threads
from agent.wire.client import Client, Target

TIMEOUT_S = 10.0
# A leader that has just been elected needs about this long to read the logs.
LEADERLESS_S = 15.0
RETRY_S = 0.1
WAIT_SLICE_S = 20.0


class RainstormClient:
    """Asks one of several nodes, the next one when it cannot be reached."""

    def __init__(self, client: Client, targets: Sequence[Target]) -> None:
        self._client = client
        self._targets = list(targets)

    def submit(self, job: dict[str, Any]) -> str:
        """Submits a job file's content and returns the job's id.

        Raises:
            JobInvalid: the job file is wrong.
            NotFound: the source does not exist.
            AlreadyExists: the destination exists.
        """
        return str(self._call("rainstorm.submit", {"job": job}, again=False)["job"])

    def jobs(self) -> list[dict[str, Any]]:
        """Returns the status of all jobs, the newest first."""
        return list(self._call("rainstorm.jobs", {})["jobs"])

    def job(self, job: str) -> dict[str, Any]:
        """Returns the status of one job; the beginning of its id is enough."""
        return dict(self._call("rainstorm.job", {"job": job})["status"])

    def wait(self, job: str, timeout_s: float) -> dict[str, Any]:
        """Returns the status of a job as soon as it is over, or after ``timeout_s`` as it is."""
        deadline = Deadline(clock.monotonic(), timeout_s)
        while True:
            wait_s = min(WAIT_SLICE_S, deadline.remaining(clock.monotonic()))
            found = dict(self._call("rainstorm.wait", {"job": job, "wait_s": wait_s}, wait_s)["status"])
            if found["state"] in ("finished", "failed", "cancelled") or deadline.expired(clock.monotonic()):
                return found

    def tasks(self) -> list[dict[str, Any]]:
        """Returns all tasks of all running jobs."""
        return [task for job in self.jobs() for task in job["tasks"]]

    def cancel(self, job: str) -> dict[str, Any]:
        """Ends a job and returns its status; what it has committed stays."""
        return dict(self._call("rainstorm.cancel", {"job": job}, 30.0)["status"])

    def kill_task(
        self, node: str | None = None, task: str | None = None, pid: int | None = None
    ) -> dict[str, Any]:
        """Kills (SIGKILL) the first task that fits, and returns which one it was.

        Raises:
            NotFound: no running task fits.
        """
        fields = {"node": node, "task": task, "pid": pid}
        return dict(self._call("rainstorm.kill", fields, again=False)["killed"])

    def _call(
        self, kind: str, fields: dict[str, Any], extra_s: float = 0.0, *, again: bool = True
    ) -> dict[str, Any]:
        """Asks node after node; a cluster between two leaders is waited for.

        The patience begins with the first failure: a leader may be lost near the end of a long wait.
        """
        outage: Deadline | None = None
        failure: RainStormError = Unreachable("no node of the cluster is known", hint="fab status")
        while True:
            for target in list(self._targets):
                try:
                    return self._client.call(target, kind, fields, timeout_s=TIMEOUT_S + extra_s).fields
                except NotLeader as error:
                    failure = error
                    break
                except (ConnectionLost, DeadlineExceeded) as error:
                    if not again:
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
