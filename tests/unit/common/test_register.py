"""The rules of the replicated register, one by one.

``tests/simulation/test_register.py`` shows, with the real voters and proposers, that nothing acknowledged is
lost or doubled under loss, crashes and restarts.
"""

from __future__ import annotations

import random
from typing import Any

from agent.common import register
from agent.common.errors import AlreadyExists
from agent.common.register import (
    ZERO,
    Accept,
    Answer,
    AnswerReceived,
    Ask,
    Failed,
    Finished,
    Prepare,
    Proposal,
    Slot,
    VoterFailed,
    answer,
    settled,
)

VOTERS = ["v1", "v2", "v3", "v4", "v5"]


def test_a_refusal_rests_on_a_value_that_a_majority_holds() -> None:
    def create(value: object) -> object:
        if value is not None:
            raise AlreadyExists("it exists")
        return "mine"

    slots = {name: Slot() for name in VOTERS}
    slots["v1"] = Slot((1, "x"), (1, "x"), "theirs")  # accepted by a minority only
    proposal = Proposal("r", create, VOTERS, "me", random.Random(1), counter=5)
    effects = proposal.start()
    while effects and isinstance(effects[0], Ask):
        following: list[Any] = []
        for ask in effects:
            assert isinstance(ask, Ask)
            slots[ask.voter], found = answer(slots[ask.voter], ask.request)
            following += proposal.handle(AnswerReceived(ask.voter, ask.attempt, found))
        effects = following
    finished = effects[0]
    assert isinstance(finished, Finished)
    assert isinstance(finished.error, AlreadyExists)
    assert sum(slot.value == "theirs" for slot in slots.values()) >= 3


def test_without_a_majority_it_fails() -> None:
    proposal = Proposal("r", lambda value: 1, VOTERS, "me", random.Random(1))
    asks = proposal.start()
    effects: list[Any] = []
    for ask in asks[:3]:
        assert isinstance(ask, Ask)
        effects += proposal.handle(VoterFailed(ask.voter, ask.attempt))
    assert len(effects) == 1
    assert isinstance(effects[0], Failed)
    assert effects[0].error.code == "NO_MAJORITY"


def test_settled_needs_a_majority_of_the_newest() -> None:
    old, new = Answer(True, ZERO, (1, "a"), "old"), Answer(True, ZERO, (2, "a"), "new")
    assert settled([old, old], VOTERS) is None
    assert settled([old, old, old], VOTERS) == old
    assert settled([old, old, new], VOTERS) is None, (
        "the newest may be chosen by voters that did not answer yet"
    )
    assert settled([new, old, new, new], VOTERS) == new
    assert register.majority(VOTERS) == 3


def test_a_voter_promises_no_ballot_twice() -> None:
    slot, first = answer(Slot(), Prepare("r", (2, "p1")))
    assert first.voted
    assert not answer(slot, Prepare("r", (2, "p1")))[1].voted, "two proposers could use one ballot"
    assert not answer(slot, Prepare("r", (1, "p2")))[1].voted
    assert answer(slot, Prepare("r", (2, "p2")))[1].voted, "the name decides between equal counters"


def test_a_voter_accepts_nothing_below_its_promise() -> None:
    slot, _ = answer(Slot(), Prepare("r", (2, "p2")))
    after, refused = answer(slot, Accept("r", (2, "p1"), "late"))
    assert not refused.voted
    assert after == slot
    assert answer(slot, Accept("r", (2, "p2"), "mine"))[1].voted


def first_phase(accepted: dict[str, tuple[int, str]]) -> tuple[Proposal, list[Any]]:
    """Returns a proposal that appends to the value it finds, and its effects after some promises."""
    proposal = Proposal("r", lambda value: f"{value}+", VOTERS, "me", random.Random(1), counter=9)
    effects: list[Any] = []
    for ask in proposal.start():
        assert isinstance(ask, Ask)
        if ask.voter in accepted:
            number, value = accepted[ask.voter]
            found = Answer(True, (10, "me"), (number, "x"), value)
            effects += proposal.handle(AnswerReceived(ask.voter, ask.attempt, found))
    return proposal, effects


def test_a_proposal_continues_from_the_newest_accepted_value() -> None:
    _, effects = first_phase({"v1": (1, "old"), "v2": (3, "newest"), "v3": (2, "newer")})
    assert [ask.request.value for ask in effects] == ["newest+"] * len(VOTERS)


def test_a_proposal_needs_a_majority_in_each_phase() -> None:
    assert first_phase({"v1": (1, "a"), "v2": (1, "a")})[1] == []
    proposal, asks = first_phase({"v1": (1, "a"), "v2": (1, "a"), "v3": (1, "a")})
    late = AnswerReceived("v4", asks[0].attempt - 1, Answer(True, (10, "me"), (1, "x"), "a"))
    assert proposal.handle(late) == [], "a promise is not an acceptance"
    accepted = Answer(True, (10, "me"), (10, "me"), "a+")
    outcomes = [proposal.handle(AnswerReceived(ask.voter, ask.attempt, accepted)) for ask in asks[:3]]
    assert outcomes == [[], [], [Finished("a+")]]


def test_a_late_answer_to_an_earlier_phase_does_not_count() -> None:
    proposal, asks = first_phase({"v1": (1, "a"), "v2": (1, "a"), "v3": (1, "a")})
    late = Answer(True, (10, "me"), (1, "x"), "a")
    for voter in VOTERS:
        assert proposal.handle(AnswerReceived(voter, asks[0].attempt - 1, late)) == []
