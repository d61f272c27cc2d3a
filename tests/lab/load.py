"""Load on a cluster that is being upgraded: numbered records and exactly-once jobs, all of them checked."""

from __future__ import annotations

import io
import itertools
import threading
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from agent.common.errors import RainStormError
from agent.hydfs.client import HydfsClient
from agent.rainstorm.messages.status import JobStatus
from ops.cluster.connections import Connections, connected
from ops.cluster.inventory import load
from ops.demo.reference import expected_records, output_records

APPEND_INTERVAL_S = 0.02
# The longest that a record may stay unacknowledged; a rolling upgrade takes one VM away at a time.
APPEND_PATIENCE_S = 120.0
END_TIMEOUT_S = 240.0


class Load:
    """Work in a separate thread during a ``with`` block; its error is raised at the end."""

    def __init__(self, inventory: Path) -> None:
        self._inventory = load(inventory)
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=type(self).__name__)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(END_TIMEOUT_S)
        assert not self._thread.is_alive(), f"{self._thread.name} does not end"
        if self._failure is not None:
            raise self._failure from error

    def _run(self) -> None:
        try:
            with connected(self._inventory) as connections:
                self.work(connections)
        except (RainStormError, OSError, AssertionError) as error:
            self._failure = error

    def work(self, connections: Connections) -> None:
        """Works until ``_stopping`` is set."""
        raise NotImplementedError


class AppendLoad(Load):
    """Appends numbered records to one file, each until any node acknowledges it."""

    def __init__(self, inventory: Path, name: str) -> None:
        super().__init__(inventory)
        self.name = name
        self.sent = 0
        self.tried_again = 0
        self.longest_s = 0.0

    def work(self, connections: Connections) -> None:
        """Appends until told to stop."""
        nodes = itertools.cycle(connections.inventory.names())
        connections.hydfs().create(self.name)
        store = connections.hydfs(next(nodes))
        while not self._stopping.wait(APPEND_INTERVAL_S):
            begun = time.monotonic()
            while not self._append(store):
                assert time.monotonic() - begun < APPEND_PATIENCE_S, f"record {self.sent} is not acknowledged"
                self.tried_again += 1
                store = connections.hydfs(next(nodes))
                self._stopping.wait(APPEND_INTERVAL_S)
            self.longest_s = max(self.longest_s, time.monotonic() - begun)
            self.sent += 1

    def _append(self, store: HydfsClient) -> bool:
        record = f"{self.sent:08d}\n".encode()
        try:
            store.append(self.name, record, writer="load", sequence=self.sent, timeout_s=5.0)
        except (RainStormError, OSError):
            return False
        return True

    def lost_and_duplicate(self, connections: Connections) -> tuple[int, int]:
        """Returns the number of missing records in the file, and of those that are there too often."""
        sink = io.BytesIO()
        connections.hydfs().get(self.name, sink)
        found = Counter(sink.getvalue().decode().splitlines())
        sent = {f"{number:08d}" for number in range(self.sent)}
        assert found.keys() <= sent, f"never sent: {sorted(found.keys() - sent)[:5]}"
        return len(sent - found.keys()), found.total() - len(found)


class JobLoad(Load):
    """Runs one job after the other and compares each result with that of the reference program."""

    def __init__(self, inventory: Path, job: dict[str, Any], local: Path) -> None:
        super().__init__(inventory)
        self._job = job
        self._local = local
        self.running = ""
        self.ended: list[JobStatus] = []

    def work(self, connections: Connections) -> None:
        """Runs jobs until told to stop; the last one is finished."""
        while not self._stopping.is_set():
            job = connections.rainstorm().submit(self._job)
            self.running = job
            self.ended.append(finished(connections, job, END_TIMEOUT_S))
            assert_result(connections, self.ended[-1], self._job, self._local)


def finished(connections: Connections, job: str, timeout_s: float) -> JobStatus:
    """Waits for the end of a job, which must succeed, and returns its status.

    On a busy machine the time between two leaders may be longer than one request of a client waits.
    """
    end = time.monotonic() + timeout_s
    found: JobStatus | None = None
    while found is None or not found.has_ended:
        try:
            found = connections.rainstorm().wait(job, max(0.0, end - time.monotonic()))
        except RainStormError as error:
            if not error.retryable:
                raise
        ended = found is not None and found.has_ended
        assert time.monotonic() < end or ended, f"{job} does not end: {found}"
    assert found.state == "finished", (found.state, found.error, found.recoveries)
    return found


def assert_result(connections: Connections, ended: JobStatus, job: dict[str, Any], local: Path) -> None:
    """Compares a job's output with that of the sequential program."""
    sink = io.BytesIO()
    connections.hydfs().get(ended.sink, sink)
    found, expected = output_records(job, sink.getvalue()), expected_records(job, local)
    assert found == expected, (sorted((found - expected).items())[:5], sorted((expected - found).items())[:5])
