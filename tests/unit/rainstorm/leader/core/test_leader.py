"""The leader core around the jobs: leadership, usable nodes, and the status that people see."""

from __future__ import annotations

import random
from typing import Any

import pytest

from agent.common.core import Tick
from agent.rainstorm.leader.core.effects import JobEnded, Tell
from agent.rainstorm.leader.core.leader import (
    ENDED_KEPT_MAX,
    EXCLUDE_S,
    AgentUnreachable,
    CancelRequested,
    JobSubmitted,
    LeaderCore,
    LogAppended,
    LogRejected,
    ReplyStatus,
    ReportReceived,
    StatusWanted,
    StepDown,
    TakeOver,
    TookOver,
)
from agent.rainstorm.messages.commands import Keep
from agent.rainstorm.messages.joblog import CommitRecord
from agent.rainstorm.messages.reports import Acknowledged, EpochWanted, Prepared, Published
from tests.unit.rainstorm.cluster import JOB, Cluster, new_job, view


def leading() -> LeaderCore:
    """Returns a core that leads three nodes in term 1 without jobs."""
    core = LeaderCore("n1")
    core.handle(0.0, view(1, 1, "n1", n1="up", n2="up", n3="up"))
    core.handle(0.0, TookOver(1, []))
    assert core.leading
    return core


def keeps(effects: Any) -> dict[str, Keep]:
    """Returns by node the commands with the jobs that it may keep."""
    found = [effect for effect in effects if isinstance(effect, Tell)]
    return {effect.node: effect.message for effect in found if isinstance(effect.message, Keep)}


def test_a_node_leads_only_when_the_logs_are_fenced() -> None:
    """From the view to the end of the take-over it does nothing; then it tells each node what to keep."""
    core = LeaderCore("n1")
    assert core.handle(0.0, view(1, 4, "n1", n1="up", n2="down")) == [TakeOver(4)]
    assert not core.leading
    assert core.next_deadline() is None
    assert core.handle(0.0, JobSubmitted(new_job())) == []
    effects = core.handle(0.0, TookOver(4, []))
    assert core.leading
    assert keeps(effects) == {"n1": Keep(4, {})}


@pytest.mark.parametrize("term", [3, 5])
def test_a_take_over_of_another_term_is_ignored(term: int) -> None:
    """Logs fenced for a term that has ended, or was never seen, do not make a leader."""
    core = LeaderCore("n1")
    core.handle(0.0, view(1, 4, "n1", n1="up"))
    assert core.handle(0.0, TookOver(term, [new_job()])) == []
    assert not core.leading
    core.handle(0.0, TookOver(4, []))
    assert core.handle(0.0, TookOver(4, [new_job()])) == [], "a second one does not restart jobs"
    assert core.jobs == {}


def test_the_view_ends_a_leadership() -> None:
    """Another leader in the view: step down at once, also in the middle of a take-over."""
    core = leading()
    core.handle(0.0, JobSubmitted(new_job()))
    assert core.handle(0.0, view(2, 2, "n2", n1="up", n2="up")) == [StepDown()]
    assert (core.leading, core.jobs, core.next_deadline()) == (False, {}, None)
    assert core.handle(0.0, view(3, 3, "n1", n1="up", n2="up")) == [TakeOver(3)]
    assert core.handle(0.0, view(4, 4, "n2", n1="up", n2="up")) == [StepDown()]
    assert core.handle(0.0, TookOver(3, [])) == []
    assert not core.leading
    assert core.handle(0.0, view(5, 5, "n3", n1="up", n2="up")) == []


def test_an_older_view_changes_nothing() -> None:
    """Views may come in any order; only newer versions count."""
    core = leading()
    core.handle(0.0, view(3, 1, "n1", n1="up", n2="down", n3="up"))
    assert core.handle(0.0, view(2, 9, "n2", n1="up", n2="up", n3="up")) == []
    assert core.handle(0.0, view(3, 9, "n2", n1="up")) == []
    assert (core.leading, core.usable(JOB)) == (True, core.usable(JOB))
    assert sorted(core.usable(JOB)) == ["n1", "n3"]


