"""Calls with time-outs over simulated datagrams, and changes of the file table's registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from agent.common.errors import RainStormError
from agent.common.register import (
    Accept,
    Answer,
    AnswerReceived,
    Ask,
    Change,
    Failed,
    Finished,
    Proposal,
    Read,
    VoterFailed,
    Wait,
    settled,
)
from agent.hydfs.core import filetable
from agent.hydfs.core.filetable import FileEntry
from agent.wire.codec import framing
from tests.simulation.world import Node

BLOCK_BYTES = 400
ACK_TIMEOUT_S = 0.1
CALL_TIMEOUT_S = 0.25
TEND_INTERVAL_S = 1.0
REPLICAS = 3

Fields = dict[str, Any]
# (code, fields, payload); an empty code means success.
Reply = Callable[[str, Fields, bytes], None]
Settled = Callable[[FileEntry | None, RainStormError | None], None]


class Caller:
    """Calls with time-outs over datagrams, and changes of registers."""

    def __init__(self, node: Node, voters: Sequence[str]) -> None:
        self.node = node
        self.voters = list(voters)
        self._calls = 0
        self._waiting: dict[int, Reply] = {}
        self._proposals = 0
        # The highest ballot counters seen: a hint that saves a lost first round, as the real proposer has it.
        self._counters: dict[str, int] = {}
        self._rng = node.random("proposer")

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        found = framing.decode(data)
        header, payload = found.header, bytes(found.payload)
        if "kind" in header:
            number = header["call"]

            def reply(code: str, fields: Fields, data: bytes = b"") -> None:
                body = {"reply": number, "code": code, "fields": fields}
                self.node.send_datagram(sender, framing.encode(framing.Frame(body, data)))

            self.serve(header["kind"], header["fields"], payload, reply)
        else:
            waiting = self._waiting.pop(header["reply"], None)
            if waiting is not None:
                waiting(header["code"], header["fields"], payload)

    def serve(self, kind: str, fields: Fields, payload: bytes, reply: Reply) -> None:
        raise NotImplementedError

    def call(
        self, target: str, kind: str, fields: Fields, payload: bytes, timeout_s: float, done: Reply
    ) -> None:
        self._calls += 1
        number = self.node.generation * 1_000_000 + self._calls
        self._waiting[number] = done
        body = {"kind": kind, "call": number, "fields": fields}
        self.node.send_datagram(target, framing.encode(framing.Frame(body, payload)))

        def expire() -> None:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                waiting("DEADLINE_EXCEEDED", {}, b"")

        self.node.after(timeout_s, expire)

    def change(self, name: str, change: Change, done: Settled) -> None:
        self._proposals += 1
        proposer = f"{self.node.name}/{self.node.generation}/{self._proposals}"
        counter = self._counters.get(name, 0)
        proposal = Proposal(name, change, self.voters, proposer, self._rng, counter)

        def carry_out(effects: Sequence[Any]) -> None:
            for effect in effects:
                match effect:
                    case Ask():
                        self._ask(effect, lambda event: carry_out(proposal.handle(event)))
                    case Wait(delay_s=delay_s):
                        self.node.after(delay_s, lambda: carry_out(proposal.retry()))
                    case Finished(value=value, error=error):
                        self._counters[name] = proposal.counter
                        done(filetable.from_value(value), error)
                    case Failed(error=error):
                        done(None, error)

        carry_out(proposal.start())

    def read(self, name: str, done: Settled) -> None:
        """Reads a register as ``agent.wire.register.proposer`` does: by a round only without a majority."""
        answers: list[Answer] = []
        failures = 0
        over = False

        def take(event: AnswerReceived | VoterFailed) -> None:
            nonlocal failures, over
            if over:
                return
            if isinstance(event, AnswerReceived):
                answers.append(event.answer)
            else:
                failures += 1
            found = settled(answers, self.voters)
            if found is not None:
                over = True
                done(filetable.from_value(found.value), None)
            elif len(answers) + failures == len(self.voters):
                over = True
                self.node.world.hit("read by a round")
                self.change(name, lambda value: value, done)

        for voter in self.voters:
            self._ask(Ask(voter, 0, Read(name)), take)

    def _ask(self, ask: Ask, done: Callable[[AnswerReceived | VoterFailed], None]) -> None:
        request = ask.request
        fields: Fields = {"key": request.key, "ask": type(request).__name__}
        if not isinstance(request, Read):
            fields["ballot"] = list(request.ballot)
        if isinstance(request, Accept):
            fields["value"] = request.value

        def answered(code: str, fields: Fields, payload: bytes) -> None:
            if code:
                done(VoterFailed(ask.voter, ask.attempt))
                return
            found = Answer(
                fields["ok"], ballot(fields["promised"]), ballot(fields["accepted"]), fields["value"]
            )
            done(AnswerReceived(ask.voter, ask.attempt, found))

        self.call(ask.voter, "voter", fields, b"", CALL_TIMEOUT_S, answered)


def ballot(value: Sequence[Any]) -> tuple[int, str]:
    """Returns the ballot that came over the wire."""
    return (value[0], value[1])


def ignore(code: str, fields: Fields, payload: bytes) -> None:
    """The answer does not matter."""
