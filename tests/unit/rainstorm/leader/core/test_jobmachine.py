"""The life of a job, driven through leader and host cores: generations, epochs, publication, recovery."""

from __future__ import annotations

import pytest

from agent.rainstorm.job.segment import PUBLISH_TIMEOUT_S
from agent.rainstorm.leader.core import publication
from agent.rainstorm.leader.core.effects import JobEnded
from agent.rainstorm.leader.core.jobmachine import DEPLOY_TIMEOUT_S
from agent.rainstorm.leader.core.leader import (
    EXCLUDE_S,
    LogAppended,
    ReportReceived,
)
from agent.rainstorm.messages.commands import Deploy, Publish
from agent.rainstorm.messages.reports import Acknowledged, Prepared, TaskEpoch
from tests.unit.rainstorm.cluster import JOB, Cluster
from tests.unit.rainstorm.lifecycle import check_output, go_on, into_phase, running, triggers


def test_a_job_runs_to_its_end(cluster: Cluster) -> None:
    """Generation, epochs, last epoch, publication, outcome; at the end nothing of it is left on any node."""
    running(cluster)
    cluster.finish()
    state = cluster.state()
    assert (state.outcome, state.generation, state.epoch) == ("finished", 1, 3)
    assert sorted(state.done) == ["0.0", "0.1", "1.0", "1.1"]
    assert JobEnded(JOB) in cluster.done
    check_output(cluster)
    assert cluster.tasks == {}
    assert all(host.jobs == {} for host in cluster.hosts.values())


def test_placement_follows_the_source(cluster: Cluster) -> None:
    """Source tasks start where the submission put them: next to their data."""
    running(cluster, 1)
    assert (cluster.home("0.0"), cluster.home("0.1")) == ("n1", "n2")


def test_no_task_starts_before_all_are_prepared(cluster: Cluster) -> None:
    """The start goes out when the last node is prepared, with the endpoints of all tasks."""
    cluster.silent.add("n2")
    machine = cluster.submit()
    cluster.settle()
    assert machine.phase == "deploying"
    assert not any(process.started for process in cluster.tasks.values())
    cluster.silent.clear()
    cluster.pass_time(DEPLOY_TIMEOUT_S + 1)
    cluster.settle()
    assert machine.phase == "running"
    assert set(machine.endpoints) == {"0.0", "0.1", "1.0", "1.1"}
    assert all(process.started for process in cluster.tasks.values())
    assert machine.state.generation == 2, "a node that is not ready in time costs a generation"


@pytest.mark.parametrize("task", ["0.0", "0.1", "1.0", "1.1"])
@pytest.mark.parametrize("phase", ["deploying", "running", "in flight", "committing", "publishing"])
def test_a_killed_task_costs_nothing_but_time(cluster: Cluster, task: str, phase: str) -> None:
    """Whatever the phase, the job continues from the last commit and the output is exact."""
    into_phase(cluster, phase)
    before = cluster.state().generation
    if phase == "deploying":
        cluster.kill_task("0.0" if cluster.home("0.0") == "n1" else task)
    else:
        cluster.kill_task(task)
    go_on(cluster)
    assert cluster.state().outcome == "finished"
    assert cluster.state().generation == before + (phase != "publishing")
    check_output(cluster)


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
@pytest.mark.parametrize("phase", ["deploying", "running", "in flight", "committing", "publishing"])
def test_a_lost_node_costs_nothing_but_time(cluster: Cluster, node: str, phase: str) -> None:
    """Its tasks start elsewhere, its publications are made by others, even while it may still make them."""
    into_phase(cluster, phase)
    cluster.lose(node)
    go_on(cluster)
    assert cluster.state().outcome == "finished"
    assert node not in cluster.state().placement.values() or phase == "publishing"
    check_output(cluster)


def test_a_commit_under_way_when_a_task_fails_counts(cluster: Cluster) -> None:
    """The commit is in the log before the new generation, which starts from it; its output appears."""
    into_phase(cluster, "committing")
    cluster.kill_task("1.0")
    assert [effect.records[0].kind for effect in cluster.held_appends] == ["commit", "generation"]
    cluster.hold_log = False
    cluster.release_log()
    assert cluster.leader.jobs[JOB].state.epoch == 3
    deploys = [tell.message for tell in cluster.told if isinstance(tell.message, Deploy)]
    assert deploys
    assert {start.epoch for deploy in deploys for start in deploy.tasks.values()} == {3}
    assert cluster.leader.jobs[JOB].state.epoch == cluster.state().epoch
    cluster.settle()
    cluster.finish()
    check_output(cluster)


