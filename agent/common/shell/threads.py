"""The one source of threads, locks, queues, futures and clocks for every shell.

These functions return the classes of ``threading``, ``queue`` and ``concurrent.futures``, so that
using them costs nothing extra; only their creation and the clocks pass through the seam. A simulator returns
classes with the same contract that run under its scheduler. Types are protocols that both satisfy.

No thread dies silently: an exception that ends a thread made here is logged with the thread's name, counted,
and handed to the hook of ``on_death``. Without a hook it is passed to ``threading.excepthook``.
"""

from __future__ import annotations

import logging
import os
import queue as queues
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures import Future as RealFuture
from queue import Empty, Full
from types import TracebackType
from typing import Any, Protocol, TypeVar

from agent.common.shell import seam

__all__ = ["CancelledError", "Empty", "Full"]  # the exceptions of the primitives

logger = logging.getLogger("agent.common.threads")

T = TypeVar("T")
OnDeath = Callable[[str, BaseException], None]


class Lock(Protocol):
    """What ``threading.Lock`` does."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock; returns False when it is not free in time."""

    def release(self) -> None:
        """Releases the lock; RuntimeError when nobody holds it."""

    def locked(self) -> bool:
        """Tells whether somebody holds the lock."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Condition(Protocol):
    """What ``threading.Condition`` does."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the underlying lock."""

    def release(self) -> None:
        """Releases the underlying lock."""

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock until notified; returns False when that did not happen in time."""

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Waits until ``predicate()`` is true or the time has passed; returns its last value."""

    def notify(self, n: int = 1) -> None:
        """Wakes up to ``n`` waiting threads."""

    def notify_all(self) -> None:
        """Wakes all waiting threads."""

    def __enter__(self) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Event(Protocol):
    """What ``threading.Event`` does."""

    def is_set(self) -> bool:
        """Tells whether the event is set."""

    def set(self) -> None:
        """Sets the event and wakes all threads that wait for it."""

    def clear(self) -> None:
        """Unsets the event."""

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the event is set; returns False when it was not in time."""


class Semaphore(Protocol):
    """What ``threading.BoundedSemaphore`` does."""

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Takes a slot; returns False when none is free in time."""

    def release(self, n: int = 1) -> None:
        """Gives slots back; ValueError when more come back than were taken."""

    def __enter__(self, blocking: bool = True, timeout: float | None = None) -> bool: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...


class Queue(Protocol[T]):
    """What ``queue.Queue`` does, always with a bound."""

    maxsize: int

    def put(self, item: T, block: bool = True, timeout: float | None = None) -> None:
        """Appends an item; ``Full`` when there is no room in time."""

    def put_nowait(self, item: T) -> None:
        """Appends an item; ``Full`` when there is no room now."""

    def get(self, block: bool = True, timeout: float | None = None) -> T:
        """Takes the oldest item; ``Empty`` when there is none in time."""

    def get_nowait(self) -> T:
        """Takes the oldest item; ``Empty`` when there is none now."""

    def qsize(self) -> int:
        """Returns the number of items."""


