"""A replicated compare-and-swap register: CASPaxos (Rystsov 2018, arXiv 1802.07000, sections 2.1-2.2).

Each register is a named value that lives on a fixed set of voters; every change is one single-decree Paxos
round that reads the newest accepted value from a majority, applies a change function to it and has the result
accepted by a majority. Promises and acceptances must be durable before they are answered (the shell's duty):
``Acceptor.handle`` returns the state to write together with the reply.

Two uses: the cluster **view** (one register) and the **file table** of HyDFS (one register for each file
name).

Why a refused change still runs its second phase: the value seen in the first phase may have been accepted by
a minority only. An error such as ALREADY_EXISTS must not rest on a value that could vanish, so the proposer
first has that same value accepted.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agent.common.errors import NoMajority, RainStormError

# Ballots order proposals: the counter first, the proposer's name breaks ties.
Ballot = tuple[int, str]
ZERO: Ballot = (0, "")
# After a lost race a proposer waits a random time of this size times the number of its attempts.
BACKOFF_S = 0.01


@dataclass(frozen=True, slots=True)
class Slot:
    """The durable state of one register at one voter."""

    promised: Ballot = ZERO
    accepted: Ballot = ZERO
    value: Any = None


@dataclass(frozen=True, slots=True)
class Prepare:
    """Asks a voter to promise not to accept anything below ``ballot``."""

    key: str
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Accept:
    """Asks a voter to accept ``value`` at ``ballot``."""

    key: str
    ballot: Ballot
    value: Any


@dataclass(frozen=True, slots=True)
class Read:
    """Asks a voter for what it has accepted."""

    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A voter's reply: ``ok`` tells whether it promised or accepted; the rest is its state afterwards."""

    ok: bool
    promised: Ballot
    accepted: Ballot
    value: Any


VoterRequest = Prepare | Accept | Read


def answer(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    """Returns the voter's new slot and its answer; a changed one must be durable before the answer leaves."""
    match request:
        case Read():
            return slot, Answer(True, slot.promised, slot.accepted, slot.value)
        case Prepare(ballot=ballot):
            if ballot <= slot.promised:
                return slot, Answer(False, slot.promised, slot.accepted, slot.value)
            slot = Slot(ballot, slot.accepted, slot.value)
            return slot, Answer(True, slot.promised, slot.accepted, slot.value)
        case Accept(ballot=ballot, value=value):
            if ballot < slot.promised:
                return slot, Answer(False, slot.promised, slot.accepted, slot.value)
            slot = Slot(ballot, ballot, value)
            return slot, Answer(True, ballot, ballot, value)


def majority(voters: Sequence[str]) -> int:
    """Returns how many of ``voters`` make a majority."""
    return len(voters) // 2 + 1


@dataclass(frozen=True, slots=True)
class AnswerReceived:
    """Event: a voter answered request number ``attempt``."""

    voter: str
    attempt: int
    answer: Answer


@dataclass(frozen=True, slots=True)
class VoterFailed:
    """Event: a voter could not be reached or gave no answer to request number ``attempt``."""

    voter: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Ask:
    """Effect: send ``request`` to ``voter`` and report back with the same ``attempt`` number."""

    voter: str
    attempt: int
    request: VoterRequest


@dataclass(frozen=True, slots=True)
class Wait:
    """Effect: call ``retry`` after ``delay_s``; another proposer was faster."""

    delay_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """Effect: the register now holds ``value``; ``error`` is what the change function refused with."""

    value: Any
    error: RainStormError | None = None


@dataclass(frozen=True, slots=True)
class Failed:
    """Effect: too many voters failed; whether the change took place is unknown."""

    error: RainStormError


Effect = Ask | Wait | Finished | Failed
Change = Callable[[Any], Any]


class Proposal:
    """One change of one register, from the first request to the outcome (a core; one a change)."""

    def __init__(
        self,
        key: str,
        change: Change,
        voters: Sequence[str],
        proposer: str,
        rng: random.Random,
        counter: int = 1,
    ) -> None:
        self._key = key
        self._change = change
        self._voters = tuple(voters)
        self._proposer = proposer
        self._rng = rng
        self._counter = counter
        self._attempt = 0
        self._tries = 0
        self._phase = "idle"
        self._answers: dict[str, Answer] = {}
        self._failed: set[str] = set()
        self._value: Any = None
        self._error: RainStormError | None = None

    def start(self) -> list[Effect]:
        """Begins the first phase with a ballot above all that were seen."""
        self._tries += 1
        self._error = None
        return self._ask("prepare", lambda ballot: Prepare(self._key, ballot))

    retry = start

    def handle(self, event: AnswerReceived | VoterFailed) -> list[Effect]:
        """Applies an answer or a failure of a voter."""
        if event.attempt != self._attempt or self._phase == "done":
            return []
        if isinstance(event, VoterFailed):
            return self._count_failure(event.voter)
        found = event.answer
        self._counter = max(self._counter, found.promised[0], found.accepted[0])
        if not found.ok:
            return self._lost_race()
        self._answers[event.voter] = found
        if len(self._answers) < majority(self._voters):
            return []
        return (
            self._prepared() if self._phase == "prepare" else self._done(Finished(self._value, self._error))
        )

    @property
    def counter(self) -> int:
        """Returns the highest ballot counter seen, to start the next proposal above it."""
        return self._counter

    def _ask(self, phase: str, request: Callable[[Ballot], VoterRequest]) -> list[Effect]:
        if phase == "prepare":
            self._counter += 1
        self._phase = phase
        self._attempt += 1
        self._answers = {}
        self._failed = set()
        ballot = (self._counter, self._proposer)
        return [Ask(voter, self._attempt, request(ballot)) for voter in self._voters]

    def _prepared(self) -> list[Effect]:
        newest = max(self._answers.values(), key=lambda found: found.accepted)
        try:
            self._value = self._change(newest.value)
        except RainStormError as error:
            self._value, self._error = newest.value, error
        return self._ask("accept", lambda ballot: Accept(self._key, ballot, self._value))

    def _lost_race(self) -> list[Effect]:
        self._attempt += 1  # answers to the lost ballot no longer count
        return [Wait(self._rng.uniform(0.2, 1.0) * BACKOFF_S * self._tries)]

    def _count_failure(self, voter: str) -> list[Effect]:
        self._failed.add(voter)
        if len(self._voters) - len(self._failed) >= majority(self._voters):
            return []
        return self._done(
            Failed(
                NoMajority(
                    f"only {len(self._voters) - len(self._failed)} of the {len(self._voters)} voters answer; "
                    f"{majority(self._voters)} are needed",
                    hint="see which voters are down with: fab status",
                )
            )
        )

    def _done(self, effect: Effect) -> list[Effect]:
        self._phase = "done"
        return [effect]


def settled(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    """Returns the newest accepted state when a majority holds that very one, else None.

    Such a read is linearizable without a Paxos round: a newer value cannot have been chosen before the voters
    of this majority answered, because it would need one of them.
    """
    newest = max(answers, key=lambda found: found.accepted, default=None)
    if newest is None:
        return None
    same = sum(1 for found in answers if found.accepted == newest.accepted)
    return newest if same >= majority(voters) else None
