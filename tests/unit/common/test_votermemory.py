"""The verdicts about a voter without a memory: it may vote at once, has to learn, or waits."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.common.votermemory import Standing, Verdict, judge

VOTERS = ("a", "b", "c", "d", "e")
BLANK = {name: Standing(f"disk-{name}", None) for name in VOTERS}
FOUNDERS = {name: f"disk-{name}" for name in VOTERS}


def of(*names: str, founders: Mapping[str, str] | None = None) -> dict[str, Standing]:
    return {name: Standing(f"disk-{name}", founders) for name in names}


@pytest.mark.parametrize(
    ("others", "patient", "verdict"),
    [
        (of("b", "c", "d", "e"), True, Verdict.VOTE),  # all are blank: the cluster is founded
        (of("b", "c", "d"), True, Verdict.WAIT),  # one may still answer
        (of("b", "c"), False, Verdict.VOTE),  # a majority is blank, and the others stay away
        (of("b"), False, Verdict.WAIT),  # those who remember may be the majority
        ({}, False, Verdict.WAIT),
        (of("b", founders=FOUNDERS), True, Verdict.VOTE),  # founded with this very disk
        (of("b", founders={**FOUNDERS, "a": "lost"}), True, Verdict.LEARN),  # founded with an earlier one
        (of("b", founders={}), True, Verdict.LEARN),  # a memory of a release that did not record founders
        (of("b", "c", "d") | of("e", founders={"e": "disk-e"}), False, Verdict.LEARN),
    ],
)
def test_a_voter_without_memory(others: dict[str, Standing], patient: bool, verdict: Verdict) -> None:
    assert judge("a", "disk-a", VOTERS, others, patient=patient).verdict is verdict


def test_a_single_voter_is_the_whole_cluster() -> None:
    assert judge("a", "disk-a", ("a",), {}, patient=True).founders == {"a": "disk-a"}


def test_who_is_no_voter_founds_nothing() -> None:
    assert judge("x", "disk-x", VOTERS, BLANK, patient=False).verdict is Verdict.WAIT
    remembering = of("a", founders=FOUNDERS)
    assert judge("x", "disk-x", VOTERS, remembering, patient=False).verdict is Verdict.LEARN
