"""Threads that run calls from one bounded queue and return futures.

The queue and the way it ends come from ``worker``. A stalled call delays no one while another thread is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from agent.common.shell import threads
from agent.common.shell.worker import WorkQueue

T = TypeVar("T")


class _Call(msgspec.Struct, frozen=True):
    """A call for a pool to run; without a future nobody waits for the outcome."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    future: threads.Future[Any] | None


class Pool(WorkQueue[_Call]):
    """Up to ``threads_max`` threads, started when they are needed, that run calls from one queue."""

    def __init__(self, name: str, threads_max: int, capacity: int) -> None:
        super().__init__(
            name, capacity, threads_max=threads_max, on_error=lambda error: True, on_drop=self._cancel
        )
        self._started = True

    def call(self, function: Callable[..., T], *arguments: Any, timeout_s: float = 0.0) -> threads.Future[T]:
        """Returns the future of a call, cancelled when the pool stops before its turn.

        Raises:
            Overloaded, Unavailable: as ``submit``.
        """
        future: threads.Future[T] = threads.future()
        self.submit(_Call(function, arguments, future), timeout_s)
        return future

    def run(self, function: Callable[..., object], *arguments: Any, timeout_s: float = 0.0) -> None:
        """Has a call made for its effect; an exception is logged and counted.

        Raises:
            Overloaded, Unavailable: as ``submit``.
        """
        self.submit(_Call(function, arguments, None), timeout_s)

    def _work(self, items: list[_Call]) -> None:
        call = items[0]
        if call.future is None:
            call.function(*call.arguments)
        elif call.future.set_running_or_notify_cancel():
            try:
                result = call.function(*call.arguments)
            except BaseException as error:
                call.future.set_exception(error)
            else:
                call.future.set_result(result)

    @staticmethod
    def _cancel(call: _Call) -> None:
        if call.future is not None:
            call.future.cancel()
