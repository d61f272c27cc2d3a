"""Bookkeeping of probes: the order of targets, the probes under way, and those made for others.

Targets are taken in round-robin order from a list that is shuffled for each pass (SWIM section 4.3). This
bounds the time until a given member is probed, unlike a random choice. The list is shuffled as it is used up,
so a probe costs the same in a group of any size. A probe has two stages: a direct
ping, and after the acknowledgement time-out indirect pings through helpers until the probe ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


@dataclass(slots=True)
class Probe:
    """A probe of one member that is not answered yet."""

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
    """A ping on behalf of another member, which then learns of the answer, or that none came in time."""

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
    """Returns names so that each one comes once in every pass."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[str] = []

    def next(self, names: Callable[[], Sequence[str]], allowed: Callable[[str], bool]) -> str | None:
        """Returns the next name that is ``allowed``; a new name waits at most until the next pass.

        ``names`` returns all names when a pass begins.
        """
        for _ in range(2):
            order = self._order
            while order:
                index = int(self._rng.random() * len(order))
                order[index], order[-1] = order[-1], order[index]
                name = order.pop()
                if allowed(name):
                    return name
            self._order = list(names())
        return None
