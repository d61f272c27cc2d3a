"""Drives the node's core: any thread applies its event under one lock and carries out the effects.

Unlike ``common.shell.runner`` it has no inbox: an append passes through the core several times, and a thread
switch costs more than the core's own work. Effects must not block. An event that an effect posts is
applied after the remaining effects of the event before it.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from agent.common.core import Core, Tick
from agent.common.shell import clock, threads

logger = logging.getLogger("agent.hydfs.shell.node")


class Engine:
    """The core, its lock and its timer."""

    name = "hydfs-core"

    def __init__(
        self,
        core: Core,
        execute: Callable[[Any], None],
        on_crash: Callable[[BaseException], None],
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_stop`` is called once no more events are applied: it must refuse the waiting requests."""
        self._core = core
        self._execute = execute
        self._on_crash = on_crash
        self._on_stop = on_stop
        self._changed = threads.condition()
        # Events that wait for the one being applied. Only effects add to it, a few for each event.
        self._events: deque[Any] = deque()
        self._applying = False
        self._timer_at: float | None = None
        self._stopping = False
        self._thread = threads.thread("hydfs-timer", self._keep_time)

    def start(self) -> None:
        """Starts the timer."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the timer; events are ignored from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._on_stop()
        if self._thread.is_alive() and threads.current() is not self._thread:
            self._thread.join(timeout_s)

    def makes_progress(self, timeout_s: float) -> bool:
        """Tells whether the core becomes free within ``timeout_s``: no thread is stuck in it."""
        if not self._changed.acquire(timeout=timeout_s):
            return False
        self._changed.release()
        return True

    def post(self, event: Any) -> None:
        """Applies the event and carries out the effects; does nothing once the engine has stopped."""
        with self._changed:
            self._apply(event)
            deadline = self._core.next_deadline()
            if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
                self._changed.notify()

    def _apply(self, event: Any) -> None:
        """Applies an event and the events that its effects post; the lock is held."""
        self._events.append(event)
        if self._applying:
            return  # an effect posted it: the call that carries out that effect applies it
        self._applying = True
        try:
            while self._events and not self._stopping:
                for effect in self._core.handle(clock.monotonic(), self._events.popleft()):
                    self._execute(effect)
        except BaseException as error:
            logger.exception("core_crashed event=%s", type(event).__name__)
            self._stopping = True
            self._on_stop()
            self._on_crash(error)
        finally:
            self._applying = False
            self._events.clear()

    def _keep_time(self) -> None:
        with self._changed:
            while not self._stopping:
                deadline = self._core.next_deadline()
                now = clock.monotonic()
                if deadline is not None and deadline <= now:
                    self._apply(Tick())
                    continue
                self._timer_at = deadline
                self._changed.wait(None if deadline is None else deadline - now)
