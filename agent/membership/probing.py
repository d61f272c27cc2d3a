"""Bookkeeping of probes: the order of targets, the probes under way, and those made for others.

Targets come in round-robin order over a list that is shuffled after each pass (SWIM section 4.3): this bounds
the time until a given member is probed, which choosing at random would not. A probe has two stages: a direct
ping, and after the acknowledgement time-out indirect pings through helpers until the probe ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(slots=True)
class Probe:
    """A question to one member that is not answered yet."""

    sequence: int
    target: str
    indirect_at: float
    ends_at: float
    helpers: int = 0
    nacks: int = 0
    indirect: bool = False

    @property
    def due_at(self) -> float:
        """Returns when the next stage begins."""
        return self.ends_at if self.indirect else self.indirect_at


@dataclass(slots=True)
class Relay:
    """A ping made for another member; it is told when the answer comes, and when none has come in time."""

    requester: str
    their_sequence: int
    target: str
    nack_at: float
    ends_at: float
    nacked: bool = False

    @property
    def due_at(self) -> float:
        """Returns when the next step is to be taken."""
        return self.ends_at if self.nacked else self.nack_at


class RoundRobin:
    """Hands out names so that each comes once in every pass."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[str] = []

    def next(self, names: Sequence[str]) -> str | None:
        """Returns the next of ``names``; a name that is new waits for the next pass at most."""
        if not names:
            return None
        allowed = dict.fromkeys(names)
        for _ in range(2):
            while self._order:
                name = self._order.pop()
                if name in allowed:
                    return name
            self._order = list(allowed)
            self._rng.shuffle(self._order)
        return None
