"""A register's voters are replaced one at a time while proposers that know only the first ones change it.

Messages arrive in any order, some never. The value is a list to which every change appends its own mark. So
two changes that did not know of each other show up as two lists, neither of which is a prefix of the other.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.common.errors import NoMajority
from agent.common.register import (
    AnswerReceived,
    Ask,
    Failed,
    Finished,
    Groups,
    Proposal,
    Slot,
    VoterFailed,
    Wait,
    answer,
)

NAMES = tuple("abcde")
FIRST = ("a", "b", "c")
EMPTY: dict[str, Any] = {"marks": (), "voters": FIRST, "before": ()}


def groups_of(value: Any) -> Groups:
    if value is None:
        return (FIRST,)
    return (value["before"], value["voters"]) if value["before"] else (value["voters"],)


def appended(mark: str) -> Any:
    return lambda value: {**(value or EMPTY), "marks": (*(value or EMPTY)["marks"], mark)}


def joint(old: str, new: str) -> Any:
    def change(value: Any) -> Any:
        current = value or EMPTY
        if current["before"] or old not in current["voters"] or new in current["voters"]:
            return current
        voters = tuple(new if voter == old else voter for voter in current["voters"])
        return {**current, "voters": voters, "before": current["voters"]}

    return change


def in_one_step(old: str, new: str) -> Any:
    def change(value: Any) -> Any:
        return {**joint(old, new)(value), "before": ()}

    return change


def finished(voters: tuple[str, ...]) -> Any:
    def change(value: Any) -> Any:
        current = value or EMPTY
        return {**current, "before": ()} if current["voters"] == voters else current

    return change


@dataclass
class World:
    """Voters, and changes in progress whose messages are delivered in any order."""

    rng: random.Random
    slots: dict[str, Slot] = field(default_factory=lambda: dict.fromkeys(NAMES, Slot()))
    pending: list[tuple[Proposal, Ask, Any]] = field(default_factory=list)
    outcomes: dict[int, Any] = field(default_factory=dict)
    values: list[tuple[str, ...]] = field(default_factory=list)
    loss: float = 0.05
    silent: str = ""

    def begin(self, number: int, change: Any, known: tuple[str, ...] = FIRST) -> Proposal:
        proposal = Proposal("r", change, known, f"p{number}", self.rng, 1, groups_of)
        self.carry_out(number, proposal, proposal.start())
        return proposal

    def carry_out(self, number: int, proposal: Proposal, effects: Any) -> None:
        for effect in effects:
            match effect:
                case Ask():
                    self.pending.append((proposal, effect, number))
                case Wait():
                    self.carry_out(number, proposal, proposal.retry())
                case Finished(value=value):
                    self.outcomes[number] = value
                    self.values.append(value["marks"])
                case Failed(error=error):
                    self.outcomes[number] = error

    def unreachable(self, number: int) -> list[str]:
        """Returns the voters that a change cannot reach."""
        return random.Random(number).sample(NAMES, 1) if self.loss else []

    def abandon(self) -> None:
        """Lets one proposer die in the middle of its change."""
        number = self.rng.choice(self.pending)[2]
        self.pending = [entry for entry in self.pending if entry[2] != number]
        self.outcomes[number] = NoMajority("its proposer died")

    def step(self) -> None:
        index = self.rng.randrange(len(self.pending))
        proposal, ask, number = self.pending.pop(index)
        if ask.voter == self.silent or ask.voter in self.unreachable(number) or self.rng.random() < self.loss:
            self.carry_out(number, proposal, proposal.handle(VoterFailed(ask.voter, ask.attempt)))
            return
        self.slots[ask.voter], found = answer(self.slots[ask.voter], ask.request)
        if self.rng.random() < self.loss:
            self.carry_out(number, proposal, proposal.handle(VoterFailed(ask.voter, ask.attempt)))
        else:
            self.carry_out(number, proposal, proposal.handle(AnswerReceived(ask.voter, ask.attempt, found)))


def run(seed: int, replacing: Any) -> tuple[World, int]:
    """Runs marks and replacements at once; returns the world and how many replacements were finished."""
    world = World(random.Random(seed))
    number, done = 0, 0
    driver: tuple[int, tuple[str, ...]] | None = None
    for _ in range(1500):
        if number - len(world.outcomes) < 3 and world.rng.random() < 0.05:
            number += 1
            world.begin(number, appended(str(number)))
        if driver is None and world.rng.random() < 0.02:
            number += 1
            world.begin(number, replacing(*world.rng.sample(NAMES, 2)))
            driver = (number, ())
        elif driver is not None and driver[0] in world.outcomes:
            value, wanted = world.outcomes[driver[0]], driver[1]
            done += not isinstance(value, NoMajority) and bool(wanted)
            driver = None
            if not isinstance(value, NoMajority) and value["before"]:
                number += 1
                world.begin(number, finished(value["voters"]))
                driver = (number, value["voters"])
        if world.pending:
            world.step()
        if world.pending and world.rng.random() < 0.01:
            world.abandon()
    return world, done


def check(world: World) -> None:
    for one in world.values:
        for other in world.values:
            shorter, longer = sorted((one, other), key=len)
            assert longer[: len(shorter)] == shorter, f"{one} and {other} do not know of each other"


@pytest.mark.slow
def test_replacing_voters_loses_no_change() -> None:
    replaced = changes = 0
    for seed in range(150):
        world, done = run(seed, joint)
        check(world)
        replaced += done
        changes += len(world.values)
    assert replaced >= 100, "without any replacement this run would prove nothing"
    assert changes >= 3000


@pytest.mark.slow
def test_the_check_sees_a_replacement_in_one_step() -> None:
    def broken() -> None:
        for seed in range(400):
            check(run(seed, in_one_step)[0])

    with pytest.raises(AssertionError, match="do not know of each other"):
        broken()


def test_after_a_replacement_the_old_voter_is_not_needed_and_the_new_one_is_asked() -> None:
    world = World(random.Random(1), loss=0.0)
    world.begin(1, joint("a", "d"))
    while world.pending:
        world.step()
    world.begin(2, finished(("d", "b", "c")))
    while world.pending:
        world.step()
    assert groups_of(world.outcomes[2]) == (("d", "b", "c"),)
    world.silent = "a"
    before = world.slots["d"]
    world.begin(3, appended("x"))  # by a proposer that knows only the first voters
    while world.pending:
        world.step()
    assert world.outcomes[3]["marks"] == ("x",)
    assert world.slots["d"] != before


def test_a_replacement_is_accepted_by_the_old_voters_and_by_the_new_ones() -> None:
    world = World(random.Random(1), loss=0.0)
    proposal = world.begin(1, joint("a", "d"))  # from a, b, c to d, b, c
    while world.pending:
        proposal, ask, number = world.pending.pop(0)
        if ask.voter in ("c", "d"):
            world.carry_out(number, proposal, proposal.handle(VoterFailed(ask.voter, ask.attempt)))
        else:
            world.slots[ask.voter], found = answer(world.slots[ask.voter], ask.request)
            event = AnswerReceived(ask.voter, ask.attempt, found)
            world.carry_out(number, proposal, proposal.handle(event))
    assert isinstance(world.outcomes[1], NoMajority), "of d, b and c only b has answered"
