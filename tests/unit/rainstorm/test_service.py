"""The rainstorm agent as clients and other nodes see it, over its real server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import Forbidden, InvalidMessage, NotFound, NotLeader
from agent.membership.view import EMPTY, NodeEntry, View
from agent.rainstorm import service as module
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.leader.core.leader import NodeLife
from agent.rainstorm.messages.client import Jobs, Killed, KilledTask, KillLocal
from agent.rainstorm.messages.commands import CommandRequest, Ping
from agent.rainstorm.messages.reports import Published, ReportRequest
from agent.rainstorm.messages.status import TaskStatus
from agent.rainstorm.service import Service, view_changed
from agent.wire import auth
from agent.wire.client import Client
from agent.wire.endpoint import Call
from agent.wire.server import Server
from tests import untyped
from tests.support import wait_until
from tests.unit.rainstorm.memorystore import MemoryStore
from tests.unit.rainstorm.nodeconfig import node_config
from tests.unit.rainstorm.statuses import job_status


def view(version: int = 1, leader: str = "n1") -> View:
    """Returns a view of three nodes."""
    nodes = {name: NodeEntry("up", f"{number:032x}:1", 1) for number, name in enumerate(("n1", "n2", "n3"))}
    return View(version, 1, leader, nodes)


class Other:
    """The client of a service, which notes the requests passed on to other nodes."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Any]] = []
        self.answer: Any = None

    def ask(self, target: Any, request: Any, *, timeout_s: float) -> Any:
        if isinstance(request, CommandRequest):
            return None  # of the leader, to the nodes that it finds
        self.asked.append((target.node, request))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        """Nothing is open."""


class Node:
    """A service whose server listens on a Unix socket, and a client of it."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.other = Other()
        self.store = MemoryStore()
        monkeypatch.setattr(module, "Client", lambda context, **options: self.other)
        monkeypatch.setattr(auth, "client_context", lambda tls: None)
        monkeypatch.setattr(module, "HydfsClient", lambda client, target: self.store)
        self.service = Service(node_config(folder), lambda error: None)
        path = str(folder / "test.sock")
        self.server: Server = self.service._server
        self.server.listen_unix(path)
        self.service._dispatcher.start()
        self.service._host.loop.start()
        self.wire = Client(None)
        self.path = path
        self.client = RainstormClient(self.wire, [path])

    def lead(self, leader: str = "n1") -> None:
        """Shows the service a view."""
        self.service._follower.set(view(self.service._follower.current().version + 1, leader))
        if leader == "n1":
            wait_until(lambda: self.service._dispatcher._core.leading, 5, "it leads")

    def close(self) -> None:
        """Ends everything."""
        self.wire.close()
        self.server.stop()
        self.service._dispatcher.stop(5.0)
        self.service._host.loop.stop(5.0)


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node that does not know any view."""
    monkeypatch.setattr("agent.rainstorm.client.LEADERLESS_S", 0.02)
    monkeypatch.setattr("agent.rainstorm.client.RETRY_S", 0.001)
    made = Node(tmp_path, monkeypatch)
    yield made
    made.close()


def test_a_client_runs_a_job_from_submission_to_cancellation(node: Node) -> None:
    """Every request of the client, answered by the leader itself."""
    node.lead()
    node.store.put_bytes("in", b"a\n")
    raw = {"source": {"file": "in"}, "stages": [{"operator": "identity"}], "sink": {"file": "out"}}
    job = node.client.submit(raw)
    assert [found.job for found in node.client.jobs()] == [job]
    assert node.client.job(job).state in ("deploying", "waiting")
    assert node.client.wait(job, 0.01).job == job
    assert node.client.tasks() == [] or node.client.tasks()[0].job == job
    assert node.client.cancel(job).state == "cancelled"
    assert node.client.wait(job, 10.0).state == "cancelled"
    assert node.service.status() == "0 tasks, leader n1"
    assert len(node.service.loops()) == 2


def test_what_only_the_leader_knows_is_passed_on(node: Node) -> None:
    """It is passed on only once: the node that gets it answers or refuses."""
    node.lead("n2")
    node.other.answer = NotFound("no such job")
    with pytest.raises(NotFound):
        node.client.jobs()
    assert node.other.asked == [("n2", Jobs(forwarded=True))]
    with pytest.raises(NotLeader):
        node.wire.ask(node.path, Jobs(forwarded=True))
    assert len(node.other.asked) == 1


def test_a_cluster_without_a_leader_says_so(node: Node) -> None:
    """The client waits for one for a while."""
    with pytest.raises(NotLeader, match="no leader at the moment"):
        node.client.jobs()


