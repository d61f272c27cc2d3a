<<<<<<< HEAD
"""Records of members: which of two counts, and which services live."""

from __future__ import annotations

import itertools
=======
"""A member's record: precedence, services, identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
>>>>>>> main

from agent.membership.member import SERVICES, Member, State


<<<<<<< HEAD
def record(boot: int = 1, incarnation: int = 0, state: State = State.ALIVE, services: int = 0) -> Member:
    return Member("n1", "ab" * 16, boot, incarnation, state, "10.0.0.1", 7100, services)


def test_a_later_boot_then_a_higher_incarnation_then_a_worse_state_counts() -> None:
    order = [
        record(),
        record(state=State.SUSPECT),
        record(state=State.DEAD),
        record(state=State.LEFT),
        record(incarnation=1),
        record(incarnation=1, state=State.SUSPECT),
        record(boot=2),
    ]
    for lower, higher in itertools.pairwise(order):
        assert lower.precedence < higher.precedence


def test_services_are_bits_in_a_fixed_order() -> None:
    assert SERVICES == ("hydfs", "rainstorm", "logs"), "a place in it is a bit in every record ever sent"
    assert record(services=0b101).living_services() == ["hydfs", "logs"]
    assert [record(services=0b010).lives(name) for name in SERVICES] == [False, True, False]


def test_a_life_is_a_boot_and_an_incarnation() -> None:
    assert record().same_life(record(state=State.DEAD))
    assert not record().same_life(record(boot=2))
    assert not record().same_life(record(incarnation=1))
    assert record(boot=3).node_id == f"{'ab' * 16}:3"
    assert record().with_state(State.DEAD).state is State.DEAD


def test_states_have_the_words_that_users_see() -> None:
    assert [state.label for state in State] == ["alive", "suspect", "dead", "left"]
=======
def member(**changes: Any) -> Member:
    return replace(Member("n1", "a" * 32, 1, 0, State.ALIVE, "10.0.0.1", 7100), **changes)


def test_boot_counts_before_incarnation_and_incarnation_before_state() -> None:
    records = [
        member(),
        member().with_state(State.SUSPECT),
        member().with_state(State.DEAD),
        member().with_state(State.LEFT),
        member(incarnation=1),
        member(boot=2),
    ]
    assert sorted(records, key=lambda record: record.precedence) == records
    assert [record.state.label for record in records[:4]] == ["alive", "suspect", "dead", "left"]


def test_services_have_a_bit_each() -> None:
    for index, name in enumerate(SERVICES):
        record = member(services=1 << index)
        assert record.living_services() == [name]
        assert [record.lives(each) for each in SERVICES] == [each == name for each in SERVICES]


def test_identity_is_the_disk_and_the_boot() -> None:
    assert member(boot=7).node_id == "a" * 32 + ":7"
    assert member().same_life(member().with_state(State.DEAD))
    assert not member().same_life(member(boot=2))
    assert not member().same_life(member(incarnation=1))
>>>>>>> main
