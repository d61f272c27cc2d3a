"""Requests that wait for the core's answer.

The token of such an event is a ``Waiter``; the core passes it back unread in the effect that answers. Nobody
waits longer than the request's deadline, and all are refused when the core stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, Unavailable
from agent.common.shell import clock, threads
from agent.hydfs.core.errors import error_of
from agent.hydfs.core.events import Refuse


class Waiter:
    """One request's place to wait."""

    def __init__(self) -> None:
        self._answer: threads.Future[Any] = threads.future()

    def put(self, effect: Any) -> None:
        """Gives the answer; a second one is ignored. Called under the core's lock."""
        if not self._answer.done():
            self._answer.set_result(effect)

    def get(self, timeout_s: float) -> Any:
        """Waits for the answer; TimeoutError when there is none in time."""
        return self._answer.result(timeout_s)


class Waiters:
    """The requests that wait now. Each has a thread of a connection, so their number is bounded by those."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiter] = {}
        self._lock = threads.lock()
        self._closed = False

    def ask(self, waiter: Waiter, post: Callable[[], None], deadline: Deadline, what: str) -> Any:
        """Has ``post`` bring in the event whose token is ``waiter`` and returns the answer.

        Raises:
            DeadlineExceeded: there is no answer in time.
            Unavailable: the agent is stopping.
            RainStormError: what the core refused with.
        """
        with self._lock:
            if self._closed:
                raise Unavailable(f"{what}: the agent is stopping")
            self._waiting[id(waiter)] = waiter
        try:
            post()
            answer = waiter.get(deadline.remaining(clock.monotonic()))
        except TimeoutError:
            raise DeadlineExceeded(f"{what}: no answer in time") from None
        finally:
            with self._lock:
                del self._waiting[id(waiter)]
        if isinstance(answer, Refuse):
            raise error_of(answer.code, answer.message, answer.details)
        return answer

    def refuse_all(self) -> None:
        """Answers everybody who waits and refuses whoever comes later: the core has stopped."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
        for waiter in waiting:
            waiter.put(Refuse(waiter, "UNAVAILABLE", "the agent is stopping", {}))
