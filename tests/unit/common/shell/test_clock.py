"""The clocks belong to the platform that the seam names."""

from __future__ import annotations

import time

import pytest

from agent.common.shell import clock, threads


def test_the_clocks_are_the_machines() -> None:
    """The monotonic clock never goes back, and the wall clock has the date."""
    first = clock.monotonic()
    assert first <= clock.monotonic() <= time.monotonic()
    assert abs(clock.wall() - time.time()) < 60.0


def test_a_simulated_clock_takes_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call of either clock asks the platform of threads."""
    monkeypatch.setattr(threads, "monotonic", lambda: 5.0)
    monkeypatch.setattr(threads, "wall", lambda: 7.0)
    assert (clock.monotonic(), clock.wall()) == (5.0, 7.0)
