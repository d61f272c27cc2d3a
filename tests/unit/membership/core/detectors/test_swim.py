"""The failure detector by hand: one core, its datagrams read and answered by the test."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import pytest

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.membership.core import events
from agent.membership.core.monitor import SUSPECT_PROBED_BY, Monitor
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import Member, State

CONFIG = MembershipConfig()
NAMES = ["n1", "n2", "n3", "n4", "n5"]
START = 1000.0
E = TypeVar("E")


def member(name: str, state: State = State.ALIVE, incarnation: int = 0, boot: int = 1) -> Member:
    return Member(name, f"{NAMES.index(name) + 1:032x}", boot, incarnation, state, f"10.0.0.{name[1:]}", 7100)


class Bench:
    """One detector, n1, and a clock."""

    def __init__(self, *, known: Sequence[str] = NAMES) -> None:
        self.now = START
        contacts = {name: events.Contact(f"10.0.0.{name[1:]}", 7100) for name in NAMES}
        self.monitor = Monitor(member("n1"), contacts, CONFIG, random.Random(1))
        self.do(events.Started())
        self.hear("n2", Kind.HELLO_REPLY, updates=[Update(member(name)) for name in known if name != "n1"])
        self.run(4 * CONFIG.gossip_interval_s)

    def do(self, event: events.Started | events.HintReceived | Tick | object) -> list[events.Effect]:
        effects = self.monitor.handle(self.now, event)  # type: ignore[arg-type]
        self.monitor.check_invariants()
        return effects

    def hear(
        self, sender: str, kind: Kind, sequence: int = 0, target: str = "", updates: Sequence[Update] = ()
    ) -> list[events.Effect]:
        boot = max([1, *(u.member.boot for u in updates if u.member.name == sender)])
        datagram = Datagram(kind, sequence, target, 0, self.monitor.table.digest, tuple(updates))
        return self.do(events.DatagramReceived(sender, boot, datagram))

    def run(self, duration_s: float, *, silent: Sequence[str] = ()) -> list[events.Effect]:
        """Runs the timers; all nodes but the silent ones answer pings and, as helpers, send nacks."""
        end = self.now + duration_s
        found: list[events.Effect] = []
        while (due := self.monitor.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            effects = self.do(Tick())
            found += effects
            for sent in of(events.SendDatagram, effects):
                kind, sequence = sent.datagram.kind, sent.datagram.sequence
                if sent.target in silent:
                    continue
                if kind is Kind.PING:
                    found += self.hear(sent.target, Kind.ACK, sequence)
                elif kind is Kind.INDIRECT_PING:
                    found += self.hear(sent.target, Kind.NACK, sequence)
        self.now = end
        return found

    def state(self, name: str) -> State:
        found = self.monitor.table.get(name)
        assert found is not None
        return found.state


def of(kind: type[E], effects: Sequence[object]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Sequence[object], target: str, kind: Kind) -> list[Datagram]:
    found = of(events.SendDatagram, effects)
    return [effect.datagram for effect in found if (effect.target, effect.datagram.kind) == (target, kind)]


def test_every_member_is_probed_once_in_a_pass() -> None:
    bench = Bench()
    effects = bench.run(20 * CONFIG.probe_interval_s)
    pings = [e.target for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.PING]
    assert len(pings) == 20
    counts = [pings.count(name) for name in NAMES[1:]]
    assert min(counts) >= 4, counts
    assert bench.monitor.health.score == 0


def test_silence_leads_to_helpers_suspicion_and_death() -> None:
    bench = Bench()
    bench.do(events.HintReceived("n3"))
    effects = bench.run(CONFIG.ack_timeout_s + 0.001, silent=["n3"])
    helpers = [e.target for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.INDIRECT_PING]
    assert sorted(helpers) == ["n2", "n4", "n5"]
    bench.run(CONFIG.probe_timeout_s, silent=["n3"])
    assert bench.state("n3") is State.SUSPECT
    assert bench.monitor.health.score == 0, "the helpers said that they got no answer either"
    shortest = CONFIG.suspicion_min_probes * CONFIG.probe_interval_s
    bench.run(3 * shortest, silent=["n3"])
    assert bench.state("n3") is State.SUSPECT, "alone this node waits much longer"
    bench.run(4 * shortest, silent=["n3"])
    assert bench.state("n3") is State.DEAD


def test_a_network_that_loses_datagrams_gives_suspects_longer_and_the_dead_do_not_count() -> None:
    bench = Bench()
    bench.run(20 * CONFIG.probe_interval_s, silent=["n3"])
    assert bench.monitor.health.suspicion_factor == 1.0, "n3 answered by neither route"
    asked = set[int]()
    for _ in range(200):
        bench.now = max(bench.now, bench.monitor.next_deadline() or 0.0)
        for ping in of(events.SendDatagram, bench.do(Tick())):
            if ping.datagram.kind is Kind.PING and ping.datagram.sequence in asked:
                bench.hear(ping.target, Kind.ACK, ping.datagram.sequence)  # the first one was lost
            asked.add(ping.datagram.sequence)
    assert bench.monitor.health.suspicion_factor > 1.5
    bench.hear("n4", Kind.GOSSIP, updates=[Update(member("n5", State.SUSPECT), "n4")])
    suspicion = bench.monitor.roster.suspicions["n5"]
    assert suspicion.shortest > 1.5 * CONFIG.suspicion_min_probes * CONFIG.probe_interval_s


def test_confirmations_shorten_the_suspicion() -> None:
    bench = Bench()
    for accuser in ("n2", "n4", "n5"):
        bench.hear(accuser, Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), accuser)])
    began = bench.now
    announced = of(events.AnnounceMember, bench.run(3.0, silent=["n3"]))
    assert [entry.member.state for entry in announced] == [State.DEAD]
    shortest = CONFIG.suspicion_min_probes * CONFIG.probe_interval_s
    bench_death = began + shortest
    assert bench.now >= bench_death


def test_suspicion_of_another_node_is_checked_at_once_and_told_to_the_suspect() -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), "n2")])
    pings = sent(effects, "n3", Kind.PING)
    assert len(pings) == 1
    assert Update(member("n3", State.SUSPECT), "n2") in pings[0].updates
    bench.hear("n3", Kind.ACK, pings[0].sequence, updates=[Update(member("n3", incarnation=1))])
    assert bench.state("n3") is State.ALIVE


def test_suspect_is_probed_by_some_nodes_of_a_large_group_not_by_all() -> None:
    size, suspects = 8 * SUSPECT_PROBED_BY, SUSPECT_PROBED_BY
    group = [Member(f"m{n}", f"{n + 9:032x}", 1, 0, State.ALIVE, "10.1.0.1", 7100) for n in range(size)]
    bench = Bench()
    for first in range(0, size, 16):
        bench.hear("n2", Kind.GOSSIP, updates=[Update(each) for each in group[first : first + 16]])
    effects = []
    for each in group[:suspects]:
        effects += bench.hear("n2", Kind.GOSSIP, updates=[Update(replace(each, state=State.SUSPECT), "n2")])
    asked = {e.target for e in of(events.SendDatagram, effects) if e.datagram.kind is Kind.PING}
    assert 0 < len(asked) < suspects // 2, "an eighth on average"


@pytest.mark.parametrize("state", [State.SUSPECT, State.LEFT])
def test_suspected_node_refutes(state: State) -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.PING, 7, "n1", [Update(member("n1", state, 4), "n2")])
    answer = sent(effects, "n2", Kind.ACK)[0]
    assert Update(member("n1", incarnation=5)) in answer.updates
    assert bench.monitor.health.score == 1


@pytest.mark.parametrize("state", [State.SUSPECT, State.DEAD])
def test_who_missed_a_refutation_gets_it_again(state: State) -> None:
    bench = Bench()
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n1", State.SUSPECT, 4), "n2")])
    bench.run(20 * CONFIG.gossip_interval_s)
    effects = bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n1", state, 4), "n3")])
    assert Update(member("n1", incarnation=5)) in sent(effects, "n3", Kind.GOSSIP)[0].updates
    assert bench.monitor.me.incarnation == 5, "once is enough"
    again = bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n1", incarnation=5))])
    assert not sent(again, "n3", Kind.GOSSIP), "it knows now"


def test_later_boot_of_the_own_name_makes_the_node_adopt_a_higher_one() -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n1", State.DEAD, 3, boot=8))])
    assert of(events.AdoptBoot, effects) == [events.AdoptBoot(9)]
    assert bench.monitor.me.boot == 9


def test_one_node_cannot_make_others_dead_by_gossip() -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", State.DEAD), "n2")])
    assert bench.state("n3") is State.SUSPECT
    assert sent(effects, "n3", Kind.PING)
    bench.run(2 * CONFIG.probe_timeout_s, silent=["n3"])
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", State.DEAD), "n2")])
    assert bench.state("n3") is State.DEAD, "after a probe interval under suspicion here it is believed"


def test_accusation_by_a_suspect_does_not_count() -> None:
    bench = Bench()
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n4", State.SUSPECT), "n2")])
    bench.hear("n4", Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), "n4")])
    assert bench.state("n3") is State.ALIVE
    bench.hear("n4", Kind.GOSSIP, updates=[Update(member("n3", State.DEAD), "n4")])
    assert bench.state("n3") is State.ALIVE


def test_refused_is_a_reason_to_suspect_and_never_a_verdict() -> None:
    bench = Bench()
    bench.do(events.ContactRefused("n3"))
    assert bench.state("n3") is State.SUSPECT
    for _ in range(10):
        bench.do(events.ContactRefused("n3"))
    assert bench.state("n3") is State.SUSPECT


def test_a_stalled_process_passes_no_verdict() -> None:
    bench = Bench()
    for accuser in ("n2", "n4", "n5"):
        bench.hear(accuser, Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), accuser)])
    bench.now += 60.0
    bench.do(Tick())
    assert bench.state("n3") is State.SUSPECT, "this node slept: n3 may have refuted long ago"
    assert [bench.state(name) for name in ("n2", "n4", "n5")] == [State.ALIVE] * 3
    bench.hear("n3", Kind.GOSSIP, updates=[Update(member("n3", incarnation=1))])
    bench.run(5.0)
    assert bench.state("n3") is State.ALIVE


def test_a_member_whose_requests_arrive_is_not_declared_dead() -> None:
    bench = Bench()
    bench.do(events.ContactRefused("n3"))
    for _ in range(20):
        bench.run(1.0, silent=["n3"])
        bench.do(events.PeerHeard("n3"))
    assert bench.state("n3") is State.SUSPECT
    bench.run(8.0, silent=["n3"])
    assert bench.state("n3") is State.DEAD


def test_missing_nacks_are_this_nodes_own_fault() -> None:
    bench = Bench()
    bench.run(2 * CONFIG.probe_timeout_s, silent=NAMES)
    assert bench.monitor.health.score >= 3
    rounds = bench.monitor.health.multiplier
    assert rounds >= 4, "a node that hears nobody slows its own accusations down"


def test_a_helper_passes_on_the_answer_or_says_that_none_came() -> None:
    bench = Bench()
    ping = sent(bench.hear("n2", Kind.INDIRECT_PING, 77, "n3"), "n3", Kind.PING)[0]
    answer = sent(bench.hear("n3", Kind.ACK, ping.sequence), "n2", Kind.ACK)
    assert [datagram.sequence for datagram in answer] == [77]
    bench.hear("n2", Kind.INDIRECT_PING, 78, "n3")
    effects = bench.run(CONFIG.ack_timeout_s, silent=["n3"])
    assert [datagram.sequence for datagram in sent(effects, "n2", Kind.NACK)] == [78]


def test_ping_for_another_node_is_not_answered() -> None:
    bench = Bench()
    assert sent(bench.hear("n2", Kind.PING, 5, "n4"), "n2", Kind.ACK) == []
    assert sent(bench.hear("n2", Kind.PING, 5, "n1"), "n2", Kind.ACK)


@pytest.mark.slow
def test_dead_members_and_unknown_contacts_are_contacted_indefinitely() -> None:
    bench = Bench(known=["n1", "n2", "n3"])
    bench.hear("n2", Kind.GOSSIP, updates=[Update(member("n3", State.SUSPECT), "n2")])
    bench.run(20.0, silent=["n3"])
    assert bench.state("n3") is State.DEAD
    effects = bench.run(3600.0, silent=["n3"])
    for name in ("n3", "n4", "n5"):
        assert len(sent(effects, name, Kind.HELLO)) >= 1000
