"""The simulated counterpart of ``threads.RealThreads``; each process has one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.common.shell import threads
from tests.simulation.machine import primitives
from tests.simulation.machine.thread import SimThread

if TYPE_CHECKING:
    from tests.simulation.machine.process import Process

# An arbitrary day, so that times of day in logs and names are the same in each run.
EPOCH_S = 1_750_000_000.0


class SimThreads:
    """Makes the simulated primitives of one process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._scheduler = process.scheduler

    @property
    def deaths(self) -> threads.Deaths:
        """Returns the exceptions that ended threads of the process."""
        return self._process.deaths

    def lock(self) -> primitives.Lock:
        """Returns a lock."""
        return primitives.Lock(self._process)

    def condition(self, lock: Any) -> primitives.Condition:
        """Returns a condition over ``lock``, or over a re-entrant lock of its own."""
        return primitives.Condition(self._process, lock)

    def event(self) -> primitives.Event:
        """Returns an event."""
        return primitives.Event(self._process)

    def semaphore(self, count: int) -> primitives.Semaphore:
        """Returns a bounded semaphore."""
        return primitives.Semaphore(self._process, count)

    def queue(self, capacity: int) -> primitives.Queue:
        """Returns a queue."""
        return primitives.Queue(self._process, capacity)

    def future(self) -> primitives.Future:
        """Returns a future."""
        return primitives.Future(self._process)

    def thread(
        self, name: str, target: Callable[..., object], args: tuple[Any, ...], *, started: bool = False
    ) -> SimThread:
        """Returns a thread."""
        made = SimThread(self._process, name, target, args)
        if started:
            made.start()
        return made

    def current(self) -> SimThread:
        """Returns the running thread."""
        return self._scheduler.running or self._scheduler.driver

    def monotonic(self) -> float:
        """Returns the virtual time."""
        return self._scheduler.now

    def wall(self) -> float:
        """Returns the virtual time of day on this process's clock."""
        return EPOCH_S + self._scheduler.now + self._process.wall_offset_s

    def sleep(self, seconds: float) -> None:
        """Waits in virtual time."""
        self._scheduler.point()
        self._scheduler.wait([], seconds, f"the end of a sleep of {seconds:g} s")

    def random_bytes(self, count: int) -> bytes:
        """Returns bytes that depend on the seed."""
        return self._scheduler.random.randbytes(count)
