"""Precedence of records: the whole table of cases, and that merging converges in any order."""

from __future__ import annotations

import itertools
import random

import pytest

from agent.membership.core.beliefs.table import Table
from agent.membership.member import Member, State


def record(boot: int, incarnation: int, state: State, name: str = "n1") -> Member:
    return Member(name, "ab" * 16, boot, incarnation, state, "10.0.0.1", 7100)


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ((1, 0, State.ALIVE), (1, 0, State.SUSPECT)),
        ((1, 0, State.SUSPECT), (1, 0, State.DEAD)),
        ((1, 0, State.DEAD), (1, 0, State.LEFT)),
        ((1, 0, State.SUSPECT), (1, 1, State.ALIVE)),
        ((1, 0, State.DEAD), (1, 1, State.ALIVE)),
        ((1, 5, State.DEAD), (2, 0, State.ALIVE)),
        ((1, 9, State.LEFT), (2, 0, State.ALIVE)),
        ((1, 0, State.ALIVE), (1, 2, State.SUSPECT)),
    ],
)
def test_precedence(older: tuple[int, int, State], newer: tuple[int, int, State]) -> None:
    table = Table()
    table.put(record(*older))
    assert table.supersedes(record(*newer))
    table.put(record(*newer))
    assert not table.supersedes(record(*older))
    assert not table.supersedes(record(*newer)), "a repeated record changes nothing"


def test_merging_converges_in_every_order() -> None:
    records = [
        record(boot, incarnation, state)
        for boot, incarnation, state in [
            (1, 0, State.ALIVE),
            (1, 1, State.SUSPECT),
            (1, 1, State.DEAD),
            (2, 0, State.ALIVE),
            (2, 0, State.SUSPECT),
        ]
    ]
    for order in itertools.permutations(records):
        table = Table()
        for entry in order:
            if table.supersedes(entry):
                table.put(entry)
        assert table.get("n1") == record(2, 0, State.SUSPECT)


def test_equal_tables_have_equal_digests_whatever_the_order(seed: int) -> None:
    rng = random.Random(seed)
    records = [record(1, index, State(index % 4), f"n{index}") for index in range(20)]
    first, second = Table(), Table()
    for entry in records:
        first.put(entry)
    for entry in rng.sample(records, len(records)):
        second.put(entry.with_state(State.ALIVE))
        second.put(entry)
    assert first.digest == second.digest
    second.put(record(1, 99, State.DEAD, "n3"))
    assert first.digest != second.digest


def test_live_members_are_the_alive_and_the_suspect() -> None:
    table = Table()
    for index, state in enumerate(State):
        table.put(record(1, 0, state, f"n{index}"))
    assert [member.name for member in table.live()] == ["n0", "n1"]
    assert len(table) == 4


def test_equal_changes_of_two_records_do_not_cancel_out_in_the_digest() -> None:
    # Found by swarm testing: one node suspected two others, and both had refuted. With a CRC the tables had
    # equal digests, so the node never learned of the refutations.
    behind, ahead = Table(), Table()
    for name in ("n1", "n3"):
        behind.put(Member(name, "0" * 32, 1, 0, State.SUSPECT, "10.0.0.1", 7100))
        ahead.put(Member(name, "0" * 32, 1, 1, State.ALIVE, "10.0.0.1", 7100))
    assert behind.digest != ahead.digest
