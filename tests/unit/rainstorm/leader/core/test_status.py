"""The status of a job for people and programs."""

from __future__ import annotations

import pytest

from agent.common.errors import Corrupt
from agent.common.failure import Failure
from agent.rainstorm.leader.core import status
from agent.rainstorm.messages.status import UNREADABLE, CommitStatus, JobStatus, RecoveryStatus
from tests.unit.rainstorm.cluster import JOB, WALL, Cluster
from tests.unit.rainstorm.statuses import job_status


def described(cluster: Cluster) -> JobStatus:
    """Returns the status of the job."""
    return status.describe(cluster.leader.jobs[JOB], cluster.now + WALL, "n1")


def test_what_people_see_of_a_job() -> None:
    """Its state in words from beginning to end, progress from commits, tasks with pids."""
    cluster = Cluster()
    cluster.lead()
    cluster.hold_log = True
    cluster.submit()
    seen = described(cluster)
    assert (seen.state, seen.epoch, seen.lines_per_s, seen.finished_at) == (
        "deploying",
        0,
        0.0,
        None,
    )
    cluster.hold_log = False
    cluster.release_log()
    cluster.settle()
    for _ in range(4):
        cluster.pass_time(0.125)
        cluster.settle()
    seen = described(cluster)
    assert (seen.state, seen.epoch, seen.epochs_committed, seen.generation) == (
        "running",
        4,
        4,
        1,
    )
    assert (seen.lines_read, seen.bytes_read, seen.bytes_total) == (8, 80, 8)
    assert seen.lines_per_s == pytest.approx(16)
    assert seen.recoveries == ()
    tasks = {task.task: task for task in seen.tasks}
    assert {task: found.node for task, found in tasks.items()} == cluster.leader.jobs[JOB].state.placement
    assert (tasks["0.0"].operator, tasks["0.0"].pid, tasks["0.0"].state) == (
        "identity → combine",
        7,
        "running",
    )
    cluster.hold_log = True
    cluster.kill_task("0.0")
    assert described(cluster).state == "recovering"
    cluster.hold_log = False
    cluster.release_log()
    assert {task.state for task in described(cluster).tasks} == {"starting"}
    cluster.settle()
    cluster.finish()
    seen = described(cluster)
    assert (seen.state, seen.tasks, seen.lines_per_s, seen.error) == ("finished", (), 0.0, None)
    assert seen.finished_at is not None
    assert seen.finished_at > WALL
    assert [found.cause for found in seen.recoveries] == ["task 0.0 on n1: killed by signal 9"]


def test_a_rate_needs_two_commits_within_the_last_seconds() -> None:
    """An older commit says nothing about the current rate."""
    cluster = Cluster()
    cluster.lead()
    cluster.submit()
    cluster.settle()
    cluster.pass_time(0.125)
    cluster.settle()
    assert described(cluster).lines_per_s == 0.0
    cluster.pass_time(0.125)
    cluster.settle()
    assert described(cluster).lines_per_s > 0.0
    cluster.now += status.RATE_WINDOW_S + 1.0
    assert described(cluster).lines_per_s == 0.0


def test_a_job_that_waits_for_a_node_says_so() -> None:
    """There is no node for its tasks."""
    cluster = Cluster(["n1"])
    cluster.lead()
    cluster.submit()
    cluster.settle()
    cluster.lose("n1")
    assert described(cluster).state == "waiting"


def test_the_reason_why_a_job_cannot_be_read_is_reported() -> None:
    """Nothing else is known about the job."""
    failure = Failure.of(Corrupt("the log is damaged"))
    found = status.unreadable(JOB, 5.0, failure, "n2", 3)
    assert (found.state, found.error, found.submitted_at, found.leader, found.term) == (
        UNREADABLE,
        failure,
        5.0,
        "n2",
        3,
    )


def test_a_status_is_shortened_to_its_newest_history() -> None:
    """The rest of the history is in the job's log."""
    commits = tuple(CommitStatus(number, 1, number, float(number)) for number in range(1, 9))
    recoveries = tuple(RecoveryStatus(number, "why", float(number)) for number in range(2, 7))
    found = status.shortened(job_status(commits=commits, recoveries=recoveries), 3, 2)
    assert [commit.epoch for commit in found.commits] == [6, 7, 8]
    assert [recovery.generation for recovery in found.recoveries] == [5, 6]
    assert status.shortened(job_status(commits=commits), 0, 2).commits == ()
