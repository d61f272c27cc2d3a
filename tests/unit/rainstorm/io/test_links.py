"""Commands down and reports up: in order, repeated when that may help, without ever blocking the sender."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    Forbidden,
    InvalidMessage,
    NotLeader,
    RainStormError,
    Unreachable,
)
from agent.rainstorm.io import links
from agent.rainstorm.io.links import AgentLink, ReportLink, address_of
from agent.rainstorm.messages.commands import CommandRequest, Ping
from agent.rainstorm.messages.reports import Published, ReportRequest
from agent.wire.client import Address, Client
from tests.support import wait_until
from tests.unit.rainstorm.nodeconfig import node_config


class Peer:
    """A client whose requests fail with the given errors, one each, and then succeed."""

    def __init__(self) -> None:
        self.outcomes: list[RainStormError | Exception] = []
        self.taken: list[Any] = []
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()

    def ask(self, target: Address, request: Any, *, timeout_s: float) -> None:
        self.asked += 1
        self.hold.wait(5.0)
        if self.outcomes:
            raise self.outcomes.pop(0)
        self.taken.append((target.node, request))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "RETRY_S", 0.001)


@pytest.fixture
def peer() -> Peer:
    """The other side."""
    return Peer()


@pytest.fixture
def lost() -> list[str]:
    """The nodes that were found unreachable."""
    return []


@pytest.fixture
def link(tmp_path: Path, peer: Peer, lost: list[str]) -> Iterator[AgentLink]:
    """A link to n2."""
    target = address_of(node_config(tmp_path), "n2")
    made = AgentLink("n2", target, cast("Client", peer), lost.append)
    yield made
    peer.hold.set()
    made.stop(5.0)


def test_commands_arrive_in_order(link: AgentLink, peer: Peer, lost: list[str]) -> None:
    """One that fails once is sent again."""
    peer.outcomes = [ConnectionLost("broke")]
    for term in range(5):
        link.send(Ping(term))
    wait_until(lambda: len(peer.taken) == 5, 5, "all commands arrive")
    assert peer.taken == [("n2", CommandRequest.of(Ping(term))) for term in range(5)]
    assert lost == []


@pytest.mark.parametrize(
    "outcomes",
    [
        [DeadlineExceeded("late")],
        [Unreachable("refused"), Unreachable("refused")],
        [InvalidMessage("no command"), InvalidMessage("no command")],
        [ValueError("a defect")],
    ],
)
def test_a_node_that_takes_no_command_is_unreachable_and_its_queue_is_dropped(
    link: AgentLink, peer: Peer, lost: list[str], outcomes: list[Any]
) -> None:
    """The next generation makes all of it void; the link itself continues."""
    peer.hold.clear()
    peer.outcomes = list(outcomes)
    for term in range(5):
        link.send(Ping(term))
    peer.hold.set()
    wait_until(lambda: lost == ["n2"], 5, "the node is found unreachable")
    link.send(Ping(9))
    wait_until(lambda: peer.taken == [("n2", CommandRequest.of(Ping(9)))], 5, "a later command arrives")


def test_a_full_queue_makes_a_node_unreachable(
    link: AgentLink, peer: Peer, lost: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender never waits."""
    peer.hold.clear()
    for term in range(links.QUEUE_MAX + 2):
        link.send(Ping(term))
    assert lost == ["n2"]
    link.stop(0.0)
    link.send(Ping(1))
    assert lost == ["n2"], "a stopped link reports nothing"


class Leader:
    """The leader as a node knows it, and a link to it."""

    def __init__(self, folder: Path, peer: Peer) -> None:
        self.name = "n2"
        config = node_config(folder)
        self.link = ReportLink(config, cast("Client", peer), lambda: self.name)


@pytest.fixture
def leader(tmp_path: Path, peer: Peer) -> Iterator[Leader]:
    """A link to the current leader."""
    made = Leader(tmp_path, peer)
    made.link.start()
    yield made
    peer.hold.set()
    made.link.stop(5.0)


def test_reports_follow_the_leader(leader: Leader, peer: Peer) -> None:
    """They are repeated until the current leader accepts them."""
    leader.name = ""
    leader.link.send(Published("j-1", 1, "1.0"))
    peer.outcomes = [NotLeader("no"), Unreachable("no")]
    leader.name = "n3"
    wait_until(lambda: peer.taken, 5, "the report arrives")
    assert peer.taken == [("n3", ReportRequest.of(Published("j-1", 1, "1.0")))]


@pytest.mark.parametrize("error", [InvalidMessage("no report"), Forbidden("no node"), ValueError("a defect")])
def test_a_report_that_is_refused_is_not_repeated(leader: Leader, peer: Peer, error: Any) -> None:
    """It would be refused again, while later reports wait."""
    peer.outcomes = [error]
    leader.link.send(Published("j-1", 1, "1.0"))
    leader.link.send(Published("j-1", 2, "1.0"))
    wait_until(lambda: peer.taken, 5, "the next report arrives")
    assert [request.message().epoch for _, request in peer.taken] == [2]
    assert peer.asked == 2


def test_an_old_report_is_dropped(leader: Leader, peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """By then the leader has continued without it."""
    monkeypatch.setattr(links, "REPORT_TIMEOUT_S", 0.02)
    peer.outcomes = [Unreachable("no")] * 100_000
    leader.link.send(Published("j-1", 1, "1.0"))
    leader.link.send(Published("j-1", 2, "1.0"))
    wait_until(lambda: not leader.link._worker.waiting, 5, "it is dropped")
    peer.outcomes = []

    def arrives() -> bool:
        leader.link.send(Published("j-1", 3, "1.0"))  # each has 20 ms; one may be too late on a busy machine
        return bool(peer.taken)

    wait_until(arrives, 5, "a later one arrives")
    assert peer.taken[0][1].message().epoch > 1


def test_a_full_queue_drops_the_oldest_report(tmp_path: Path, peer: Peer) -> None:
    """The newest reports matter most; after the stop nothing is queued."""
    made = Leader(tmp_path, peer)
    for epoch in range(links.QUEUE_MAX + 3):
        made.link.send(Published("j-1", epoch, "1.0"))
    made.link.start()
    wait_until(lambda: len(peer.taken) == links.QUEUE_MAX, 5, "what was queued arrives")
    assert peer.taken[0][1].message().epoch == 3
    made.link.stop(5.0)
    made.link.send(Published("j-1", 1, "1.0"))
    assert len(peer.taken) == links.QUEUE_MAX
