"""The job logs as a leader writes them: an append whose outcome is unknown ends the right to write."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.errors import Conflict, DeadlineExceeded, Fenced, RainStormError
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.shell.joblog import JobLogs, log_file
from tests.unit.rainstorm.cluster import JOB

FILE = log_file(JOB)


class Unsure(Storage):
    """A store whose next appends end as told; None means that the append took place."""

    def __init__(self, *outcomes: RainStormError | None) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[int, int | None]] = []

    def append(self, file: str, data: bytes, writer: str, sequence: int, **options: Any) -> Any:
        self.asked.append((sequence, options["if_offset"]))
        outcome = self.outcomes.pop(0)
        if outcome is not None:
            raise outcome


def _logs(store: Unsure) -> JobLogs:
    logs = JobLogs(store, "vm1", 1)
    logs._files[FILE] = (100, 1)
    return logs


def test_every_append_says_where_the_log_ends() -> None:
    """Numbers and offsets go on from the last append."""
    store = Unsure(None, None)
    logs = _logs(store)
    logs.append(FILE, [{"t": "a"}])
    logs.append(FILE, [{"t": "a"}])
    (first, offset), (second, later) = store.asked
    assert (first, offset, second) == (2, 100, 3)
    assert later is not None
    assert later > 100


@pytest.mark.parametrize("outcome", [DeadlineExceeded("late"), Conflict("longer")])
def test_after_a_failed_append_nothing_more_is_sent(outcome: RainStormError) -> None:
    """Sending other records under the same number could be taken for a repetition, and be lost."""
    store = Unsure(outcome, None)
    logs = _logs(store)
    with pytest.raises(type(outcome)):
        logs.append(FILE, [{"t": "a"}])
    with pytest.raises(Fenced, match="taken over again"):
        logs.append(FILE, [{"t": "b"}])
    assert len(store.asked) == 1
