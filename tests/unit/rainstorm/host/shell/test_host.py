"""The node's side of all jobs: commands reach processes, and messages of tasks reach the leader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import InvalidMessage, NotFound
from agent.common.failure import Failure
from agent.rainstorm.host.shell.host import TaskHost
from agent.rainstorm.io.links import ReportLink
from agent.rainstorm.leader.core.joblog import NO_HEADER
from agent.rainstorm.messages import commands, control, reports
from tests.support import wait_until
from tests.unit.rainstorm.memorystore import MemoryStore
from tests.unit.rainstorm.nodeconfig import node_config

JOB, KEY = "j-1", ("j-1", "1.0")


class Recorder:
    """A supervisor and a link to the leader that note their calls."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.reports: list[reports.Report] = []

    def assign(self, *call: Any) -> None:
        self.asked.append(("assign", *call))

    def tell(self, *call: Any) -> None:
        self.asked.append(("tell", *call))

    def kill(self, *call: Any) -> None:
        self.asked.append(("kill", *call))

    def find(self, task: str | None, pid: int | None) -> Any:
        raise NotFound("no task runs here")

    def send(self, report: reports.Report) -> None:
        self.reports.append(report)

    def stop(self, timeout_s: float) -> None:
        """Nothing was started."""


class Node:
    """A host; the test plays its processes and its leader."""

    def __init__(self, folder: Path) -> None:
        self.seen = Recorder()
        self.store = MemoryStore()
        self.crashes: list[BaseException] = []
        config = node_config(folder)
        links = cast("ReportLink", self.seen)
        self.host = TaskHost(config, self.store.storage(), links, self.crashes.append)
        self.say = self.host.supervisor.on_message
        self.exit = self.host.supervisor._on_exit
        self.host.supervisor = cast("Any", self.seen)
        self.host.loop.start()
        self.host._segments.start()
        self.host._publisher.start()

    def deploy(self) -> None:
        """Deploys one task."""
        start = commands.TaskStart(0)
        self.host.command(commands.Deploy(JOB, 1, 1, {}, NO_HEADER, {"1.0": start}, identity=b"pem"))
        wait_until(lambda: self.seen.asked, 5, "the task is assigned")

    def report(self) -> reports.Report:
        """Returns the next report."""
        wait_until(lambda: self.seen.reports, 5, "a report")
        return self.seen.reports.pop(0)


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node with a task."""
    made = Node(tmp_path)
    made.deploy()
    yield made
    made.host.stop(5.0)
    assert made.crashes == []


def test_commands_reach_the_processes(node: Node) -> None:
    """Assignments, starts, triggers and ends, in order."""
    node.host.command(commands.Start(JOB, 1, 1, {}, {}, 0))
    node.host.command(commands.Trigger(JOB, 1, 1, 1, 0))
    node.host.command(commands.Stop(JOB, 1, 1))
    wait_until(lambda: len(node.seen.asked) == 4, 5, "all commands are carried out")
    kinds = [(call[0], call[1]) for call in node.seen.asked]
    assert kinds == [("assign", KEY), ("tell", KEY), ("tell", KEY), ("kill", KEY)]
    assert node.seen.asked[0][4].identity == b"pem"


def test_what_a_task_says_reaches_the_leader(node: Node) -> None:
    """Readiness, requests for an epoch, errors and ends."""
    node.say(KEY, 7, control.Prepared(1, "h", 9, {0: 1}), b"")
    endpoint = reports.Endpoint("h", 9, 7, "n1")
    assert node.report() == reports.Prepared(JOB, 1, {"1.0": endpoint}, {0: 1}, "n1")
    node.say(KEY, 7, control.EpochWanted(1, True), b"")
    assert node.report() == reports.EpochWanted(JOB, 1, "1.0", True, "n1")
    failure = Failure("JOB_FAILED", "no number")
    node.say(KEY, 7, control.Failed(1, failure), b"")
    assert node.report() == reports.TaskFailed(JOB, 1, "1.0", "no number", failure, "n1")
    node.exit(KEY, 1, "killed by signal 9")
    assert node.report() == reports.TaskFailed(JOB, 1, "1.0", "killed by signal 9", None, "n1")


def test_a_snapshot_is_durable_before_the_leader_hears_of_it(node: Node) -> None:
    """Then its output can be published, from memory."""
    said = control.Snapshot(1, 3, 2, False, {}, False, 5, 50)
    node.say(KEY, 7, said, b"st" + b"output\n")
    report = node.report()
    assert isinstance(report, reports.Acknowledged)
    ((file, offset, length),) = report.tasks["1.0"].state
    assert bytes(node.store.files[file].data[offset : offset + length]) == b"st"
    node.store.put_bytes("out", b"")
    sink = report.tasks["1.0"].sink
    node.host.command(commands.Publish(JOB, 1, 1, 3, "1.0", "out", sink))
    assert node.report() == reports.Published(JOB, 3, "1.0", node="n1")
    assert bytes(node.store.files["out"].data) == b"output\n"


def test_a_snapshot_with_less_state_than_it_says_is_refused(node: Node) -> None:
    """Otherwise its state and output would be cut at a wrong place."""
    said = control.Snapshot(1, 3, 10, False, {}, False, 5, 50)
    with pytest.raises(InvalidMessage, match="10 bytes of state in 3 bytes"):
        node.say(KEY, 7, said, b"abc")
    assert node.seen.reports == []


def test_a_host_starts_and_ends_as_a_whole(tmp_path: Path) -> None:
    """With its launcher, without tasks."""
    store = MemoryStore()
    host = TaskHost(
        node_config(tmp_path), store.storage(), cast("ReportLink", Recorder()), lambda error: None
    )
    host.start()
    assert host.supervisor.running() == {}
    host.stop(10.0)
