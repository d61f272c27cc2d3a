"""Contract tests run on the real machine and on the simulated one."""

from __future__ import annotations

from tests.simulation.machine.both import run

__all__ = ["run"]
