"""A pytest plugin that delays threads at random where they meet, so that races show themselves.

A busy machine may delay any thread for some milliseconds at any moment. Here that happens all the time:
before a lock is taken and after it is released, around each notification, put, result and event, at the
start of a thread, and after ``wait_until``, when the state that a test saw may be over. ``make shake``
prints the seed of the delays; ``SHAKE_SEED=N`` repeats them, but not the schedule, which is the operating
system's.
"""

from __future__ import annotations

import concurrent.futures
import os
import queue
import random
import sys
import threading
import time
from collections.abc import Callable, Generator
from typing import Any

import pytest

from agent.common.shell import threads
from tests import support

CHANCE = 0.08
DELAY_S_MAX = 0.02
# The most time that the delays of one test may take, so that it still meets its time limits.
DELAYS_S_MAX = 5.0
SWITCH_INTERVAL_S = 1e-5  # 500 times as often as otherwise
# The workers of pytest-xdist inherit it.
SEED = os.environ.setdefault("SHAKE_SEED", str(random.SystemRandom().randrange(1 << 32)))


class Delays:
    """The delays of a test, which come from the seed and its name."""

    def __init__(self) -> None:
        self.left_s = 0.0
        self.random = random.Random()

    def __call__(self) -> None:
        if self.left_s > 0 and self.random.random() < CHANCE:
            delay_s = self.random.random() * DELAY_S_MAX
            self.left_s -= delay_s
            time.sleep(delay_s)


_delay = Delays()


class SlowLock:
    """A lock that is taken late, and whose holder continues late after releasing it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.locked = self._lock.locked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        _delay()
        return self._lock.acquire(blocking, timeout)

    def release(self) -> None:
        self._lock.release()
        _delay()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


class SlowThreads(threads.RealThreads):
    """The threads of the operating system, with locks that are slow."""

    def lock(self) -> threads.Lock:
        return SlowLock()


def _slow(place: Any, name: str) -> None:
    """Adds delays around a function, or around a method that our primitives inherit."""
    done: Callable[..., Any] = getattr(place, name)

    def slowly(*arguments: Any, **options: Any) -> Any:
        _delay()
        result = done(*arguments, **options)
        _delay()
        return result

    setattr(place, name, slowly)


def pytest_configure() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    threads.REAL = SlowThreads()
    for place, names in (
        (threading.Condition, ("__enter__", "__exit__", "notify", "wait")),
        (threading.Event, ("set",)),
        (threading.Thread, ("start", "run")),
        (queue.Queue, ("put", "get")),
        (concurrent.futures.Future, ("set_result", "set_exception")),
        (support, ("wait_until",)),
    ):
        for name in names:
            _slow(place, name)


def pytest_report_header() -> str:
    return f"delays: repeat with SHAKE_SEED={SEED}"


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    _delay.random.seed(f"{SEED} {item.nodeid}")
    _delay.left_s = DELAYS_S_MAX
    try:
        return (yield)
    finally:
        _delay.left_s = 0.0
