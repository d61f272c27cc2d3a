"""Drives one core from one thread: an inbox, the core's deadline, and the effects.

The thread that owns the core is the only one that touches it. Other threads post events into a bounded inbox.
``execute`` carries out one effect; it must not block for long, because timers wait behind it: slow work goes
to worker threads that post their result back as an event.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.common.core import Core, Tick
from agent.common.deadline import Deadline
from agent.common.errors import Overloaded
from agent.common.shell import clock, threads

logger = logging.getLogger("agent.runner")

# A core handles an event in tens of microseconds: 10,000 queued events are already a stall of half a second.
INBOX_EVENTS_MAX = 10_000


@dataclass(frozen=True, slots=True)
class _Probe:
    """Asks the runner's thread for a sign of life."""

    answered: threads.Event


class _Stop:
    """Wakes the runner's thread so that it sees that it must end."""


class CoreRunner:
    """Owns a core and the thread that feeds it."""

    def __init__(
        self,
        name: str,
        core: Core,
        execute: Callable[[Any], None],
        *,
        on_crash: Callable[[BaseException], None],
        inbox_max: int = INBOX_EVENTS_MAX,
    ) -> None:
        self.name = name
        self.core = core
        self.progress = 0
        self._execute = execute
        self._on_crash = on_crash
        self._inbox: threads.Queue[Any] = threads.queue(inbox_max)
        self._stopping = threads.event()
        self._thread = threads.thread(name, self._run)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def post(self, event: Any) -> None:
        """Queues an event for the core.

        Raises:
            Overloaded: the inbox is full; the event was not queued.
        """
        try:
            self._inbox.put_nowait(event)
        except threads.Full:
            raise Overloaded(f"{self.name}: the inbox is full ({self._inbox.maxsize} events)") from None

    def makes_progress(self, timeout_s: float) -> bool:
        """Tells whether the thread takes any event, a probe or another one, within ``timeout_s``."""
        before, probe = self.progress, _Probe(threads.event())
        deadline = Deadline(clock.monotonic(), timeout_s)
        with contextlib.suppress(threads.Full):
            self._inbox.put(probe, timeout=timeout_s)
            probe.answered.wait(deadline.remaining(clock.monotonic()))
        return probe.answered.is_set() or self.progress != before

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the thread and waits for it."""
        self._stopping.set()
        with contextlib.suppress(threads.Full):  # a busy thread looks at _stopping before its next event
            self._inbox.put_nowait(_Stop())
        if self._thread.is_alive() and threads.current() is not self._thread:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._step()
        except BaseException as error:
            logger.exception("core_crashed runner=%s", self.name)
            self._on_crash(error)

    def _step(self) -> None:
        deadline = self.core.next_deadline()
        timeout = None if deadline is None else max(0.0, deadline - clock.monotonic())
        try:
            event = self._inbox.get(timeout=timeout)
        except threads.Empty:
            event = Tick()
        if isinstance(event, _Stop):
            return
        self.progress += 1
        if isinstance(event, _Probe):
            event.answered.set()
            return
        for effect in self.core.handle(clock.monotonic(), event):
            self._execute(effect)
