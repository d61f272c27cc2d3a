"""Runs one test body on the real machine and on the simulated one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.process import Process
from tests.simulation.machine.scheduler import Scheduler
from tests.simulation.machine.wires import Wires

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


def equip(scheduler: Scheduler, host: str, wires: Wires | None = None) -> Process:
    """Returns a new process of the name and address ``host`` with a network."""
    process = scheduler.process(host)
    process.equip(network=SimNetwork(wires or Wires(scheduler), process, host))
    return process
