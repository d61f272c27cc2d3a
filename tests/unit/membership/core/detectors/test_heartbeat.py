"""The gossip heartbeat detector by hand: one core, counters that move or stand still."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.membership.core import events
from agent.membership.core.monitor import Monitor
from agent.membership.datagrams import DATAGRAM_BYTES_MAX, Beat, Datagram, Kind, Update, encode
from agent.membership.member import Member, State

NAMES = ["n1", "n2", "n3", "n4", "n5"]


def config(*, suspicion: bool) -> MembershipConfig:
    return MembershipConfig(detector="heartbeat", suspicion=suspicion)


def member(name: str, number: int, state: State = State.ALIVE) -> Member:
    return Member(name, f"{number:032x}", 1, 0, state, f"10.0.{number // 250}.{number % 250 + 1}", 7100)


class Bench:
    """The monitor of n1, which uses heartbeats, and a clock."""

    def __init__(self, *, suspicion: bool = True, names: Sequence[str] = NAMES) -> None:
        self.now = 1000.0
        self.config = config(suspicion=suspicion)
        self.monitor = Monitor(member("n1", 1), {}, self.config, random.Random(1))
        self.counter = 0
        self.do(events.Started())
        updates = [Update(member(name, index + 1)) for index, name in enumerate(names) if name != "n1"]
        for start in range(0, len(updates), 10):
            self.hear("n2", Datagram(Kind.HELLO_REPLY, updates=tuple(updates[start : start + 10])))

    def do(self, event: object) -> list[events.Effect]:
        effects = self.monitor.handle(self.now, event)  # type: ignore[arg-type]
        self.monitor.check_invariants()
        return effects

    def hear(self, sender: str, datagram: Datagram) -> list[events.Effect]:
        return self.do(events.DatagramReceived(sender, 1, datagram))

    def beat(self, sender: str, *about: str) -> list[events.Effect]:
        self.counter += 1
        beats = tuple(Beat(name, 1, self.counter) for name in about)
        return self.hear(sender, Datagram(Kind.HEARTBEAT, digest=self.monitor.table.digest, beats=beats))

    def run(self, duration_s: float, *moving: str) -> list[events.Effect]:
        """Runs the timers; the counters of ``moving`` move every 100 ms, all sent by the first of them."""
        found = list[events.Effect]()
        # In small steps: a timer that is 50 ms late postpones all verdicts.
        for step in range(1, round(duration_s / 0.025) + 1):
            self.now += 0.025
            if moving and step % 4 == 0:
                found += self.beat(moving[0], *moving)
            if (due := self.monitor.next_deadline()) is not None and due <= self.now:
                found += self.do(Tick())
        return found

    def state(self, name: str) -> State:
        found = self.monitor.table.get(name)
        assert found is not None
        return found.state


def sent(effects: Sequence[events.Effect], kind: Kind) -> list[events.SendDatagram]:
    return [e for e in effects if isinstance(e, events.SendDatagram) and e.datagram.kind is kind]


def test_counters_go_to_a_few_members_each_interval_and_not_to_all() -> None:
    bench = Bench()
    effects = bench.run(2.0, *NAMES[1:])
    beats = sent(effects, Kind.HEARTBEAT)
    rounds = 2.0 / bench.config.heartbeat_interval_s
    assert abs(len(beats) - rounds * bench.config.heartbeat_fanout) <= 2 * bench.config.heartbeat_fanout
    own = [next(b.counter for b in e.datagram.beats if b.name == "n1") for e in beats]
    assert own == sorted(own)
    assert own[-1] >= rounds - 3
    assert {b.name for b in beats[-1].datagram.beats} == set(NAMES)
    assert all(bench.state(name) is State.ALIVE for name in NAMES)


def test_news_of_a_member_that_never_writes_here_keeps_it_alive() -> None:
    bench = Bench()
    bench.run(10.0, "n2", "n3", "n4", "n5")  # all told by n2
    assert [bench.state(name) for name in NAMES] == [State.ALIVE] * 5


def test_a_counter_that_stands_still_is_suspected_and_without_suspicion_dead_at_once() -> None:
    for suspicion, expected in [(True, State.SUSPECT), (False, State.DEAD)]:
        bench = Bench(suspicion=suspicion)
        bench.run(2.0, "n2", "n3", "n4", "n5")
        bench.run(bench.config.heartbeat_fail_s + 0.3, "n2", "n3", "n4")
        assert bench.state("n5") is (expected if suspicion else State.ALIVE), "a final verdict takes longer"
        bench.run(bench.config.heartbeat_fail_s, "n2", "n3", "n4")
        assert bench.state("n5") is expected
        assert bench.monitor.roster.reporters("n5") == ("n1",)
        assert [bench.state(name) for name in ("n2", "n3", "n4")] == [State.ALIVE] * 3


def test_suspect_whose_counter_moves_again_is_not_declared_dead() -> None:
    bench = Bench()
    bench.run(2.0, "n2", "n3", "n4", "n5")
    bench.run(bench.config.heartbeat_fail_s + 0.3, "n2", "n3", "n4")
    assert bench.state("n5") is State.SUSPECT
    bench.run(20.0, "n2", "n3", "n4", "n5")
    assert bench.state("n5") is State.SUSPECT, "its refutation has not arrived yet"
    refuted = replace(member("n5", 5), incarnation=1)
    bench.hear("n5", Datagram(Kind.GOSSIP, updates=(Update(refuted),)))
    assert bench.state("n5") is State.ALIVE


def test_old_counters_and_those_of_an_earlier_life_are_no_progress() -> None:
    bench = Bench()
    bench.run(1.0, "n2", "n3", "n4", "n5")
    old = Datagram(Kind.HEARTBEAT, beats=(Beat("n5", 0, 10**6), Beat("n5", 1, 1)))
    for _ in range(20):
        bench.run(0.1, "n2", "n3", "n4")
        bench.hear("n2", old)
    assert bench.state("n5") is State.SUSPECT


def test_node_that_hears_nobody_lowers_its_own_health_first() -> None:
    bench = Bench()
    bench.run(1.0, *NAMES[1:])
    bench.run(3.0)
    assert bench.monitor.health.score >= 2
    assert [bench.state(name) for name in NAMES] == [State.ALIVE] * 5
    bench.run(20.0)
    assert bench.state("n2") is not State.ALIVE, "finally it accuses them"


def test_a_stalled_process_passes_no_verdict() -> None:
    bench = Bench(suspicion=False)
    bench.run(1.0, *NAMES[1:])
    bench.now += 60.0
    bench.do(Tick())
    assert [bench.state(name) for name in NAMES] == [State.ALIVE] * 5


def test_large_group_fits_into_datagrams_and_every_member_has_its_turn() -> None:
    names = [f"node-with-a-long-name-{index:03d}" for index in range(300)]
    bench = Bench(names=["n1", "n2", *names])
    seen: set[str] = set()
    for index in range(0, 300, 30):
        bench.beat("n2", *names[index : index + 30])
    for effect in sent(bench.run(64 * bench.config.heartbeat_interval_s, "n2", *names), Kind.HEARTBEAT):
        assert len(encode(effect.datagram)) <= DATAGRAM_BYTES_MAX
        seen.update(beat.name for beat in effect.datagram.beats)
    assert len(seen) >= 240
