"""A member's record: precedence, services, identity."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.membership.member import SERVICES, Member, State


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
