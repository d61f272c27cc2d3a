"""A lock for each file that needs one, and none afterwards."""

from __future__ import annotations

import threading

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded
from agent.common.shell import clock
from agent.hydfs.shell.waiting.filelocks import FileLocks
from tests.support import wait_until


def soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(clock.monotonic(), timeout_s)


def test_a_file_is_held_by_one_at_a_time_and_files_do_not_wait_for_each_other() -> None:
    locks = FileLocks()
    entered = threading.Event()

    def second() -> None:
        with locks.hold("a", soon(), "test"):
            entered.set()

    thread = threading.Thread(target=second)
    with locks.hold("a", soon(), "test"):
        thread.start()
        wait_until(lambda: locks._locks["a"].users == 2, 5.0, "the second one waits")
        with locks.hold("b", soon(), "test"):
            assert len(locks) == 2
        assert not entered.is_set()
    thread.join(5.0)
    assert entered.is_set()
    assert len(locks) == 0


def test_waiting_ends_with_the_deadline_and_leaves_nothing() -> None:
    locks = FileLocks()
    with locks.hold("a", soon(), "test"):
        with pytest.raises(DeadlineExceeded, match="append"), locks.hold("a", soon(0.01), "append"):
            raise AssertionError("it was free")
        assert len(locks) == 1
    assert len(locks) == 0


def test_an_error_of_the_holder_frees_the_file() -> None:
    locks = FileLocks()
    with pytest.raises(ValueError, match="mine"), locks.hold("a", soon(), "test"):
        raise ValueError("mine")
    assert len(locks) == 0
