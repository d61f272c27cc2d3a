"""A replicated compare-and-swap register: CASPaxos (Rystsov 2018, arXiv 1802.07000, sections 2.1-2.2).

Each register is a named value that lives on a fixed set of voters; every change is one single-decree Paxos
round that reads the newest accepted value from a majority, applies a change function to it and has the result
accepted by a majority. Promises and acceptances must be durable before they are answered (the shell's duty):
``Acceptor.handle`` returns the state to write together with the reply.

There are two uses: the cluster **view** (one register) and the **file table** of HyDFS (one register for each
file name).

**Changing the voters.** The value itself may say who votes (``groups_of``): one group of voters, or two while
one voter is being replaced; every phase then needs a majority of each group. A replacement is two changes:
first the value names the old and the new group, and only when that value is known to be chosen does a second
change drop the old group. A proposer that finds a value with other groups than it asked starts again with
those. So a proposer that still asks the old group meets the value that names the new one, because a majority
of the old group accepted it. (This is Raft's joint consensus inside the register; CASPaxos section 2.3 grows
the quorums instead.) A single step to the new group would be unsafe: a majority of the old group and a
majority of the new one may have no voter in common.

A refused change still runs its second phase, because the value seen in the first phase may have been
accepted by a minority only. An error such as ALREADY_EXISTS must not rest on a value that could vanish, so
the proposer first has that same value accepted.

Requests and answers are messages (``agent.common.message``): they cross the wire as they are. What a register
holds belongs to its subsystem, which checks it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, assert_never

import msgspec

from agent.common.errors import NoMajority, RainStormError
from agent.common.message import Counter, Name, OptionalName, Request

# Ballots order proposals: the counter first, the proposer's name breaks ties.
Ballot = tuple[Counter, OptionalName]
ZERO: Ballot = (0, "")
# After a lost race a proposer waits a random time of this size times the number of its attempts.
BACKOFF_S = 0.01


class Slot(msgspec.Struct, frozen=True):
    """The durable state of one register at one voter."""

    promised: Ballot = ZERO
    accepted: Ballot = ZERO
    value: Any = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A voter's reply: ``voted`` tells whether it promised or accepted; the rest is its state afterwards.

    ``same`` replaces the value if the reader already has the value of this ballot.
    """

    voted: bool
    promised: Ballot
    accepted: Ballot
    value: Any = None
    same: bool = False


@dataclass(frozen=True, slots=True)
class Prepare(Request[Answer]):
    """Asks a voter to promise not to accept anything below ``ballot``."""

    kind: ClassVar[str] = "prepare"
    reply: ClassVar[type[Any]] = Answer
    key: Name
    ballot: Ballot


@dataclass(frozen=True, slots=True)
class Accept(Request[Answer]):
    """Asks a voter to accept ``value`` at ``ballot``."""

    kind: ClassVar[str] = "accept"
    reply: ClassVar[type[Any]] = Answer
    key: Name
    ballot: Ballot
    value: Any


@dataclass(frozen=True, slots=True)
class Read(Request[Answer]):
    """Asks a voter for what it has accepted; ``known`` is the ballot of a value that the reader has."""

    kind: ClassVar[str] = "read"
    reply: ClassVar[type[Any]] = Answer
    key: Name
    known: Ballot | None = None


# Names in one answer: two megabytes of the four of a header if each has 255 characters of four bytes.
KEYS_MAX = 2000


@dataclass(frozen=True, slots=True)
class Keys:
    """The answer to ``ListKeys``: names of registers that hold a value, sorted; whether ``more`` follow."""

    keys: tuple[Name, ...]
    more: bool = False


@dataclass(frozen=True, slots=True)
class ListKeys(Request[Keys]):
    """Asks a voter for the names of the registers that it knows: at most ``limit``, those after ``after``.

    Without a ``limit`` all of them must fit into one answer.
    """

    kind: ClassVar[str] = "keys"
    reply: ClassVar[type[Any]] = Keys
    prefix: OptionalName = ""
    after: OptionalName = ""
    limit: Counter = 0


VoterRequest = Prepare | Accept | Read
# Raises InvalidMessage when a register must not hold a value; the register's subsystem decides which values.
Check = Callable[[str, Any], None]


