"""Following a job through outages, its line of progress, and how recovery is measured."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest

from agent.common.errors import DeadlineExceeded, NotFound, Unreachable
from agent.common.failure import Failure
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.status import CommitStatus, JobStatus, TaskStatus
from ops.demo.run import Kill
from ops.output import progress
from tests.unit.rainstorm.statuses import job_status


class _Answers:
    """Answers ``job`` from a script; the last answer repeats."""

    def __init__(self, *answers: JobStatus | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def job(self, job_id: str) -> JobStatus:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if isinstance(answer, Exception):
            raise answer
        return answer


def _follow(script: _Answers, timeout_s: float | None = None) -> tuple[JobStatus, list[str]]:
    seen: list[str] = []
    ended = progress.follow(
        cast("RainstormClient", script),
        "j-1",
        on_look=lambda job: seen.append(job.state),
        poll_s=0.001,
        timeout_s=timeout_s,
    )
    return ended, seen


@pytest.mark.parametrize("state", ["finished", "failed", "cancelled"])
def test_following_ends_with_the_job(state: str) -> None:
    ended, seen = _follow(
        _Answers(job_status(state="deploying"), job_status(state="running"), job_status(state=state))
    )
    assert ended.state == state
    assert seen == ["deploying", "running", state]


def test_an_outage_is_waited_out() -> None:
    ended, seen = _follow(
        _Answers(job_status(state="running"), Unreachable("no leader"), job_status(state="finished"))
    )
    assert ended.state == "finished"
    assert seen == ["running", "finished"]


def test_an_error_that_will_not_pass_ends_it() -> None:
    with pytest.raises(NotFound):
        _follow(_Answers(job_status(state="running"), NotFound("no such job")))


def test_an_endless_outage_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "OUTAGE_S_MAX", 0.01)
    with pytest.raises(Unreachable):
        _follow(_Answers(job_status(state="running"), Unreachable("no leader")))


def test_a_limit_ends_the_following_not_the_job() -> None:
    with pytest.raises(DeadlineExceeded, match="j-1"):
        _follow(_Answers(job_status(state="running")), timeout_s=0.01)


def test_the_line_says_how_far_it_is() -> None:
    task = TaskStatus("j-1", "0.0", 0, "identity", "n1", 7, "running")
    text = progress.line(
        job_status(
            state="running",
            lines_read=1234567,
            lines_per_s=99999.6,
            bytes_read=25,
            bytes_total=100,
            epochs_committed=7,
            tasks=(task, replace(task, state="starting")),
            generation=2,
        )
    )
    for words in (
        "25%",
        "1,234,567 lines",
        "100,000 lines/s",
        "7 epochs committed",
        "1/2 tasks",
        "generation 2",
    ):
        assert words in text


def test_a_line_without_totals_does_not_guess() -> None:
    assert "   0%" in progress.line(job_status(state="deploying"))


def _commits(*values: tuple[int, float]) -> JobStatus:
    return job_status(commits=tuple(CommitStatus(i, g, 0, at) for i, (g, at) in enumerate(values)))


def test_the_reason_of_an_end_names_the_code() -> None:
    """People see the same code as programs."""
    assert progress.reason(job_status()) == "no reason given"
    assert progress.reason(job_status(error=Failure("JOB_FAILED", "why"))) == "[JOB_FAILED] why"


@pytest.mark.parametrize(
    ("commits", "expected"),
    [
        (
            [(1, 9.0), (1, 10.5), (2, 11.25), (2, 11.3)],
            1.25,
        ),  # the old generation's last commit does not count
        ([(1, 9.0), (1, 10.5)], None),
        ([], None),
        ([(2, 9.0), (3, 12.0)], 2.0),  # commits before the kill do not count
    ],
)
def test_recovery_is_the_first_commit_of_a_later_generation(
    commits: list[tuple[int, float]], expected: float | None
) -> None:
    assert Kill("task 0.0", at=10.0, generation=1).recovery_s(_commits(*commits)) == expected
