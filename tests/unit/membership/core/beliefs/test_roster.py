"""Reporters, clones, services: the monitor's beliefs besides alive and dead."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.membership.core import events
from agent.membership.core.events import Contact
from agent.membership.core.monitor import Monitor
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import Member, State
from agent.membership.settings import DetectorKind
from tests.unit.membership.core.detectors.test_swim import Bench, member, of, sent


def test_each_accuser_is_a_reporter_once_and_a_refutation_clears_them() -> None:
    bench = Bench()
    for accuser in ("n2", "n4", "n2", "n5"):
        bench.hear(accuser, Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), accuser)])
    assert bench.monitor.roster.reporters("n3") == ("n2", "n4", "n5")
    bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n3", incarnation=1))])
    assert bench.monitor.roster.reporters("n3") == ()


def test_death_heard_from_others_is_checked_before_it_is_reported() -> None:
    bench = Bench()
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), "n2")])
    # The probe that follows gets no answer, but the death is reported before it ends.
    bench.now += 0.2
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    effects = bench.do(Tick())
    assert sent(effects, "n3", Kind.HELLO)
    assert bench.monitor.roster.reporters("n3") == ("n2",)
    bench.run(0.6, silent=["n3"])
    assert bench.monitor.roster.reporters("n3") == ("n2", "n1")


def test_a_report_after_the_death_is_passed_on() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    bench.run(1.0, silent=["n3"])
    bench.hear("n4", Kind.GOSSIP, updates=[Update(member("n3", State.DEAD), "n4")])
    told = {
        update.accuser
        for effect in of(events.SendDatagram, bench.run(1.0, silent=["n3"]))
        for update in effect.datagram.updates
        if update.member.name == "n3"
    }
    assert "n4" in told


def test_without_suspicion_an_accusation_is_a_death_and_a_death_is_believed() -> None:
    bench = Bench()
    bench.do(events.SwitchRequested(DetectorKind.SWIM, False))
    bench.do(events.ContactRefused("n3"))
    assert bench.state("n3") is State.DEAD
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n4", State.DEAD), "n2")])
    assert bench.state("n4") is State.DEAD


def test_the_greater_settings_win_and_travel_with_every_datagram() -> None:
    bench = Bench()
    effects = bench.do(events.SwitchRequested(DetectorKind.HEARTBEAT, True))
    told = of(events.SendDatagram, effects)
    assert len(told) >= 3
    settings = told[0].datagram.settings
    assert settings is not None
    assert (settings.version, settings.detector) == (1, DetectorKind.HEARTBEAT)
    older = replace(settings, version=0, suspicion=False)
    bench.do(events.DatagramReceived("n2", 1, Datagram(Kind.GOSSIP, settings=older)))
    assert bench.monitor.settings == settings
    newer = replace(settings, version=2, detector=DetectorKind.SWIM)
    effects = bench.do(events.DatagramReceived("n2", 1, Datagram(Kind.GOSSIP, settings=newer)))
    assert of(events.AnnounceSettings, effects) == [events.AnnounceSettings(newer)]
    assert all(e.datagram.settings == newer for e in of(events.SendDatagram, effects))


def test_change_of_services_is_gossiped_at_once() -> None:
    bench = Bench()
    effects = bench.monitor.set_services(3)
    assert len(of(events.SendDatagram, effects)) >= 3
    assert bench.monitor.me.living_services() == ["hydfs", "rainstorm"]
    changed = replace(member("n3", incarnation=1), services=2)
    effects = bench.hear("n3", Kind.GOSSIP, updates=[Update(changed)])
    assert len(of(events.SendDatagram, effects)) >= 3
    assert [a.member.services for a in of(events.AnnounceMember, effects)] == [2]


def test_node_that_is_known_in_a_later_boot_adopts_one_above_it() -> None:
    bench = Bench()
    told = of(events.SendDatagram, bench.do(events.EarlierBootDetected("n3", 6)))
    assert [(each.target, each.datagram.kind, each.datagram.sequence) for each in told] == [
        ("n3", Kind.STALE_BOOT, 6)
    ]
    assert bench.do(events.EarlierBootDetected("n3", 6)) == [], "not for every datagram"
    assert of(events.AdoptBoot, bench.hear("n2", Kind.STALE_BOOT, sequence=1)) == [], "it is in this boot"
    assert of(events.AdoptBoot, bench.hear("n2", Kind.STALE_BOOT, sequence=6)) == [events.AdoptBoot(7)]
    assert (bench.monitor.me.boot, bench.monitor.me.incarnation) == (7, 1)


def test_table_is_bounded_whatever_others_invent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.membership.core.beliefs.roster.MEMBERS_MAX", 6)
    bench = Bench()
    invented = [replace(member("n2"), name=f"x{index}", uuid=f"{index + 99:032x}") for index in range(9)]
    bench.hear("n2", Kind.GOSSIP, updates=[Update(each) for each in invented])
    assert len(bench.monitor.table) == 6
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", incarnation=4))])
    known = bench.monitor.table.get("n3")
    assert known is not None
    assert known.incarnation == 4, "known records are still updated"


def test_leaving_and_joining_again_is_the_same_life_with_a_higher_incarnation() -> None:
    bench = Bench()
    bench.do(events.LeaveRequested())
    assert bench.state("n1") is State.LEFT
    bench.hear("n2", Kind.PING, 7, "n1", [Update(member("n1", State.LEFT), "n2")])
    effects = bench.do(events.JoinRequested())
    assert bench.monitor.me == member("n1", incarnation=1)
    assert {e.target for e in of(events.SendDatagram, effects)} == {"n2", "n3", "n4", "n5"}
    assert bench.monitor.next_deadline() is not None
    assert bench.do(events.JoinRequested()) == [], "it is already a member"


def clone(name: str = "n6") -> Member:
    return replace(member("n3"), name=name, address="10.0.0.6")


def test_the_second_node_with_one_disk_is_refused_and_told() -> None:
    bench = Bench()
    effects = bench.hear("n6", Kind.HELLO, updates=[Update(clone())])
    assert bench.monitor.table.get("n6") is None
    assert of(events.AnnounceConflict, effects) == [events.AnnounceConflict("n6", "10.0.0.6", "n3")]
    refusals = [e for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.REFUSAL]
    assert [e.contact for e in refusals] == [Contact("10.0.0.6", 7100)]
    assert bench.state("n3") is State.ALIVE


def test_node_in_the_agreed_view_counts_as_the_first() -> None:
    bench = Bench()
    bench.monitor.roster.agreed = {"n6": clone().uuid}
    bench.hear("n6", Kind.HELLO, updates=[Update(clone())])
    assert bench.monitor.table.get("n6") is not None


def test_refused_node_stops_unless_it_is_in_the_view() -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.REFUSAL)
    (gone,) = of(events.StopAgent, effects)
    assert gone.error.code == "DUPLICATE_ID"
    bench.monitor.roster.agreed, bench.monitor.agreed_boot = {"n1": member("n1").uuid}, 1
    assert of(events.StopAgent, bench.hear("n2", Kind.REFUSAL)) == []


def test_an_impostor_of_a_name_is_refused_at_its_own_address() -> None:
    bench = Bench()
    effects = bench.do(events.ImpostorDetected("n3", Contact("10.9.9.9", 7100)))
    assert [e.contact for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.REFUSAL] == [
        Contact("10.9.9.9", 7100)
    ]
    again = bench.do(events.ImpostorDetected("n3", Contact("10.9.9.9", 7100)))
    assert of(events.SendDatagram, again) == [], "not for every datagram"


def test_a_disk_that_is_new_takes_a_later_boot_than_the_cluster_remembers() -> None:
    monitor = Monitor(member("n1"), {}, MembershipConfig(), random.Random(1))
    monitor.handle(1000.0, events.Started())
    stranger = replace(member("n1", boot=7), uuid="ab" * 16)
    datagram = Datagram(Kind.GOSSIP, updates=(Update(stranger),))
    effects = monitor.handle(1000.0, events.DatagramReceived("n2", 1, datagram))
    assert of(events.AdoptBoot, effects) == [events.AdoptBoot(8)]


def test_death_heard_right_after_the_suspicion_is_not_believed_yet() -> None:
    bench = Bench()
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n4", State.SUSPECT), "n2")])
    bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n4", State.DEAD), "n3")])
    assert bench.state("n4") is State.SUSPECT, "this node has not probed it itself yet"
