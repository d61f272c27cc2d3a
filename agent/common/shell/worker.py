"""A thread that works off a bounded queue, with an orderly end.

``Worker`` hands items to a function one at a time, ``BatchWorker`` all that wait at once; ``pool`` builds on
the same queue. The fate of each item is known: it is handled, refused when it is submitted, or handed to
``on_drop``. So nobody waits for an item that no thread will ever take.

An exception of ``handle`` ends the worker, which then refuses everything, unless ``on_error`` says that the
worker may go on.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

from agent.common.deadline import Deadline
from agent.common.errors import Overloaded, Unavailable
from agent.common.shell import threads

logger = logging.getLogger("agent.common.worker")

T = TypeVar("T")


class WorkQueue(Generic[T]):
    """A bounded queue, the threads that empty it, and its end."""

    def __init__(
        self,
        name: str,
        capacity: int,
        *,
        threads_max: int = 1,
        on_error: Callable[[Exception], bool] | None = None,
        on_drop: Callable[[T], None] | None = None,
    ) -> None:
        if capacity < 1 or threads_max < 1:
            raise ValueError(f"{name}: a worker needs room for an item and a thread")
        self.name = name
        # The number of times that ``handle`` raised.
        self.errors = 0
        self._capacity = capacity
        self._threads_max = threads_max
        self._on_error = on_error
        self._on_drop = on_drop
        self._items: deque[T] = deque()
        self._lock = threads.lock()
        self._filled = threads.condition(self._lock)
        self._emptied = threads.condition(self._lock)
        self._threads: list[threads.Thread] = []
        self._idle = 0
        self._started = False
        self._closed = False

    def start(self) -> None:
        """Starts to handle what was and will be submitted; further threads start when they are needed."""
        with self._lock:
            if not self._closed:
                self._started = True
                self._add_thread()

    def submit(self, item: T, timeout_s: float) -> None:
        """Queues an item, waiting up to ``timeout_s`` for room.

        Raises:
            Overloaded: there is no room in time; the worker's own threads never wait for it.
            Unavailable: the worker has ended.
        """
        deadline = Deadline(threads.monotonic(), timeout_s)
        with self._lock:
            while len(self._items) >= self._capacity and not self._closed:
                left = deadline.remaining(threads.monotonic())
                if left <= 0 or threads.current() in self._threads:
                    raise Overloaded(f"{self.name}: the queue is full ({self._capacity} items)")
                self._emptied.wait(left)
            if self._closed:
                raise Unavailable(f"{self.name} has stopped")
            self._append(item)

    def try_submit(self, item: T) -> bool:
        """Queues an item; returns False when there is no room or the worker has ended."""
        with self._lock:
            if self._closed or len(self._items) >= self._capacity:
                return False
            self._append(item)
            return True

    def displace(self, item: T) -> bool:
        """Queues an item; when there is no room the oldest one is dropped, and False is returned.

        Raises:
            Unavailable: the worker has ended.
        """
        with self._lock:
            if self._closed:
                raise Unavailable(f"{self.name} has stopped")
            dropped = [self._items.popleft()] if len(self._items) >= self._capacity else []
            self._append(item)
        self._drop(dropped)
        return not dropped

    def clear(self) -> int:
        """Drops all waiting items and returns their number."""
        with self._lock:
            dropped = self._take_all()
        self._drop(dropped)
        return len(dropped)

    def stop(self, *, drain: bool, timeout_s: float) -> bool:
        """Takes no more items, handles those that wait (``drain``) or drops them, and ends the threads.

        Returns whether they ended in time. If they did not, the item that is being handled goes on, and those
        that still wait are dropped. A thread of the worker does not wait for itself.
        """
        deadline = Deadline(threads.monotonic(), timeout_s)
        with self._lock:
            self._close()
            dropped = [] if drain and self._started else self._take_all()
        self._drop(dropped)
        me = threads.current()
        for thread in self._threads:
            if thread is not me:
                thread.join(deadline.remaining(threads.monotonic()))
        if me not in self._threads:
            self.clear()
        return not any(thread.is_alive() for thread in self._threads)

    @property
    def waiting(self) -> int:
        """Returns the number of waiting items."""
        return len(self._items)

    @property
    def is_alive(self) -> bool:
        """Tells whether it handles items: it was started, and neither stopped nor ended by an error."""
        return self._started and not self._closed

    # -- with the lock held ---------------------------------------------------------------------------

    def _append(self, item: T) -> None:
        if self._started and len(self._items) >= self._idle:
            self._add_thread()  # before the item is in: this fails when the process has too many threads
        self._items.append(item)
        self._filled.notify()

    def _add_thread(self) -> None:
        count = len(self._threads)
        if count < self._threads_max:
            name = self.name if self._threads_max == 1 else f"{self.name}-{count + 1}"
            self._threads.append(threads.start(name, self._run))

    def _close(self) -> None:
        self._closed = True
        self._filled.notify_all()
        self._emptied.notify_all()

    def _take_all(self) -> list[T]:
        taken = list(self._items)
        self._items.clear()
        self._emptied.notify_all()
        return taken

    def _take(self) -> list[T]:
        """Removes and returns the next item or items to handle; there is at least one item."""
        return [self._items.popleft()]

    # -- the threads ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while items := self._next():
                if not self._try(items):
                    return
        finally:
            with self._lock:
                self._close()
            self.clear()

    def _next(self) -> list[T]:
        with self._lock:
            while not self._items:
                if self._closed:
                    return []
                self._idle += 1
                self._filled.wait()
                self._idle -= 1
            items = self._take()
            self._emptied.notify(len(items))
            return items

    def _try(self, items: list[T]) -> bool:
        try:
            self._work(items)
        except Exception as error:
            self.errors += 1
            if self._on_error is None:
                raise
            logger.error("worker_failed worker=%s error=%r", self.name, error, exc_info=error)
            return self._on_error(error)
        return True

    def _work(self, items: list[T]) -> None:
        raise NotImplementedError

    def _drop(self, items: list[T]) -> None:
        if self._on_drop is not None:
            for item in items:
                self._on_drop(item)


class Worker(WorkQueue[T]):
    """A thread that handles one item after the other, in order."""

    def __init__(
        self,
        name: str,
        handle: Callable[[T], None],
        capacity: int,
        *,
        on_error: Callable[[Exception], bool] | None = None,
        on_drop: Callable[[T], None] | None = None,
    ) -> None:
        """``on_error(error)`` tells whether to go on; without it an exception of ``handle`` ends the thread.

        ``on_drop`` gets each item that will never be handled. At most ``capacity`` items may wait.
        """
        super().__init__(name, capacity, on_error=on_error, on_drop=on_drop)
        self._handle = handle

    def _work(self, items: list[T]) -> None:
        self._handle(items[0])


class BatchWorker(WorkQueue[T]):
    """A thread that handles all waiting items as one batch, in order."""

    def __init__(
        self,
        name: str,
        handle: Callable[[list[T]], None],
        capacity: int,
        *,
        items_max: int,
        size_max: int,
        size_of: Callable[[T], int],
        on_error: Callable[[Exception], bool] | None = None,
        on_drop: Callable[[T], None] | None = None,
    ) -> None:
        """A batch has up to ``items_max`` items and ends with the first that brings it to ``size_max``."""
        super().__init__(name, capacity, on_error=on_error, on_drop=on_drop)
        self._handle = handle
        self._items_max = items_max
        self._size_max = size_max
        self._size_of = size_of

    def _take(self) -> list[T]:
        taken: list[T] = []
        size = 0
        while self._items and len(taken) < self._items_max and size < self._size_max:
            item = self._items.popleft()
            taken.append(item)
            size += self._size_of(item)
        return taken

    def _work(self, items: list[T]) -> None:
        self._handle(items)
