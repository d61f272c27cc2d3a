"""The connection by which a service shows that it is alive: renewed, restored, and gone with the service."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.message import Done
from agent.common.shell import clock
from agent.membership.attachment import RENEWAL_INTERVAL_S, Attachment
from agent.membership.messages.agents import Attach
from agent.wire.endpoint import Call, by_kind, endpoint
from agent.wire.server import Server
from tests.support import wait_until


class Agent:
    """Stands in for the membership agent."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "run" / "membership.sock")
        self.attached: list[tuple[int, str, dict[str, float]]] = []
        self.detached: list[int] = []
        self.late = threading.Event()
        self.late.set()
        self.server: Server | None = None

    def start(self) -> None:
        self.server = Server(
            "membership",
            by_kind(endpoint(Attach, self._attach)),
            on_disconnect=lambda peer, connection: self.detached.append(connection),
        )
        self.server.listen_unix(self.path)

    def stop(self) -> None:
        self.late.set()
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _attach(self, request: Attach, call: Call) -> Done:
        self.attached.append((call.connection, request.service, dict(request.heard)))
        self.late.wait(20)
        return Done()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def test_service_renews_over_one_connection_and_its_end_is_noticed(agent: Agent) -> None:
    attachment = Attachment(agent.path, "hydfs")
    attachment.start()
    wait_until(lambda: len(agent.attached) >= 2, 5.0, "it renews")
    attachment.stop()
    (first, second) = agent.attached[:2]
    assert (first[0], first[1]) == (second[0], "hydfs")
    wait_until(lambda: agent.detached == [first[0]], 5.0, "the end is noticed")


def test_peers_that_were_heard_lately_are_passed_on(agent: Agent) -> None:
    now = clock.monotonic()
    heard = {"vm2": now, "vm3": now - 3 * RENEWAL_INTERVAL_S}
    attachment = Attachment(agent.path, "hydfs", lambda: heard)
    attachment.start()
    try:
        wait_until(lambda: agent.attached, 5.0, "it attaches")
        assert list(agent.attached[0][2]) == ["vm2"]
        assert 0.0 <= agent.attached[0][2]["vm2"] < 2 * RENEWAL_INTERVAL_S
    finally:
        attachment.stop()


def test_service_attaches_again_when_the_membership_agent_is_back(agent: Agent) -> None:
    attachment = Attachment(agent.path, "logs")
    attachment.start()
    try:
        wait_until(lambda: agent.attached, 5.0, "it attaches")
        agent.stop()
        before = len(agent.attached)
        agent.start()
        wait_until(lambda: len(agent.attached) > before, 5.0, "it attaches again")
    finally:
        attachment.stop()


def test_end_does_not_wait_for_a_late_answer(agent: Agent) -> None:
    agent.late.clear()
    attachment = Attachment(agent.path, "rainstorm")
    attachment.start()
    wait_until(lambda: agent.attached, 5.0, "a request is in progress")
    attachment.stop(4.0)
    assert not attachment._thread.is_alive()


def test_attachment_that_was_not_started_can_be_stopped(tmp_path: Path) -> None:
    Attachment(str(tmp_path / "none"), "logs").stop()