def answer(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    """Returns the voter's new slot and its answer; a changed one must be durable before the answer leaves."""
    match request:
        case Read(known=known):
            if known is not None and known == slot.accepted:
                # A ballot chooses one value: a reader that knows this ballot knows the value.
                return slot, Answer(True, slot.promised, slot.accepted, same=True)
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
        case _:
            assert_never(request)


def majority(voters: Sequence[str]) -> int:
    """Returns how many of ``voters`` make a majority."""
    return len(voters) // 2 + 1


class AnswerReceived(msgspec.Struct, frozen=True):
    """Event: a voter answered request number ``attempt``."""

    voter: str
    attempt: int
    answer: Answer


class VoterFailed(msgspec.Struct, frozen=True):
    """Event: a voter could not be reached or gave no answer to request number ``attempt``."""

    voter: str
    attempt: int


class Ask(msgspec.Struct, frozen=True):
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
# The groups of voters. A majority of each is needed; there are two only while a voter is being replaced.
Groups = tuple[tuple[str, ...], ...]


class Proposal:
    """One change of one register, from the first request to the outcome (a core; each change has its own)."""

    def __init__(
        self,
        key: str,
        change: Change,
        voters: Sequence[str],
        proposer: str,
        rng: random.Random,
        counter: int = 1,
        groups_of: Callable[[Any], Groups] | None = None,
    ) -> None:
        """Prepares a change that asks ``voters`` first.

        ``groups_of`` tells which groups of voters a value names; without it they never change.
        """
        self._key = key
        self._change = change
        self._groups: Groups = (tuple(voters),)
        self._groups_of = groups_of
        self._proposer = proposer
        self._rng = rng
        self._counter = counter
        self._ballot: Ballot = ZERO
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
        if not found.voted:
            return self._lost_race()
        self._answers[event.voter] = found
        if not all(_reach(self._answers, group) for group in self._groups):
            return []
        return (
            self._prepared() if self._phase == "prepare" else self._done(Finished(self._value, self._error))
        )

    @property
    def counter(self) -> int:
        """Returns the highest ballot counter seen, to start the next proposal above it."""
        return self._counter

    @property
    def ballot(self) -> Ballot:
        """Returns the ballot of the phase that is under way or was the last."""
        return self._ballot

    def _ask(self, phase: str, request: Callable[[Ballot], VoterRequest]) -> list[Effect]:
        if phase == "prepare":
            self._counter += 1
        self._phase = phase
        self._attempt += 1
        self._answers = {}
        self._failed = set()
        ballot = self._ballot = (self._counter, self._proposer)
        voters = dict.fromkeys(voter for group in self._groups for voter in group)
        return [Ask(voter, self._attempt, request(ballot)) for voter in voters]

    def _prepared(self) -> list[Effect]:
        newest = max(self._answers.values(), key=lambda found: found.accepted)
        named = self._named(newest.value)
        if not set(named) <= set(self._groups):
            return self._ask_again(named)
        try:
            self._value = self._change(newest.value)
        except RainStormError as error:
            self._value, self._error = newest.value, error
        needed = tuple(dict.fromkeys((*named, *self._named(self._value))))
        if not set(needed) <= set(self._groups):
            return self._ask_again(needed)
        return self._ask("accept", lambda ballot: Accept(self._key, ballot, self._value))

    def _named(self, value: Any) -> Groups:
        return self._groups if self._groups_of is None else self._groups_of(value)

    def _ask_again(self, groups: Groups) -> list[Effect]:
        self._groups, self._error = groups, None
        return self._ask("prepare", lambda ballot: Prepare(self._key, ballot))

    def _lost_race(self) -> list[Effect]:
        self._attempt += 1  # answers to the lost ballot no longer count
        return [Wait(self._rng.uniform(0.2, 1.0) * BACKOFF_S * self._tries)]

    def _count_failure(self, voter: str) -> list[Effect]:
        self._failed.add(voter)
        for group in self._groups:
            left = sum(voter not in self._failed for voter in group)
            if left < majority(group):
                error = NoMajority(
                    f"only {left} of the {len(group)} voters answer; {majority(group)} are needed",
                    hint="see which voters are down with: fab status",
                )
                return self._done(Failed(error))
        return []

    def _done(self, effect: Effect) -> list[Effect]:
        self._phase = "done"
        return [effect]


def _reach(answers: Mapping[str, Answer], group: Sequence[str]) -> bool:
    return sum(voter in answers for voter in group) >= majority(group)


def settled(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    """Returns the newest accepted state if a majority holds it, otherwise None.

    Such a read is linearizable without a Paxos round: a newer value cannot have been chosen before the voters
    of this majority answered, because it would need one of them.
    """
    newest = max(answers, key=lambda found: found.accepted, default=None)
    if newest is None:
        return None
    same = sum(1 for found in answers if found.accepted == newest.accepted)
    return newest if same >= majority(voters) else None
