"""Whether this node may contradict those who call it silent, or has to show first that it can be reached.

Suspicion lets whoever hears of it refute (SWIM section 4.2), and so a node that receives only one datagram of
five stays a member for ever: it hears of some accusation, refutes, and is accused again (memberlist never
removes such nodes: Rapid, USENIX ATC 2018, section 7). From its own probes it cannot see whose fault that is,
but it hears whom the others accuse. When several of them accuse this node, and lately none of them anybody
else, then the fault is here. It asks its accusers directly and refutes when nearly all answer at once: a node
that was paused is back after a round trip, one whose datagrams get lost stays out until they no longer do.
When all links are bad everybody is accused by everybody, and everybody refutes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig

if TYPE_CHECKING:
    import random

# So many accusers make it likely that the fault is here, provided that there are so many others.
ACCUSERS = 3
# What was said longer ago than this is forgotten.
WINDOW_S = 5.0
# Of a datagram in five that gets through: 5 of 6 questions are answered once in 600 tests.
QUESTIONS = 6
ANSWERS = 5
# A node that fails is reminded of its death by many others, and each test is another chance to pass by luck.
AGAIN_S = 1.0
# Sequence numbers of its own, so that an answer is not mistaken for one to a probe.
FIRST_SEQUENCE = 1 << 40


class SelfTest:
    """The accusations that one node has heard, and its test when they single it out."""

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
        """Takes note that ``accuser`` finds this node silent."""
        if accuser:
            self._accused_at[accuser] = now

    def others_accused(self, now: float) -> None:
        """Takes note that another node than this one found a third one silent."""
        self._others_accused_at = now

    def accusers(self, now: float) -> list[str]:
        """Returns who accused this node lately."""
        return [name for name, at in self._accused_at.items() if now - at <= WINDOW_S]

    def is_needed(self, now: float, others: int, *, dead: bool) -> bool:
        """Tells whether this node, of ``others`` more, is singled out and must not simply refute.

        Args:
            dead: it is not suspected but dead already, and has heard of none of the suspicions before.
        """
        if now - self._others_accused_at <= WINDOW_S or others < 2:
            return False
        return len(self.accusers(now)) >= (1 if dead else min(ACCUSERS, others))

    def begin(self, now: float, live: list[str]) -> list[tuple[str, int]]:
        """Returns whom to ping, and with which sequence numbers: nobody while a test is under way or fresh.

        Args:
            live: further members to ask when there are few accusers.
        """
        if now < self._again_at:
            return []
        names = self.accusers(now)
        self._rng.shuffle(names)
        names += [name for name in live if name not in names]
        names = names[:QUESTIONS]
        if not names:
            return []  # all is long ago; the next accusation says how things stand
        asked = [(names[index % len(names)], self._sequence + index) for index in range(QUESTIONS)]
        self._sequence += QUESTIONS
        self._unanswered = {sequence for _, sequence in asked}
        self._ends_at = now + self._config.probe_duration_s
        self._again_at = now + AGAIN_S
        return asked

    def answered(self, now: float, sequence: int) -> bool:
        """Takes note of an answer; returns True when the test is passed by it."""
        if sequence not in self._unanswered or now > self._ends_at:
            return False
        self._unanswered.discard(sequence)
        if len(self._unanswered) > QUESTIONS - ANSWERS:
            return False
        self._unanswered.clear()
        self._accused_at.clear()
        return True
