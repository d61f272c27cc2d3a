"""Simulated locks, conditions, events, semaphores, queues and futures.

Each has the contract of its real counterpart, and no stronger one: a lock is not fair, and a thread that is
woken may find that another one was quicker. Each call is one scheduling point; if it has to wait, the wait is
the point. Each primitive remembers the line that made it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as RealFuture
from queue import Empty, Full
from typing import TYPE_CHECKING, Any, TypeVar

from tests.simulation.machine import sites
from tests.simulation.machine.thread import SimThread

if TYPE_CHECKING:
    from tests.simulation.machine.process import Process

T = TypeVar("T")


class Primitive:
    """The base of all primitives: the process that owns it, where it was made, the waiting threads."""

    __slots__ = ("made_at", "process", "scheduler", "waiters")

    kind = "primitive"

    def __init__(self, process: Process) -> None:
        self.process = process
        self.scheduler = process.scheduler
        self.made_at = sites.caller()
        self.waiters: list[SimThread] = []

    def __repr__(self) -> str:
        return f"{self.kind} of {self.process.name} made at {sites.describe(self.made_at)}"

    def wait_until(self, deadline: float | None, what: object = None) -> bool:
        """Waits in ``waiters``; returns False when the instant has passed."""
        if deadline is None:
            return self.scheduler.wait(self.waiters, None, what or self)
        left = deadline - self.scheduler.now
        return left > 0 and self.scheduler.wait(self.waiters, left, what or self)


class Lock(Primitive):
    """What ``threading.Lock`` does."""

    __slots__ = ("holder", "taken_at")

    kind = "lock"

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self.holder: SimThread | None = None
        self.taken_at = sites.UNKNOWN

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock; returns False when it is not free in time."""
        if not blocking and timeout != -1:
            raise ValueError("can't specify a timeout for a non-blocking call")
        if timeout < 0 and timeout != -1:
            raise ValueError("timeout value must be a non-negative number")
        if self.holder is None or not blocking:
            self.scheduler.point()
        if self.holder is not None:
            if not blocking:
                return False
            deadline = None if timeout == -1 else self.scheduler.now + timeout
            while self.holder is not None:
                if not self.wait_until(deadline):
                    return False
        self._take()
        return True

    def release(self) -> None:
        """Releases the lock, whichever thread took it."""
        if self.holder is None:
            raise RuntimeError("release unlocked lock")
        scheduler = self.scheduler
        self.holder = None
        scheduler.held.pop(self, None)
        if self.waiters:
            scheduler.wake_one(self.waiters)
        scheduler.point()

    def locked(self) -> bool:
        """Tells whether any thread holds the lock."""
        return self.holder is not None

    # These two are most of the calls in a simulation.

    def __enter__(self) -> bool:
        scheduler = self.scheduler
        if self.holder is None:
            scheduler.point()
        while self.holder is not None:
            self.wait_until(None)
        self.holder = scheduler.running or scheduler.driver
        self.taken_at = sites.caller(2)
        scheduler.held[self] = None
        return True

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        text = super().__repr__()
        if self.holder is None:
            return text
        return f"{text}, held by {self.holder!r} since {sites.describe(self.taken_at)}"

    def _take(self) -> None:
        scheduler = self.scheduler
        self.holder = scheduler.running or scheduler.driver
        self.taken_at = sites.caller(3)
        scheduler.held[self] = None

    def _give(self) -> None:
        self.holder = None
        self.scheduler.held.pop(self, None)
        self.scheduler.wake_one(self.waiters)

    # The methods that a condition needs.

    def owned(self) -> bool:
        """Tells whether any thread holds it: a plain lock does not know more."""
        return self.holder is not None

    def give_up(self) -> int:
        """Releases the lock for a wait and returns how often it was held."""
        self._give()
        return 1

    def take_back(self, depth: int) -> None:
        """Takes the lock after a wait."""
        while self.holder is not None:
            self.wait_until(None)
        self._take()


