"""The history of the members: its entries, and the word for each change."""

from __future__ import annotations

from dataclasses import replace

from agent.membership.core.beliefs.history import History, change_kind
from agent.membership.member import Member, State
from agent.membership.messages.members import HISTORY_MAX

ALIVE = Member("n1", "a" * 32, 1, 0, State.ALIVE, "10.0.0.1", 7100)


def test_history_of_one_member_is_in_order() -> None:
    history = History()
    history.add(1.0, "join", ALIVE, "n2")
    history.add(2.0, "join", replace(ALIVE, name="n2"), "")
    history.add(3.0, "suspect", ALIVE, "n3")
    assert [(entry.at, entry.what, entry.by) for entry in history.about("n1")] == [
        (1.0, "join", "n2"),
        (3.0, "suspect", "n3"),
    ]


def test_oldest_entries_go_first() -> None:
    history = History()
    for number in range(HISTORY_MAX + 5):
        history.add(float(number), "join", ALIVE, "")
    assert [entry.at for entry in history.about("n1")][:1] == [5.0]


def test_every_change_has_its_word() -> None:
    suspect, dead = ALIVE.with_state(State.SUSPECT), ALIVE.with_state(State.DEAD)
    assert change_kind(suspect, ALIVE) == "suspect"
    assert change_kind(dead, suspect) == "dead"
    assert change_kind(ALIVE.with_state(State.LEFT), ALIVE) == "left"
    assert change_kind(ALIVE, None) == "join"
    assert change_kind(replace(ALIVE, boot=2), ALIVE) == "join"
    assert change_kind(replace(ALIVE, incarnation=1), dead) == "join"
    assert change_kind(replace(ALIVE, incarnation=1), suspect) == "refute"
    assert change_kind(replace(ALIVE, services=1), ALIVE) == "services"
