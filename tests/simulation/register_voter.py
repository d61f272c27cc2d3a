"""A voter of the replicated register in the simulator, which learns before it votes on an empty disk.

The shell of ``agent.common.votermemory``, as ``agent.wire.register.voter`` is: the log is there if and
only if this disk may vote. It is made whole, after the founders, once the voter is found to be new or has
learnt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgpack

from agent.common import message
from agent.common.errors import DiskFull
from agent.common.register import (
    AnswerReceived,
    Ask,
    Failed,
    Finished,
    Proposal,
    Read,
    Slot,
    VoterFailed,
    Wait,
    majority,
)
from agent.common.votermemory import Standing, Verdict, judge
from agent.wire.codec import framing
from tests.simulation.register_host import KEY, OPERATION_TIMEOUT_S, VOTER_TIMEOUT_S
from tests.simulation.voter import FILE, Voter, answer_of, packed
from tests.simulation.world import Node

DISK, FOUNDERS = "disk.id", "founders"
POLL_S = 0.05
POLL_S_MAX = 1.0
PATIENCE_S = 1.0
# No message is on its way for longer than the clogs of the schedules last, and no proposal is at work.
IN_FLIGHT_S_MAX = 2.0
FORGOTTEN_VOTES_S = OPERATION_TIMEOUT_S + IN_FLIGHT_S_MAX

Header = Mapping[str, Any]
# The reply, or None: it was refused, or did not come in time.
Answered = Callable[[Header | None], None]


class VoterHost:
    """A voter: its log and its answers, once it may vote."""

    def __init__(self, node: Node, voters: Sequence[str]) -> None:
        self._node = node
        self._voters = list(voters)
        self._rng = node.random("voter")
        self._founders: dict[str, str] | None = None
        self._voter: Voter | None = None
        self._begun_at = node.now
        self._pause_s = POLL_S
        self._asks: dict[int, Answered] = {}
        self._next_id = 0
        if FILE in node.disk.names():
            self._disk = ""
            self._open()
        else:
            self._disk = self._load_disk()
            self._node.after(POLL_S, self._poll)

    @property
    def votes(self) -> bool:
        """Tells whether this disk may vote."""
        return self._voter is not None

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        header = framing.decode(data).header
        if "reply" in header:
            answered = self._asks.pop(header["reply"], None)
            if answered is not None:
                answered(None if "refused" in header else header)
            return
        self._node.reconnect(sender)
        self._node.send_stream(sender, framing.encode(framing.Frame(self._answer(header))))

    def _answer(self, header: Header) -> dict[str, Any]:
        if header["type"] == "memory":
            return {"reply": header["id"], "disk": self._disk, "founders": self._founders}
        if self._voter is None:
            return {"reply": header["id"], "refused": True}
        if header["type"] == "keys":
            known = self._voter.apply(Read(KEY)).value is not None
            return {"reply": header["id"], "keys": [KEY] if known else []}
        try:
            return self._voter.answer_frame(header)
        except DiskFull:
            return {"reply": header["id"], "refused": True}

    def on_timer(self, now: float) -> None:
        raise AssertionError("a voter has no timers")

    def next_deadline(self) -> float | None:
        return None

    def on_unreachable(self, now: float, target: str) -> None:
        """The time-out of the request tells."""

    def check_invariants(self) -> None:
        assert (self._founders is not None) == self.votes, "a voter without founders, or the reverse"

    # Finding out

    def _ask(self, voter: str, header: dict[str, Any], answered: Answered) -> None:
        self._next_id += 1
        number = self._next_id
        self._asks[number] = answered
        self._node.reconnect(voter)
        self._node.send_stream(voter, framing.encode(framing.Frame({**header, "id": number})))

        def expire() -> None:
            if self._asks.pop(number, None) is not None:
                answered(None)

        self._node.after(VOTER_TIMEOUT_S, expire)

    def _ask_others(self, kind: str, done: Callable[[dict[str, Header]], None]) -> None:
        others = [name for name in self._voters if name != self._node.name]
        found: dict[str, Header | None] = {}

        def take(name: str, header: Header | None) -> None:
            found[name] = header
            if len(found) == len(others):
                done({voter: reply for voter, reply in found.items() if reply is not None})

        for name in others:
            self._ask(name, {"type": kind}, lambda header, name=name: take(name, header))  # type: ignore[misc]
        if not others:
            done({})

    def _again(self) -> None:
        self._pause_s = min(POLL_S_MAX, 1.2 * self._pause_s)
        self._node.after(self._pause_s, self._poll)

    def _poll(self) -> None:
        self._ask_others("memory", self._judge)

    def _judge(self, replies: dict[str, Header]) -> None:
        others = {name: Standing(reply["disk"], reply["founders"]) for name, reply in replies.items()}
        patient = self._node.now - self._begun_at < PATIENCE_S
        found = judge(self._node.name, self._disk, self._voters, others, patient=patient)
        match found.verdict:
            case Verdict.WAIT:
                self._again()
            case Verdict.VOTE:
                self._begin({}, found.founders)
            case Verdict.LEARN:
                self._list_names(lambda names: self._wait_and_learn(names, found.founders))

    def _list_names(self, done: Callable[[list[str]], None]) -> None:
        def listed(replies: dict[str, Header]) -> None:
            if len(replies) < majority(self._voters):
                self._again()
            else:
                done(sorted({name for reply in replies.values() for name in reply["keys"]}))

        self._ask_others("keys", listed)

    def _wait_and_learn(self, names: list[str], founders: Mapping[str, str]) -> None:
        if not names:
            self._begin({}, founders)
            return
        left_s = max(0.0, FORGOTTEN_VOTES_S - (self._node.now - self._begun_at))
        self._node.after(left_s, lambda: self._list_names(lambda names: self._learn(founders)))

    def _learn(self, founders: Mapping[str, str]) -> None:
        """Has the others decide once more on the value that they have (``Registers.learn``)."""
        proposer = f"{self._node.name}/{self._node.generation}/{self._next_id}"
        proposal = Proposal(KEY, lambda value: value, self._voters, proposer, self._rng)

        def carry_out(effects: Sequence[Any]) -> None:
            for effect in effects:
                match effect:
                    case Ask():
                        ask(effect)
                    case Wait(delay_s=delay_s):
                        self._node.after(delay_s, lambda: carry_out(proposal.retry()))
                    case Failed():
                        self._again()
                    case Finished(value=value):
                        self._node.world.hit("a voter learnt")
                        self._begin({KEY: Slot(proposal.ballot, proposal.ballot, value)}, founders)

        def ask(effect: Ask) -> None:
            def answered(reply: Header | None) -> None:
                event: AnswerReceived | VoterFailed = VoterFailed(effect.voter, effect.attempt)
                if reply is not None:
                    event = AnswerReceived(effect.voter, effect.attempt, answer_of(reply))
                carry_out(proposal.handle(event))

            header = {**message.encode(effect.request), "type": type(effect.request).__name__.lower()}
            self._ask(effect.voter, header, answered)

        carry_out(proposal.start())

    def _load_disk(self) -> str:
        disk = self._node.disk
        if DISK not in disk.names():
            disk.write_durably(DISK, b"%016x" % self._rng.getrandbits(64))
        return disk.read(DISK).decode()

    def _begin(self, slots: Mapping[str, Slot], founders: Mapping[str, str]) -> None:
        disk = self._node.disk
        disk.write_durably(FOUNDERS, msgpack.packb(dict(founders)))
        disk.delete(DISK)
        disk.write_durably(FILE, b"".join(packed(key, slot) for key, slot in slots.items()))
        self._open()

    def _open(self) -> None:
        self._voter = Voter(self._node)
        self._founders = msgpack.unpackb(self._node.disk.read(FOUNDERS))
