"""Rules of the replicated register, of its voters and their shells, each broken on purpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.common import register
from agent.common.register import Accept, Answer, Prepare, Proposal, Slot, VoterRequest
from agent.common.shell import disk, threads
from agent.common.shell.framedlog import FramedLog
from agent.common.votermemory import Judgement, Verdict
from agent.wire.register import proposer, store, voter
from agent.wire.register.proposer import Registers
from agent.wire.register.store import RegisterStore
from agent.wire.register.voter import Voter
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.register import world

REGISTER = Subject("register", lambda seed, kinds: world.run(world.schedule_of(seed, kinds)))


def _nothing(*_: Any, **__: Any) -> None:
    """Does not do what it should."""


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


def _promise_twice(slot: Slot, request: VoterRequest) -> tuple[Slot, Answer]:
    if isinstance(request, Prepare) and request.ballot == slot.promised:
        return slot, Answer(True, slot.promised, slot.accepted, slot.value)
    return register.answer(slot, request)


def _forget_promises(self: RegisterStore, request: VoterRequest) -> Answer:
    with self._lock:
        slot = self._slots.get(request.key, Slot())
        changed, reply = register.answer(slot, request)
        if isinstance(request, Accept) and changed != slot:
            self._append(request.key, changed)
        self._slots[request.key] = changed
        return reply


def _less_than_majority(voters: Sequence[str]) -> int:
    return max(1, len(voters) // 2)


def _first_answer(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    return answers[0] if answers else None


def _newest_answer(answers: Sequence[Answer], voters: Sequence[str]) -> Answer | None:
    needed = register.majority(voters)
    return max(answers, key=lambda found: found.accepted) if len(answers) >= needed else None


def _any_accepted(self: Proposal) -> list[Any]:
    self._value = self._change(min(self._answers.values(), key=lambda found: found.accepted).value)
    return self._ask("accept", lambda ballot: Accept(self._key, ballot, self._value))


def _another_disk(self: Voter) -> str:
    return threads.unique_id()


def _vote_at_once(name: str, disk: str, *_: Any, **__: Any) -> Judgement:
    return Judgement(Verdict.VOTE, {name: disk})


def _begin_without_learning(self: Voter, slots: Mapping[str, Slot], founders: Mapping[str, str]) -> None:
    _begin(self, {}, founders)


def _begin_without_its_id(self: Voter, slots: Mapping[str, Slot], founders: Mapping[str, str]) -> None:
    disk.unlink(self._disk_path, missing_ok=True)
    _begin(self, slots, founders)


_begin = Voter._begin


def _keep_asking(self: Registers) -> None:
    self._pool.clear()


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "accepts below its promise",
        "a promise binds",
        REGISTER,
        ((store, "answer", _accept_below_promise),),
    ),
    PlantedBug(
        "promises nothing",
        "a promise is remembered",
        REGISTER,
        ((store, "answer", _promise_anything),),
    ),
    PlantedBug(
        "promises the same ballot twice",
        "a ballot is promised once",
        REGISTER,
        ((store, "answer", _promise_twice),),
        ("isolate", "cut", "pause", "deafen"),
    ),
    PlantedBug(
        "promise not durable",
        "a promise survives a crash",
        REGISTER,
        ((RegisterStore, "apply", _forget_promises),),
        ("bounce",),
    ),
    PlantedBug(
        "votes on an emptied disk",
        "a voter that lost its memory learns before it votes",
        REGISTER,
        ((voter, "judge", _vote_at_once),),
        ("forget", "isolate", "power"),
    ),
    PlantedBug(
        "begins without what it learnt",
        "a voter that lost its memory learns before it votes",
        REGISTER,
        ((Voter, "_begin", _begin_without_learning),),
        ("forget", "isolate", "power"),
    ),
    PlantedBug(
        "another id after each restart",
        "a voter that has not voted yet may restart",
        REGISTER,
        ((Voter, "_load_disk", _another_disk),),
        ("founding",),
    ),
    PlantedBug(
        "drops its id before its log is written",
        "a voter that has not voted yet may restart",
        REGISTER,
        ((Voter, "_begin", _begin_without_its_id),),
        ("founding",),
    ),
    PlantedBug(
        "answers before the sync",
        "an accepted value survives a crash",
        REGISTER,
        ((FramedLog, "sync", _nothing),),
        ("power", "power_all", "bounce"),
    ),
    PlantedBug(
        "read of one voter",
        "a read needs a majority",
        REGISTER,
        ((proposer, "settled", _first_answer),),
    ),
    PlantedBug(
        "read of a minority's value",
        "a value counts when a majority holds it",
        REGISTER,
        ((proposer, "settled", _newest_answer),),
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
    PlantedBug(
        "threads of a closed proposer stay",
        "a stopped agent leaves no thread behind",
        REGISTER,
        ((Registers, "close", _keep_asking),),
    ),
)
# Quickly found bugs: these are part of every `make test`.
QUICK = ("accepts below its promise", "threads of a closed proposer stay")
