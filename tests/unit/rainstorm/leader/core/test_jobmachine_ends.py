"""The ends of jobs and generations: zombies, time limits, cancellation, deposed leaders."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.errors import InvalidMessage, JobFailed, Unavailable
from agent.common.failure import Failure
from agent.rainstorm.host.core.events import TaskGone
from agent.rainstorm.leader.core.jobmachine import (
    FRUITLESS_RECOVERIES_MAX,
)
from agent.rainstorm.leader.core.leader import (
    CancelRequested,
    LogAppended,
    LogRejected,
    RecordsRefused,
    ReportReceived,
    StepDown,
    TakeOver,
)
from agent.rainstorm.messages.commands import Publish
from agent.rainstorm.messages.joblog import CommitRecord, GenerationRecord
from agent.rainstorm.messages.reports import (
    Acknowledged,
    EpochWanted,
    Prepared,
    PublicationRefused,
    Published,
    Report,
    TaskEpoch,
    TaskFailed,
)
from tests.unit.rainstorm.cluster import JOB, Cluster, new_job
from tests.unit.rainstorm.lifecycle import check_output, go_on, into_phase, running, triggers


def test_zombies_change_nothing(cluster: Cluster) -> None:
    """The leader ignores acknowledgements, failures and requests of an older generation."""
    running(cluster)
    node = cluster.home("1.0")
    cluster.kill_task("1.0")
    cluster.settle()
    cluster.pass_time(0.125)
    cluster.told.clear()
    machine = cluster.leader.jobs[JOB]
    epoch = machine.state.epoch_max
    ack = TaskEpoch(False, {}, True, 9, 9)
    acks = dict.fromkeys(machine.plan.tasks(), ack)
    stale: list[Report] = [
        Acknowledged(JOB, 1, epoch, acks, node),
        Acknowledged(JOB, 2, 1, acks, node),
        TaskFailed(JOB, 1, "1.0", "old", Failure.of(JobFailed("no")), node),
        TaskFailed(JOB, 2, "7.7", "a task that the job does not have", None, node),
        EpochWanted(JOB, 1, "0.0", True, node),
        EpochWanted(JOB, 2, "7.7", True, node),
        Prepared(JOB, 1, {}, {0: 1}, node),
        Published(JOB, 99, "1.0", node=node),
        PublicationRefused(JOB, 99, "1.0", Failure.of(JobFailed("no")), node=node),
    ]
    for report in stale:
        assert cluster.tell_leader(ReportReceived(node, report)) == []
    assert (machine.phase, machine.state.generation, machine.state.epoch) == ("running", 2, 2)


def test_an_acknowledgement_counts_once(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated acknowledgements of an epoch do not commit it twice."""
    running(cluster)
    reports: list[Any] = []
    original = cluster.tell_leader

    def record(event: Any) -> list[Any]:
        if isinstance(event, ReportReceived) and isinstance(event.report, Acknowledged):
            reports.append(event)
            original(event)
        return original(event)

    monkeypatch.setattr(cluster, "tell_leader", record)
    cluster.pass_time(0.125)
    cluster.settle()
    assert len(reports) >= 2
    for report in reports:
        original(report)
    assert [commit.epoch for commit in cluster.records(CommitRecord)] == [1, 2, 3]


def test_a_stuck_epoch_names_who_is_missing(cluster: Cluster) -> None:
    """A task that does not answer is started afresh; those that answered stay in place."""
    running(cluster)
    machine = cluster.leader.jobs[JOB]
    hung = cluster.home("0.1")
    missing = [task for task in machine.plan.tasks() if cluster.home(task) == hung]
    cluster.pass_time(0.125)
    cluster.told = [tell for tell in cluster.told if tell.node != hung]
    cluster.settle()
    cluster.pass_time(5.0)
    assert machine.state.generation == 1, "not yet"
    cluster.pass_time(1.1)
    cluster.settle()
    assert machine.state.generation == 2
    assert machine.state.recoveries[-1].cause.endswith(f"no answer from {', '.join(missing)}")
    for (_, _, task), process in cluster.tasks.items():
        assert process.in_place == (task not in missing)


def test_the_leader_never_asks_for_a_tick_in_the_past(cluster: Cluster) -> None:
    """During a slow commit its epoch is overdue; the deadline must still be in the future, or the leader's
    thread would spin.
    """
    into_phase(cluster, "committing")
    for _ in range(100):
        deadline = cluster.leader.next_deadline()
        assert deadline is not None
        cluster.now = max(cluster.now, deadline)
        cluster.pass_time(0)
        following = cluster.leader.next_deadline()
        assert following is not None
        assert following > cluster.now
    assert cluster.now > 15
    go_on(cluster)
    check_output(cluster)


