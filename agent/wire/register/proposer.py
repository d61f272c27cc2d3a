"""Replicated registers over the wire: a voter's request handlers, and the threaded proposer.

The rules are in ``agent.common.register``; here they meet sockets and threads.
"""

from __future__ import annotations

import queue
import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import NoMajority, RainStormError
from agent.common.register import (
    Accept,
    Answer,
    AnswerReceived,
    Ask,
    Ballot,
    Change,
    Failed,
    Finished,
    Groups,
    Prepare,
    Proposal,
    Read,
    Slot,
    VoterFailed,
    VoterRequest,
    Wait,
    settled,
)
from agent.common.shell import clock
from agent.wire.client import Client, Target
from agent.wire.register.store import RegisterStore
from agent.wire.server import Handler, Reply, Request

# Voters answer in a millisecond or two; one that takes longer than this is counted as failed for this round.
VOTER_TIMEOUT_S = 1.0
PROPOSER_THREADS = 16
# Registers that are read again and again, such as the view; of others the value is sent each time.
KNOWN_MAX = 8


def to_fields(request: VoterRequest) -> dict[str, Any]:
    """Returns a voter's request as header fields."""
    match request:
        case Read(key=key):
            return {"key": key}
        case Prepare(key=key, ballot=ballot):
            return {"key": key, "ballot": ballot}
        case Accept(key=key, ballot=ballot, value=value):
            return {"key": key, "ballot": ballot, "value": value}


