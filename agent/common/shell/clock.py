"""The machine's clocks.

Order and time-outs use the monotonic clock alone; the wall clock is for log lines and reports.
"""

from __future__ import annotations

from agent.common.shell import threads


def monotonic() -> float:
    """Returns the monotonic time in seconds."""
    return threads.monotonic()


def wall() -> float:
    """Returns the wall-clock time in seconds since the epoch; never used for order or time-outs."""
    return threads.wall()
