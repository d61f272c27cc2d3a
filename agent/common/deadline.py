"""One time-out carried over several steps.

A caller's ``timeout_s`` covers the whole operation: each step asks the deadline for what is left.
"""

from __future__ import annotations

from agent.common.errors import DeadlineExceeded


class Deadline:
    """A fixed instant on the monotonic clock by which an operation must end."""

    __slots__ = ("at",)

    def __init__(self, now: float, timeout_s: float) -> None:
        self.at = now + timeout_s

    def remaining(self, now: float) -> float:
        """Returns the seconds left, never below zero."""
        return max(0.0, self.at - now)

    def expired(self, now: float) -> bool:
        """Tells whether the instant has passed."""
        return now >= self.at

    def require(self, now: float, what: str) -> float:
        """Returns the seconds left.

        Raises:
            DeadlineExceeded: nothing is left; ``what`` names the step that would have come next.
        """
        left = self.at - now
        if left <= 0:
            raise DeadlineExceeded(f"{what}: the operation timed out")
        return left
