"""Counts moments inside voters and proposers: a batch of schedules must reach each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

from agent.common.errors import DiskFull
from agent.common.register import Proposal
from agent.common.shell.framedlog import FramedLog
from agent.wire.register.proposer import Registers
from agent.wire.register.voter import Voter

REFUSED_VOTE = "a full disk refused a vote"
TORN = "torn register log"


@contextmanager
def counted(hits: Counter[str], proposals: dict[Proposal, None]) -> Iterator[None]:
    """Counts the moments that only the code itself sees; ``proposals`` are those in progress."""
    start, retry = Proposal.start, Proposal.retry
    open_log = FramedLog.open
    settle, decide, vote, begin = Registers._settled, Registers._decide, Voter._vote, Voter._begin

    def started(self: Proposal) -> Any:
        proposals[self] = None
        return start(self)

    def retried(self: Proposal) -> Any:
        hits["lost a race"] += 1
        return retry(self)

    def decided(self: Registers, *arguments: Any) -> Any:
        before = dict(proposals)
        try:
            return decide(self, *arguments)
        finally:
            for proposal in [each for each in proposals if each not in before]:
                if proposal._phase == "done":
                    del proposals[proposal]

    def settled(self: Registers, *arguments: Any) -> Any:
        answer = settle(self, *arguments)
        hits["read by a round" if answer is None else "quorum read"] += 1
        return answer

    def voted(self: Voter, *arguments: Any) -> Any:
        try:
            return vote(self, *arguments)
        except DiskFull:
            hits[REFUSED_VOTE] += 1
            raise

    def begun(self: Voter, slots: Any, founders: Any) -> None:
        begin(self, slots, founders)
        hits["a voter learnt"] += bool(slots)

    def opened(self: FramedLog, *arguments: Any, **keywords: Any) -> bool:
        was_torn = open_log(self, *arguments, **keywords)
        hits[TORN] += was_torn
        return was_torn

    with ExitStack() as stack:
        for owner, name, watched in (
            (FramedLog, "open", opened),
            (Proposal, "start", started),
            (Proposal, "retry", retried),
            (Registers, "_decide", decided),
            (Registers, "_settled", settled),
            (Voter, "_vote", voted),
            (Voter, "_begin", begun),
        ):
            stack.enter_context(mock.patch.object(owner, name, watched))
        yield
