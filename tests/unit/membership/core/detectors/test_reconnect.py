"""Members that are dead and contacts that never answered are contacted until they answer."""

from __future__ import annotations

import math

from agent.common.core import Tick
from agent.membership.core import events
from agent.membership.core.detectors.reconnect import INTERVAL_S
from agent.membership.datagrams import Kind, Update
from agent.membership.member import State
from tests.unit.membership.core.detectors.test_swim import Bench, member, of


def contacted(effects: list[events.Effect]) -> list[str]:
    return [e.target for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.HELLO]


def test_unknown_contacts_are_contacted_one_by_one() -> None:
    bench = Bench(known=["n1", "n2"])
    found = contacted(bench.run(6 * INTERVAL_S))
    assert sorted(set(found)) == ["n3", "n4", "n5"]
    assert 5 <= len(found) <= 7, "one each second"


def test_without_a_lost_member_there_is_no_timer() -> None:
    bench = Bench()
    bench.run(2 * INTERVAL_S)
    assert bench.monitor._reconnector.next_deadline() == math.inf
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    bench.do(Tick())
    assert bench.monitor._reconnector.next_deadline() < math.inf


def test_a_dead_member_that_answers_is_not_accused() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    assert contacted(bench.do(Tick())) == ["n3"]
    bench.hear("n3", Kind.HELLO_REPLY, updates=[Update(member("n3", incarnation=1))])
    bench.run(2 * INTERVAL_S)
    assert bench.state("n3") is State.ALIVE
    assert bench.monitor.roster.reporters("n3") == ()


def test_a_node_that_has_left_contacts_nobody() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    bench.do(events.LeaveRequested())
    assert bench.monitor.next_deadline() is None
    assert contacted(bench.do(events.JoinRequested())) != []
