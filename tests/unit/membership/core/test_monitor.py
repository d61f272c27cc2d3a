"""The monitor around the detectors: start and end of a node, late timers, the view."""

from __future__ import annotations

from agent.common.core import Tick
from agent.membership.core import events
from agent.membership.core.beliefs.health import STALL_S
from agent.membership.core.monitor import REFUSAL_INTERVAL_S
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import State
from agent.membership.settings import DetectorKind
from tests.unit.membership.core.detectors.test_swim import NAMES, Bench, member, of, sent


def test_datagram_of_an_earlier_boot_is_ignored() -> None:
    bench = Bench()
    bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n3", boot=2))])
    datagram = Datagram(Kind.PING, 5, "n1")
    assert bench.do(events.DatagramReceived("n3", 1, datagram)) == []


def test_leaving_is_announced_to_all_and_final() -> None:
    bench = Bench()
    effects = bench.do(events.LeaveRequested())
    for name in NAMES[1:]:
        assert Update(member("n1", State.LEFT)) in sent(effects, name, Kind.GOSSIP)[0].updates
    assert bench.monitor.next_deadline() is None
    bench.hear("n2", Kind.PING, 7, "n1", [Update(member("n1", State.DEAD), "n2")])
    assert bench.state("n1") is State.LEFT


def test_what_comes_from_this_node_itself_is_ignored() -> None:
    """An echo on the network is not a sign of life."""
    bench = Bench()
    assert bench.hear("n1", Kind.PING, 5, "n1") == []


def test_a_newer_view_is_sent_to_a_few_at_once_and_an_older_one_to_nobody() -> None:
    bench = Bench()
    told = of(events.SendDatagram, bench.monitor.spread_view(bench.now, 7))
    assert {effect.datagram.view_version for effect in told} == {7}
    assert len(told) >= 1
    assert bench.monitor.spread_view(bench.now, 6) == []
    assert bench.monitor.newest_view_heard == 7


def test_members_that_only_the_view_names_are_added_and_known_ones_stay() -> None:
    bench = Bench(known=["n1", "n2"])
    bench.monitor.seed(bench.now, [member("n2", incarnation=9), member("n3")])
    found = {name: bench.monitor.table.get(name) for name in ("n2", "n3")}
    assert found == {"n2": member("n2"), "n3": member("n3")}


def test_a_change_of_services_is_a_new_incarnation_that_is_announced_at_once() -> None:
    bench = Bench()
    effects = bench.monitor.set_services(0b11)
    assert bench.monitor.me.services == 0b11
    assert bench.monitor.me.incarnation == 1
    assert of(events.SendDatagram, effects)
    assert bench.monitor.set_services(0b11) == []


def test_a_process_that_did_not_run_calls_nobody_dead() -> None:
    """After a stall every verdict is postponed: the silent node was perhaps this one."""
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.SUSPECT), "n2")
    deadline = bench.monitor.roster.suspicions["n3"].deadline
    bench.now = deadline + 10 * STALL_S
    bench.do(Tick())
    assert bench.state("n3") is State.SUSPECT
    assert bench.monitor.roster.suspicions["n3"].deadline > bench.now
    assert bench.monitor.health.score > 0


def test_the_cluster_switches_its_detector_with_one_datagram() -> None:
    bench = Bench()
    chosen = bench.monitor.settings.changed(DetectorKind.HEARTBEAT, True)
    datagram = Datagram(Kind.GOSSIP, settings=chosen)
    assert events.AnnounceSettings(chosen) in bench.do(events.DatagramReceived("n2", 1, datagram))
    assert bench.monitor.settings == chosen
    older = Datagram(Kind.GOSSIP, settings=chosen.changed(DetectorKind.SWIM, True))
    bench.do(events.DatagramReceived("n2", 1, Datagram(Kind.GOSSIP, settings=chosen)))
    bench.do(events.DatagramReceived("n3", 1, older))
    assert bench.monitor.settings.detector is DetectorKind.SWIM, "the later version wins"


def test_an_earlier_boot_of_a_name_is_informed_now_and_then() -> None:
    """Otherwise it would never learn why the others ignore it."""
    bench = Bench()
    bench.now += REFUSAL_INTERVAL_S
    first = bench.do(events.EarlierBootDetected("n3", 4))
    assert [each.sequence for each in sent(first, "n3", Kind.STALE_BOOT)] == [4]
    assert sent(bench.do(events.EarlierBootDetected("n3", 4)), "n3", Kind.STALE_BOOT) == []


def test_a_node_that_joins_again_has_a_higher_incarnation() -> None:
    bench = Bench()
    bench.do(events.LeaveRequested())
    assert bench.do(events.LeaveRequested()) == []
    bench.do(events.JoinRequested())
    assert (bench.monitor.me.state, bench.monitor.me.incarnation) == (State.ALIVE, 1)
    assert bench.monitor.next_deadline() is not None
    assert bench.do(events.JoinRequested()) == []


def test_a_node_that_joins_again_calls_nobody_dead_whom_it_suspected_before() -> None:
    """It has heard no refutation since it left: every suspect has its whole time again."""
    bench = Bench()
    for accuser in ("n2", "n4"):
        bench.hear(accuser, Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), accuser)])
    waited = bench.monitor.roster.suspicions["n3"].deadline - bench.now
    bench.do(events.LeaveRequested())
    bench.now += 10.0
    bench.do(events.JoinRequested())
    assert bench.state("n3") is State.SUSPECT
    assert bench.monitor.roster.suspicions["n3"].deadline - bench.now >= waited