def test_a_zombie_leader_appends_nothing_more() -> None:
    """After a refused append while the view names another leader, it stays down and forgets its jobs."""
    core = leading()
    core.handle(0.0, JobSubmitted(new_job()))
    core.handle(0.0, view(2, 2, "n2", n1="up"))
    for event in (
        LogRejected(JOB),
        LogAppended(JOB, 1, 0.0),
        CancelRequested(JOB),
        AgentUnreachable("n2"),
        Tick(),
    ):
        assert core.handle(1.0, event) == []
    assert core.handle(1.0, ReportReceived("n2", Acknowledged(JOB, 1, 1, {}))) == []


def test_an_unreachable_node_is_left_out_for_a_while() -> None:
    """It is used again after a time limit, or when it sends a report."""
    core = leading()
    core.handle(0.0, AgentUnreachable("n2"))
    assert sorted(core.usable(JOB)) == ["n1", "n3"]
    assert core.next_deadline() == EXCLUDE_S
    core.handle(EXCLUDE_S - 0.1, Tick())
    assert sorted(core.usable(JOB)) == ["n1", "n3"]
    effects = core.handle(EXCLUDE_S, Tick())
    assert sorted(core.usable(JOB)) == ["n1", "n2", "n3"]
    assert list(keeps(effects)) == ["n2"], "commands to stop tasks did not reach it meanwhile"
    core.handle(5.0, AgentUnreachable("n3"))
    effects = core.handle(5.1, ReportReceived("n3", Published("j-gone", 1, "1.0")))
    assert sorted(core.usable(JOB)) == ["n1", "n2", "n3"]
    assert list(keeps(effects)) == ["n3"]


def test_a_node_that_comes_up_hears_what_it_may_keep() -> None:
    """It may still run tasks that have been started elsewhere."""
    cluster = Cluster()
    cluster.lead(n3="down")
    cluster.submit()
    cluster.settle()
    cluster.see()
    kept = keeps(cluster.told)
    assert kept == {"n3": Keep(1, {})}
    cluster.settle()
    cluster.restart_leader()
    kept = keeps(cluster.told)
    assert set(kept) == {"n1", "n2", "n3"}
    assert kept["n3"].jobs == {}
    assert kept["n1"].jobs == {JOB: 1}


@pytest.mark.parametrize("known", [True, False])
def test_a_node_whose_tasks_should_not_run_hears_what_it_may_keep(known: bool) -> None:
    """A deployment that the network delayed reaches it after everything else, even after the job's end."""
    cluster = Cluster()
    cluster.lead()
    cluster.submit()
    cluster.settle()
    cluster.tell_leader(CancelRequested(JOB))
    job = JOB if known else "j-gone"
    for report in (EpochWanted(job, 1, "0.0", False), Prepared(job, 2, {}, {})):
        assert keeps(cluster.leader.handle(9.0, ReportReceived("n3", report))) == {"n3": Keep(1, {})}
    assert not keeps(cluster.leader.handle(9.0, ReportReceived("n3", Published(job, 1, "1.0"))))


def test_a_node_down_in_the_view_gets_no_tasks() -> None:
    """It also loses those that it has."""
    cluster = Cluster()
    cluster.lead()
    cluster.submit()
    cluster.settle()
    gone = cluster.home("0.1")
    cluster.silent.add(gone)
    cluster.see(**{gone: "down"})
    cluster.settle()
    assert gone not in cluster.state().placement.values()
    assert cluster.leader.jobs[JOB].state.recoveries[-1].cause == f"node {gone} is lost"


def test_jobs_begin_at_different_nodes() -> None:
    """So that small jobs do not all land on the first node."""
    core = leading()
    first = {core.usable(f"j-{number}")[0] for number in range(20)}
    assert first == {"n1", "n2", "n3"}
    assert all(sorted(core.usable(f"j-{number}")) == ["n1", "n2", "n3"] for number in range(5))


