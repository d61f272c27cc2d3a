"""A job's tasks on nodes that come and go: what stays in place, what moves, what waits."""

from __future__ import annotations

from typing import Any

from agent.rainstorm.leader.core.leader import (
    EXCLUDE_S,
    PING_S,
    ReportReceived,
)
from agent.rainstorm.messages.commands import Deploy, Ping
from agent.rainstorm.messages.reports import (
    Prepared,
)
from tests.unit.rainstorm.cluster import JOB, Cluster
from tests.unit.rainstorm.lifecycle import check_output, running


def test_a_node_that_came_back_has_lost_its_tasks(cluster: Cluster) -> None:
    """The same name with another node id is another agent: its tasks start afresh."""
    running(cluster)
    restarted = cluster.home("0.1")
    gone = [task for task in ("0.0", "0.1", "1.0", "1.1") if cluster.home(task) == restarted]
    for key in [key for key in cluster.tasks if key[0] == restarted]:
        del cluster.tasks[key]
    cluster.hosts[restarted] = type(cluster.hosts[restarted])(restarted)
    cluster.see(**{restarted: "up:b"})
    cluster.settle()
    machine = cluster.leader.jobs[JOB]
    assert machine.state.generation == 2
    assert machine.state.recoveries[-1].cause == f"node {restarted} is lost"
    for (_, _, task), process in cluster.tasks.items():
        assert process.in_place == (task not in gone)
        if task in gone and task.startswith("1."):
            assert process.command.segments, "state comes from the committed segments"
    cluster.finish()
    check_output(cluster)


def test_a_task_is_put_back_in_place_only_where_it_was(cluster: Cluster) -> None:
    """A node that once had a task and gets it again has an outdated state: the task starts afresh there."""
    running(cluster)
    first = cluster.home("0.1")
    cluster.lose(first)
    cluster.settle()
    second = cluster.home("0.1")
    assert second != first
    cluster.pass_time(0.125)
    cluster.settle()
    cluster.silent.clear()
    cluster.pass_time(EXCLUDE_S + 0.1)
    cluster.settle()
    for node in cluster.names:
        if node != first:
            cluster.lose(node)
    deploys = [
        tell.message for tell in cluster.told if isinstance(tell.message, Deploy) and tell.node == first
    ]
    assert deploys[-1].tasks["0.1"].in_place is False
    cluster.settle()
    assert cluster.home("0.1") == first
    process = cluster.tasks[first, JOB, "0.1"]
    assert not process.in_place
    assert process.command.epoch == cluster.state().epoch


def test_a_new_leader_puts_moved_tasks_nowhere_in_place(cluster: Cluster) -> None:
    """It knows only from the log which node had which task: only those tasks stay in place."""
    running(cluster)
    gone = cluster.home("0.1")
    before = dict(cluster.state().placement)
    cluster.silent.add(gone)
    down: Any = {gone: "down"}
    cluster.restart_leader(**down)
    details = {
        (task, tell.node): start.in_place
        for tell in cluster.told
        if isinstance(tell.message, Deploy)
        for task, start in tell.message.tasks.items()
    }
    assert {task for task, _ in details} == set(before)
    assert all(in_place == (before[task] == node) for (task, node), in_place in details.items())
    assert set(details.values()) == {True, False}


def test_a_job_waits_for_a_node(cluster: Cluster) -> None:
    """Without a usable node it waits, and starts when there is one; that is not a failure of the job."""
    for node in cluster.names:
        cluster.lose(node)
    machine = cluster.submit()
    assert machine.phase == "waiting"
    for _ in range(4):
        cluster.pass_time(0.5)
    assert machine.phase == "waiting"
    cluster.silent.clear()
    cluster.pass_time(EXCLUDE_S)
    cluster.settle()
    assert machine.phase == "running"


def test_nodes_that_run_tasks_are_pinged(cluster: Cluster) -> None:
    """A killed agent refuses connections at once; the leader asks often enough to notice."""
    running(cluster)
    cluster.told.clear()
    cluster.pass_time(PING_S)
    pinged = [tell.node for tell in cluster.told if isinstance(tell.message, Ping)]
    assert pinged == sorted(set(cluster.leader.jobs[JOB].state.placement.values()))


def test_a_node_that_leaves_out_a_task_is_not_prepared(cluster: Cluster) -> None:
    """No task could connect to the missing one."""
    machine = cluster.submit()
    node = cluster.home("0.0")
    cluster.tell_leader(ReportReceived(node, Prepared(JOB, 1, {}, {}, node)))
    assert node not in machine._prepared
