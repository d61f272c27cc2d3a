"""Local health: how far this node may trust its own verdicts (Lifeguard, arXiv 1707.00788, section IV.A).

The score goes from 0 (healthy) to 7. A probe that succeeds lowers it. A probe that fails raises it when none
of the helpers even sent its negative acknowledgement: their silence says that the fault is near. Having to
refute raises it, and so does a timer that fires late, which neither SWIM nor Lifeguard looks at: a process
that was not scheduled cannot tell a dead peer from its own sleep. The probe interval and the time-outs are
multiplied by score + 1.

Beside it stands the health of the network: how many of the answered probes took a detour, because the direct
ping or its answer was lost or late. Where many do, refutations are lost as well, and whoever is suspected is
given longer. The dead do not count: they answer on no way.
"""

from __future__ import annotations

SCORE_MAX = 7
# A timer this late means that the machine starves or was suspended: what happened meanwhile says nothing
# about peers.
STALL_S = 1.0
# The share of detours is an average over about so many answers.
ANSWERS_AVERAGED = 16
# With every answer on a detour a suspect is given 1 + this times as long. Of 30 % loss, about 45 % are.
PATIENCE = 3.0


class LocalHealth:
    """The score of this node."""

    def __init__(self) -> None:
        self.score = 0
        self.detours = 0.0

    @property
    def patience(self) -> float:
        """Returns the factor for the time that a suspect is given."""
        return 1.0 + PATIENCE * round(self.detours, 1)

    @property
    def multiplier(self) -> int:
        """Returns the factor for the probe interval and the acknowledgement time-outs."""
        return self.score + 1

    def probe_succeeded(self) -> None:
        """Lowers the score."""
        self._change(-1)

    def answered(self, *, detour: bool) -> None:
        """Takes note of how a probe was answered: at once, or in its second stage."""
        self.detours += (detour - self.detours) / ANSWERS_AVERAGED

    def probe_failed(self, helpers: int, nacks: int) -> None:
        """Raises the score by the helpers (by one when there was nobody to ask), unless one of them answered.

        Lifeguard adds every missing negative acknowledgement. But one that came shows that the way here is
        good, and when several machines die at once the silent helpers are among the dead: a node that blamed
        itself for them would be slow to say so.
        """
        if nacks == 0:
            self._change(max(1, helpers))

    def refuted(self) -> None:
        """Raises the score: others find this node slow."""
        self._change(1)

    def timer_late(self, lateness_s: float) -> bool:
        """Takes note of a late timer; returns True for a stall, after which verdicts must be put off."""
        if lateness_s < STALL_S:
            return False
        self._change(1)
        return True

    def _change(self, delta: int) -> None:
        self.score = min(SCORE_MAX, max(0, self.score + delta))