def handlers(store: RegisterStore, prefix: str) -> dict[str, Handler]:
    """Returns the request handlers of a voter, named ``<prefix>.prepare``, ``.accept``, ``.read`` and
    ``.keys``.
    """

    def reply(found: Answer) -> Reply:
        return Reply(
            {"voted": found.ok, "promised": found.promised, "accepted": found.accepted, "value": found.value}
        )

    def read(request: Request) -> Reply:
        found = store.apply(Read(str(request.fields["key"])))
        # A ballot chooses one value, so who knows the one of this ballot knows what is accepted here.
        if request.fields.get("known") != list(found.accepted):
            return reply(found)
        fields = {"voted": found.ok, "promised": found.promised, "accepted": found.accepted}
        return Reply({**fields, "same": True})

    def ballot(request: Request) -> tuple[int, str]:
        counter, proposer = request.fields["ballot"]
        return (int(counter), str(proposer))

    return {
        f"{prefix}.prepare": lambda r: reply(store.apply(Prepare(str(r.fields["key"]), ballot(r)))),
        f"{prefix}.accept": lambda r: reply(
            store.apply(Accept(str(r.fields["key"]), ballot(r), r.fields["value"]))
        ),
        f"{prefix}.read": read,
        f"{prefix}.keys": lambda r: Reply({"keys": store.keys(str(r.fields.get("prefix", "")))}),
    }


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
    ) -> None:
        """Prepares to use the registers on ``voters``.

        Where a value itself says who votes, ``groups_of`` reads that and ``target`` tells where a voter is.
        """
        self._groups_of = groups_of
        self._target = target
        self._name = name
        self._prefix = prefix
        self._client = client
        self._voters = voters
        self._executor = ThreadPoolExecutor(PROPOSER_THREADS, thread_name_prefix=f"{prefix}-proposer")
        self._counters: dict[str, int] = {}
        # The last values read, with the ballots that chose them: who holds the same does not send it again.
        self._known: dict[str, tuple[Ballot, Any]] = {}
        self._rng = random.Random()

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

    def _decide(self, key: str, change: Change, timeout_s: float) -> tuple[Ballot, Any]:
        """Runs a change to its end and returns the ballot that chose the new value, and the value."""
        # A proposer's ballots must be its own: the suffix keeps two threads of one node apart.
        proposer = f"{self._name}/{threading.get_ident()}"
        counter = self._counters.get(key, 0)
        proposal = Proposal(
            key, change, list(self._voters), proposer, self._rng, counter, groups_of=self._groups_of
        )
        deadline = Deadline(clock.monotonic(), timeout_s)
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed] = queue.SimpleQueue()
        effects = proposal.start()
        while True:
            for effect in effects:
                match effect:
                    case Ask():
                        self._submit(effect, inbox, deadline)
                    case Wait(delay_s=delay_s):
                        threading.Event().wait(min(delay_s, deadline.remaining(clock.monotonic())))
                        deadline.require(clock.monotonic(), f"change of register {key}")
                        effects = proposal.retry()
                        break
                    case Failed(error=error):
                        raise error
                    case Finished(value=value, error=refusal):
                        if len(self._counters) > 10_000:
                            self._counters.clear()  # only a hint that saves a lost first round
                        self._counters[key] = proposal.counter
                        self._follow(value)
                        if refusal is not None:
                            raise refusal
                        return proposal.ballot, value
            else:
                effects = self._next(proposal, inbox, deadline, key)

    def read(self, key: str, *, timeout_s: float = 5.0) -> Any:
        """Returns the value of register ``key``, linearizably.

        Raises:
            NoMajority: too few voters answer.
        """
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed] = queue.SimpleQueue()
        deadline = Deadline(clock.monotonic(), timeout_s)
        voters = list(self._voters)
        for voter in voters:
            self._submit(Ask(voter, 0, Read(key)), inbox, deadline)
        answers: list[Answer] = []
        for _ in voters:
            event = self._receive(inbox, deadline, key)
            if isinstance(event, AnswerReceived):
                answers.append(event.answer)
            found = settled(answers, voters)
            if found is not None and self._is_by(found.value, voters):
                if key not in self._known and len(self._known) >= KNOWN_MAX:
                    self._known.pop(next(iter(self._known)))
                self._known[key] = (found.accepted, found.value)
                return found.value
            if found is not None:
                break  # other voters decide by now: ask those
        return self.change(
            key, lambda value: value, timeout_s=deadline.require(clock.monotonic(), f"read {key}")
        )

    def keys(self, prefix: str = "", *, timeout_s: float = 5.0) -> list[str]:
        """Returns the names known to a majority of the voters; each must be read to learn its value.

        Raises:
            NoMajority: too few voters answer.
        """
        futures = [
            self._executor.submit(
                self._client.call, target, f"{self._prefix}.keys", {"prefix": prefix}, timeout_s=timeout_s
            )
            for target in self._voters.values()
        ]
        names: set[str] = set()
        answered = 0
        for future in futures:
            try:
                names.update(future.result(timeout_s + 1.0).fields["keys"])
                answered += 1
            except (RainStormError, TimeoutError):
                continue
        if answered <= len(futures) // 2:
            raise NoMajority(f"only {answered} of {len(futures)} voters list their names", hint="fab status")
        return sorted(names)

    def close(self) -> None:
        """Ends the worker threads."""
        self._executor.shutdown(wait=True, cancel_futures=True)

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
            assert self._target is not None, f"nobody knows where the voter {voter} is"
            found = self._target(voter)
        return found

    def _next(
        self,
        proposal: Proposal,
        inbox: queue.SimpleQueue[AnswerReceived | VoterFailed],
        deadline: Deadline,
        key: str,
    ) -> list[Any]:
        return list(proposal.handle(self._receive(inbox, deadline, key)))

    def _receive(
        self, inbox: queue.SimpleQueue[AnswerReceived | VoterFailed], deadline: Deadline, key: str
    ) -> AnswerReceived | VoterFailed:
        try:
            return inbox.get(timeout=deadline.require(clock.monotonic(), f"register {key}"))
        except queue.Empty:
            raise NoMajority(f"register {key}: the voters do not answer in time", hint="fab status") from None

    def _submit(
        self, ask: Ask, inbox: queue.SimpleQueue[AnswerReceived | VoterFailed], deadline: Deadline
    ) -> None:
        def work() -> None:
            inbox.put(self._ask(ask, deadline))

        self._executor.submit(work)

    def _ask(self, ask: Ask, deadline: Deadline) -> AnswerReceived | VoterFailed:
        kind = f"{self._prefix}.{type(ask.request).__name__.lower()}"
        timeout_s = min(VOTER_TIMEOUT_S, deadline.remaining(clock.monotonic()))
        fields = to_fields(ask.request)
        known = self._known.get(ask.request.key) if isinstance(ask.request, Read) else None
        if known is not None:
            fields["known"] = known[0]
        try:
            found = self._client.call(self._where(ask.voter), kind, fields, timeout_s=timeout_s).fields
        except RainStormError:
            return VoterFailed(ask.voter, ask.attempt)
        if known is not None and found.get("same"):
            found = {**found, "value": known[1]}
        promised, accepted = found["promised"], found["accepted"]
        return AnswerReceived(
            ask.voter,
            ask.attempt,
            Answer(
                bool(found["voted"]), (promised[0], promised[1]), (accepted[0], accepted[1]), found["value"]
            ),
        )


def voter_targets(voters: Sequence[str], target: Callable[[str], Target]) -> dict[str, Target]:
    """Returns where each voter listens, in the configured order."""
    return {name: target(name) for name in voters}
