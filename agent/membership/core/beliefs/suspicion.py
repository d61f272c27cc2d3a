"""The time that a suspect has to refute (Lifeguard, arXiv 1707.00788, section IV.B).

A suspicion starts with a long time-out, because the fault may be with the accuser, and each independent
confirmation shortens it: ``T(C) = max(Smin, Smax - (Smax - Smin) * ln(C + 1) / ln(k + 1))``, where
``Smin = suspicion_min_probes * probe interval * max(1, log10 N) * factor`` (the factor is 1 in a network
without loss, see ``health``), ``Smax = suspicion_max_factor * Smin`` and ``k = min(3, N - 2)`` confirmations
bring it down to Smin. With k = 0 (two nodes) no third node could confirm.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field

from agent.common.config import MembershipConfig
from agent.membership.member import Member

CONFIRMATIONS_MAX = 3
# Every event asks for every deadline. A group has few sizes and four numbers of confirmations to cache.
TIMEOUTS_KEPT = 256


def shortest_s(config: MembershipConfig, members: int) -> float:
    """Returns Smin for a group of ``members`` live nodes."""
    return config.suspicion_min_probes * config.probe_interval_s * max(1.0, math.log10(max(1, members)))


def confirmations_wanted(members: int) -> int:
    """Returns k, the number of confirmations that bring the time-out down to Smin."""
    return max(0, min(CONFIRMATIONS_MAX, members - 2))


@functools.lru_cache(maxsize=TIMEOUTS_KEPT)
def timeout_s(shortest: float, longest: float, wanted: int, confirmations: int) -> float:
    """Returns T(C)."""
    if wanted == 0:
        return shortest
    shrunk = longest - (longest - shortest) * math.log(confirmations + 1) / math.log(wanted + 1)
    return max(shortest, shrunk)


@dataclass(slots=True)
class Suspicion:
    """One running suspicion; the first of its ``accusers``, in the order heard, is not a confirmation."""

    member: Member
    started_at: float
    shortest: float
    longest: float
    wanted: int
    accusers: list[str] = field(default_factory=list)
    not_before_at: float = 0.0

    @classmethod
    def begin(
        cls,
        now: float,
        member: Member,
        accuser: str,
        config: MembershipConfig,
        members: int,
        factor: float = 1.0,
    ) -> Suspicion:
        """Returns a fresh suspicion of ``member``; ``factor`` stretches it."""
        shortest = shortest_s(config, members) * factor
        longest = shortest * config.suspicion_max_factor
        return cls(member, now, shortest, longest, confirmations_wanted(members), [accuser])

    def confirm(self, accuser: str) -> bool:
        """Counts another accuser; returns True when it is new and still shortens the time-out."""
        if accuser in self.accusers or len(self.accusers) > self.wanted:
            return False
        self.accusers.append(accuser)
        return True

    @property
    def deadline(self) -> float:
        """Returns when the suspect is declared dead unless it refutes."""
        waited = timeout_s(self.shortest, self.longest, self.wanted, len(self.accusers) - 1)
        return max(self.started_at + waited, self.not_before_at)
