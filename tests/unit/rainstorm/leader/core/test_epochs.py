"""The epoch in flight: it is complete when every task has answered, and then one record commits it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from agent.rainstorm.job.plan import Split
from agent.rainstorm.leader.core.epochs import Epoch, wrong_position
from agent.rainstorm.messages.joblog import CommitRecord
from agent.rainstorm.messages.reports import TaskEpoch

TASKS = ["0.0", "0.1", "1.0"]


def ack(**changed: Any) -> TaskEpoch:
    """Returns an acknowledgement with what a task hands over."""
    return replace(TaskEpoch(False, {}, False, 0, 0), **changed)


def test_an_epoch_is_complete_when_all_tasks_have_answered() -> None:
    """In any order, from any number of agents, repeated or not; tasks of other jobs do not count."""
    epoch = Epoch(7, 2, 0.0, TASKS)
    assert epoch.missing() == TASKS
    assert not epoch.acknowledge({"0.1": ack()})
    assert not epoch.acknowledge({"0.1": ack(), "9.9": ack()})
    assert not epoch.acknowledge({"8.0": ack(), "8.1": ack(), "8.2": ack()})
    assert epoch.missing() == ["0.0", "1.0"]
    assert epoch.acknowledge({"0.0": ack(), "1.0": ack()})
    assert epoch.missing() == []


def test_the_commit_record_has_what_the_tasks_handed_over() -> None:
    """It has all positions, state as base or delta, output by sink, the ended tasks, and counts."""
    epoch = Epoch(7, 2, 0.0, TASKS)
    epoch.acknowledge({"0.0": ack(positions={0: 10, 2: 30}, done=True, records=4, bytes=40)})
    epoch.acknowledge({"0.1": ack(positions={1: 20}, state=(("f", 0, 3),), base=True)})
    epoch.acknowledge({"1.0": ack(state=(("f", 3, 1),), sink=(("g", 0, 9),), done=True, records=2)})
    assert epoch.commit_record(published=5) == CommitRecord(
        epoch=7,
        generation=2,
        positions={0: 10, 2: 30, 1: 20},
        base={"0.1": (("f", 0, 3),)},
        delta={"1.0": (("f", 3, 1),)},
        sink={"1.0": (("g", 0, 9),)},
        done=("0.0", "1.0"),
        counts={"0.0": (4, 40), "0.1": (0, 0), "1.0": (2, 0)},
        published=5,
    )
    assert epoch.files() == ["f", "f", "g"]


def test_a_task_commits_positions_of_its_own_splits_only() -> None:
    """User code runs in the task's process, so the positions that it reports are checked."""
    splits = {0: Split(0, 4, 6, 0), 1: Split(1, 6, 12, 1)}

    def problem(task: str, **positions: int) -> str:
        found = ack(positions={int(split[1:]): at for split, at in positions.items()})
        return wrong_position(splits, 12, task, found)

    assert problem("0.0", s0=4) == problem("0.0", s0=12) == problem("0.1", s1=7) == problem("1.0") == ""
    assert problem("0.0", s1=7) == problem("1.0", s1=7) == "split 1 belongs to another task"
    assert problem("0.0", s2=7) == "split 2 belongs to another task"
    assert problem("0.0", s0=3) == "position 3 lies outside split 0"
    assert problem("0.1", s1=13) == "position 13 lies outside split 1"
