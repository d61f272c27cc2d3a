"""The one point at which a simulator replaces the machine.

Shells reach threads and clocks through ``threads``, sockets through ``network``, files through ``disk`` and
other processes through ``processes``. Each of these modules asks ``current()`` which platform serves it; a
field that is None stands for the real machine. Only simulators install anything else. They give each
simulated process its own seam and switch to it whenever that process runs, so the look-up must stay a
single read of a module variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Seam:
    """The platforms that serve the running code; None stands for the real one of that kind."""

    # ``threads.Platform``, ``network.Platform`` and so on: those modules import this one, so importing their
    # types would make an import cycle.
    threads: Any = None
    network: Any = None
    disk: Any = None
    processes: Any = None


REAL = Seam()
_current = REAL


def current() -> Seam:
    """Returns the seam that serves the running code."""
    return _current


def switch(seam: Seam) -> Seam:
    """Installs ``seam`` and returns the one that was installed; a scheduler calls it at each switch."""
    global _current
    before, _current = _current, seam
    return before


@contextmanager
def use(seam: Seam) -> Iterator[None]:
    """Installs ``seam`` for the length of a block."""
    before = switch(seam)
    try:
        yield
    finally:
        switch(before)
