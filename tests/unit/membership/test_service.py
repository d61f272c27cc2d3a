"""Whole membership agents on loopback: they form a group, refuse harmful requests, and end properly."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import (
    Conflict,
    DiskFull,
    DuplicateIdentity,
    Forbidden,
    InvalidMessage,
    Overloaded,
    PortInUse,
    RainStormError,
)
from agent.common.register import Accept, Answer
from agent.membership import datagrams
from agent.membership.attachment import Attachment
from agent.membership.client import MemberChanged, MembershipClient, ViewChanged
from agent.membership.core import events
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.dissemination.seal import Sealer
from agent.membership.datagrams import Datagram, Kind
from agent.membership.follower import ViewFollower
from agent.membership.messages.agents import CompareTables, SwapRecords
from agent.membership.service import Service
from agent.membership.settings import DetectorKind, Settings
from agent.membership.view import View
from agent.wire import auth
from agent.wire.client import Client
from tests.support import wait_until
from tests.unit.membership.group import Group

NAMES = ["n1", "n2", "n3"]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path, NAMES)
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Group]:
    made = Group(tmp_path, ["n1"])
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_group_forms_and_tells_of_itself(group: Group) -> None:
    client = group.ask("n1")
    everybody = [(name, "alive", True) for name in NAMES]
    wait_until(
        lambda: (
            [(each.name, each.state, each.tcp) for each in client.members(probe=True).members] == everybody
        ),
        10.0,
        "all are found to be alive",
    )
    found = client.members()
    assert found.majority
    assert found.datagrams.sent > 0
    assert found.view == client.view() == client.watch(found.view.version - 1, 30.0)
    # The last view is known a moment before its event.
    wait_until(lambda: "n3" in _views_told(client)[-1].up, 5.0, "the view of all is told")
    told = client.events(0, 0.0)
    assert {event.name for event in told.events if isinstance(event, MemberChanged)} >= {"n2", "n3"}
    assert client.why("n2").history[0].what == "join"
    client.hint("n2")
    assert group.services["n1"].status() == f"3 live, view {found.view.version}, majority yes"


def _views_told(client: MembershipClient) -> list[ViewChanged]:
    return [event for event in client.events(0, 0.0).events if isinstance(event, ViewChanged)]


def test_orders_change_the_group_as_it_runs(group: Group) -> None:
    follower = ViewFollower("test", group.config("n1").socket_path("membership"), NAMES)
    follower.start()
    try:
        found = group.ask("n2").switch("heartbeat", None)
        wait_until(
            lambda: all(group.ask(name).members().settings == found for name in NAMES), 10.0, "all switch"
        )
        group.ask("n3").leave()
        wait_until(lambda: follower.current().up_names() == ["n1", "n2"], 10.0, "n3 is out of the view")
        group.ask("n3").join()
        wait_until(lambda: follower.current().up_names() == NAMES, 10.0, "n3 is back")
    finally:
        follower.stop()
    assert group.ask("n1").replace_voter("n1", "n2").voters == ("n2",)
    wait_until(lambda: group.services["n3"].view.voters == ("n2",), 10.0, "all know the voters")
    assert (group.folder / "n3" / "membership" / "voters.json").exists()
    with pytest.raises(Conflict):
        group.ask("n1").replace_voter("n2", "n2")
    (old,) = group.ask("n1").keys("list")
    new = group.ask("n1").keys("install", key="ab" * 32)[1]
    assert group.ask("n1").keys("use", fingerprint=new) == [new, old]
    assert group.ask("n1").drop(1.0, seed=3) == 1.0


def test_attached_service_is_known_to_others_until_it_ends(group: Group) -> None:
    def services() -> dict[str, str]:
        found = group.ask("n1").members().members
        return dict(next(each.services for each in found if each.name == "n2"))

    attachment = Attachment(group.config("n2").socket_path("membership"), "hydfs", lambda: {"n3": 0.0})
    attachment.start()
    try:
        wait_until(lambda: services()["hydfs"] == "up", 5.0, "n1 hears of the service")
    finally:
        attachment.stop()
    wait_until(lambda: services()["hydfs"] == "down", 5.0, "n1 hears of its end")


def test_node_whose_name_was_used_in_a_later_boot_comes_back(group: Group) -> None:
    """A clone under this name was refused, and the identity file removed, as the hint says."""
    group.stop("n3")
    clone = Sealer(group.services["n1"].ring.primary, "n3", 9, b"c" * 16)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((group.addresses["n3"], 0))
        for name in ("n1", "n2"):
            packet = clone.seal(datagrams.encode(Datagram(Kind.GOSSIP)))
            sock.sendto(packet, (group.addresses[name], group.port))
    (group.folder / "n3" / "membership" / "identity.json").unlink()
    group.start("n3")
    wait_until(lambda: group.services["n1"].view.nodes["n3"].boot >= 10, 15.0, "n3 is back in a later boot")
    wait_until(group.is_formed, 10.0, "all agree")


def test_nodes_may_ask_and_compare_tables_but_not_order(group: Group) -> None:
    other = Client(auth.client_context(group.tls("n2")))
    local = Client(None)
    try:
        client = group.ask("n1", by=other)
        assert client.members().observer == "n1"
        with pytest.raises(Forbidden, match="'n2' may not order"):
            client.leave()
        mine = MembershipClient(local, group.config("n1").socket_path("membership"))
        assert mine.drop() == 0.0
        digest = group.services["n1"].core.monitor.table.digest
        assert other.ask(group.address("n1"), CompareTables(digest)).message.digests is None
        found = other.ask(group.address("n1"), CompareTables(digest ^ 1)).message.digests
        assert found is not None
        swapped = other.ask(group.address("n1"), SwapRecords((0, 63)), b"\x90")
        assert swapped.payload
        with pytest.raises(RainStormError):
            other.ask(group.address("n1"), SwapRecords((0,)), b"not records")
    finally:
        other.close()
        local.close()


WRONG: list[str | dict[str, Any]] = [
    "a view",
    {"version": 0},
    {"leader": "n9"},
    {"term": -1},
    {"nodes": {"n1": {"state": "up", "node_id": "x"}}},
]


def accept(alone: Group, request: Accept) -> Answer:
    found: Answer = alone.client.ask(alone.address("n1"), request, kind="view.accept").message
    return found


def test_voter_refuses_what_is_not_a_view(alone: Group) -> None:
    before = alone.services["n1"].view
    log = alone.folder / "n1" / "membership" / "registers.log"
    size = log.stat().st_size
    for changes in WRONG:
        value = changes if isinstance(changes, str) else {**before.as_fields(), "version": 9} | changes
        with pytest.raises(InvalidMessage):
            accept(alone, Accept("view", (1 << 40, "n2"), value))
    with pytest.raises(InvalidMessage, match="no register"):
        accept(alone, Accept("file/x", (1 << 40, "n2"), before.as_fields()))
    assert log.stat().st_size == size, "nothing was written"
    assert alone.ask("n1").view() == before
    good = Accept("view", (1 << 40, "n2"), {**before.as_fields(), "zones": {}})
    assert accept(alone, good).voted, "a later release's"


def test_address_in_use_is_refused_by_name(alone: Group) -> None:
    second = Service(alone.config("n1"), alone.crashes.append)
    try:
        with pytest.raises(PortInUse, match="in use"):
            second.start()
        assert (second.status(), second.loops()) == ("starting", [])
    finally:
        second.stop()


def test_outcome_of_a_register_operation_is_not_lost_when_the_core_is_behind(
    alone: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = alone.services["n1"]
    assert service._runner is not None
    post, refused, taken = service._runner.post, list[object](), list[object]()

    def full(event: object) -> None:
        if isinstance(event, events.ViewLearned) and len(refused) < 3:
            refused.append(event)
            raise Overloaded("the inbox is full")
        if isinstance(event, events.ViewLearned):
            taken.append(event)
        post(event)

    monkeypatch.setattr(service._runner, "post", full)
    service._work(events.ReadView())
    assert (len(refused), len(taken)) == (3, 1)
    monkeypatch.setattr(service, "post", lambda event: False)
    service.stopping.set()
    service._work(events.ReadView())  # it ends although nobody takes the outcome


def test_event_that_finds_no_room_is_dropped_and_reported(
    alone: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = alone.services["n1"]

    def full(event: object) -> None:
        raise Overloaded("the inbox is full")

    assert service._runner is not None
    monkeypatch.setattr(service._runner, "post", full)
    assert not service.post(events.HintReceived("n1"))
    with pytest.raises(Overloaded):
        alone.ask("n1").leave()


def test_worker_that_dies_ends_the_agent(alone: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    service = alone.services["n1"]

    def broken(job: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service, "_use_register", broken)
    service._execute(events.ReadView())
    wait_until(lambda: alone.crashes, 5.0, "the crash is reported")
    assert isinstance(alone.crashes[0], ZeroDivisionError)
    service._execute(events.ReadView())  # refused: there is no worker any more


def test_effects_that_tell_others(alone: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    service = alone.services["n1"]
    before = service.event_log.since(0, 0.0).last
    service._execute(events.AnnounceConflict("n9", "10.0.0.9", "n1"))
    service._execute(events.AnnounceSettings(Settings(4, DetectorKind.HEARTBEAT, False)))
    told = service.event_log.since(before, 0.0).decoded()
    # The event of the first view may come this late.
    assert [event.kind for event in told if event.kind != "view"] == ["conflict", "settings"]
    service._execute(events.StopAgent(DuplicateIdentity("another node was first")))
    assert isinstance(alone.crashes[0], DuplicateIdentity)

    def full(names: object) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(service._voters, "save", full)
    view = View(service.view.version + 1, 1, "n1", service.view.nodes, ("n1",))
    service._execute(events.AnnounceView(view))
    assert service.view == view, "the file is only a hint for the next start"


def test_later_boot_is_adopted_durably(alone: Group) -> None:
    service = alone.services["n1"]
    service._execute(events.AdoptBoot(40))
    alone.stop("n1")
    alone.start("n1")
    wait_until(lambda: alone.services["n1"].view.nodes["n1"].boot == 41, 5.0, "it comes back as a later life")


def test_ring_of_keys_is_stored_before_it_is_used(alone: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    service = alone.services["n1"]
    before = service.ring
    assert service.change_ring(lambda ring: ring) == before

    def full(ring: KeyRing) -> None:
        raise DiskFull("no room")

    monkeypatch.setattr(service._keys, "save", full)
    with pytest.raises(DiskFull):
        service.change_ring(lambda ring: ring.install(b"n" * 32))
    assert service.ring == before


def test_signs_of_what_happens_to_datagrams_reach_the_core(
    alone: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    service, posted = alone.services["n1"], list[object]()
    monkeypatch.setattr(service, "post", posted.append)
    service._on_refused(alone.addresses["n1"], alone.port)
    service._on_refused("10.9.9.9", 1)
    service._on_impostor("n1", "10.9.9.9", 1)
    service._on_disconnect("n2", 4)
    service._on_disconnect("local", 5)
    service.note_peer("stranger")
    service._heard_at.clear()
    service.note_peer("n1")
    service.note_peer("n1")
    assert posted == [
        events.ContactRefused("n1"),
        events.ImpostorDetected("n1", events.Contact("10.9.9.9", 1)),
        events.ServiceDetached(5),
        events.PeerHeard("n1", 0.0),
    ]
