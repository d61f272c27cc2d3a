"""Local health: the events that raise and lower the score."""

from __future__ import annotations

from agent.membership.core.beliefs.health import LocalHealth


def test_only_the_silence_of_all_helpers_counts() -> None:
    health = LocalHealth()
    health.probe_failed(helpers=3, nacks=3)
    assert health.score == 0, "all helpers say that the target is silent: the fault is not here"
    health.probe_failed(helpers=3, nacks=1)
    assert health.score == 0, "one answer shows that the way here is good"
    health.probe_failed(helpers=3, nacks=0)
    assert health.score == 3
    health.probe_failed(helpers=0, nacks=0)
    assert health.score == 4
    assert health.multiplier == 5


def test_success_lowers_the_score_within_its_bounds() -> None:
    health = LocalHealth()
    health.probe_succeeded()
    assert health.score == 0
    for _ in range(20):
        health.probe_failed(helpers=3, nacks=0)
    assert health.score == 7
    for _ in range(3):
        health.probe_succeeded()
    assert health.score == 4


def test_refuting_and_stalls_raise_it() -> None:
    health = LocalHealth()
    health.refuted()
    assert not health.timer_late(0.9)
    assert health.score == 1
    assert health.timer_late(1.0)
    assert health.score == 2


def test_many_indirect_answers_extend_suspicions() -> None:
    health = LocalHealth()
    assert health.suspicion_factor == 1.0
    for _ in range(100):
        health.note_answer(indirect=False)
    assert health.suspicion_factor == 1.0
    for number in range(100):
        health.note_answer(indirect=number % 2 == 0)
    assert 2.0 <= health.suspicion_factor <= 3.0, "about half of them"
    for _ in range(100):
        health.note_answer(indirect=False)
    assert health.suspicion_factor == 1.0
