"""Feeds the node's core: one lock, whoever has an event brings it in, effects go out in order.

Unlike ``common.runner`` there is no inbox: an append passes through the core several times, and a thread
change costs more than the core's own work. Effects must not block and must not bring events in by themselves;
they queue work for other threads.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

from agent.common.core import Core, Tick
from agent.common.shell import clock

logger = logging.getLogger("agent.hydfs.shell.node")


class Engine:
    """The core, its lock and its timer."""

    name = "hydfs-core"

    def __init__(
        self, core: Core, execute: Callable[[Any], None], on_crash: Callable[[BaseException], None]
    ) -> None:
        self._core = core
        self._execute = execute
        self._on_crash = on_crash
        self._changed = threading.Condition()
        self._timer_at: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._keep_time, name="hydfs-timer", daemon=True)

    def start(self) -> None:
        """Starts the timer."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the timer; events are ignored from now on."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(timeout_s)

    def turns(self, timeout_s: float) -> bool:
        """Tells whether the core can be had within ``timeout_s``: nobody sits in it."""
        if not self._changed.acquire(timeout=timeout_s):
            return False
        self._changed.release()
        return True

    def post(self, event: Any) -> None:
        """Applies the event and carries out the effects."""
        with self._changed:
            if self._stopping:
                return
            self._apply(event)
            deadline = self._core.next_deadline()
            if deadline is not None and (self._timer_at is None or deadline < self._timer_at):
                self._changed.notify()

    def _apply(self, event: Any) -> None:
        try:
            for effect in self._core.handle(clock.monotonic(), event):
                self._execute(effect)
        except BaseException as error:
            logger.exception("core_crashed event=%s", type(event).__name__)
            self._stopping = True
            self._on_crash(error)

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
