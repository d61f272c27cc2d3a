"""The runner: events in order, timers when nothing comes, a crash is reported, a full inbox refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent.common.core import Tick
from agent.common.errors import Overloaded
from agent.common.shell.runner import CoreRunner
from tests.support import wait_until


class Echo:
    """A core that returns each event as an effect and asks for ticks while ``armed``."""

    def __init__(self) -> None:
        self.armed_at: float | None = None

    def handle(self, now: float, event: Any) -> list[Any]:
        if isinstance(event, Tick):
            self.armed_at = None
        if event == "arm":
            self.armed_at = now + 0.01
        if event == "crash":
            raise ValueError("planted")
        return [event]

    def next_deadline(self) -> float | None:
        return self.armed_at

    def check_invariants(self) -> None:
        pass


class Bench:
    """A runner and its output."""

    def __init__(self) -> None:
        self.effects: list[Any] = []
        self.crashes: list[BaseException] = []
        self.gate = threading.Event()
        self.gate.set()
        self.runner = CoreRunner("bench", Echo(), self._take, on_crash=self.crashes.append, inbox_max=3)

    def _take(self, effect: Any) -> None:
        self.gate.wait(5)
        self.effects.append(effect)


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A started runner."""
    found = Bench()
    found.runner.start()
    yield found
    found.gate.set()
    found.runner.stop()


def test_events_are_handled_in_order(bench: Bench) -> None:
    """What was posted first comes out first."""
    for number in range(3):
        bench.runner.post(number)
    wait_until(lambda: bench.effects == [0, 1, 2], 5, "three effects came out in order")


def test_a_deadline_brings_a_tick(bench: Bench) -> None:
    """The core's timer fires although no event comes."""
    bench.runner.post("arm")
    wait_until(lambda: bench.effects[-1:] == [Tick()], 5, "a tick came")


def test_a_full_inbox_refuses(bench: Bench) -> None:
    """The queue is bounded, and a full one is reported to the poster."""
    bench.gate.clear()
    refused = []
    for number in range(10):
        try:
            bench.runner.post(number)
        except Overloaded as error:
            refused.append(error)
    assert len(refused) >= 6  # three wait, one may be in the core's hands


def test_a_crash_of_the_core_is_reported(bench: Bench) -> None:
    """A defect ends the thread and reaches the owner of the service."""
    bench.runner.post("crash")
    wait_until(lambda: bench.crashes, 5, "the crash is reported")
    assert isinstance(bench.crashes[0], ValueError)