def test_ended_jobs_are_kept_for_a_while() -> None:
    """A bounded number of them; running ones are never dropped."""
    cluster = Cluster()
    cluster.lead()
    cluster.submit(new_job("j-running"))
    for number in range(ENDED_KEPT_MAX + 5):
        cluster.submit(new_job(f"j-{number}"))
        cluster.tell_leader(CancelRequested(f"j-{number}"))
        cluster.told.clear()
    assert len(cluster.leader.jobs) <= ENDED_KEPT_MAX + 3
    assert "j-running" in cluster.leader.jobs
    assert f"j-{ENDED_KEPT_MAX + 4}" in cluster.leader.jobs


def test_a_job_that_ended_in_its_log_is_only_closed() -> None:
    """The former leader wrote the outcome but not the index entry."""
    core = LeaderCore("n1")
    core.handle(0.0, view(1, 1, "n1", n1="up"))
    state = new_job()
    state.outcome, state.finished_at = "finished", 5.0
    effects = core.handle(0.0, TookOver(1, [state]))
    assert [effect for effect in effects if not isinstance(effect, Tell)] == [JobEnded(JOB)]
    assert core.jobs[JOB].phase == "ended"


def test_status_is_answered_by_everybody() -> None:
    """The answer has the token of the caller, and says whether this node leads."""
    core = LeaderCore("n1")
    (reply,) = core.handle(0.0, StatusWanted(7))
    assert isinstance(reply, ReplyStatus)
    assert (reply.token, reply.leading, dict(reply.jobs)) == (7, False, {})


@pytest.mark.parametrize("number", range(25))
def test_jobs_survive_any_schedule_of_faults(number: int, seed: int) -> None:
    """Tasks die, nodes come and go, leaders change, appends and publications wait: two jobs end, with every
    committed output in the sink once and in order.
    """
    chance = random.Random(seed + number)
    cluster = Cluster()
    cluster.lead()
    cluster.submit()
    for _ in range(60):
        fault = chance.random()
        running = [task for task in cluster.tasks if task[0] not in cluster.silent]
        if fault < 0.08 and running and JOB in cluster.leader.jobs:
            task = chance.choice(running)[2]
            node = cluster.leader.jobs[JOB].state.placement.get(task, "")
            if (node, JOB, task) in cluster.tasks and node not in cluster.silent:
                cluster.kill_task(task)
        elif fault < 0.14 and len(cluster.silent) < 2:
            cluster.lose(chance.choice(cluster.names))
        elif fault < 0.20:
            cluster.silent.clear()
        elif fault < 0.26:
            cluster.restart_leader(lose_appends=chance.random() < 0.5)
        elif fault < 0.34:
            cluster.hold_log = not cluster.hold_log
        elif fault < 0.42:
            cluster.hold_publications = not cluster.hold_publications
        elif fault < 0.50 and cluster.held_publications:
            cluster.release_publications(chance.choice(cluster.names))
        elif fault < 0.60 and cluster.told:
            cluster.deliver(cluster.told.pop(0))
        else:
            cluster.pass_time(chance.choice((0.125, 0.125, 1.0, 4.0, 12.0)))
            if chance.random() < 0.7:
                cluster.settle()
    cluster.silent.clear()
    cluster.hold_log = cluster.hold_publications = False
    cluster.release_log()
    cluster.release_publications()
    for _ in range(3):
        cluster.pass_time(EXCLUDE_S)
        cluster.settle()
    if cluster.state().outcome == "":
        cluster.finish()
    assert cluster.state().outcome in ("finished", "failed")
    marks: dict[str, int] = {}
    generation = {record.epoch: record.generation for record in cluster.records(CommitRecord)}
    for epoch, task, output in cluster.published:
        assert epoch > marks.get(task, 0), "a repetition, or out of order"
        marks[task] = epoch
        assert output in (b"read", f"{task}@{epoch}g{generation[epoch]}\n".encode())
    published = sorted((epoch, task) for epoch, task, _ in cluster.published)
    if cluster.state().outcome == "finished":
        assert published == cluster.expected_output()
    else:
        assert set(published) <= set(cluster.expected_output())
    epochs = [record.epoch for record in cluster.records(CommitRecord)]
    assert epochs == sorted(set(epochs))
