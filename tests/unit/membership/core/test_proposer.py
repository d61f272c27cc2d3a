"""The time of a proposal: batches, turns, and a pause in which refutations can arrive."""

from __future__ import annotations

import random

import pytest

from agent.common.config import MembershipConfig
from agent.membership.core import view as views
from agent.membership.core.proposer import FIRST_VIEW_S, SETTLE_S, TURN_S, Proposer
from agent.membership.member import Member, State

CONFIG = MembershipConfig()
TWO = {"c": ("a", "b"), "d": ("a", "b")}
NAMES = ["a", "b", "c", "d", "e"]


def members(**states: State) -> dict[str, Member]:
    return {
        name: Member(name, f"{ord(name):032x}", 1, 0, states.get(name, State.ALIVE), "10.0.0.1", 7100)
        for name in NAMES
    }


def proposer(name: str) -> Proposer:
    found = Proposer(name, CONFIG, random.Random(1))
    assert found.learn(views.propose(None, members(), {}))
    return found


def test_the_first_name_proposes_first_and_the_others_after_it() -> None:
    dead = members(c=State.DEAD)
    for turn, name in enumerate(["a", "b", "d", "e"]):
        node = proposer(name)
        node.reconsider(100.0, dead, TWO)
        assert node.due_at == pytest.approx(100.0 + CONFIG.view_batch_s + turn * TURN_S)


def test_a_second_death_joins_the_batch_and_does_not_put_it_off() -> None:
    node = proposer("a")
    node.reconsider(100.0, members(c=State.DEAD), TWO)
    node.reconsider(100.1, members(c=State.DEAD, d=State.DEAD), TWO)
    assert node.due_at == pytest.approx(100.0 + CONFIG.view_batch_s)


def test_nothing_is_proposed_when_nothing_is_wanted() -> None:
    node = proposer("b")
    node.reconsider(100.0, members(c=State.DEAD), TWO)
    node.reconsider(100.1, members(), TWO)
    assert node.due_at is None, "it was refuted in time"
    node.reconsider(100.2, members(c=State.DEAD), TWO)
    assert node.learn(views.propose(node.view, members(c=State.DEAD), TWO))
    node.reconsider(100.3, members(c=State.DEAD), TWO)
    assert node.due_at is None, "another node was faster"
    assert not node.learn(None)


def test_a_node_that_was_cut_off_waits_until_the_others_could_refute() -> None:
    node = proposer("a")
    node.reconsider(100.0, members(c=State.DEAD), TWO)
    node.settle(100.05)
    assert node.due_at == pytest.approx(100.05 + SETTLE_S)
    other = proposer("a")
    other.settle(100.0)
    other.reconsider(100.1, members(c=State.DEAD), TWO)
    assert other.due_at == pytest.approx(100.0 + SETTLE_S)


def test_the_first_view_waits_for_nodes_that_start_together() -> None:
    node = Proposer("a", CONFIG, random.Random(1))
    node.reconsider(100.0, members(), TWO)
    assert node.due_at == pytest.approx(100.0 + FIRST_VIEW_S)
