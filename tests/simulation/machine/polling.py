"""Waiting for several simulated sockets at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from selectors import EVENT_READ, EVENT_WRITE, SelectorKey
from typing import TYPE_CHECKING, Any

from tests.simulation.machine.kernel import failure
from tests.simulation.machine.sockets import SimSocket
from tests.simulation.machine.thread import SimThread

if TYPE_CHECKING:
    from tests.simulation.machine.scheduler import Scheduler


class Poll:
    """One wait for several sockets; it asks the kernel's objects, as poll(2) does."""

    def __init__(self, scheduler: Scheduler, wanted: Sequence[tuple[SimSocket, int]]) -> None:
        self.waiters: list[SimThread] = []
        self._scheduler = scheduler
        self._wanted = wanted

    def wait(self, timeout_s: float | None) -> list[tuple[SimSocket, int]]:
        """Returns the ready sockets, and what each is ready for; none after a time-out."""
        scheduler = self._scheduler
        scheduler.point()
        end = None if timeout_s is None else scheduler.now + timeout_s
        kernels = [sock.kernel for sock, _ in self._wanted]
        for kernel in kernels:
            kernel.polls.append(self)
        try:
            while not (ready := self._ready()):
                left = None if end is None else end - scheduler.now
                if left is not None and left <= 0:
                    return []
                scheduler.wait(self.waiters, left, self)
            return ready
        finally:
            for kernel in kernels:
                kernel.polls.remove(self)

    def _ready(self) -> list[tuple[SimSocket, int]]:
        found = []
        for sock, events in self._wanted:
            reading = EVENT_READ if events & EVENT_READ and sock.kernel.is_readable() else 0
            writing = EVENT_WRITE if events & EVENT_WRITE and sock.kernel.is_writable() else 0
            if reading or writing:
                found.append((sock, reading | writing))
        return found

    def __repr__(self) -> str:
        return f"one of {', '.join(repr(sock) for sock, _ in self._wanted)}"


class SimSelector:
    """What ``selectors.DefaultSelector`` does."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._keys: dict[SimSocket, SelectorKey] = {}

    def register(self, fileobj: Any, events: int, data: Any = None) -> SelectorKey:
        """Begins to watch a socket."""
        if fileobj.fileno() < 0:
            raise ValueError(f"Invalid file descriptor: {fileobj.fileno()}")
        if fileobj in self._keys:
            raise KeyError(f"{fileobj!r} is already registered")
        key = SelectorKey(fileobj, fileobj.fileno(), events, data)
        self._keys[fileobj] = key
        return key

    def unregister(self, fileobj: Any) -> SelectorKey:
        """Stops watching a socket."""
        if fileobj not in self._keys:
            raise KeyError(f"{fileobj!r} is not registered")
        return self._keys.pop(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        """Returns the keys and events of the sockets that are ready."""
        # A closed descriptor silently leaves an epoll.
        wanted = [(sock, key.events) for sock, key in self._keys.items() if sock.fileno() >= 0]
        found = Poll(self._scheduler, wanted).wait(None if timeout is None else max(0.0, timeout))
        return [(self._keys[sock], events) for sock, events in found]

    def get_map(self) -> Mapping[Any, SelectorKey]:
        """Returns the watched sockets."""
        return self._keys

    def close(self) -> None:
        """Stops watching."""
        self._keys.clear()


def wait(
    scheduler: Scheduler, readable: Sequence[Any], writable: Sequence[Any], timeout_s: float | None
) -> list[Any]:
    """Returns the ready sockets; none after a time-out."""
    events: dict[Any, int] = {}
    for sock in readable:
        events[sock] = EVENT_READ
    for sock in writable:
        events[sock] = events.get(sock, 0) | EVENT_WRITE
    if any(sock.fileno() < 0 for sock in events):
        raise failure(9)
    wait_s = None if timeout_s is None else max(0.0, timeout_s)
    return [sock for sock, _ in Poll(scheduler, list(events.items())).wait(wait_s)]
