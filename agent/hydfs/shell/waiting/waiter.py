"""Requests that wait for the core's answer.

The token of such an event is a ``Waiter``; the core passes it back unread in the effect that answers. A
request waits no longer than its deadline, and all are refused when the core stops.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, Unavailable
from agent.common.shell import clock, threads
from agent.hydfs.core.errors import error_of
from agent.hydfs.core.events import (
    Answer,
    AnswerWrite,
    AppendRequested,
    CallerLeft,
    Event,
    PromiseRequested,
    Refuse,
    TailRequested,
    WriteReceived,
)

# Events that the core answers.
Asked = AppendRequested | TailRequested | WriteReceived | PromiseRequested


class Waiter:
    """The place where one request waits for its answer."""

    def __init__(self) -> None:
        self._answer: threads.Future[Answer] = threads.future()

    def put(self, effect: Answer) -> None:
        """Gives the answer; a second one is ignored. Called under the core's lock."""
        if not self._answer.done():
            self._answer.set_result(effect)

    def get(self, timeout_s: float) -> Answer:
        """Waits for the answer; TimeoutError when there is none in time."""
        return self._answer.result(timeout_s)


class Waiters:
    """The waiting requests. Each blocks a connection's thread, so the number of connections bounds them."""

    def __init__(self) -> None:
        self._waiting: dict[int, Waiter] = {}
        self._lock = threads.lock()
        self._closed = False

    def ask(self, event: Asked, post: Callable[[Event], None], deadline: Deadline, what: str) -> Answer:
        """Posts an event whose token is a ``Waiter`` and returns the answer.

        Raises:
            DeadlineExceeded: there is no answer in time; the core forgets the request.
            Unavailable: the agent is stopping.
            RainStormError: what the core refused with.
        """
        waiter = event.token
        assert isinstance(waiter, Waiter)
        with self._lock:
            if self._closed:
                raise Unavailable(f"{what}: the agent is stopping")
            self._waiting[id(waiter)] = waiter
        try:
            post(event)
            answer = waiter.get(deadline.remaining(clock.monotonic()))
        except TimeoutError:
            post(CallerLeft(event.key, waiter))
            raise DeadlineExceeded(f"{what}: no answer in time") from None
        finally:
            with self._lock:
                del self._waiting[id(waiter)]
        match answer:
            case Refuse(code=code, message=message, details=details):
                raise error_of(code, message, details)
            case AnswerWrite(code=code, message=message) if code:
                raise error_of(code, message)
        return answer

    def refuse_all(self) -> None:
        """Refuses all requests that wait and all later ones: the core has stopped."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting.values())
        for waiter in waiting:
            waiter.put(Refuse(waiter, "UNAVAILABLE", "the agent is stopping"))

    def __len__(self) -> int:
        return len(self._waiting)
