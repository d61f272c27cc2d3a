"""A lock for each file that needs one, created on demand and removed after its last use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded
from agent.common.shell import clock, threads


class _Lock:
    """A lock and the number of threads that hold it or wait for it."""

    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = threads.lock()
        self.users = 0


class FileLocks:
    """Locks by file id; there are never more locks than threads that use them."""

    def __init__(self) -> None:
        self._locks: dict[str, _Lock] = {}
        self._lock = threads.lock()

    @contextmanager
    def hold(self, file_id: str, deadline: Deadline, what: str) -> Iterator[None]:
        """Holds the lock of a file for the length of a block.

        Raises:
            DeadlineExceeded: another thread holds it for too long.
        """
        with self._lock:
            found = self._locks.setdefault(file_id, _Lock())
            found.users += 1
        try:
            if not found.lock.acquire(timeout=deadline.remaining(clock.monotonic())):
                raise DeadlineExceeded(f"{what}: another request holds the file for too long")
            try:
                yield
            finally:
                found.lock.release()
        finally:
            with self._lock:
                found.users -= 1
                if not found.users:
                    del self._locks[file_id]

    def __len__(self) -> int:
        return len(self._locks)
