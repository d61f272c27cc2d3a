"""The status of a job for people and programs, from the leader's state (a core)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.common.failure import Failure
from agent.rainstorm.job.plan import vertex_of
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.messages.status import UNREADABLE, CommitStatus, JobStatus, TaskStatus

STATES = {
    "waiting": "waiting",
    "logging": "deploying",
    "deploying": "deploying",
    "running": "running",
    "publishing": "running",
}
RATE_WINDOW_S = 2.0


def describe(machine: JobMachine, now_wall: float, leader: str) -> JobStatus:
    """Returns a job's status; instants are wall-clock seconds."""
    state = machine.state
    over = machine.phase == "ended"
    finished_at = state.finished_at or now_wall
    label = state.outcome if over else STATES[machine.phase]
    next_one = 1 if machine.phase == "logging" else 0
    if not over and label == "deploying" and state.generation + next_one > 1:
        label = "running" if machine.last_epoch_committed() else "recovering"
    return JobStatus(
        job=state.job,
        name=machine.spec.name,
        state=label,
        error=state.error,
        submitted_at=state.submitted_at,
        finished_at=state.finished_at or None,
        elapsed_s=finished_at - state.submitted_at,
        epochs_committed=state.epochs_committed,
        epoch=state.epoch,
        lines_read=state.records(),
        lines_total=0,
        bytes_read=state.bytes(),
        bytes_total=machine.plan.data_end - machine.plan.data_start,
        lines_per_s=0.0 if over else _rate(state.commits, now_wall),
        generation=state.generation,
        commits=tuple(state.commits),
        recoveries=tuple(state.recoveries),
        tasks=() if over else tasks(machine),
        sink=state.sink,
        leader=leader,
        term=machine.term,
    )


def unreadable(job: str, submitted_at: float, error: Failure, leader: str, term: int) -> JobStatus:
    """Returns the status of a job whose log cannot be read: only the reason is known."""
    return JobStatus(
        job=job,
        name=job,
        state=UNREADABLE,
        error=error,
        submitted_at=submitted_at,
        finished_at=None,
        elapsed_s=0.0,
        epochs_committed=0,
        epoch=0,
        lines_read=0,
        lines_total=0,
        bytes_read=0,
        bytes_total=0,
        lines_per_s=0.0,
        generation=0,
        commits=(),
        recoveries=(),
        tasks=(),
        sink="",
        leader=leader,
        term=term,
    )


def shortened(status: JobStatus, commits_max: int, recoveries_max: int) -> JobStatus:
    """Returns a status with only the newest commits and recoveries."""
    commits = status.commits[-commits_max:] if commits_max else ()
    recoveries = status.recoveries[-recoveries_max:] if recoveries_max else ()
    return replace(status, commits=commits, recoveries=recoveries)


def _rate(commits: Sequence[CommitStatus], now_wall: float) -> float:
    """Returns the recent number of records committed per second."""
    recent = [commit for commit in commits if now_wall - commit.at <= RATE_WINDOW_S]
    if len(recent) < 2 or recent[-1].at <= recent[0].at:
        return 0.0
    return max(0.0, (recent[-1].records - recent[0].records) / (recent[-1].at - recent[0].at))


def tasks(machine: JobMachine) -> tuple[TaskStatus, ...]:
    """Returns the tasks of a running job, with the node of each."""
    listed = []
    for task, node in machine.state.placement.items():
        endpoint = machine.endpoints.get(task)
        chain = machine.plan.vertices[vertex_of(task)].operators
        here = endpoint is not None and endpoint.node == node
        current = here and machine.phase in ("running", "publishing")
        listed.append(
            TaskStatus(
                job=machine.state.job,
                task=task,
                stage=vertex_of(task),
                operator=" → ".join(step.operator for step in chain),
                node=node,
                pid=endpoint.pid if endpoint is not None and current else None,
                state="running" if current else "starting",
                lines_per_s=machine.state.rates.get(task, 0.0),
            )
        )
    return tuple(listed)