@pytest.mark.parametrize("at", [10.1, 10.3, 10.7, 1234.567, 98765.4321])
def test_a_deadline_reached_is_acted_on(at: float) -> None:
    """An epoch times out at the requested instant, whatever the rounding of floating point."""
    cluster = Cluster()
    cluster.now = at
    cluster.lead()
    running(cluster, 1)
    cluster.silent.update(cluster.names)
    cluster.pass_time(0.125)
    machine = cluster.leader.jobs[JOB]
    deadline = machine.next_deadline()
    assert deadline is not None
    machine.tick(deadline)
    assert machine.phase == "logging"


def test_recoveries_without_progress_end_the_job(cluster: Cluster) -> None:
    """After some recoveries in a row without a commit the job has failed, and says why."""
    running(cluster)
    for _ in range(FRUITLESS_RECOVERIES_MAX):
        cluster.kill_task("0.1")
        cluster.settle()
    assert cluster.state().outcome == ""
    cluster.kill_task("0.1")
    assert cluster.state().outcome == "failed"
    error = cluster.state().error
    assert error is not None
    assert error.code == "JOB_FAILED"
    assert "task 0.1 on n2: killed by signal 9" in error.message
    cluster.settle()
    assert cluster.tasks == {}


def test_progress_makes_up_for_recoveries(cluster: Cluster) -> None:
    """A commit in between restarts the count."""
    running(cluster)
    for _ in range(FRUITLESS_RECOVERIES_MAX * 2):
        cluster.kill_task("0.1")
        cluster.settle()
        cluster.pass_time(0.125)
        cluster.settle()
    assert cluster.state().outcome == ""
    assert cluster.state().generation == 1 + 2 * FRUITLESS_RECOVERIES_MAX
    assert all(found.seconds is not None for found in cluster.leader.jobs[JOB].state.recoveries)


def test_an_error_of_the_job_itself_ends_it_at_once(cluster: Cluster) -> None:
    """Trying again would change nothing; other errors are retried."""
    running(cluster)
    node = cluster.home("0.0")
    failure = Failure.of(Unavailable("HyDFS has no replica"))
    cluster.tell_host(node, TaskGone(JOB, "0.0", 1, "HyDFS", failure))
    cluster.settle()
    assert (cluster.state().outcome, cluster.state().generation) == ("", 2)
    failure = Failure.of(JobFailed("'x' is not a number"))
    cluster.tell_host(node, TaskGone(JOB, "0.0", 2, "not a number", failure))
    cluster.settle()
    assert cluster.state().outcome == "failed"
    assert cluster.state().error == failure
    assert cluster.tasks == {}


@pytest.mark.parametrize("phase", ["deploying", "running", "in flight", "committing", "publishing"])
def test_a_job_can_be_cancelled(cluster: Cluster, phase: str) -> None:
    """In any phase: its tasks end, and committed output stays committed."""
    into_phase(cluster, phase)
    cluster.hold_log = False
    cluster.tell_leader(CancelRequested(JOB))
    cluster.release_log()
    cluster.settle()
    machine = cluster.leader.jobs[JOB]
    assert (cluster.state().outcome, machine.phase) == ("cancelled", "ended")
    assert machine.state.epoch == cluster.state().epoch
    assert cluster.tasks == {}
    assert cluster.tell_leader(CancelRequested(JOB)) == []
    cluster.lose(cluster.names[2])
    assert not [tell for tell in cluster.told if isinstance(tell.message, Publish)]


def test_a_cancelled_job_leaves_no_task_where_it_was(cluster: Cluster) -> None:
    """A cancellation while a generation is being logged: tasks are where the previous one put them."""
    running(cluster)
    cluster.hold_log = True
    node = cluster.home("0.1")
    cluster.see(**{node: "down"})  # the view is late or wrong: its agent still runs and hears
    cluster.tell_leader(CancelRequested(JOB))
    cluster.see()
    cluster.hold_log = False
    cluster.release_log()
    cluster.settle()
    assert len(cluster.records(GenerationRecord)) == 2
    assert cluster.state().outcome == "cancelled"
    assert cluster.tasks == {}


