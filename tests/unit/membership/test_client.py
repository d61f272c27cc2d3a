"""The client of a membership agent: each call is one request, and an impossible view is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import Done
from agent.membership.client import Events, MemberChanged, MembershipClient
from agent.membership.messages.agents import Hint
from agent.membership.messages.events import EventsReply, GetEvents, UnknownEvent
from agent.membership.messages.members import GetMembers, MembersReply, SettingsReport, Why, WhyReply
from agent.membership.messages.orders import (
    ChangeKeys,
    Drop,
    DropReply,
    Join,
    KeysReply,
    Leave,
    Switch,
    SwitchReply,
)
from agent.membership.messages.view import GetView, ReplaceVoter, ViewReply, WatchView
from agent.membership.view import NodeEntry, View
from agent.wire.client import Client
from agent.wire.endpoint import Call, Endpoint, by_kind
from agent.wire.server import Server

VIEW = View(3, 1, "n1", {"n1": NodeEntry("up", f"{1:032x}:1", 1)})
SETTINGS = SettingsReport(2, "swim", True)
CHANGED = MemberChanged("dead", "n2", f"{2:032x}:1", "dead", sequence=8)
ANSWERS: dict[type[Any], Any] = {
    GetMembers: MembersReply((), VIEW, True, (("n1",),), SETTINGS),
    GetView: ViewReply(VIEW),
    WatchView: ViewReply(VIEW),
    ReplaceVoter: ViewReply(VIEW),
    Why: WhyReply("n1", "n2", "dead"),
    GetEvents: EventsReply((message.encode(CHANGED), {"kind": "of a newer release"}), 9, True),
    Hint: Done(),
    Leave: Done(),
    Join: Done(),
    Switch: SwitchReply(SETTINGS),
    Drop: DropReply(5.0, 7),
    ChangeKeys: KeysReply(("aa", "bb")),
}


class Agent:
    """Stands in for a membership agent: it notes requests and gives the answers that are set."""

    def __init__(self, folder: Path) -> None:
        self.answers = dict(ANSWERS)
        self.asked: list[tuple[Any, float]] = []
        self.server = Server("membership", by_kind(*(Endpoint(kind, self._answer) for kind in ANSWERS)))
        path = str(folder / "run" / "membership.sock")
        self.server.listen_unix(path)
        self.wire = Client(None)
        self.client = MembershipClient(self.wire, path, timeout_s=5.0)

    def _answer(self, request: Any, call: Call) -> Any:
        self.asked.append((request, call.deadline.at))
        return self.answers[type(request)]

    def close(self) -> None:
        self.wire.close()
        self.server.stop()


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    made = Agent(tmp_path)
    yield made
    made.close()


def test_each_call_is_one_request(agent: Agent) -> None:
    client = agent.client
    assert client.members(probe=True) == ANSWERS[GetMembers]
    assert client.view() == client.watch(2, 0.5) == client.replace_voter("n1", "n2") == VIEW
    assert client.why("n2") == ANSWERS[Why]
    client.hint("n2")
    client.leave()
    client.join()
    assert client.switch("swim", None) == SETTINGS
    assert client.drop(5.0, 1) == 5.0
    assert client.keys("use", fingerprint="aa") == ["aa", "bb"]
    assert [request for request, _ in agent.asked] == [
        GetMembers(True),
        GetView(),
        WatchView(2, 0.5),
        ReplaceVoter("n1", "n2"),
        Why("n2"),
        Hint("n2"),
        Leave(),
        Join(),
        Switch("swim", None),
        Drop(5.0, 1),
        ChangeKeys("use", "", "aa"),
    ]


def test_events_come_decoded_and_those_of_a_newer_release_with_their_kind(agent: Agent) -> None:
    found = agent.client.events(7, 0.1)
    assert found == Events((CHANGED, UnknownEvent("of a newer release")), 9, True)


def test_a_request_outlives_the_wait_that_it_asks_for(agent: Agent) -> None:
    agent.client.view()
    agent.client.watch(1, 60.0)
    (_, usual), (_, long) = agent.asked
    assert long - usual > 50.0


def test_a_view_that_contradicts_itself_is_refused(agent: Agent) -> None:
    """All agents act on it, so none of them may see it."""
    strange = replace(VIEW, leader="n9")
    for kind in (GetView, WatchView, ReplaceVoter):
        agent.answers[kind] = ViewReply(strange)
    agent.answers[GetMembers] = replace(ANSWERS[GetMembers], view=strange)
    for ask in (
        agent.client.view,
        agent.client.members,
        lambda: agent.client.watch(1, 0.1),
        lambda: agent.client.replace_voter("", ""),
    ):
        with pytest.raises(InvalidMessage, match="leader 'n9' is not up"):
            ask()