def test_a_step_waits_for_its_own_append(cluster: Cluster) -> None:
    """The confirmation of an overtaken commit does not start a generation that is not in the log yet."""
    into_phase(cluster, "committing")
    cluster.kill_task("1.0")
    commit, generation = cluster.held_appends
    assert cluster.tell_leader(LogAppended(JOB, commit.token, 0.0)) == []
    assert cluster.leader.jobs[JOB].phase == "logging"
    cluster.tell_leader(LogAppended(JOB, generation.token, 0.0))
    assert cluster.leader.jobs[JOB].phase == "deploying"


def test_a_commit_under_way_when_the_last_node_goes() -> None:
    """A job that waits for a node still learns that its commit is in the log."""
    cluster = Cluster(["n1"])
    cluster.lead()
    into_phase(cluster, "committing")
    cluster.lose("n1")
    assert cluster.leader.jobs[JOB].phase == "waiting"
    cluster.hold_log = False
    cluster.release_log()
    assert cluster.leader.jobs[JOB].state.epoch == 3
    assert cluster.leader.jobs[JOB].phase == "waiting"
    cluster.silent.clear()
    cluster.pass_time(EXCLUDE_S + 0.1)
    cluster.settle()
    cluster.finish()
    check_output(cluster)


def test_output_of_an_overtaken_commit_is_published_first(cluster: Cluster) -> None:
    """The destination takes a sink's epochs only in order: a late one would count as a repetition."""
    into_phase(cluster, "committing")
    cluster.kill_task("1.0")
    cluster.hold_log = False
    cluster.release_log()
    cluster.settle()
    # No tick passes before the next epoch is committed: the tasks ask for it.
    cluster.want_epoch("0.0")
    cluster.settle()
    assert cluster.state().epoch == 4
    cluster.finish()
    check_output(cluster)


def test_a_new_leader_publishes_the_old_epochs_first(cluster: Cluster) -> None:
    """The same holds after a take-over: output not known to be published goes before the first new epoch."""
    running(cluster)
    cluster.hold_publications = True
    cluster.pass_time(0.125)
    cluster.settle()
    cluster.held_publications.clear()
    cluster.hold_publications = False
    cluster.restart_leader()
    cluster.settle()
    cluster.finished_tasks = {"0.0", "0.1", "1.0", "1.1"}
    cluster.want_epoch("0.0")
    cluster.settle()
    assert cluster.state().epoch > 3
    cluster.finish()
    check_output(cluster)


def test_a_sink_moved_to_another_node_keeps_its_order(cluster: Cluster) -> None:
    """While one node still has to publish an epoch of a sink, no other node publishes a later one."""
    running(cluster)
    home = cluster.home("1.0")
    cluster.hold_publications = True
    cluster.pass_time(0.125)
    cluster.settle()
    cluster.lose(home)  # epoch 3 goes to a node that the next generation need not put the task on
    cluster.settle()
    cluster.pass_time(0.125)
    cluster.settle()
    assert cluster.state().epoch == 4
    assert {effect.epoch for _, effect in cluster.held_publications} == {3}
    cluster.hold_publications = False
    for node in sorted(cluster.names, reverse=True):
        cluster.release_publications(node)
    cluster.finish()
    check_output(cluster)


def test_a_late_publication_is_tried_again_in_order(cluster: Cluster) -> None:
    """Without an answer for some time an epoch is sent again, and the later ones wait for it."""
    running(cluster)
    cluster.hold_publications = True
    for _ in range(3):
        cluster.pass_time(0.125)
        cluster.settle()
    cluster.held_publications.clear()  # the appends failed, so there is no answer
    cluster.pass_time(PUBLISH_TIMEOUT_S + 0.1)
    again = [tell.message for tell in cluster.told if isinstance(tell.message, Publish)]
    assert [message.epoch for message in again if message.task == "1.0"] == [3]
    assert cluster.state().epoch == 5
    cluster.hold_publications = False
    cluster.settle()
    cluster.finish()
    check_output(cluster)


