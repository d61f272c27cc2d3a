"""What people and programs see of a job: plain values from the leader's state (a core)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.rainstorm.job.plan import vertex_of
from agent.rainstorm.leader.core.jobmachine import JobMachine

STATES = {
    "waiting": "waiting",
    "logging": "deploying",
    "deploying": "deploying",
    "running": "running",
    "publishing": "running",
}
RATE_WINDOW_S = 2.0


def describe(machine: JobMachine, now_wall: float, leader: str) -> dict[str, Any]:
    """Returns a job's status; instants are wall-clock seconds."""
    state = machine.state
    over = machine.phase == "ended"
    finished_at = state.finished_at or now_wall
    label = state.outcome if over else STATES[machine.phase]
    next_one = 1 if machine.phase == "logging" else 0
    if not over and label == "deploying" and state.generation + next_one > 1:
        label = "running" if machine.last_epoch_committed() else "recovering"
    return {
        "job": state.job,
        "name": machine.spec.name,
        "state": label,
        "error": state.error,
        "submitted_at": state.submitted_at,
        "finished_at": state.finished_at or None,
        "elapsed_s": finished_at - state.submitted_at,
        "epochs_committed": state.epochs_committed,
        "epoch": state.epoch,
        "lines_read": state.records(),
        "lines_total": 0,
        "bytes_read": state.bytes(),
        "bytes_total": machine.plan.data_end - machine.plan.data_start,
        "lines_per_s": 0.0 if over else _rate(state.commits, now_wall),
        "generation": state.generation,
        "commits": list(state.commits),
        "recoveries": list(state.recoveries),
        "tasks": [] if over else tasks(machine),
        "sink": state.sink,
        "leader": leader,
        "term": machine.term,
    }


def _rate(commits: Sequence[Mapping[str, Any]], now_wall: float) -> float:
    """Returns the records committed per second lately."""
    recent = [commit for commit in commits if now_wall - commit["at"] <= RATE_WINDOW_S]
    if len(recent) < 2 or recent[-1]["at"] <= recent[0]["at"]:
        return 0.0
    grown = float(recent[-1]["records"] - recent[0]["records"])
    return max(0.0, grown / float(recent[-1]["at"] - recent[0]["at"]))


def tasks(machine: JobMachine) -> list[dict[str, Any]]:
    """Returns where each task of a running job runs."""
    listed = []
    for task, node in machine.state.placement.items():
        endpoint: Mapping[str, Any] = machine.endpoints.get(task, {})
        chain = machine.plan.vertices[vertex_of(task)].operators
        current = endpoint.get("node") == node and machine.phase in ("running", "publishing")
        listed.append(
            {
                "job": machine.state.job,
                "task": task,
                "stage": vertex_of(task),
                "operator": " → ".join(step.operator for step in chain),
                "node": node,
                "pid": endpoint.get("pid") if current else None,
                "state": "running" if current else "starting",
                "lines_per_s": machine.state.rates.get(task, 0.0),
            }
        )
    return listed
