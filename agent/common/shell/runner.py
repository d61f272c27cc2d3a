"""Drives one core from one thread: an inbox, the core's deadline, and the effects.

The thread that owns the core is the only one that touches it. Other threads post events into a bounded inbox.
``execute`` carries out one effect; it must not block for long, because timers wait behind it: slow work goes
to worker threads that post their result back as an event.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from agent.common.core import Core, Tick
from agent.common.deadline import Deadline
from agent.common.errors import Overloaded
from agent.common.shell import clock

logger = logging.getLogger("agent.runner")

# A core handles an event in tens of microseconds: 10,000 queued events are already a stall of half a second.
INBOX_EVENTS_MAX = 10_000


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
        self._inbox: queue.Queue[Any] = queue.Queue(maxsize=inbox_max)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

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
        except queue.Full:
            raise Overloaded(f"{self.name}: the inbox is full ({self._inbox.maxsize} events)") from None

    def turns(self, timeout_s: float) -> bool:
        """Tells whether the thread takes events: within ``timeout_s`` an empty or other ones come through."""
        before, probe = self.progress, threading.Event()
        deadline = Deadline(clock.monotonic(), timeout_s)
        with contextlib.suppress(queue.Full):
            self._inbox.put(probe, timeout=timeout_s)
            probe.wait(deadline.remaining(clock.monotonic()))
        return probe.is_set() or self.progress != before

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the thread and waits for it."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # a busy thread looks at _stopping before its next event
            self._inbox.put_nowait(None)
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
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
        except queue.Empty:
            event = Tick()
        if event is None:
            return
        self.progress += 1
        if isinstance(event, threading.Event):  # somebody asks whether this loop turns
            event.set()
            return
        for effect in self.core.handle(clock.monotonic(), event):
            self._execute(effect)
