"""A membership agent's answers, without a network: questions, orders, and the right to give orders."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common import message
from agent.common.config import MembershipConfig, NodeConfig, PeerConfig, TlsConfig
from agent.common.deadline import Deadline
from agent.common.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidMessage,
    NotFound,
    Overloaded,
    Unavailable,
    UsageError,
)
from agent.common.message import Done, Request
from agent.common.shell import clock, threads
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.node import MembershipCore
from agent.membership.member import Member, State
from agent.membership.messages.agents import Attach, Hint
from agent.membership.messages.events import GetEvents, ViewChanged
from agent.membership.messages.members import GetMembers, SettingsReport, Why
from agent.membership.messages.orders import ChangeKeys, Drop, Join, Leave, Switch
from agent.membership.messages.view import GetView, ReplaceVoter, WatchView
from agent.membership.shell.eventlog import EventLog
from agent.membership.shell.requests import Requests
from agent.membership.shell.transport import Transport
from agent.membership.view import EMPTY, NodeEntry, View
from agent.wire.client import Client, Target
from agent.wire.endpoint import Call
from agent.wire.server import LOCAL, Server
from tests.support import wait_until

NAMES = ("n1", "n2", "n3")
ENTRIES = {name: NodeEntry("up", f"{index + 1:032x}:1", 1) for index, name in enumerate(NAMES)}
VIEW = View(3, 1, "n1", ENTRIES)


def member(name: str, state: State = State.ALIVE) -> Member:
    return Member(name, f"{NAMES.index(name) + 1:032x}", 1, 0, state, f"10.0.0.{name[1:]}", 7100)


class Desk:
    """An agent of n1 that carries orders out at once, without threads or sockets."""

    def __init__(self, folder: Path) -> None:
        peers = tuple([PeerConfig(name, f"10.0.0.{name[1:]}") for name in NAMES])
        tls = TlsConfig("", "", "")
        self.config = NodeConfig("test", "n1", str(folder), tls, "", peers, ("n1",), ("n1",))
        self.client = Client(None)
        self.ring = KeyRing((b"k" * 32,))
        self.transport = Transport("n1", self.ring, {}, *[lambda *_: None] * 5)
        self.event_log = EventLog()
        self.view = VIEW
        self.changed = threads.condition()
        self.stopping = threads.event()
        contacts = {name: events.Contact(f"10.0.0.{name[1:]}", 7100) for name in NAMES}
        self.core = MembershipCore(member("n1"), contacts, ["n1"], MembershipConfig(), random.Random(1))
        self.heard: list[tuple[str, float]] = []
        self.submitted: list[events.Event] = []
        self.behind = False
        self.folder = folder
        self.submit(events.Started())
        self.submit(events.ViewLearned(VIEW))
        self.requests = Requests(self)
        self.endpoints = self.requests.endpoints()

    def target(self, name: str) -> Target:
        return str(self.folder / f"{name}.sock")

    def submit(self, event: events.Event) -> None:
        if self.behind:
            raise Overloaded("the inbox is full")
        self.submitted.append(event)
        self.core.handle(clock.monotonic(), event)

    def note_peer(self, name: str, age_s: float = 0.0) -> None:
        self.heard.append((name, age_s))

    def replace_voter(self, old: str, new: str) -> View:
        return views.replace_voter(self.view, old, new, self.config.voters)

    def change_ring(self, change: Callable[[KeyRing], KeyRing]) -> KeyRing:
        self.ring = change(self.ring)
        return self.ring

    def ask(self, request: Request[Any], peer: str = LOCAL) -> Any:
        """Returns the answer as its asker decodes it."""
        call = Call(peer, Deadline(clock.monotonic(), 10.0), b"", 0, 7)
        answer = self.endpoints[request.kind].answer(message.encode(request), call).message
        return message.decode(request.reply, message.encode(answer))


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    try:
        yield made
    finally:
        made.requests.stop(5.0)
        made.client.close()


def test_members_are_described_as_this_node_sees_them(desk: Desk) -> None:
    desk.submit(events.PeerHeard("n2", 0.5))
    desk.core.monitor.roster.put(clock.monotonic(), member("n3", State.SUSPECT), "n2")
    found = desk.ask(GetMembers())
    assert [(each.name, each.state, each.reporters) for each in found.members] == [
        ("n1", "alive", ()),
        ("n2", "alive", ()),
        ("n3", "suspect", ("n2",)),
    ]
    assert (found.view, found.voters, found.observer, found.left) == (VIEW, (("n1",),), "n1", False)
    assert found.members[0].last_heard_s == 0.0
    assert 0.5 <= found.members[1].last_heard_s < 5.0
    assert found.members[2].last_heard_s is None
    assert [each.tcp for each in found.members] == [True, None, None]
    assert [each.udp for each in found.members] == [True, False, False]


def test_member_that_is_heard_at_this_moment_was_not_heard_in_the_future(desk: Desk) -> None:
    desk.core.monitor.heard_at["n2"] = clock.monotonic() + 0.4
    assert desk.ask(GetMembers()).members[1].last_heard_s == 0.0
    assert desk.ask(Why("n2")).last_heard_s == 0.0


def test_probe_tells_who_is_reached_by_tcp(desk: Desk) -> None:
    server = Server("n2", {})
    server.listen_unix(str(desk.folder / "n2.sock"))
    try:
        found = desk.ask(GetMembers(probe=True))
        assert [each.tcp for each in found.members] == [True, True, False]
    finally:
        desk.client.close()
        server.stop()


def test_probe_of_an_agent_that_stops_knows_nothing(desk: Desk) -> None:
    desk.requests._pool.call(lambda: None).result(5.0)
    desk.requests._pool._capacity = 1
    gate = threads.event()
    for _ in range(17):
        wait_until(lambda: desk.requests._pool.waiting == 0 or not gate.is_set(), 5.0, "it starts")
        desk.requests._pool.run(gate.wait, timeout_s=5.0)
    found = desk.ask(GetMembers(probe=True))
    gate.set()
    assert [each.tcp for each in found.members] == [True, None, None], "there is no room for a probe"


def test_services_of_a_dead_member_are_down(desk: Desk) -> None:
    desk.ask(Attach("hydfs"))
    assert desk.ask(GetMembers()).members[0].services == {
        "hydfs": "up",
        "rainstorm": "down",
        "logs": "down",
    }


def test_a_view_is_answered_at_once_when_it_is_newer(desk: Desk) -> None:
    assert desk.ask(GetView()).view == VIEW
    assert desk.ask(WatchView(2, 60.0)).view == VIEW
    assert desk.ask(WatchView(3, 0.0)).view == VIEW


def test_watch_ends_with_the_agent_and_with_a_newer_view(desk: Desk) -> None:
    found: list[View] = []

    def watch(version: int) -> None:
        found.append(desk.ask(WatchView(version, 60.0)).view)

    asking = [threads.start("watch", watch, version) for version in (3, 9)]
    with desk.changed:
        desk.view = View(4, 1, "n1", ENTRIES)
        desk.changed.notify_all()
    asking[0].join(10)
    assert [view.version for view in found] == [4]
    desk.stopping.set()
    with desk.changed:
        desk.changed.notify_all()
    asking[1].join(10)
    assert [view.version for view in found] == [4, 4]


def test_events_are_reported_from_any_number(desk: Desk) -> None:
    for version in (1, 2):
        desk.event_log.add(ViewChanged(version, 1, "n1", NAMES))
    found = desk.ask(GetEvents(1))
    assert ([event.version for event in found.decoded()], found.last) == ([2], 2)


def test_history_of_a_member_tells_who_accused_it(desk: Desk) -> None:
    desk.core.monitor.roster.put(clock.monotonic(), member("n3", State.SUSPECT), "n2")
    found = desk.ask(Why("n3"))
    assert (found.observer, found.name, found.state, found.reporters) == ("n1", "n3", "suspect", ("n2",))
    assert [(entry.what, entry.by) for entry in found.history] == [
        ("join", ""),
        ("accused", "n2"),
        ("suspect", "n2"),
    ]
    assert abs(found.history[-1].wall_at - clock.wall()) < 5.0
    with pytest.raises(NotFound, match="'n9'"):
        desk.ask(Why("n9"))


def test_configured_node_that_never_joined_is_unknown(desk: Desk) -> None:
    del desk.core.monitor.table._members["n3"]
    found = desk.ask(Why("n3"))
    assert (found.state, found.last_heard_s) == ("unknown", None)


def test_hint_reaches_the_core_if_the_node_is_configured(desk: Desk) -> None:
    assert desk.ask(Hint("n2"), peer="n3") == Done()
    assert desk.submitted[-1] == events.HintReceived("n2")
    with pytest.raises(NotFound):
        desk.ask(Hint("n9"))


def test_service_attaches_over_its_connection_and_passes_on_whom_it_heard(desk: Desk) -> None:
    desk.ask(Attach("logs", (("n2", 0.25), ("n9", 0.0))))
    assert desk.submitted[-1] == events.ServiceAttached("logs", 7)
    assert desk.heard == [("n2", 0.25), ("n9", 0.0)]
    with pytest.raises(Forbidden, match="not on this machine"):
        desk.ask(Attach("logs"), peer="n2")
    with pytest.raises(UsageError, match="no service 'sauna'"):
        desk.ask(Attach("sauna"))


ORDERS: list[Request[Any]] = [
    Leave(),
    Join(),
    Switch("heartbeat"),
    Drop(5.0),
    ReplaceVoter("n1", "n2"),
    ChangeKeys("list"),
]


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: order.kind)
def test_orders_are_taken_from_operators_and_this_machine_only(desk: Desk, order: Request[Any]) -> None:
    for peer in ("n2", "", "Operator"):
        with pytest.raises(Forbidden, match="may not order"):
            desk.ask(order, peer)
    for peer in ("operator", LOCAL, "n1"):
        assert desk.ask(order, peer)


def test_node_leaves_and_joins_again(desk: Desk) -> None:
    desk.ask(Leave())
    assert desk.core.monitor.leaving
    assert desk.ask(GetMembers()).left
    desk.ask(Join())
    assert not desk.core.monitor.leaving


def test_settings_that_are_not_named_stay(desk: Desk) -> None:
    assert desk.ask(Switch("heartbeat")).settings == SettingsReport(1, "heartbeat", True)
    assert desk.ask(Switch(None, False)).settings == SettingsReport(2, "heartbeat", False)
    with pytest.raises(UsageError, match="crystal-ball"):
        desk.ask(Switch("crystal-ball"))


def test_share_to_throw_away_is_from_0_to_100(desk: Desk) -> None:
    assert desk.ask(Drop()).percent == 0.0
    assert desk.ask(Drop(100.0, -3)).percent == 100.0
    for percent in (-0.1, 100.1):
        with pytest.raises(UsageError, match="0 to 100"):
            desk.ask(Drop(percent))
    with pytest.raises(InvalidMessage):
        desk.ask(Drop(float("nan")))
    assert desk.transport.drop_percent == 100.0


def test_voter_is_replaced_by_another_node_that_is_named(desk: Desk) -> None:
    assert desk.ask(ReplaceVoter("n1", "n2")).view.voters == ("n2",)
    for old, new in (("n1", ""), ("", "n2")):
        with pytest.raises(UsageError, match="name both"):
            desk.ask(ReplaceVoter(old, new))


def test_keys_are_changed_one_step_at_a_time(desk: Desk) -> None:
    (old,) = desk.ask(ChangeKeys("list")).fingerprints
    first, new = desk.ask(ChangeKeys("install", key="ab" * 32)).fingerprints
    assert first == old
    assert desk.ask(ChangeKeys("use", fingerprint=new)).fingerprints == (new, old)
    with pytest.raises(Conflict):
        desk.ask(ChangeKeys("remove", fingerprint=new))
    assert desk.ask(ChangeKeys("remove", fingerprint=old)).fingerprints == (new,)
    with pytest.raises(UsageError):
        desk.ask(ChangeKeys("install", key="short"))


def test_order_that_finds_no_room_is_refused(desk: Desk) -> None:
    desk.behind = True
    for request in (Leave(), Hint("n2"), Attach("hydfs")):
        with pytest.raises(Overloaded):
            desk.ask(request)


def test_order_without_effect_times_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.membership.shell.requests.ORDER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(desk, "submit", lambda event: None)
    with pytest.raises(DeadlineExceeded, match="leaving"):
        desk.ask(Leave())


def test_order_does_not_hold_up_the_end_of_the_agent(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "submit", lambda event: None)
    desk.stopping.set()
    with pytest.raises(Unavailable, match="being stopped"):
        desk.ask(Leave())


def test_first_view_has_no_version(desk: Desk) -> None:
    desk.view = EMPTY
    assert desk.ask(GetView()).view == EMPTY
