"""Rules of the replicated register and of its voters, each broken on purpose (see ``planted``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent.common import register
from agent.common.register import Accept, Answer, Prepare, Proposal, Slot, VoterRequest
from agent.common.votermemory import Judgement, Verdict
from tests.simulation import register_host, register_swarm, register_voter, voter
from tests.simulation.planted.bug import PlantedBug, Subject

REGISTER = Subject(
    "register", lambda seed, kinds: register_swarm.run(register_swarm.schedule_of(seed, kinds))
)


def _accept_below_promise(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    if isinstance(request, Accept):
        return Slot(request.ballot, request.ballot, request.value), Answer(
            True, request.ballot, request.ballot, request.value
        )
    return register.answer(slot, request)


def _promise_anything(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    if isinstance(request, Prepare):
        return slot, Answer(True, request.ballot, slot.accepted, slot.value)
    return register.answer(slot, request)


def _forget_promises(self: voter.Voter, request: VoterRequest) -> Answer:
    slot = self._slots.get(request.key, Slot())
    changed, reply = register.answer(slot, request)
    self._slots[request.key] = changed
    if isinstance(request, Accept) and changed != slot:
        self._node.disk.append_durably(voter.FILE, voter.packed(request.key, changed))
    return reply


def _answer_before_sync(self: voter.Voter, request: VoterRequest) -> Answer:
    slot = self._slots.get(request.key, Slot())
    changed, reply = register.answer(slot, request)
    if changed != slot:
        self._node.disk.append(voter.FILE, voter.packed(request.key, changed))
        self._slots[request.key] = changed
    return reply


def _first_answer(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    return answers[0] if answers else None


def _newest_answer(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    needed = register.majority(voters)
    return max(answers, key=lambda found: found.accepted) if len(answers) >= needed else None


def _less_than_majority(voters: Sequence[str]) -> int:
    return max(1, len(voters) // 2)


def _any_accepted(self: Proposal) -> list[Any]:
    self._value = self._change(min(self._answers.values(), key=lambda found: found.accepted).value)
    return self._ask("accept", lambda ballot: Accept(self._key, ballot, self._value))


def _another_disk(self: register_voter.VoterHost) -> str:
    return f"{self._rng.getrandbits(64):016x}"


def _vote_at_once(name: str, disk: str, *_: Any, **__: Any) -> Judgement:
    return Judgement(Verdict.VOTE, {name: disk})


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "accepts below its promise",
        "a promise binds",
        REGISTER,
        ((voter, "answer", _accept_below_promise),),
    ),
    PlantedBug(
        "promises nothing",
        "a promise is remembered",
        REGISTER,
        ((voter, "answer", _promise_anything),),
    ),
    PlantedBug(
        "promise not durable",
        "a promise outlives a crash",
        REGISTER,
        ((voter.Voter, "apply", _forget_promises),),
        ("bounce",),
    ),
    PlantedBug(
        "votes on an emptied disk",
        "a voter that lost its memory learns before it votes",
        REGISTER,
        ((register_voter, "judge", _vote_at_once),),
        ("forget", "isolate", "crash"),
    ),
    PlantedBug(
        "another id after each restart",
        "a voter that has not voted yet may restart",
        REGISTER,
        ((register_voter.VoterHost, "_load_disk", _another_disk),),
        ("partition", "sync_fails", "crash"),
    ),
    PlantedBug(
        "answers before the sync",
        "what was accepted outlives a crash",
        REGISTER,
        ((voter.Voter, "apply", _answer_before_sync),),
    ),
    PlantedBug(
        "read of one voter",
        "a read needs a majority",
        REGISTER,
        ((register_host, "settled", _first_answer),),
    ),
    PlantedBug(
        "read of a minority's value",
        "a value counts when a majority holds it",
        REGISTER,
        ((register_host, "settled", _newest_answer),),
    ),
    PlantedBug(
        "half the voters are enough",
        "two majorities have a voter in common",
        REGISTER,
        ((register, "majority", _less_than_majority),),
    ),
    PlantedBug(
        "not the newest accepted value",
        "a change begins with the newest accepted value",
        REGISTER,
        ((Proposal, "_prepared", _any_accepted),),
    ),
)
# Quick to find: part of every `make test`.
QUICK = ("accepts below its promise",)
