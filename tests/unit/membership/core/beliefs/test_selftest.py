"""A node that others find silent: when it refutes at once, and when it must pass a test first."""

from __future__ import annotations

import random

from agent.membership.core import events
from agent.membership.core.beliefs.selftest import ACCUSERS_MAX, AGAIN_S, QUESTIONS, WINDOW_S, SelfTest
from agent.membership.datagrams import Kind, Update
from agent.membership.member import State
from tests.unit.membership.core.detectors.test_swim import CONFIG, Bench, member, of


def accuse(bench: Bench, *accusers: str, of_whom: str = "n1") -> list[events.Effect]:
    found = []
    for accuser in accusers:
        said = member(of_whom, State.SUSPECT, incarnation=bench.monitor.me.incarnation)
        found += bench.hear(accuser, Kind.GOSSIP, updates=[Update(said, accuser)])
    return found


def questions(effects: list[events.Effect]) -> list[events.SendDatagram]:
    sent = of(events.SendDatagram, effects)
    return [e for e in sent if e.datagram.kind is Kind.PING and e.datagram.sequence >= 1 << 40]


def answer(bench: Bench, asked: list[events.SendDatagram], count: int) -> None:
    for effect in asked[:count]:
        bench.hear(effect.target, Kind.ACK, sequence=effect.datagram.sequence)


def test_accusations_by_one_or_two_are_refuted_at_once() -> None:
    bench = Bench()
    assert not questions(accuse(bench, "n2", "n3"))
    assert bench.monitor.me.incarnation == 2


def test_node_that_first_hears_of_its_death_passes_a_test_before_it_refutes() -> None:
    bench = Bench()
    effects = bench.hear("n2", Kind.HELLO, updates=[Update(member("n1", State.DEAD), "n2")])
    asked = questions(effects)
    assert len(asked) == QUESTIONS
    assert bench.monitor.me.incarnation == 0
    answer(bench, asked, QUESTIONS)
    assert bench.monitor.me.incarnation == 1


def test_node_accused_alone_by_three_refutes_only_when_nearly_all_of_them_answer() -> None:
    bench = Bench()
    asked = questions(accuse(bench, "n2", "n3", "n4"))
    assert len(asked) == QUESTIONS
    assert {effect.target for effect in asked} >= {"n2", "n3", "n4"}
    held = bench.monitor.me.incarnation
    answer(bench, asked, QUESTIONS - 2)
    assert bench.monitor.me.incarnation == held
    answer(bench, asked[QUESTIONS - 2 :], 1)
    assert bench.monitor.me.incarnation == held + 1


def test_late_answers_do_not_count_and_the_next_test_waits() -> None:
    bench = Bench()
    asked = questions(accuse(bench, "n2", "n3", "n4"))
    held = bench.monitor.me.incarnation
    bench.now += 2 * CONFIG.probe_duration_s
    answer(bench, asked, QUESTIONS)
    assert bench.monitor.me.incarnation == held
    assert not questions(accuse(bench, "n2"))
    bench.now += AGAIN_S
    assert len(questions(accuse(bench, "n2"))) == QUESTIONS


def test_without_a_member_to_ask_it_waits_for_the_next_accusation() -> None:
    bench = Bench(known=["n1", "n2", "n3", "n4"])
    accuse(bench, "n2", "n3", "n4")
    held = bench.monitor.me.incarnation
    for name in ("n2", "n3", "n4"):
        bench.monitor.roster.put(bench.now, member(name, State.DEAD), "n1")
    bench.run(WINDOW_S + AGAIN_S, silent=["n2", "n3", "n4", "n5"])
    assert bench.monitor.me.incarnation == held
    accuse(bench, "n2")
    assert bench.monitor.me.incarnation == held + 1


def test_all_refute_while_others_are_accused_too() -> None:
    bench = Bench()
    accuse(bench, "n2", of_whom="n5")
    assert not questions(accuse(bench, "n2", "n3", "n4"))
    assert bench.monitor.me.incarnation == 3


def test_accusers_are_bounded_and_old_ones_make_room() -> None:
    test = SelfTest(CONFIG, random.Random(1))
    for number in range(2 * ACCUSERS_MAX):
        test.accused(100.0, f"x{number}")
    assert len(test.accusers(100.0)) == ACCUSERS_MAX
    test.accused(100.0 + 2 * WINDOW_S, "n2")
    assert test.accusers(100.0 + 2 * WINDOW_S) == ["n2"]
    assert len(test._accused_at) == 1


def test_old_accusations_are_forgotten() -> None:
    bench = Bench()
    accuse(bench, "n2", "n3")
    bench.now += WINDOW_S + 0.1
    assert not questions(accuse(bench, "n4"))
    assert bench.monitor.me.incarnation == 3
