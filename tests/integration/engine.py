"""A local cluster that runs jobs, and the jobs of tests."""

from __future__ import annotations

import io
import itertools
from pathlib import Path
from typing import Any

from agent.hydfs.client import HydfsClient
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.status import JobStatus
from ops.cluster.connections import Connections
from tests.integration.cluster import Sandbox
from tests.support import PATIENCE_S, wait_until

NODES = 5
JOB_TIMEOUT_S = 60.0
_numbers = itertools.count(1)


class Engine:
    """A running cluster, with the operations of tests."""

    def __init__(self, sandbox: Sandbox, connections: Connections, folder: Path) -> None:
        self.sandbox = sandbox
        self.connections = connections
        self._folder = folder

    @property
    def jobs(self) -> RainstormClient:
        """Returns a client of the stream engine."""
        return self.connections.rainstorm()

    @property
    def files(self) -> HydfsClient:
        """Returns a client of the store."""
        return self.connections.hydfs()

    def store(self, data: bytes) -> str:
        """Stores bytes under a new name, and locally under the same name."""
        name = f"input-{next(_numbers)}"
        (self._folder / name).write_bytes(data)
        self.files.put(name, io.BytesIO(data))
        return name

    def names(self) -> list[str]:
        """Returns the names of all files except collected logs, which grow by themselves."""
        return [stat.name for stat in self.files.list("") if not stat.name.startswith(".logs/")]

    def local(self, name: str) -> Path:
        """Returns the local copy of a stored input."""
        return self._folder / name

    def output(self, job: JobStatus) -> bytes:
        """Returns the bytes of a job's destination file."""
        sink = io.BytesIO()
        self.files.get(job.sink, sink)
        return sink.getvalue()

    def finish(self, job: str) -> JobStatus:
        """Waits for the end of a job, which must succeed."""
        ended = self.jobs.wait(job, JOB_TIMEOUT_S)
        assert ended.state == "finished", (ended.state, ended.error, ended.recoveries)
        return ended

    def wait_for_epochs(self, job: str, count: int) -> JobStatus:
        """Waits until ``count`` epochs of a job are committed and all its tasks run."""
        found: list[JobStatus] = []

        def enough() -> bool:
            found[:] = [self.jobs.job(job)]
            ready = all(task.pid for task in found[0].tasks)
            return found[0].epochs_committed >= count and bool(found[0].tasks) and ready

        wait_until(enough, PATIENCE_S, f"{count} epochs of {job} are committed")
        return found[0]

    def bystander(self, job: JobStatus) -> str:
        """Returns a node with tasks that does not lead; the test talks to another one from now on."""
        victim = next(task.node for task in job.tasks if task.node != job.leader)
        self.prefer(victim, job.leader)
        return victim

    def prefer(self, *avoid: str) -> None:
        """Talks from now on to a node that will not be harmed."""
        names = [name for name in self.connections.inventory.names() if name not in avoid]
        self.connections.prefer(names[-1])


def spec_of(source: str, *stages: dict[str, Any], rate: int = 0, **options: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "source": {"file": source, "rate": rate, **options},
        "stages": list(stages),
        "sink": {"file": "out-{job}"},
        "epoch_interval_ms": 50,
    }


def count_by(key: str, emit: str = "final", tasks: int = 2) -> dict[str, Any]:
    return {"operator": "aggregate-by-key", "key": key, "function": "count", "emit": emit, "tasks": tasks}
