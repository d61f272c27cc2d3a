"""When this node compares its table with another one: because their digests differ, and now and then anyway.

How two tables are compared is in ``exchange``. This part decides with whom and how often, so that tables
converge and a difference that lasts does not cost a comparison for each datagram.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.events import CompareTables
from agent.membership.member import LIVE

if TYPE_CHECKING:
    import random

# Tables that differ are compared at most this often: if datagrams get lost, some tables always differ, and
# gossip usually removes the difference first. A node that has just joined knows that it lacks most records.
COMPARE_S_MIN = 3.0
COMPARE_AFTER_HELLO_S_MIN = 1.0
# Tables are usually compared because digests differ. This often, they are also compared with a random member.
COMPARE_INTERVAL_S = 30.0


class Comparisons:
    """The comparisons that one node asks for."""

    def __init__(self, roster: Roster, rng: random.Random) -> None:
        self._roster = roster
        self._rng = rng
        self._last_at = -math.inf
        # When tables are compared without a reason.
        self.next_at = 0.0

    def start(self, now: float) -> None:
        """Begins; nodes that start together do not compare together."""
        self.next_at = now + COMPARE_INTERVAL_S * self._rng.random()

    def heard(self, now: float, name: str, digest: int, *, after_hello: bool) -> None:
        """Has tables compared if a member's digest differs and the last comparison is long enough ago."""
        interval_s = COMPARE_AFTER_HELLO_S_MIN if after_hello else COMPARE_S_MIN
        if digest != self._roster.table.digest and now >= self._last_at + interval_s:
            member = self._roster.table.get(name)
            # A member that is believed dead but sends datagrams learns of it by datagram.
            if member is not None and member.state in LIVE:
                self._compare(now, name)

    def run_timers(self, now: float) -> None:
        """Has tables compared with a random member when that is due."""
        if now >= self.next_at:
            self.next_at = now + COMPARE_INTERVAL_S
            for name in self._roster.sample_others(self._rng, 1):
                self._compare(now, name)

    def _compare(self, now: float, name: str) -> None:
        self._last_at = now
        self.next_at = now + COMPARE_INTERVAL_S * self._rng.uniform(0.5, 1.5)
        self._roster.effects.append(CompareTables(name))