def test_a_job_that_is_over_cannot_be_cancelled(cluster: Cluster) -> None:
    """A cancellation that comes while the outcome is being written does not change it."""
    into_phase(cluster, "publishing")
    cluster.hold_publications, cluster.hold_log = False, True
    cluster.release_publications()
    assert [effect.records[0].kind for effect in cluster.held_appends] == ["outcome"]
    cluster.tell_leader(CancelRequested(JOB))
    cluster.release_log()
    assert cluster.state().outcome == "finished"
    assert cluster.leader.jobs[JOB].phase == "ended"


def test_a_rejected_append_deposes_the_leader(cluster: Cluster) -> None:
    """It forgets all jobs at once, and takes over again as long as the view says that it leads."""
    running(cluster)
    effects = cluster.tell_leader(LogRejected(JOB))
    assert [type(effect) for effect in effects] == [StepDown, TakeOver]
    cluster.settle()
    assert cluster.leader.jobs[JOB].state.generation == 2
    cluster.see("n2")
    assert not cluster.leader.leading
    assert cluster.leader.jobs == {}
    assert cluster.tell_leader(LogRejected(JOB)) == []
    assert cluster.tell_leader(LogAppended(JOB, 1, 0.0)) == []


def test_two_jobs_do_not_touch_each_other(cluster: Cluster) -> None:
    """A failure of one does not reset the other; both end."""
    running(cluster)
    cluster.submit(new_job("j-2"))
    cluster.settle()
    cluster.pass_time(0.125)
    cluster.settle()
    cluster.kill_task("1.0", "j-2")
    cluster.settle()
    assert (cluster.state().generation, cluster.state("j-2").generation) == (1, 2)
    cluster.finish()
    assert cluster.leader.jobs[JOB].phase == "ended"
    cluster.finish("j-2")
    assert {cluster.state().outcome, cluster.state("j-2").outcome} == {"finished"}
    assert cluster.tasks == {}


def test_all_tasks_ended_means_an_epoch_at_once(cluster: Cluster) -> None:
    """The last epoch does not wait for the interval; requests during an epoch are kept for the next."""
    running(cluster)
    for task in ("0.0", "0.1", "1.0"):
        cluster.want_epoch(task, done=True)
    assert cluster.told == []
    cluster.finished_tasks = {"0.0", "0.1", "1.0", "1.1"}
    cluster.want_epoch("1.1", done=True)
    assert {tell.message.kind for tell in cluster.told} == {"trigger"}
    cluster.settle()
    assert cluster.state().outcome == "finished"


def test_an_epoch_wanted_during_a_commit_follows_it(cluster: Cluster) -> None:
    """A source that has filled its epoch while another one commits does not wait for the interval."""
    into_phase(cluster, "committing")
    cluster.want_epoch("0.0")
    cluster.want_epoch("0.0")
    cluster.hold_log = False
    cluster.release_log()
    assert triggers(cluster)[:1] == [4]
    cluster.settle()
    assert cluster.state().epoch == 4, "one epoch for both requests"


def test_a_task_that_hands_over_a_foreign_position_is_started_afresh(cluster: Cluster) -> None:
    """Nothing of the epoch is committed: user code in the task's process is not trusted."""
    running(cluster)
    cluster.pass_time(0.125)
    machine = cluster.leader.jobs[JOB]
    report = Acknowledged(JOB, 1, 3, {"0.0": TaskEpoch(False, {1: 7}, False, 9, 9)}, cluster.home("0.0"))
    cluster.tell_leader(ReportReceived(report.node, report))
    cluster.settle()
    assert (machine.state.generation, machine.state.epoch) == (2, 2)
    cause = "task 0.0 handed over a wrong epoch: split 1 belongs to another task"
    assert machine.state.recoveries[-1].cause == cause
    assert {task for (_, _, task), process in cluster.tasks.items() if not process.in_place} == {"0.0"}
    cluster.finish()
    check_output(cluster)


def test_records_that_cannot_be_written_fail_the_job_and_nothing_else(cluster: Cluster) -> None:
    """The leader continues; a late answer about such records changes nothing."""
    into_phase(cluster, "committing")
    machine = cluster.leader.jobs[JOB]
    effect = cluster.held_appends.pop()
    assert cluster.tell_leader(RecordsRefused(JOB, effect.token - 1, Unavailable("old"))) == []
    assert cluster.tell_leader(RecordsRefused("j-gone", 1, Unavailable("no such job"))) == []
    cluster.tell_leader(RecordsRefused(JOB, effect.token, InvalidMessage("field `cause`")))
    cluster.release_log()
    assert (cluster.state().outcome, machine.phase) == ("failed", "ended")
    assert machine.state.error is not None
    assert "field `cause`" in machine.state.error.message
    assert cluster.leader.leading
