"""Local health: how far this node may trust its own verdicts (Lifeguard, arXiv 1707.00788, section IV.A).

The score goes from 0 (healthy) to 7. A probe that succeeds lowers it. A probe that fails raises it when none
of the helpers sent even a negative acknowledgement, which suggests that the fault is here. A refutation
raises it. A timer that fires late raises it as well, which neither SWIM nor Lifeguard considers: a process
that was not scheduled cannot tell a dead peer from its own pause. The probe interval and the time-outs are
multiplied by score + 1.

A second number describes the network: the share of answered probes that were answered only in their second
stage, because the direct ping or its answer was lost or late. If that share is high, refutations get lost
as well, so a suspect is given longer. Members that are dead do not count: they answer by neither route.
"""

from __future__ import annotations

SCORE_MAX = 7
# A timer this late means that the machine is overloaded or was suspended: silence during that time says
# nothing about peers.
STALL_S = 1.0
# The number of answers over which the share of indirect ones is averaged.
ANSWERS_AVERAGED = 16
# If all answers are indirect, a suspect is given 1 + this times as long. At 30 % loss about 45 % are.
LOSS_FACTOR = 3.0


class LocalHealth:
    """The score of this node."""

    def __init__(self) -> None:
        self.score = 0
        self.indirect_share = 0.0

    @property
    def suspicion_factor(self) -> float:
        """Returns the factor for the time that a suspect is given."""
        return 1.0 + LOSS_FACTOR * round(self.indirect_share, 1)

    @property
    def multiplier(self) -> int:
        """Returns the factor for the probe interval and the acknowledgement time-outs."""
        return self.score + 1

    def probe_succeeded(self) -> None:
        """Lowers the score."""
        self._change(-1)

    def note_answer(self, *, indirect: bool) -> None:
        """Counts an answer to a probe: ``indirect`` when it came in the second stage."""
        self.indirect_share += (indirect - self.indirect_share) / ANSWERS_AVERAGED

    def probe_failed(self, helpers: int, nacks: int) -> None:
        """Raises the score by the number of helpers (by one if there were none), unless one of them answered.

        Lifeguard adds every missing negative acknowledgement. But a single one that arrives shows that this
        node can be reached. When several machines die at once, the silent helpers are among the dead, and a
        node that raised its score for them would declare the deaths late.
        """
        if nacks == 0:
            self._change(max(1, helpers))

    def refuted(self) -> None:
        """Raises the score: another node found this one slow."""
        self._change(1)

    def timer_late(self, lateness_s: float) -> bool:
        """Counts a late timer; returns True for a stall, after which verdicts must be postponed."""
        if lateness_s < STALL_S:
            return False
        self._change(1)
        return True

    def _change(self, delta: int) -> None:
        self.score = min(SCORE_MAX, max(0, self.score + delta))