class ReentrantLock(Lock):
    """What ``threading.RLock`` does."""

    __slots__ = ("_depth",)

    kind = "re-entrant lock"

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._depth = 0

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Takes the lock once more."""
        if not self.owned() and not super().acquire(blocking, timeout):
            return False
        self._depth += 1
        return True

    def __enter__(self) -> bool:
        return self.acquire()

    def release(self) -> None:
        """Releases the lock once it was released as often as it was taken."""
        if not self.owned():
            raise RuntimeError("cannot release un-acquired lock")
        self._depth -= 1
        if self._depth == 0:
            super().release()

    def owned(self) -> bool:
        """Tells whether the running thread holds the lock."""
        return self.holder is not None and self.holder is (self.scheduler.running or self.scheduler.driver)

    def give_up(self) -> int:
        """Releases the lock for a wait and returns how often it was held."""
        depth, self._depth = self._depth, 0
        self._give()
        return depth

    def take_back(self, depth: int) -> None:
        """Takes the lock after a wait, as often as before."""
        super().take_back(depth)
        self._depth = depth


class Condition(Primitive):
    """What ``threading.Condition`` does."""

    __slots__ = ("_lock", "acquire", "release")

    kind = "condition"

    def __init__(self, process: Process, lock: Lock | None = None) -> None:
        super().__init__(process)
        self._lock = ReentrantLock(process) if lock is None else lock
        self.acquire = self._lock.acquire
        self.release = self._lock.release

    def __enter__(self) -> bool:
        return self._lock.__enter__()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def wait(self, timeout: float | None = None) -> bool:
        """Releases the lock until notified; returns False when that did not happen in time."""
        if not self._lock.owned():
            raise RuntimeError("cannot wait on un-acquired lock")
        depth = self._lock.give_up()
        # No Python code may run between the two: a thread that notifies now must find this one waiting.
        notified = self.scheduler.wait(self.waiters, timeout, self)
        self._lock.take_back(depth)
        return notified

    def wait_for(self, predicate: Callable[[], T], timeout: float | None = None) -> T:
        """Waits until ``predicate()`` is true or the time has passed; returns its last value."""
        deadline = None if timeout is None else self.scheduler.now + timeout
        result = predicate()
        while not result:
            left = None if deadline is None else deadline - self.scheduler.now
            if left is not None and left <= 0:
                break
            self.wait(left)
            result = predicate()
        return result

    def notify(self, n: int = 1) -> None:
        """Wakes up to ``n`` waiting threads."""
        if not self._lock.owned():
            raise RuntimeError("cannot notify on un-acquired lock")
        waiters = self.waiters
        while waiters and n > 0:
            self.scheduler.wake_one(waiters)
            n -= 1

    def notify_all(self) -> None:
        """Wakes all waiting threads."""
        self.notify(len(self.waiters))


class Event(Primitive):
    """What ``threading.Event`` does."""

    __slots__ = ("_flag", "_read_at")

    kind = "event"

    def __init__(self, process: Process) -> None:
        super().__init__(process)
        self._flag = False
        self._read_at = -1

    def is_set(self) -> bool:
        """Tells whether the event is set; a scheduling point only for a loop that has no other."""
        steps = self.scheduler.steps
        if steps == self._read_at:
            self.scheduler.point()
        self._read_at = steps
        return self._flag

    def set(self) -> None:
        """Sets the event and wakes all threads that wait for it."""
        self.scheduler.point()
        self._flag = True
        self.scheduler.wake_all(self.waiters)

    def clear(self) -> None:
        """Unsets the event."""
        self.scheduler.point()
        self._flag = False

    def wait(self, timeout: float | None = None) -> bool:
        """Waits until the event is set; returns False when it was not in time."""
        if not self._flag:
            return self.scheduler.wait(self.waiters, timeout, self)
        self.scheduler.point()
        return self._flag or self.scheduler.wait(self.waiters, timeout, self)


class Semaphore(Primitive):
    """What ``threading.BoundedSemaphore`` does."""

    __slots__ = ("_value", "count", "taken")

    kind = "semaphore"

    def __init__(self, process: Process, count: int) -> None:
        if count < 0:
            raise ValueError("semaphore initial value must be >= 0")
        super().__init__(process)
        self.count = self._value = count
        # Which thread took each slot that is out, where and when, the latest last. It is a guess if a thread
        # other than the one that took a slot gives it back.
        self.taken: list[tuple[SimThread, sites.Site, float]] = []

    def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
        """Takes a slot; returns False when none is free in time."""
        if not blocking and timeout is not None:
            raise ValueError("can't specify timeout for non-blocking acquire")
        if self._value or not blocking:
            self.scheduler.point()
        if not self._value:
            if not blocking:
                return False
            deadline = None if timeout is None else self.scheduler.now + timeout
            while not self._value:
                if not self.wait_until(deadline):
                    return False
        self._value -= 1
        self.taken.append((self._thread(), sites.caller(), self.scheduler.now))
        self.scheduler.short[self] = None
        return True

    def release(self, n: int = 1) -> None:
        """Gives slots back."""
        if n < 1:
            raise ValueError("n must be one or more")
        self.scheduler.point()
        if self._value + n > self.count:
            raise ValueError("Semaphore released too many times")
        self._value += n
        for _ in range(min(n, len(self.taken))):
            self._forget_slot()
        if self._value == self.count:
            self.scheduler.short.pop(self, None)
        for _ in range(min(n, len(self.waiters))):
            self.scheduler.wake_one(self.waiters)

    def taken_before(self, instant: float) -> list[str]:
        """Returns where and when the slots that have been out since before ``instant`` were taken."""
        return [f"{sites.describe(site)} at {at:.3f} s" for _, site, at in self.taken if at <= instant]

    def _thread(self) -> SimThread:
        return self.scheduler.running or self.scheduler.driver

    def _forget_slot(self) -> None:
        taken, me = self.taken, self._thread()
        for index in range(len(taken) - 1, -1, -1):
            if taken[index][0] is me:
                del taken[index]
                return
        del taken[0]

    def __enter__(self, blocking: bool = True, timeout: float | None = None) -> bool:
        return self.acquire(blocking, timeout)

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"{super().__repr__()}, {self._value} of {self.count} slots free"


class Queue(Primitive):
    """What ``queue.Queue`` does."""

    __slots__ = ("_items", "_putters", "maxsize")

    kind = "queue"

    def __init__(self, process: Process, capacity: int) -> None:
        super().__init__(process)
        self.maxsize = capacity
        self._items: deque[Any] = deque()
        self._putters: list[SimThread] = []

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:
        """Appends an item; ``Full`` when there is no room in time."""
        if not self._await(self._putters, lambda: len(self._items) < self.maxsize, block, timeout):
            raise Full
        self._items.append(item)
        self.scheduler.wake_one(self.waiters)

    def put_nowait(self, item: Any) -> None:
        """Appends an item; ``Full`` when there is no room now."""
        self.put(item, block=False)

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Takes the oldest item; ``Empty`` when there is none in time."""
        if not self._await(self.waiters, lambda: len(self._items) > 0, block, timeout):
            raise Empty
        item = self._items.popleft()
        self.scheduler.wake_one(self._putters)
        return item

    def get_nowait(self) -> Any:
        """Takes the oldest item; ``Empty`` when there is none now."""
        return self.get(block=False)

    def qsize(self) -> int:
        """Returns the number of items."""
        self.scheduler.point()
        return len(self._items)

    def _await(
        self, waiters: list[SimThread], ready: Callable[[], bool], block: bool, timeout: float | None
    ) -> bool:
        if block and timeout is not None and timeout < 0:
            raise ValueError("'timeout' must be a non-negative number")
        scheduler = self.scheduler
        if not block or ready():
            scheduler.point()
        deadline = None if timeout is None else scheduler.now + timeout
        while not ready():
            if not block:
                return False
            left = None if deadline is None else deadline - scheduler.now
            if left is not None and left <= 0:
                return False
            scheduler.wait(waiters, left, self)
        return True

    def __repr__(self) -> str:
        return f"{super().__repr__()}, {len(self._items)} of {self.maxsize} items"


class FutureCondition(Condition):
    """The condition inside a future."""

    __slots__ = ()

    kind = "future"


class Future(RealFuture[Any]):
    """``concurrent.futures.Future`` itself, over a simulated condition."""

    def __init__(self, process: Process) -> None:
        super().__init__()
        self._condition: Any = FutureCondition(process)
