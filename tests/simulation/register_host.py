"""The clients of the replicated register in the simulator: they append to one list.

The register's value is a list of operation ids. An append adds its id unless it is there already, as the
view and the file table do with what they change; so the value itself is the order of all changes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.common import message
from agent.common.register import (
    Answer,
    AnswerReceived,
    Ask,
    Failed,
    Finished,
    Proposal,
    Read,
    VoterFailed,
    Wait,
    settled,
)
from agent.wire.codec import framing
from tests.simulation.voter import answer_of
from tests.simulation.world import Node

KEY = "list"
VOTER_TIMEOUT_S = 0.3
OPERATION_TIMEOUT_S = 1.5
# A busy client leaves no time between its operations, so that it meets the others.
THINK_MEAN_S = (0.1, 0.002)
READ_SHARE = 0.4
RETRY_SHARE = 0.5
SUBMISSIONS_MAX = 100


@dataclass(slots=True)
class Invocation:
    """One operation of a client: ``name`` is None for a read; ``value`` is what it returned, if it did."""

    client: str
    name: str | None
    began_at: float
    ended_at: float | None = None
    value: tuple[str, ...] | None = None


class ClientHost:
    """A client that reads and appends, one operation after the other."""

    def __init__(self, node: Node, voters: Sequence[str], history: list[Invocation]) -> None:
        self.stopping = False
        self._node = node
        self._voters = list(voters)
        self._history = history
        self._rng = node.random("client")
        self._proposal: Proposal | None = None
        self._invocation: Invocation | None = None
        self._answers: list[Answer] = []
        self._failures = 0
        self._asks: dict[int, tuple[str, int, Invocation]] = {}
        self._think_mean_s = self._rng.choice(THINK_MEAN_S)
        self._next_id = 0
        self._counter = 0
        self._number = 0
        self._later()

    @property
    def idle(self) -> bool:
        """Tells whether no operation is under way."""
        return self._invocation is None

    @property
    def promised(self) -> bool:
        """Tells whether it waits for promises, or has them and nothing accepted yet."""
        return self._proposal is not None and self._proposal._phase == "prepare"

    def _later(self) -> None:
        self._node.after(self._rng.expovariate(1.0) * self._think_mean_s, self._begin)

    def _begin(self) -> None:
        if self.stopping or len(self._history) >= SUBMISSIONS_MAX:
            return
        if self._rng.random() < READ_SHARE:
            self.read()
        else:
            self._number += 1
            self.append(f"{self._node.name}/{self._node.generation}/{self._number}")

    def read(self) -> Invocation:
        """Begins a read: of a majority that agrees, else by a round that changes nothing."""
        found = self._invoke(None)
        for voter in self._voters:
            self._ask(Ask(voter, 0, Read(KEY)), found)
        return found

    def append(self, name: str) -> Invocation:
        """Begins to append ``name``."""
        found = self._invoke(name)

        def change(value: Any) -> Any:
            names = list(value or [])
            return names if name in names else [*names, name]

        self._propose(change)
        return found

    def _invoke(self, name: str | None) -> Invocation:
        assert self._invocation is None
        found = self._invocation = Invocation(self._node.name, name, self._node.now)
        self._history.append(found)
        self._answers, self._failures, self._proposal = [], 0, None
        self._node.after(OPERATION_TIMEOUT_S, lambda: self._give_up(found))
        return found

    def _propose(self, change: Callable[[Any], Any]) -> None:
        name = f"{self._node.name}/{self._node.generation}"
        self._proposal = Proposal(KEY, change, self._voters, name, self._rng, self._counter)
        self._carry_out(self._proposal.start())

    def _carry_out(self, effects: Sequence[Any]) -> None:
        invocation = self._invocation
        assert invocation is not None
        for effect in effects:
            match effect:
                case Ask():
                    self._ask(effect, invocation)
                case Wait(delay_s=delay_s):
                    self._node.world.hit("lost a race")
                    self._node.after(delay_s, lambda: self._retry(invocation))
                case Failed():
                    self._end(None)
                case Finished(value=value):
                    self._end(tuple(value or ()))

    def _retry(self, invocation: Invocation) -> None:
        if self._invocation is invocation:
            assert self._proposal is not None
            self._carry_out(self._proposal.retry())

    def _ask(self, ask: Ask, invocation: Invocation) -> None:
        self._next_id += 1
        number = self._next_id
        self._asks[number] = (ask.voter, ask.attempt, invocation)
        header = {**message.encode(ask.request), "type": type(ask.request).__name__.lower(), "id": number}
        self._node.reconnect(ask.voter)
        self._node.send_stream(ask.voter, framing.encode(framing.Frame(header)))
        self._node.after(VOTER_TIMEOUT_S, lambda: self._fail(number))

    def _give_up(self, invocation: Invocation) -> None:
        if self._invocation is invocation:
            self._node.world.hit("outcome unknown")
            self._end(None)

    def _end(self, value: tuple[str, ...] | None) -> None:
        found = self._invocation
        assert found is not None
        self._invocation = None
        if self._proposal is not None:
            self._counter = self._proposal.counter
        if value is not None:
            found.ended_at, found.value = self._node.now, value
        elif found.name is not None and self._rng.random() < RETRY_SHARE and not self.stopping:
            self._node.world.hit("the same append again")
            self.append(found.name)
            return
        self._later()

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        header: Mapping[str, Any] = framing.decode(data).header
        if "refused" in header:
            self._fail(header["reply"])
            return
        voter, attempt, invocation = self._asks.pop(header["reply"], ("", 0, None))
        if invocation is None or invocation is not self._invocation:
            return
        found = answer_of(header)
        if self._proposal is not None:
            self._carry_out(self._proposal.handle(AnswerReceived(voter, attempt, found)))
            return
        self._answers.append(found)
        same = settled(self._answers, self._voters)
        if same is not None:
            self._node.world.hit("quorum read")
            self._end(tuple(same.value or ()))
        else:
            self._check_read()

    def _fail(self, number: int) -> None:
        voter, attempt, invocation = self._asks.pop(number, ("", 0, None))
        if invocation is None or invocation is not self._invocation:
            return
        if self._proposal is not None:
            self._carry_out(self._proposal.handle(VoterFailed(voter, attempt)))
            return
        self._failures += 1
        self._check_read()

    def _check_read(self) -> None:
        if len(self._answers) + self._failures == len(self._voters):
            self._node.world.hit("read by a round")
            self._propose(lambda value: value)

    def on_unreachable(self, now: float, target: str) -> None:
        for number in [number for number, ask in self._asks.items() if ask[0] == target]:
            self._fail(number)

    def on_timer(self, now: float) -> None:
        raise AssertionError("a client has no timers of its own")

    def next_deadline(self) -> float | None:
        return None

    def check_invariants(self) -> None:
        pass
