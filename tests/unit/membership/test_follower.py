"""Following the view of the node's membership agent: only newer views, whatever happens to that agent."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.common.errors import Overloaded
from agent.membership.follower import HeldView, ViewFollower
from agent.membership.messages.view import ViewReply, WatchView
from agent.membership.view import EMPTY, NodeEntry, View
from agent.wire.endpoint import Call, by_kind, endpoint
from agent.wire.server import Server
from tests.support import wait_until

NODES = {name: NodeEntry("up", f"{index:032x}:1", 1) for index, name in enumerate(["vm1", "vm2", "vm10"])}


def view(version: int, leader: str = "vm1") -> View:
    return View(version, 1, leader, NODES)


class Agent:
    """Stands in for a membership agent: it answers polls with a view that the test sets."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "run" / "membership.sock")
        self.held = HeldView()
        self.answer: Callable[[], View] = self.held.current
        self.polls = 0
        self.stopping = threading.Event()
        self.server: Server | None = None

    def start(self) -> None:
        self.stopping.clear()
        self.server = Server("membership", by_kind(endpoint(WatchView, self._watch)))
        self.server.listen_unix(self.path)

    def stop(self) -> None:
        self.stopping.set()
        if self.server is not None:
            self.server.stop()
            self.server = None

    def _watch(self, request: WatchView, call: Call) -> ViewReply:
        self.polls += 1
        left_s = request.wait_s
        while self.held.current().version <= request.version and not self.stopping.is_set():
            if left_s <= 0 or self.held.reach(request.version + 1, 0.05):
                break
            left_s -= 0.05
        return ViewReply(self.answer())


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    made.start()
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def follower(agent: Agent) -> Iterator[ViewFollower]:
    made = ViewFollower("hydfs", agent.path, ["vm1", "vm2"])
    try:
        yield made
    finally:
        made.stop()


def test_held_view_takes_newer_views_only() -> None:
    held, heard = HeldView(view(3)), list[int]()
    held.subscribe(lambda found: heard.append(found.version))
    assert [held.set(view(number)) for number in (3, 2, 4, 4, 6)] == [False, False, True, False, True]
    assert (heard, held.current()) == ([4, 6], view(6))
    assert (held.reach(6, 0.0), held.reach(7, 0.0)) == (True, False)


def test_waiting_thread_is_woken_by_the_view_that_it_waits_for() -> None:
    held, found = HeldView(), list[bool]()
    waiting = threading.Thread(target=lambda: found.append(held.reach(2, 30.0)))
    waiting.start()
    held.set(view(1))
    held.set(view(2))
    waiting.join(10)
    assert found == [True]


def test_follower_tells_each_newer_view_of_the_nodes_that_it_knows(
    agent: Agent, follower: ViewFollower
) -> None:
    heard: list[View] = []
    follower.subscribe(heard.append)
    follower.start()
    assert follower.current() == EMPTY
    agent.held.set(view(1))
    assert follower.reach(1, 5.0)
    agent.held.set(view(2, leader="vm10"))
    assert follower.reach(2, 5.0)
    wait_until(lambda: len(heard) == 2, 5.0, "both are told")
    assert [sorted(found.nodes) for found in heard] == [["vm1", "vm2"]] * 2
    assert [found.leader for found in heard] == ["vm1", ""], "a leader that is not configured here is unknown"


def test_agent_that_is_away_is_asked_until_it_is_back(agent: Agent, follower: ViewFollower) -> None:
    agent.held.set(view(1))
    follower.start()
    assert follower.reach(1, 5.0)
    agent.stop()
    agent.held.set(view(2))
    assert follower.current().version == 1, "the last view stays"
    agent.start()
    assert follower.reach(2, 5.0)


def test_malformed_view_is_refused_and_the_next_one_taken(agent: Agent, follower: ViewFollower) -> None:
    heard: list[View] = []
    follower.subscribe(heard.append)
    agent.held.set(view(1))
    agent.answer = lambda: view(9, leader="nobody")
    follower.start()
    wait_until(lambda: agent.polls >= 2, 5.0, "it asks again")
    assert (follower.current(), heard) == (EMPTY, [])
    agent.answer = lambda: view(3)
    assert follower.reach(3, 5.0)


def test_subscriber_that_was_busy_gets_the_newest_view_later(agent: Agent, follower: ViewFollower) -> None:
    heard, busy = list[int](), [True]
    others: list[int] = []

    def subscriber(found: View) -> None:
        if busy[0]:
            raise Overloaded("the inbox is full")
        heard.append(found.version)

    follower.subscribe(subscriber)
    follower.subscribe(lambda found: others.append(found.version))
    follower.start()
    agent.held.set(view(1))
    wait_until(lambda: others == [1], 5.0, "the other subscriber gets it")
    agent.held.set(view(2))
    wait_until(lambda: others == [1, 2], 5.0, "the other subscriber gets each of them once")
    busy[0] = False
    wait_until(lambda: heard == [2], 5.0, "nobody stays behind")


def test_end_does_not_wait_for_the_poll(agent: Agent) -> None:
    follower = ViewFollower("hydfs", agent.path, ["vm1"])
    follower.start()
    wait_until(lambda: agent.polls, 5.0, "a poll is in progress")
    follower.stop(5.0)
    assert not follower._thread.is_alive()


def test_follower_that_was_not_started_can_be_stopped(tmp_path: Path) -> None:
    ViewFollower("hydfs", str(tmp_path / "none"), ["vm1"]).stop()