def test_only_nodes_command_and_report(node: Node) -> None:
    """Operators and local processes have names that are not nodes."""
    for request in (CommandRequest.of(Ping(1)), ReportRequest.of(Published("j-1", 1, "1.0")), KillLocal()):
        with pytest.raises(Forbidden, match="'local' is not a node"):
            node.wire.ask(node.path, cast("Any", request))


def call(peer: str = "n2") -> Call:
    """Returns a call by a node."""
    return Call(peer, cast("Any", None))


def test_nodes_command_report_and_kill(node: Node) -> None:
    """Their messages reach the host and the leader."""
    node.lead()
    service = node.service
    service._command(CommandRequest.of(Ping(7)), call())
    wait_until(lambda: service._host._core.term == 7, 5, "the host has the command")
    service._report(ReportRequest.of(Published("j-1", 1, "1.0")), call())
    with pytest.raises(NotFound, match=r"task 1\.0 does not run here"):
        service._kill_local(KillLocal("1.0"), call())

    class Process:
        pid = 77
        killed = False

        def kill(self) -> None:
            Process.killed = True

    service._host.supervisor.find = lambda task, pid: (("j-1", "1.0"), Process())  # type: ignore[method-assign,assignment,return-value]
    killed = service._kill_local(KillLocal(), call()).killed
    assert (killed.job, killed.task, killed.pid, Process.killed) == ("j-1", "1.0", 77, True)


@pytest.mark.parametrize(
    ("request_", "found"),
    [
        ({"task": "1.0"}, ("n2", KillLocal("1.0", 12))),
        ({"node": "n3", "pid": 13}, ("n3", KillLocal("1.1", 13))),
        ({"node": "n1"}, None),
        ({"pid": 99}, None),
        ({}, ("n2", KillLocal("1.0", 12))),
    ],
)
def test_the_first_task_that_fits_is_killed(
    node: Node, request_: dict[str, Any], found: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only tasks on its own node fit, and a task without a process does not fit."""
    node.lead()
    task = TaskStatus("j-1", "1.0", 1, "identity", "n2", 12, "running")
    tasks = (
        replace(task, task="0.0", node="n1", pid=None),
        task,
        replace(task, task="1.1", node="n3", pid=13),
    )
    monkeypatch.setattr(node.service._dispatcher, "jobs", lambda: [job_status(tasks=tasks)])

    class Answer:
        message = Killed(KilledTask("j-1", "1.0", 12))

    node.other.answer = Answer()
    if found is None:
        with pytest.raises(NotFound, match="no running task fits"):
            node.client.kill_task(**request_)
        assert node.other.asked == []
        return
    killed = node.client.kill_task(**request_)
    assert node.other.asked == [found]
    assert killed.node == found[0]


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("rainstorm.command", {"message": {"type": "ping", "term": "x"}}),
        ("rainstorm.command", {"message": 7}),
        ("rainstorm.report", {"report": {"type": "ack", "job": "j-1", "generation": 1, "epoch": []}}),
        ("rainstorm.wait", {"job": "j-1", "wait_s": float("nan")}),
        ("rainstorm.job", {}),
        ("rainstorm.kill", {"pid": -1}),
    ],
)
def test_a_request_that_is_no_message_is_refused_and_counted(
    node: Node, kind: str, fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This holds for any sender; nothing of the request reaches a core."""
    monkeypatch.setattr(node.service, "_require_node", lambda call: None)
    node.lead()
    with pytest.raises(InvalidMessage):
        untyped.send(node.wire, node.path, kind, fields)
    assert node.server.refused[kind] == 1


def test_a_view_as_the_leader_sees_it() -> None:
    """It has the nodes' lives and which nodes are up."""
    found = view_changed(replace(view(), leader="n2"))
    assert (found.version, found.term, found.leader) == (1, 1, "n2")
    assert found.nodes["n1"] == NodeLife(f"{0:032x}:1", True)
    assert view_changed(EMPTY).nodes == {}


def test_a_service_starts_and_stops_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a membership agent it has no view and leads nothing."""
    monkeypatch.setattr(module, "Client", lambda context, **options: Other())
    monkeypatch.setattr(auth, "client_context", lambda tls: None)
    monkeypatch.setattr(auth, "server_context", lambda tls: None)
    monkeypatch.setattr(Server, "listen_tls", lambda self, address, port, context: 1)
    service = Service(node_config(tmp_path), lambda error: None)
    try:
        service.start()
        assert service.status() == "0 tasks, leader unknown"
    finally:
        service.stop(10.0)
