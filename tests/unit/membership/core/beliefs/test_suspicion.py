"""The time-out of a suspicion, against values worked out by hand from Lifeguard's formula."""

from __future__ import annotations

import pytest

from agent.common.config import MembershipConfig
from agent.membership.core.beliefs.suspicion import Suspicion, confirmations_wanted, shortest_s, timeout_s
from agent.membership.member import Member, State

CONFIG = MembershipConfig(probe_interval_s=0.5, suspicion_min_probes=3.0, suspicion_max_factor=6.0)
MEMBER = Member("n1", "ab" * 16, 1, 0, State.SUSPECT, "10.0.0.1", 7100)


@pytest.mark.parametrize(
    ("members", "shortest", "wanted"),
    [
        (1, 1.5, 0),
        (2, 1.5, 0),
        (3, 1.5, 1),
        (4, 1.5, 2),
        (5, 1.5, 3),
        (10, 1.5, 3),
        (100, 3.0, 3),
        (10_000, 6.0, 3),
    ],
)
def test_shortest_and_wanted(members: int, shortest: float, wanted: int) -> None:
    assert shortest_s(CONFIG, members) == pytest.approx(shortest)
    assert confirmations_wanted(members) == wanted


@pytest.mark.parametrize(
    ("confirmations", "expected"),
    # Smin 1.5, Smax 9, k = 3: 9 - 7.5 * ln(C + 1) / ln 4
    [(0, 9.0), (1, 5.25), (2, 3.05639), (3, 1.5), (4, 1.5)],
)
def test_timeout_shrinks_with_confirmations(confirmations: int, expected: float) -> None:
    assert timeout_s(1.5, 9.0, 3, confirmations) == pytest.approx(expected, abs=1e-4)


def test_timeout_is_the_shortest_when_no_member_could_confirm() -> None:
    assert timeout_s(1.5, 9.0, 0, 0) == 1.5


def test_the_first_accuser_and_repeated_ones_do_not_confirm() -> None:
    suspicion = Suspicion.begin(100.0, MEMBER, "n2", CONFIG, 5)
    assert suspicion.deadline == pytest.approx(109.0)
    assert not suspicion.confirm("n2")
    assert suspicion.confirm("n3")
    assert not suspicion.confirm("n3")
    assert suspicion.deadline == pytest.approx(105.25)
    assert suspicion.confirm("n4")
    assert suspicion.confirm("n5")
    assert suspicion.deadline == pytest.approx(101.5)
    assert not suspicion.confirm("n6"), "more than wanted are not passed on"


def test_postponed_verdict_stays_postponed() -> None:
    suspicion = Suspicion.begin(100.0, MEMBER, "n2", CONFIG, 2)
    suspicion.not_before_at = 120.0
    assert suspicion.deadline == 120.0
