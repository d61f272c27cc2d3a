"""What a failure detector is to the monitor that runs it: a core with timers, and nothing it decides alone.

A detector looks for signs of life and, when they stay away, calls ``Roster.accuse``. What an accusation means
(suspicion first or death at once, confirmations, refutation) is the roster's business and the same for all
detectors. Each detector hears every datagram, also while it is not in charge; only the one in charge has
timers and accuses.
"""

from __future__ import annotations

from typing import Protocol

from agent.membership.datagrams import Datagram


class Detector(Protocol):
    """A way to find out who does not live any more."""

    def start(self, now: float) -> None:
        """Takes charge: from now on silence leads to accusations."""

    def stop(self) -> None:
        """Gives up charge: no timer is left and nothing more is accused."""

    def receive(self, now: float, sender: str, datagram: Datagram) -> None:
        """Takes an authenticated datagram."""

    def check(self, now: float, name: str) -> None:
        """Looks at one member at once, because it is doubted."""

    def forget(self, name: str) -> None:
        """Drops what is under way about a member that is no longer believed to live."""

    def forgive(self, now: float, grace_s: float, stalled: bool) -> None:
        """Puts off all verdicts: this process did not run when it should have."""

    def run_timers(self, now: float) -> None:
        """Does what is due."""

    def next_deadline(self) -> float | None:
        """Returns when the next timer is due."""

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