class Future(Protocol[T]):
    """What ``concurrent.futures.Future`` does."""

    def result(self, timeout: float | None = None) -> T:
        """Waits for the result and returns it, or raises its exception, TimeoutError or CancelledError."""

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Waits for the end and returns the exception, or None."""

    def done(self) -> bool:
        """Tells whether there is a result or an exception, or it was cancelled."""

    def cancel(self) -> bool:
        """Cancels a call that has not begun; returns False when it is too late."""

    def cancelled(self) -> bool:
        """Tells whether it was cancelled."""

    def set_running_or_notify_cancel(self) -> bool:
        """Marks it as begun; returns False when it was cancelled before."""

    def set_result(self, result: T) -> None:
        """Ends it with a result; InvalidStateError when it has ended."""

    def set_exception(self, exception: BaseException | None) -> None:
        """Ends it with an exception; InvalidStateError when it has ended."""


class Thread(Protocol):
    """What ``threading.Thread`` does."""

    name: str

    @property
    def ident(self) -> int | None:
        """Returns a number that no other living thread has, or None before the start."""

    def start(self) -> None:
        """Starts the thread; RuntimeError the second time."""

    def join(self, timeout: float | None = None) -> None:
        """Waits until the thread has ended, or the time has passed."""

    def is_alive(self) -> bool:
        """Tells whether the thread was started and has not ended."""


class Deaths:
    """The exceptions that ended threads."""

    def __init__(self) -> None:
        self.count = 0
        self.hook: OnDeath | None = None

    def note(self, name: str, error: BaseException) -> None:
        """Logs and counts an exception that ends the thread called ``name``, and tells the hook."""
        self.count += 1
        logger.error("thread_died thread=%s error=%r", name, error, exc_info=error)
        if self.hook is not None:
            self.hook(name, error)


class Platform(Protocol):
    """Makes threads and their primitives, and tells the time."""

    deaths: Deaths

    def lock(self) -> Lock: ...

    def condition(self, lock: Lock | None) -> Condition: ...

    def event(self) -> Event: ...

    def semaphore(self, count: int) -> Semaphore: ...

    def queue(self, capacity: int) -> Queue[Any]: ...

    def future(self) -> Future[Any]: ...

    def thread(self, name: str, target: Callable[..., object], args: tuple[Any, ...]) -> Thread: ...

    def current(self) -> Thread: ...

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...

    def random_bytes(self, count: int) -> bytes: ...


class _ReportedThread(threading.Thread):
    """A daemon thread whose death is noted."""

    def __init__(
        self, name: str, target: Callable[..., object], args: tuple[Any, ...], deaths: Deaths
    ) -> None:
        super().__init__(target=target, args=args, name=name, daemon=True)
        self._deaths = deaths

    def run(self) -> None:
        """Runs the target; an exception is noted, and passed on when nobody has asked for it."""
        try:
            super().run()
        except BaseException as error:
            self._deaths.note(self.name, error)
            if self._deaths.hook is None:
                raise


class RealThreads:
    """The threads of the operating system and the clocks of the machine."""

    def __init__(self) -> None:
        self.deaths = Deaths()

    def lock(self) -> Lock:
        """Returns a lock."""
        return threading.Lock()

    def condition(self, lock: Lock | None) -> Condition:
        """Returns a condition over ``lock``, or over a re-entrant lock of its own."""
        return threading.Condition(lock)  # type: ignore[arg-type]  # any lock will do at run time

    def event(self) -> Event:
        """Returns an event."""
        return threading.Event()

    def semaphore(self, count: int) -> Semaphore:
        """Returns a bounded semaphore."""
        return threading.BoundedSemaphore(count)

    def queue(self, capacity: int) -> Queue[Any]:
        """Returns a queue."""
        return queues.Queue(capacity)

    def future(self) -> Future[Any]:
        """Returns a future."""
        return RealFuture()

    def thread(self, name: str, target: Callable[..., object], args: tuple[Any, ...]) -> Thread:
        """Returns a daemon thread that was not started."""
        return _ReportedThread(name, target, args, self.deaths)

    def current(self) -> Thread:
        """Returns the running thread."""
        return threading.current_thread()

    def monotonic(self) -> float:
        """Returns the monotonic time in seconds."""
        return time.monotonic()

    def wall(self) -> float:
        """Returns the wall-clock time in seconds since the epoch."""
        return time.time()

    def sleep(self, seconds: float) -> None:
        """Waits."""
        time.sleep(seconds)

    def random_bytes(self, count: int) -> bytes:
        """Returns bytes that nobody can guess."""
        return os.urandom(count)


REAL: Platform = RealThreads()


def _platform() -> Platform:
    found: Platform | None = seam.current().threads
    return REAL if found is None else found


def lock() -> Lock:
    """Returns a lock that is not re-entrant."""
    return _platform().lock()


def condition(lock: Lock | None = None) -> Condition:
    """Returns a condition over ``lock``, or over a re-entrant lock of its own."""
    return _platform().condition(lock)


def event() -> Event:
    """Returns an event that is not set."""
    return _platform().event()


def semaphore(count: int) -> Semaphore:
    """Returns a semaphore of ``count`` slots that notices when more come back than were taken."""
    return _platform().semaphore(count)


def queue(capacity: int) -> Queue[Any]:
    """Returns a queue that holds up to ``capacity`` items.

    Raises:
        ValueError: the queue would have no bound.
    """
    if capacity < 1:
        raise ValueError(f"a queue needs a bound of at least 1, found {capacity}")
    return _platform().queue(capacity)


def future() -> Future[Any]:
    """Returns a future without a result."""
    return _platform().future()


def thread(name: str, target: Callable[..., object], *args: Any) -> Thread:
    """Returns a daemon thread that was not started."""
    return _platform().thread(name, target, args)


def start(name: str, target: Callable[..., object], *args: Any) -> Thread:
    """Starts a daemon thread and returns it."""
    started = _platform().thread(name, target, args)
    started.start()
    return started


def current() -> Thread:
    """Returns the running thread: the very object that ``start`` returned."""
    return _platform().current()


def monotonic() -> float:
    """Returns the monotonic time in seconds."""
    return _platform().monotonic()


def wall() -> float:
    """Returns the wall-clock time in seconds since the epoch; never used for order or time-outs."""
    return _platform().wall()


def sleep(seconds: float) -> None:
    """Waits; use an event's ``wait`` where somebody may want to interrupt it."""
    _platform().sleep(seconds)


def random_bytes(count: int) -> bytes:
    """Returns bytes that nobody can guess, except a simulator that repeats a run."""
    return _platform().random_bytes(count)


def random_source() -> random.Random:
    """Returns a random source with a fresh seed."""
    return random.Random(int.from_bytes(random_bytes(16), "big"))


def unique_id() -> str:
    """Returns 32 hexadecimal digits that nobody else will ever get (a version 4 UUID)."""
    value = int.from_bytes(random_bytes(16), "big")
    # Version 4 and the variant of RFC 9562; the module ``uuid`` would cost each agent 0.3 MB.
    return f"{value & ~(0xF << 76) & ~(0x3 << 62) | 0x4 << 76 | 0x2 << 62:032x}"


def on_death(hook: OnDeath | None) -> None:
    """Sets who is told ``(name, error)`` in the dying thread when an exception ends it."""
    _platform().deaths.hook = hook


def deaths() -> int:
    """Returns how many threads ended by an exception."""
    return _platform().deaths.count
