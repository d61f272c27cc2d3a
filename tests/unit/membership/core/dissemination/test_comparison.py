"""With whom a node compares its table, and how often: through the monitor, which hears the digests."""

from __future__ import annotations

from agent.membership.core import events
from agent.membership.core.dissemination.comparison import COMPARE_INTERVAL_S
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import State
from tests.unit.membership.core.detectors.test_swim import NAMES, Bench, member, of, sent


def test_tables_are_compared_when_digests_differ_once_gossip_is_quiet_and_now_and_then() -> None:
    bench = Bench()
    bench.run(10.0)
    other = Datagram(Kind.PING, 5, "n1", 0, bench.monitor.table.digest ^ 1)
    assert compared(bench.do(events.DatagramReceived("n2", 1, other))) == ["n2"]
    assert not compared(bench.do(events.DatagramReceived("n2", 1, other))), "not again at once"
    same = Datagram(Kind.PING, 6, "n1", 0, bench.monitor.table.digest)
    bench.run(2.0)
    assert not compared(bench.do(events.DatagramReceived("n2", 1, same)))
    chosen = compared(bench.run(40 * COMPARE_INTERVAL_S))
    assert 30 <= len(chosen) <= 50
    assert set(chosen) == set(NAMES[1:])


def test_joining_node_compares_tables_with_the_first_that_answers() -> None:
    bench = Bench(known=["n1"])
    reply = Datagram(Kind.HELLO_REPLY, 0, "", 0, 1, (Update(member("n2")),))
    bench.run(2.0)
    assert compared(bench.do(events.DatagramReceived("n2", 1, reply))) == ["n2"]


def test_a_dead_member_is_informed_and_not_compared_with() -> None:
    bench = Bench()
    bench.monitor.roster.put(bench.now, member("n3", State.DEAD), "n2")
    bench.run(10.0, silent=["n3"])
    other = Datagram(Kind.PING, 5, "n1", 0, bench.monitor.table.digest ^ 1)
    effects = bench.do(events.DatagramReceived("n3", 1, other))
    assert not compared(effects)
    assert member("n3", State.DEAD) in [update.member for update in sent(effects, "n3", Kind.ACK)[0].updates]


def compared(effects: list[events.Effect]) -> list[str]:
    return [effect.target for effect in of(events.CompareTables, effects)]
