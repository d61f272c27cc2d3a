"""A time-out over several steps."""

from __future__ import annotations

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded


def test_each_step_gets_what_is_left() -> None:
    deadline = Deadline(10.0, 2.0)
    assert deadline.remaining(10.5) == 1.5
    assert deadline.require(11.5, "the last step") == 0.5
    assert not deadline.expired(11.999)


def test_an_expired_deadline_names_the_step_that_was_next() -> None:
    deadline = Deadline(10.0, 2.0)
    assert deadline.expired(12.0)
    assert deadline.remaining(13.0) == 0.0
    with pytest.raises(DeadlineExceeded, match="sync of the journal: the operation timed out"):
        deadline.require(12.0, "sync of the journal")
