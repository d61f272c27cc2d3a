"""CASPaxos: concurrent changes under loss, duplicates, reordering, crashes and restarts, on simulated voters.

Each operation appends its own id to the register's list, once (a round that lost its race may have been
finished by the rival, so a change must recognise its own outcome). Checked: every acknowledged id is in the
list exactly once for ever, and of any two values that any operation ever returned one is a prefix of the
other. The same checks must turn red when a voter breaks a rule.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

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
    Read,
    Slot,
    VoterFailed,
    VoterRequest,
    Wait,
    answer,
    settled,
)
from tests.simulation.network import LinkSettings
from tests.simulation.seeds import each, seed_ranges
from tests.simulation.world import Node, World

VOTERS = ["v1", "v2", "v3", "v4", "v5"]
PROPOSERS = ["p1", "p2", "p3"]
TIMEOUT_S = 0.1
OPERATIONS = 30

Rule = Callable[[Slot, VoterRequest], tuple[Slot, Answer]]


def accepts_below_its_promise(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    match request:
        case Accept(ballot=ballot, value=value):
            slot = Slot(max(slot.promised, ballot), ballot, value)
            return slot, Answer(True, ballot, ballot, value)
        case _:
            return answer(slot, request)


def promises_the_same_ballot_to_all(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    match request:
        case Prepare():
            return slot, Answer(True, slot.promised, slot.accepted, slot.value)
        case _:
            return answer(slot, request)


class Voter:
    """A voter whose slot is durable before it answers; with ``forgets`` it is durable never."""

    def __init__(self, node: Node, rule: Rule, forgets: bool) -> None:
        self._node, self._rule, self._forgets = node, rule, forgets
        stored = node.disk.read("slot")
        self.slot = Slot()
        if stored:
            (promised, accepted, value) = msgpack.unpackb(stored)
            self.slot = Slot((promised[0], promised[1]), (accepted[0], accepted[1]), value)

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        kind, number, ballot, value = msgpack.unpackb(data)
        request: VoterRequest = (
            Prepare("r", (ballot[0], ballot[1]))
            if kind == "prepare"
            else Accept("r", (ballot[0], ballot[1]), value)
        )
        self.slot, found = self._rule(self.slot, request)
        if not self._forgets:
            stored = msgpack.packb([self.slot.promised, self.slot.accepted, self.slot.value])
            self._node.disk.write_durably("slot", stored)
        reply = [number, found.voted, found.promised, found.accepted, found.value]
        self._node.send_datagram(sender, msgpack.packb(reply))

    def on_timer(self, now: float) -> None:
        raise AssertionError("a voter has no timers")

    def next_deadline(self) -> float | None:
        return None

    def on_unreachable(self, now: float, target: str) -> None:
        pass

    def check_invariants(self) -> None:
        assert self.slot.accepted <= max(self.slot.promised, self.slot.accepted)


class Client:
    """Runs one operation after the other; a crash leaves the one under way with an unknown outcome."""

    def __init__(self, node: Node, history: list[list[str]], acked: list[str]) -> None:
        self._node, self._history, self._acked = node, history, acked
        self._done = 0
        self._base = 0
        self._proposal: Proposal | None = None
        self._next()

    def _next(self) -> None:
        if self._done == OPERATIONS:
            self._proposal = None
            return
        self._done += 1
        self._id = f"{self._node.name}.{self._node.generation}.{self._done}"
        self._base += 1_000_000
        mine = self._id

        def change(value: list[str] | None) -> list[str]:
            ids = value or []
            return ids if mine in ids else [*ids, mine]

        name = f"{self._node.name}/{self._node.generation}"
        self._proposal = Proposal("r", change, VOTERS, name, self._node.random("proposer"))
        proposal = self._proposal
        self._node.after(0.0, lambda: self._carry_out(proposal, proposal.start()))

    def _carry_out(self, proposal: Proposal, effects: list[Any]) -> None:
        if proposal is not self._proposal:
            return
        for effect in effects:
            match effect:
                case Ask(voter=voter, attempt=attempt, request=request):
                    assert not isinstance(request, Read)
                    value = request.value if isinstance(request, Accept) else None
                    kind = type(request).__name__.lower()
                    packed = msgpack.packb([kind, self._base + attempt, request.ballot, value])
                    self._node.send_datagram(voter, packed)
                    self._node.after(TIMEOUT_S, functools.partial(self._fail, proposal, voter, attempt))
                case Wait(delay_s=delay_s):
                    self._node.after(delay_s, lambda: self._carry_out(proposal, proposal.retry()))
                case Finished(value=value):
                    self._history.append(list(value))
                    self._acked.append(self._id)
                    self._next()
                case Failed():
                    # Unknown: it may or may not be in the list.
                    self._node.after(self._node.random("pause").uniform(0.0, 0.3), self._next)

    def _fail(self, proposal: Proposal, voter: str, attempt: int) -> None:
        self._carry_out(proposal, proposal.handle(VoterFailed(voter, attempt)))

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        number, ok, promised, accepted, value = msgpack.unpackb(data)
        proposal = self._proposal
        if proposal is None or not 0 < number - self._base < 1_000_000:
            return
        found = Answer(ok, (promised[0], promised[1]), (accepted[0], accepted[1]), value)
        self._carry_out(proposal, proposal.handle(AnswerReceived(sender, number - self._base, found)))

    def on_timer(self, now: float) -> None:
        raise AssertionError("timers are actions of the node")

    def next_deadline(self) -> float | None:
        return None

    def on_unreachable(self, now: float, target: str) -> None:
        pass

    def check_invariants(self) -> None:
        pass


def run(seed: int, rule: Rule = answer, *, forgets: bool = False) -> int:
    faults = random.Random(f"{seed}:swarm")
    link = LinkSettings(
        loss=faults.choice([0.0, 0.1, 0.3]),
        duplicate=faults.choice([0.0, 0.3]),
        delay_mean_s=faults.choice([0.001, 0.02]),
    )
    world = World(seed, link=link)
    history: list[list[str]] = []
    acked: list[str] = []
    for name in VOTERS:
        world.add(name, lambda node: Voter(node, rule, forgets))
    for name in PROPOSERS:
        world.add(name, lambda node: Client(node, history, acked))
    for _ in range(25):
        world.run(faults.uniform(0.0, 0.2))
        name = faults.choice(VOTERS + PROPOSERS)
        match faults.choice(["crash", "cut", "heal"]):
            case "crash":
                world.crash(name)
                world.run(faults.uniform(0.0, 0.1))
                world.restart(name)
            case "cut":
                world.network.isolate(name, inbound=faults.random() < 0.7)
            case _:
                world.network.heal()
    world.network.heal()
    world.network.link = LinkSettings()
    world.run(30.0)
    final = max(history, key=len)
    assert len(final) == len(set(final)), f"an operation counts twice: {final}"
    assert set(acked) <= set(final), f"acknowledged and lost: {sorted(set(acked) - set(final))}"
    for value in history:
        assert value == final[: len(value)], f"{value} is no prefix of {final}"
    return len(acked)


@pytest.mark.parametrize("seeds", seed_ranges(quick=20, full=100))
def test_nothing_acknowledged_is_lost_or_doubled(seeds: range) -> None:
    counts = each(seeds, run)
    assert not counts or min(counts) > 0


@pytest.mark.parametrize("rule", [accepts_below_its_promise, promises_the_same_ballot_to_all])
def test_the_checks_see_a_voter_that_breaks_a_rule(rule: Rule) -> None:
    with pytest.raises(AssertionError, match=r"twice|lost|prefix"):
        each(range(100), lambda seed: run(seed, rule))


def test_the_checks_see_voters_that_forget() -> None:
    with pytest.raises(AssertionError, match=r"twice|lost|prefix"):
        each(range(100), lambda seed: run(seed, forgets=True))


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
    """Returns a proposal that appends to what it finds, and what follows from the promises of some voters."""
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
    assert proposal.handle(late) == [], "a promise is no acceptance"
    accepted = Answer(True, (10, "me"), (10, "me"), "a+")
    outcomes = [proposal.handle(AnswerReceived(ask.voter, ask.attempt, accepted)) for ask in asks[:3]]
    assert outcomes == [[], [], [Finished("a+")]]


def test_a_late_answer_to_an_earlier_phase_does_not_count() -> None:
    proposal, asks = first_phase({"v1": (1, "a"), "v2": (1, "a"), "v3": (1, "a")})
    late = Answer(True, (10, "me"), (1, "x"), "a")
    for voter in VOTERS:
        assert proposal.handle(AnswerReceived(voter, asks[0].attempt - 1, late)) == []
