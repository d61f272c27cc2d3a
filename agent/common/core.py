"""The contract between protocol cores and the shells that drive them.

A core holds the rules of one protocol and nothing else: it has no socket, thread, clock, random source
or disk. A shell feeds it events with the current monotonic time and carries out the effects it returns.
The deterministic simulator drives the same cores, which is why a core must be a pure
function of its constructor's arguments and its events. It iterates only over ordered containers, and takes
its randomness from a ``random.Random`` that is passed in.

Duties of a shell: call ``handle`` from one thread at a time; carry out the effects in the order returned;
call ``handle(now, Tick())`` when ``next_deadline`` is reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline that the core asked for has been reached (it may be late, never early)."""


class Core(Protocol):
    """A protocol's rules, free of input and output."""

    def handle(self, now: float, event: Any) -> Sequence[Any]:
        """Applies one event at monotonic time ``now`` (seconds) and returns the effects to carry out."""

    def next_deadline(self) -> float | None:
        """Returns the monotonic time at which a ``Tick`` is due, or None when no timer is pending."""

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule of the protocol."""
