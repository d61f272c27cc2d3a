"""Steps that tests of a job's life have in common."""

from __future__ import annotations

from agent.rainstorm.messages.commands import Deploy, Trigger
from agent.rainstorm.messages.joblog import CommitRecord
from tests.unit.rainstorm.cluster import JOB, Cluster


def running(cluster: Cluster, epochs: int = 2) -> None:
    """Submits a job and lets it commit some epochs."""
    cluster.submit()
    cluster.settle()
    for _ in range(epochs):
        cluster.pass_time(0.125)
        cluster.settle()
    assert cluster.leader.jobs[JOB].phase == "running"
    assert cluster.leader.jobs[JOB].state.epoch == epochs


def check_output(cluster: Cluster) -> None:
    """The sink has each committed output exactly once, in epoch order for each sink task, and of
    the generation that committed it.
    """
    assert sorted((epoch, task) for epoch, task, _ in cluster.published) == cluster.expected_output()
    for task in ("1.0", "1.1"):
        epochs = [epoch for epoch, found, _ in cluster.published if found == task]
        assert epochs == sorted(epochs)
    generation = {record.epoch: record.generation for record in cluster.records(CommitRecord)}
    for epoch, task, output in cluster.published:
        assert output in (b"read", f"{task}@{epoch}g{generation[epoch]}\n".encode())


def into_phase(cluster: Cluster, phase: str) -> None:
    """Brings a job into a phase."""
    if phase == "deploying":
        cluster.submit()
        while not isinstance(cluster.told[0].message, Deploy):
            cluster.deliver(cluster.told.pop(0))
        cluster.deliver(cluster.told.pop(0))
        assert cluster.leader.jobs[JOB].phase == "deploying"
        return
    running(cluster)
    machine = cluster.leader.jobs[JOB]
    if phase == "in flight":
        cluster.pass_time(0.125)
        cluster.deliver(cluster.told.pop(0))
    if phase == "committing":
        cluster.hold_log = True
        cluster.pass_time(0.125)
        cluster.settle()
        assert cluster.held_appends
    if phase == "publishing":
        cluster.hold_publications = True
        cluster.finished_tasks = {"0.0", "0.1", "1.0", "1.1"}
        cluster.pass_time(0.125)
        cluster.settle()
        assert machine.phase == "publishing"


def go_on(cluster: Cluster) -> None:
    """Confirms the delayed appends and lets the job finish."""
    cluster.hold_log = cluster.hold_publications = False
    cluster.release_log()
    cluster.settle()
    cluster.release_publications()
    cluster.settle()
    cluster.pass_time(0.125)
    cluster.finish()


def triggers(cluster: Cluster) -> list[int]:
    """Returns the epochs of the triggers in flight."""
    return [tell.message.epoch for tell in cluster.told if isinstance(tell.message, Trigger)]
