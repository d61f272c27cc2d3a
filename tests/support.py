"""What every test may lean on: waiting for a condition, and the real input data when it is there.

Tests never sleep: they wait for a condition with a time limit, and the error names what did not happen.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
POLL_INTERVAL_S = 0.01


def wait_until(predicate: Callable[[], object], timeout_s: float, what: str) -> None:
    """Returns as soon as ``predicate()`` is true.

    Args:
        predicate: asked every 10 ms; an exception it raises ends the wait.
        timeout_s: how long to keep asking.
        what: the condition in words, for the error.

    Raises:
        AssertionError: the time is over and the condition still does not hold.
    """
    __tracebackhide__ = True
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= end:
            raise AssertionError(f"after {timeout_s:g} s it still does not hold: {what}")
        pause.wait(POLL_INTERVAL_S)


def shared_data(*parts: str) -> Path:
    """Returns the path of a file of real input data; skips the test where that data is absent."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real input data is not here: {path}")
    return path
