"""The answers of a register's voters, checked against the rules of voters as they are given.

A broken rule shows in the history of the clients only when chance brings the right messages together, so the
rules of Paxos are checked themselves: G6 a voter promises nothing twice and accepts nothing below its
promise; G7 a ballot has one value; G8 a voter's answers survive its process and a power failure; G9 a
voter whose disk was emptied begins with everything that was chosen before; G10 a majority holds the value
that a read returns without a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from agent.common.register import ZERO, Accept, Answer, Ballot, Prepare, Slot, majority
from agent.wire.register.proposer import Registers
from agent.wire.register.store import RegisterStore
from agent.wire.register.voter import Voter
from tests.simulation.machine.scheduler import Scheduler


class Ballots:
    """The memory of one run; ``problems`` are the rules that were broken."""

    def __init__(self, scheduler: Scheduler, voters: list[str]) -> None:
        self.problems: list[str] = []
        self._scheduler = scheduler
        self._voters = voters
        # The highest ballots that each voter has answered for.
        self._promised: dict[str, Ballot] = {}
        self._accepted: dict[str, Ballot] = {}
        # The voters that have ever held the value of a ballot, and that value.
        self._holders: dict[Ballot, dict[str, None]] = {}
        self._values: dict[Ballot, Any] = {}
        # Voters that lost their memory, and the newest ballot that was chosen by then.
        self._emptied: dict[str, Ballot] = {}

    def empty(self, voter: str, *, had_memory: bool) -> None:
        """Notes that a voter gets an empty disk; a founder that has not voted yet has nothing to lose."""
        if had_memory or voter in self._emptied:
            self._emptied[voter] = self._newest_chosen()
        self._promised.pop(voter, None)
        self._accepted.pop(voter, None)

    def _newest_chosen(self) -> Ballot:
        return max(filter(self._is_chosen, self._holders), default=ZERO)

    def _is_chosen(self, ballot: Ballot) -> bool:
        return len(self._holders.get(ballot, ())) >= majority(self._voters)

    def _me(self) -> str:
        running = self._scheduler.running
        assert running is not None
        return str(running.process.name).split("/")[0]

    def _break(self, problem: str) -> None:
        self.problems.append(problem)

    def _hold(self, slot: Slot) -> None:
        if slot.accepted == ZERO:
            return
        value = self._values.setdefault(slot.accepted, slot.value)
        if value != slot.value:
            self._break(f"G7: ballot {slot.accepted} has the values {value} and {slot.value}")
        self._holders.setdefault(slot.accepted, {})[self._me()] = None

    def _answered(self, request: Any, answer: Answer, promised: Ballot) -> None:
        """``promised`` is the ballot that the voter had promised before the request came."""
        name = self._me()
        if not answer.voted or not isinstance(request, Prepare | Accept):
            return
        ballot = request.ballot
        if ballot < promised or (ballot == promised and isinstance(request, Prepare)):
            self._break(f"G6: {name} votes in {ballot} after it has promised {promised}: {request.kind}")
        self._promised[name] = max(ballot, self._promised.get(name, ZERO))
        if isinstance(request, Accept):
            self._accepted[name] = max(ballot, self._accepted.get(name, ZERO))

    def _opened(self, slot: Slot, promised: Ballot, accepted: Ballot) -> None:
        name = self._me()
        self._hold(slot)
        if slot.promised < promised or slot.accepted < accepted:
            self._break(f"G8: {name} has promised {promised} and accepted {accepted}, and knows {slot}")
        chosen = self._emptied.pop(name, ZERO)
        if slot.accepted < chosen:
            self._break(f"G9: {name} lost its memory and begins with {slot}; {chosen} is chosen")

    def _read(self, answer: Answer | None) -> None:
        if answer is not None and answer.accepted != ZERO and not self._is_chosen(answer.accepted):
            self._break(f"G10: a read returns {answer.accepted}, which no majority holds")

    @contextmanager
    def watched(self, key: str) -> Iterator[None]:
        """Watches the voters and the readers of one register."""
        append, vote, open_, settle = RegisterStore._append, Voter._vote, Voter._open, Registers._settled

        def appended(store: RegisterStore, of: str, slot: Slot) -> None:
            append(store, of, slot)
            self._hold(slot)

        def voted(voter: Voter, request: Any, call: Any) -> Answer:
            promised = self._promised.get(self._me(), ZERO)
            answer = vote(voter, request, call)
            self._answered(request, answer, promised)
            return answer

        def opened(voter: Voter, founders: Any) -> None:
            promised = self._promised.get(self._me(), ZERO)
            accepted = self._accepted.get(self._me(), ZERO)
            open_(voter, founders)
            assert voter._store is not None
            self._opened(voter._store._slots.get(key, Slot()), promised, accepted)

        def settled(registers: Registers, *arguments: Any) -> Answer | None:
            answer = settle(registers, *arguments)
            self._read(answer)
            return answer

        with ExitStack() as stack:
            for owner, name, watched in (
                (RegisterStore, "_append", appended),
                (Voter, "_vote", voted),
                (Voter, "_open", opened),
                (Registers, "_settled", settled),
            ):
                stack.enter_context(mock.patch.object(owner, name, watched))
            yield
