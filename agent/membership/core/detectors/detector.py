"""The interface of a failure detector to the monitor that runs it.

A detector waits for signs of life and calls ``Roster.accuse`` when there are none. The roster decides what an
accusation means (suspicion first or death at once, confirmations, refutation), in the same way for all
detectors. Each detector receives every datagram, even while it is not active; only the active one has timers
and accuses.
"""

from __future__ import annotations

from typing import Protocol

from agent.membership.datagrams import Datagram


class Detector(Protocol):
    """A way to find out which members have failed."""

    def start(self, now: float) -> None:
        """Becomes active: from now on silence leads to accusations."""

    def stop(self) -> None:
        """Becomes inactive: it has no timers and accuses no member."""

    def receive(self, now: float, sender: str, datagram: Datagram) -> None:
        """Applies an authenticated datagram."""

    def check(self, now: float, name: str) -> None:
        """Probes one member at once, because it is suspected."""

    def forget(self, name: str) -> None:
        """Drops what is in progress about a member that was declared dead."""

    def extend_deadlines(self, now: float, grace_s: float, stalled: bool) -> None:
        """Postpones all verdicts: this process did not run when it should have."""

    def run_timers(self, now: float) -> None:
        """Runs the timers that are due."""

    def next_deadline(self) -> float | None:
        """Returns when the next timer is due."""

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
