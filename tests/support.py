"""Helpers for every test: waiting for a condition, the real input data, the options of the tasks of ``fab``.

Tests never sleep: they wait for a condition with a time limit, and the error names the condition.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
SHARED_DATA = REPOSITORY.parent / "shared" / "data"
POLL_INTERVAL_S = 0.01
# The time limit for real processes: long enough on a busy machine. A wait ends when its condition holds, so
# only a failure takes this long.
PATIENCE_S = 60.0


def wait_until(predicate: Callable[[], object], timeout_s: float, what: str) -> None:
    """Returns as soon as ``predicate()`` is true.

    Args:
        predicate: asked every 10 ms; an exception it raises ends the wait.
        timeout_s: how long to keep asking.
        what: the condition in words, for the error.

    Raises:
        AssertionError: the condition does not hold in time.
    """
    __tracebackhide__ = True
    pause = threading.Event()
    end = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() >= end:
            raise AssertionError(f"after {timeout_s:g} s it still does not hold: {what}")
        pause.wait(POLL_INTERVAL_S)


def shared_data(*parts: str) -> Path:
    """Returns the path of a file of real input data; skips the test if that data is absent."""
    path = SHARED_DATA.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real input data is not here: {path}")
    return path


def options_of(task: Any) -> list[Any]:
    """Returns the options of a task of ``fab``; Invoke removes the help from a task when it is read."""
    asked = copy.copy(task)
    asked.help = dict(task.help)
    found: list[Any] = asked.get_arguments()
    return found
