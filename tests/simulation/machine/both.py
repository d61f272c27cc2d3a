"""Runs one test body on the real machine and on the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.machine.scheduler import Scheduler

Body = Callable[[], object]
Run = Callable[[Body], object]


@pytest.fixture(params=["real", "simulated"])
def run(request: pytest.FixtureRequest, seed: int) -> Iterator[Run]:
    """Runs a function in a thread of the platform under test."""
    if request.param == "real":
        yield lambda body: body()
        return
    with Scheduler(seed) as scheduler:
        process = scheduler.process("test")
        yield lambda body: scheduler.call(process, body)
