<<<<<<< HEAD
"""The history of members: why each is called what it is called, in bounded room."""

from __future__ import annotations

import pytest
=======
"""The history of the members: what it keeps, and the word for each change."""

from __future__ import annotations

from dataclasses import replace
>>>>>>> main

from agent.membership.core.beliefs.history import History, change_kind
from agent.membership.member import Member, State
from agent.membership.messages import EVENTS_MAX

<<<<<<< HEAD

def record(name: str = "n1", state: State = State.ALIVE, boot: int = 1, services: int = 0) -> Member:
    return Member(name, "0" * 32, boot, 0, state, "10.0.0.1", 7100, services)


def test_entries_are_told_by_member_oldest_first() -> None:
    history = History()
    history.add(1.0, "suspect", record("n1"), "n2")
    history.add(2.0, "suspect", record("n3"), "n2")
    history.add(3.0, "dead", record("n1", boot=4), "n5")
    found = [(entry.at, entry.what, entry.by, entry.boot) for entry in history.about("n1")]
    assert found == [(1.0, "suspect", "n2", 1), (3.0, "dead", "n5", 4)]
    assert history.about("n9") == []


def test_the_oldest_entries_go_first() -> None:
    history = History()
    for number in range(EVENTS_MAX + 5):
        history.add(float(number), "accused", record(), "n2")
    found = history.about("n1")
    assert (len(found), found[0].at) == (EVENTS_MAX, 5.0)


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        (None, record(), "join"),
        (record(state=State.DEAD), record(), "join"),
        (record(state=State.LEFT), record(), "join"),
        (record(), record(boot=2), "join"),
        (record(), record(state=State.SUSPECT), "suspect"),
        (record(), record(state=State.DEAD), "dead"),
        (record(), record(state=State.LEFT), "left"),
        (record(state=State.SUSPECT), record(), "refute"),
        (record(), record(services=1), "services"),
    ],
)
def test_a_change_has_a_word(before: Member | None, after: Member, kind: str) -> None:
    assert change_kind(after, before) == kind
=======
ALIVE = Member("n1", "a" * 32, 1, 0, State.ALIVE, "10.0.0.1", 7100)


def test_history_of_one_member_is_told_in_order() -> None:
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
    for number in range(EVENTS_MAX + 5):
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
>>>>>>> main
