"""One simulated thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import greenlet

if TYPE_CHECKING:
    from tests.simulation.machine.process import Process


class Killed(BaseException):
    """Unwinds a thread of a killed process; its calls on the way have no effect."""


class SimThread:
    """What ``threading.Thread`` does, and the scheduler's notes about it."""

    __slots__ = (
        "arguments",
        "doomed",
        "error",
        "greenlet",
        "ident",
        "joiners",
        "name",
        "number",
        "process",
        "refusals",
        "target",
        "token",
        "waiters",
        "waiting_for",
        "woken",
    )

    def __init__(
        self, process: Process, name: str, target: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self.process = process
        self.name = name
        self.target = target
        self.arguments = arguments
        self.ident: int | None = None
        # Its place among all threads of the simulation.
        self.number = 0
        self.greenlet: greenlet.greenlet | None = None
        # The exception that ended it.
        self.error: BaseException | None = None
        self.joiners: list[SimThread] = []
        # Its process was killed: every call that it makes raises ``Killed``.
        self.doomed = False
        self.refusals = 0
        # The list that it waits in, what it waits for, whether it was woken; an older token voids a timer.
        self.waiters: list[SimThread] | None = None
        self.waiting_for: object = None
        self.woken = False
        self.token = 0

    def start(self) -> None:
        """Starts the thread."""
        if self.ident is not None:
            raise RuntimeError("threads can only be started once")
        scheduler = self.process.scheduler
        scheduler.add(self)
        scheduler.point()

    def is_alive(self) -> bool:
        """Tells whether the thread was started and has not ended."""
        return self in self.process.threads

    def join(self, timeout: float | None = None) -> None:
        """Waits until the thread has ended, or the time has passed."""
        scheduler = self.process.scheduler
        if self.ident is None:
            raise RuntimeError("cannot join thread before it is started")
        if scheduler.running is self:
            raise RuntimeError("cannot join current thread")
        scheduler.point()
        if self.is_alive() and (timeout is None or timeout > 0):
            scheduler.wait(self.joiners, timeout, self)

    def body(self) -> None:
        """Runs the target; called by the scheduler as the thread's greenlet."""
        process = self.process
        try:
            self.target(*self.arguments)
        except Killed:
            pass
        except BaseException as error:
            if not self.doomed:
                self.error = error
                process.scheduler.died.append((self, error))
                self._tell(error)
        finally:
            self.target, self.arguments = _nothing, ()
            process.scheduler.ended(self)

    def _tell(self, error: BaseException) -> None:
        try:
            self.process.deaths.note(self.name, error)
        except Killed:
            pass  # the hook ended the process
        except BaseException as second:
            self.process.scheduler.died.append((self, second))

    def __repr__(self) -> str:
        return f"thread {self.name!r} of {self.process.name}"


def _nothing() -> None:
    """The target of an ended thread, so that the thread keeps nothing alive."""
