"""The engine around the core: order of events and effects, its timer, and its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from agent.common.core import Tick
from agent.common.shell import clock
from agent.hydfs.shell.node import Engine
from tests.support import wait_until


class Script:
    """A core that answers events from a table, and has a deadline when the test sets one."""

    def __init__(self, **effects: Sequence[str]) -> None:
        self.effects = effects
        self.handled: list[Any] = []
        self.deadline: float | None = None

    def handle(self, now: float, event: Any) -> Sequence[Any]:
        """Returns the effects of the event."""
        self.handled.append(event)
        if isinstance(event, Tick):
            self.deadline = None
        found = self.effects.get(event, ()) if isinstance(event, str) else ()
        if "fail" in found:
            raise ValueError("a defect")
        return found

    def next_deadline(self) -> float | None:
        """Returns the deadline that was set."""
        return self.deadline

    def check_invariants(self) -> None:
        """Has no rules."""


def engine(core: Script, execute: Callable[[Any], None]) -> tuple[Engine, list[BaseException], list[str]]:
    crashes: list[BaseException] = []
    stops: list[str] = []
    return Engine(core, execute, crashes.append, lambda: stops.append("stopped")), crashes, stops


def test_an_event_of_an_effect_comes_after_the_other_effects() -> None:
    core = Script(first=("a", "b"), second=("c",))
    done: list[str] = []

    def execute(effect: str) -> None:
        done.append(effect)
        if effect == "a":
            made.post("second")

    made, crashes, _ = engine(core, execute)
    made.post("first")
    assert (core.handled, done, crashes) == (["first", "second"], ["a", "b", "c"], [])


def test_a_defect_stops_it_and_is_reported() -> None:
    core = Script(bad=("fail",))
    made, crashes, stops = engine(core, lambda effect: None)
    made.post("bad")
    made.post("later")
    assert core.handled == ["bad"]
    assert [type(error) for error in crashes] == [ValueError]
    assert stops == ["stopped"]


def test_the_timer_ticks_at_the_deadline_even_when_that_comes_nearer() -> None:
    core = Script()
    made, crashes, stops = engine(core, lambda effect: None)
    made.start()
    try:
        core.deadline = clock.monotonic() + 60.0
        made.post("far")
        core.deadline = clock.monotonic() + 0.01
        made.post("near")
        wait_until(lambda: Tick() in core.handled, 5.0, "the timer ticked")
    finally:
        made.stop()
    assert (crashes, stops) == ([], ["stopped"])
    made.post("late")
    assert "late" not in core.handled


def test_progress_is_seen_from_outside() -> None:
    entered, leave = threading.Event(), threading.Event()

    def execute(effect: str) -> None:
        entered.set()
        leave.wait(10.0)

    made, _, _ = engine(Script(slow=("wait",)), execute)
    assert made.makes_progress(1.0)
    thread = threading.Thread(target=made.post, args=("slow",))
    thread.start()
    assert entered.wait(5.0)
    assert not made.makes_progress(0.01)
    leave.set()
    thread.join(5.0)
    assert made.makes_progress(1.0)
