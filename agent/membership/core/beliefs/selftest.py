"""Decides whether this node may refute at once, or must first show that it can be reached.

A suspected node that hears of the suspicion refutes it (SWIM section 4.2). So a node that receives only one
datagram in five stays a member indefinitely: it hears of some accusation, refutes it, and is accused again
(memberlist never removes such nodes: Rapid, USENIX ATC 2018, section 7). From its own probes the node cannot
tell where the fault is, but it hears whom the others accuse. If several of them accuse this node, and none of
them has accused any other node lately, the fault is here. The node then pings its accusers and refutes only
when nearly all of them answer in time: a node that was paused is back after a round trip, and a node whose
datagrams get lost stays out until they no longer do. When all links are bad, all nodes accuse each other, and
all of them refute.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig

if TYPE_CHECKING:
    import random

# With this many accusers the fault is likely here, provided that there are as many other members.
ACCUSERS = 3
# More accusers than this add nothing: the test pings six of them.
ACCUSERS_MAX = 64
# Accusations older than this do not count.
WINDOW_S = 5.0
# If one datagram in five gets through, 5 of 6 questions are answered in one of 600 tests.
QUESTIONS = 6
ANSWERS = 5
# Many others tell a failed node that it is dead, and each test is another chance to pass by luck.
AGAIN_S = 1.0
# Separate sequence numbers, so that an answer is not mistaken for an answer to a probe.
FIRST_SEQUENCE = 1 << 40


class SelfTest:
    """The accusations that one node has heard, and its test if all of them are about this node."""

    def __init__(self, config: MembershipConfig, rng: random.Random) -> None:
        self._config = config
        self._rng = rng
        self._accused_at: dict[str, float] = {}
        self._others_accused_at = float("-inf")
        self._sequence = FIRST_SEQUENCE
        self._unanswered: set[int] = set()
        self._ends_at = float("-inf")
        self._again_at = float("-inf")

    def accused(self, now: float, accuser: str) -> None:
        """Notes that ``accuser`` got no answer from this node."""
        if accuser:
            for name in [name for name, at in self._accused_at.items() if now - at > WINDOW_S]:
                del self._accused_at[name]
            if accuser in self._accused_at or len(self._accused_at) < ACCUSERS_MAX:
                self._accused_at[accuser] = now

    def others_accused(self, now: float) -> None:
        """Notes that another node got no answer from a third one."""
        self._others_accused_at = now

    def accusers(self, now: float) -> list[str]:
        """Returns the names of the nodes that accused this one lately."""
        return [name for name, at in self._accused_at.items() if now - at <= WINDOW_S]

    def is_needed(self, now: float, others: int, *, dead: bool) -> bool:
        """Tells whether this node must pass a test before it refutes.

        Args:
            now: the present instant.
            others: the number of other members.
            dead: this node was declared dead without having heard of any suspicion.
        """
        if now - self._others_accused_at <= WINDOW_S or others < 2:
            return False
        return len(self.accusers(now)) >= (1 if dead else min(ACCUSERS, others))

    def begin(self, now: float, live: list[str]) -> list[tuple[str, int]]:
        """Returns the members to ping, with sequence numbers; none shortly after the previous test began.

        Args:
            now: the present instant.
            live: further members to ask when there are few accusers.
        """
        if now < self._again_at:
            return []
        names = self.accusers(now)
        self._rng.shuffle(names)
        names += [name for name in live if name not in names]
        names = names[:QUESTIONS]
        if not names:
            return []  # all accusations are old; wait for the next one
        asked = [(names[index % len(names)], self._sequence + index) for index in range(QUESTIONS)]
        self._sequence += QUESTIONS
        self._unanswered = {sequence for _, sequence in asked}
        self._ends_at = now + self._config.probe_duration_s
        self._again_at = now + AGAIN_S
        return asked

    def answered(self, now: float, sequence: int) -> bool:
        """Counts an answer; returns True when the test is passed with it."""
        if sequence not in self._unanswered or now > self._ends_at:
            return False
        self._unanswered.discard(sequence)
        if len(self._unanswered) > QUESTIONS - ANSWERS:
            return False
        self._unanswered.clear()
        self._accused_at.clear()
        return True
