"""The threaded proposer of replicated registers.

The rules are in ``agent.common.register``; this module adds sockets and threads. The name of a request begins
with the use of its register: ``view.prepare``, ``file.read``. The voter of this node is asked without the
network, by threads of its own: if its disk hangs, the requests to the other voters go on.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, assert_never

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import Internal, InvalidMessage, NoMajority, RainStormError
from agent.common.message import R
from agent.common.register import (
    KEYS_MAX,
    Accept,
    Answer,
    AnswerReceived,
    Ask,
    Ballot,
    Change,
    Check,
    Effect,
    Failed,
    Finished,
    Groups,
    Keys,
    ListKeys,
    Proposal,
    Read,
    Slot,
    VoterFailed,
    Wait,
    settled,
)
from agent.common.shell import clock, threads
from agent.common.shell.pool import Pool
from agent.wire.client import Client, Target
from agent.wire.codec.framing import PREFIX, decode_header, encode_header
from agent.wire.endpoint import Call, Endpoint

logger = logging.getLogger("agent.wire.register.proposer")

# Voters answer in a millisecond or two; one that takes longer than this is counted as failed for this round.
VOTER_TIMEOUT_S = 1.0
PROPOSER_THREADS = 16
# This node's voter writes one vote at a time; while a cluster is founded, a request waits (HOLD_S).
OWN_THREADS = 4
# A hundred changes at once with five voters each; a request without room counts as an unreachable voter.
ASKS_MAX = 512
# Two groups of five voters, and late answers of the rounds that were lost within VOTER_TIMEOUT_S.
ANSWERS_MAX = 1024
# Registers that are read often, such as the view; the value of any other register is sent each time.
KNOWN_MAX = 8
# If the last ballot of a register is not known, its next change loses a round: a millisecond.
COUNTERS_MAX = 10_000

VoterEvent = AnswerReceived | VoterFailed


def anything(key: str, value: Any) -> None:
    """Lets a register hold anything."""


class _Inbox:
    """The answers that one operation waits for; with ``over`` set, no further requests are sent."""

    def __init__(self, key: str, deadline: Deadline) -> None:
        self.key = key
        self.deadline = deadline
        self.over = False
        self._events: threads.Queue[VoterEvent] = threads.queue(ANSWERS_MAX)

    def put(self, event: VoterEvent) -> None:
        """Adds an answer; one that finds no room is lost, as if on the network."""
        with contextlib.suppress(threads.Full):
            self._events.put_nowait(event)

    def get(self) -> VoterEvent:
        """Waits for the next answer.

        Raises:
            DeadlineExceeded, NoMajority: it does not come in time.
        """
        timeout_s = self.deadline.require(clock.monotonic(), f"register {self.key}")
        try:
            return self._events.get(timeout=timeout_s)
        except threads.Empty:
            raise NoMajority(
                f"register {self.key}: the voters do not answer in time", hint="fab status"
            ) from None


class Registers:
    """Changes and reads registers on a set of voters; safe for use by many threads."""

    def __init__(
        self,
        name: str,
        prefix: str,
        client: Client,
        voters: dict[str, Target],
        *,
        groups_of: Callable[[Any], Groups] | None = None,
        target: Callable[[str], Target] | None = None,
        check: Check = anything,
    ) -> None:
        """Prepares to use the registers on ``voters``.

        If a value itself names its voters, ``groups_of`` reads them and ``target`` returns where a voter is.
        A voter that answers with a value which ``check`` refuses counts as failed.
        """
        self._groups_of = groups_of
        self._target = target
        self._check = check
        self._name = name
        self._prefix = prefix
        self._client = client
        self._voters = voters
        self._pool = Pool(f"{prefix}-proposer", PROPOSER_THREADS, ASKS_MAX)
        self._own_pool = Pool(f"{prefix}-own-voter", OWN_THREADS, ASKS_MAX)
        # The functions that answer the requests to the voter of this node, by kind of request, and whether it
        # votes already.
        self._own: Mapping[str, Endpoint] = {}
        self._own_votes: Callable[[], bool] = lambda: False
        self._counters: dict[str, int] = {}
        # The last values read, with the ballots that chose them: a voter with the same one does not send it.
        self._known: dict[str, tuple[Ballot, Any]] = {}
        self._rng = threads.random_source()

    def ask_own(self, endpoints: Mapping[str, Endpoint], votes: Callable[[], bool]) -> None:
        """Lets ``endpoints`` answer the requests to this node's voter; to be called before any operation.

        While it ``votes`` it reads from its memory, so that nobody needs a thread to wait for it.
        """
        self._own, self._own_votes = endpoints, votes

    def change(self, key: str, change: Change, *, timeout_s: float = 5.0) -> Any:
        """Applies ``change`` to the value of register ``key`` and returns the new value.

        ``change`` gets the current value (None at first) and may raise a RainStormError to refuse. It may run
        several times.

        Raises:
            NoMajority: too few voters answer; the outcome is unknown.
            RainStormError: what ``change`` refused with.
        """
        return self._decide(key, change, timeout_s)[1]

    def learn(self, key: str, *, timeout_s: float = 5.0) -> Slot:
        """Has a majority decide once more on the value of register ``key`` and returns what a voter that
        took part would hold.

        Raises:
            NoMajority: too few voters answer.
        """
        ballot, value = self._decide(key, lambda value: value, timeout_s)
        return Slot(ballot, ballot, value)

    def read(self, key: str, *, timeout_s: float = 5.0) -> Any:
        """Returns the value of register ``key``, linearizably.

        Raises:
            NoMajority: too few voters answer.
        """
        inbox = _Inbox(key, Deadline(clock.monotonic(), timeout_s))
        voters = list(self._voters)
        try:
            # This node's voter last: it may answer at once.
            for voter in sorted(voters, key=self._is_own):
                self._submit(Ask(voter, 0, Read(key)), inbox)
            found = self._settled(inbox, voters)
        finally:
            inbox.over = True
        if found is not None and self._is_by(found.value, voters):
            self._remember(key, found)
            return found.value
        # The voters differ, or the newest value names others: run a round with those that it names.
        left_s = inbox.deadline.require(clock.monotonic(), f"read {key}")
        return self.change(key, lambda value: value, timeout_s=left_s)

    def keys(self, prefix: str = "", *, timeout_s: float = 5.0) -> list[str]:
        """Returns the names known to a majority of the voters; each must be read to learn its value.

        Raises:
            NoMajority: too few voters answer.
            Overloaded: too many requests to the voters wait.
            DeadlineExceeded: not all of the names came in time.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        page = self.keys_page(prefix, timeout_s=timeout_s)
        found = list(page.keys)
        while page.more:
            left_s = deadline.require(clock.monotonic(), "the list of all names")
            page = self.keys_page(prefix, found[-1], timeout_s=left_s)
            found += page.keys
        return found

    def keys_page(self, prefix: str = "", after: str = "", *, timeout_s: float = 5.0) -> Keys:
        """Returns the next names after ``after`` known to a majority of the voters, and whether more follow.

        Raises:
            NoMajority: too few voters answer.
            Overloaded: too many questions to the voters wait.
        """
        request = ListKeys(prefix, after, KEYS_MAX)
        futures = [
            self._pool_of(voter).call(self._request, voter, request, timeout_s, timeout_s=timeout_s)
            for voter in list(self._voters)
        ]
        answers: list[Keys] = []
        for future in futures:
            # A voter that cannot be asked is one that does not answer.
            with contextlib.suppress(RainStormError, TimeoutError, threads.CancelledError):
                answers.append(future.result(timeout_s + 1.0))
        if len(answers) <= len(futures) // 2:
            raise NoMajority(
                f"only {len(answers)} of {len(futures)} voters list their names", hint="fab status"
            )
        # Up to this name every voter has listed all of its names.
        ends = [found.keys[-1] for found in answers if found.more and found.keys]
        names = sorted({key for found in answers for key in found.keys if key > after})
        return Keys(tuple(key for key in names if not ends or key <= min(ends)), bool(ends))

    def close(self) -> None:
        """Ends the worker threads; an operation in progress ends without an answer."""
        deadline = Deadline(clock.monotonic(), VOTER_TIMEOUT_S + 1.0)
        for pool in (self._pool, self._own_pool):
            pool.stop(drain=False, timeout_s=deadline.remaining(clock.monotonic()))

    def _decide(self, key: str, change: Change, timeout_s: float) -> tuple[Ballot, Any]:
        """Runs a change to its end and returns the ballot that chose the new value, and the value."""
        # The suffix keeps two threads of one node apart: two proposers must not use the same ballot.
        proposer = f"{self._name}/{threads.current().ident}"
        counter = self._counters.get(key, 0)
        proposal = Proposal(
            key, change, list(self._voters), proposer, self._rng, counter, groups_of=self._groups_of
        )
        inbox = _Inbox(key, Deadline(clock.monotonic(), timeout_s))
        try:
            effects = proposal.start()
            while True:
                finished, effects = self._carry_out(effects, proposal, inbox)
                if finished is not None:
                    break
                effects = effects or proposal.handle(inbox.get())
        finally:
            inbox.over = True
        if len(self._counters) > COUNTERS_MAX:
            self._counters.clear()
        self._counters[key] = proposal.counter
        self._follow(finished.value)
        if finished.error is not None:
            raise finished.error
        return proposal.ballot, finished.value

    def _carry_out(
        self, effects: Sequence[Effect], proposal: Proposal, inbox: _Inbox
    ) -> tuple[Finished | None, list[Effect]]:
        """Carries out effects and returns the outcome, or the effects of a new round if there is one."""
        for effect in effects:
            match effect:
                case Ask():
                    self._submit(effect, inbox)
                case Wait(delay_s=delay_s):
                    threads.sleep(min(delay_s, inbox.deadline.remaining(clock.monotonic())))
                    inbox.deadline.require(clock.monotonic(), f"change of register {inbox.key}")
                    return None, proposal.retry()
                case Failed(error=error):
                    raise error
                case Finished():
                    return effect, []
                case _:
                    assert_never(effect)
        return None, []

    def _settled(self, inbox: _Inbox, voters: Sequence[str]) -> Answer | None:
        """Returns the state that a majority of the voters holds, or None when they differ."""
        answers: list[Answer] = []
        for _ in voters:
            event = inbox.get()
            if isinstance(event, AnswerReceived):
                answers.append(event.answer)
            found = settled(answers, voters)
            if found is not None:
                return found
        return None

    def _remember(self, key: str, found: Answer) -> None:
        if key not in self._known and len(self._known) >= KNOWN_MAX:
            with contextlib.suppress(StopIteration, KeyError):  # another thread was faster
                self._known.pop(next(iter(self._known)))
        self._known[key] = (found.accepted, found.value)

    def _is_by(self, value: Any, voters: Sequence[str]) -> bool:
        return self._groups_of is None or self._groups_of(value) == (tuple(voters),)

    def _follow(self, value: Any) -> None:
        """Asks the voters that the newest value names first, next time."""
        if self._groups_of is not None and self._target is not None:
            groups = self._groups_of(value)
            if len(groups) == 1 and groups[0] != tuple(self._voters):
                self._voters = {name: self._target(name) for name in groups[0]}

    def _where(self, voter: str) -> Target:
        found = self._voters.get(voter)
        if found is None:
            assert self._target is not None, f"the address of the voter {voter} is unknown"
            found = self._target(voter)
        return found

    def _submit(self, ask: Ask, inbox: _Inbox) -> None:
        if isinstance(ask.request, Read) and self._is_own(ask.voter) and self._own_votes():
            self._answer_to(ask, inbox)
            return
        try:
            self._pool_of(ask.voter).run(self._answer_to, ask, inbox)
        except RainStormError:  # too many requests wait, or the agent is stopping
            inbox.put(VoterFailed(ask.voter, ask.attempt))

    def _answer_to(self, ask: Ask, inbox: _Inbox) -> None:
        # An accept request goes to every voter, even after a majority has answered.
        if not inbox.over or isinstance(ask.request, Accept):
            inbox.put(self._ask(ask, inbox.deadline))

    def _ask(self, ask: Ask, deadline: Deadline) -> VoterEvent:
        timeout_s = min(VOTER_TIMEOUT_S, deadline.remaining(clock.monotonic()))
        request = ask.request
        known = self._known.get(request.key) if isinstance(request, Read) else None
        if isinstance(request, Read) and known is not None:
            request = replace(request, known=known[0])
        try:
            found = self._request(ask.voter, request, timeout_s)
            if found.same:
                if known is None or found.accepted != known[0]:
                    raise InvalidMessage(f"{ask.voter} leaves out a value that is not known here")
                found = replace(found, value=known[1])
            elif found.value is not None:
                self._check(request.key, found.value)
        except RainStormError:
            return VoterFailed(ask.voter, ask.attempt)
        return AnswerReceived(ask.voter, ask.attempt, found)

    def _is_own(self, voter: str) -> bool:
        return voter == self._name and bool(self._own)

    def _pool_of(self, voter: str) -> Pool:
        return self._own_pool if self._is_own(voter) else self._pool

    def _request(self, voter: str, request: message.Request[R], timeout_s: float) -> R:
        kind = f"{self._prefix}.{request.kind}"
        if not self._is_own(voter):
            return self._client.ask(self._where(voter), request, kind=kind, timeout_s=timeout_s).message
        deadline = Deadline(clock.monotonic(), timeout_s)
        deadline.require(clock.monotonic(), f"request to the voter of {voter}")
        try:
            answer = self._own[kind].answer(_carried(message.encode(request)), Call(voter, deadline))
        except RainStormError:
            raise
        except Exception as error:  # a defect of ours is an answer too, as over the wire
            logger.exception("own_voter_failed type=%s", kind)
            raise Internal(f"{voter}: {kind} failed: {error!r}") from error
        found: R = message.decode(
            request.reply, _carried(message.encode(answer.message)), f"answer of {voter}"
        )
        return found


def _carried(fields: dict[str, Any]) -> dict[str, Any]:
    """Returns a header as it arrives; one that no frame can hold is refused here as by the other voters."""
    return decode_header(encode_header(fields, 0)[PREFIX.size :])


def voter_targets(voters: Sequence[str], target: Callable[[str], Target]) -> dict[str, Target]:
    """Returns where each voter listens, in the configured order."""
    return {name: target(name) for name in voters}