def test_epoch_numbers_are_never_used_twice(cluster: Cluster) -> None:
    """Neither after a failure nor under a new leader: an agent may still hold output under the old number."""
    running(cluster)
    triggered = []
    for _ in range(3):
        cluster.pass_time(0.125)
        triggered += triggers(cluster)[:1]
        cluster.told.clear()
        cluster.kill_task("0.0")
        cluster.settle()
    cluster.pass_time(0.125)
    triggered += triggers(cluster)[:1]
    cluster.restart_leader()
    cluster.settle()
    cluster.pass_time(0.125)
    triggered += triggers(cluster)[:1]
    assert len(triggered) == 5
    assert triggered == sorted(set(triggered))
    assert triggered[0] > 2
    cluster.settle()
    cluster.finish()
    check_output(cluster)


def test_a_new_leader_goes_on_from_the_log(cluster: Cluster) -> None:
    """It starts a generation from the last commit; tasks stay where they are, in place."""
    running(cluster)
    placement = dict(cluster.leader.jobs[JOB].state.placement)
    cluster.restart_leader()
    cluster.settle()
    machine = cluster.leader.jobs[JOB]
    assert (machine.state.generation, machine.state.epoch, machine.term) == (2, 2, 2)
    assert machine.state.placement == placement
    assert all(process.in_place for process in cluster.tasks.values())
    assert "took over in term 2" in machine.state.recoveries[-1].cause
    cluster.finish()
    check_output(cluster)


@pytest.mark.parametrize("lost", [True, False])
def test_a_leader_dies_with_a_commit_under_way(cluster: Cluster, lost: bool) -> None:
    """Only the log says whether the epoch happened; in both cases the output is exact."""
    into_phase(cluster, "committing")
    cluster.hold_log = False
    cluster.restart_leader(lose_appends=lost)
    assert cluster.state().epoch == (2 if lost else 3)
    cluster.settle()
    cluster.finish()
    check_output(cluster)


def test_a_leader_dies_while_the_last_output_is_published(cluster: Cluster) -> None:
    """The next leader publishes it, and ends the job without running it."""
    into_phase(cluster, "publishing")
    cluster.restart_leader()
    assert cluster.leader.jobs[JOB].phase == "publishing"
    cluster.settle()
    cluster.hold_publications = False
    cluster.release_publications()
    cluster.settle()
    assert cluster.state().outcome == "finished"
    assert cluster.state().generation == 1
    check_output(cluster)


def test_an_epoch_that_is_being_committed_takes_no_further_acknowledgement(cluster: Cluster) -> None:
    """Otherwise it would be committed a second time, with a task's later message."""
    into_phase(cluster, "committing")
    machine = cluster.leader.jobs[JOB]
    acks = dict.fromkeys(machine.plan.tasks(), TaskEpoch(False, {}, True, 9, 9))
    again = Acknowledged(JOB, machine.state.generation, machine.state.epoch_max, acks, "n1")
    assert cluster.tell_leader(ReportReceived("n1", again)) == []
    assert len(cluster.held_appends) == 1


def test_tasks_that_were_ready_in_the_generation_before_start_nothing(cluster: Cluster) -> None:
    """Their processes may be gone, and they listen elsewhere."""
    running(cluster)
    machine = cluster.leader.jobs[JOB]
    endpoints = dict(machine.endpoints)
    cluster.kill_task("1.0")
    assert (machine.phase, machine.state.generation) == ("deploying", 2)
    for node in cluster.names:
        late = Prepared(JOB, 1, endpoints, {}, node)
        assert cluster.tell_leader(ReportReceived(node, late)) == []
    assert machine.phase == "deploying"


def test_a_slow_destination_slows_the_sources_down(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While too much output waits no epoch is begun; when it is published the next one is."""
    monkeypatch.setattr(publication, "UNPUBLISHED_BYTES_MAX", 0)
    running(cluster)
    cluster.hold_publications = True
    cluster.pass_time(0.125)
    cluster.settle()
    for _ in range(3):
        cluster.pass_time(0.125)
        assert triggers(cluster) == []
    cluster.want_epoch("0.0")
    assert triggers(cluster) == []
    cluster.hold_publications = False
    cluster.release_publications()
    assert triggers(cluster)[0] == 4
    cluster.settle()
    cluster.finish()
    check_output(cluster)
