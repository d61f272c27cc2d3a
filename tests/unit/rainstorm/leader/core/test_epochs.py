"""The epoch in flight: complete when every task has answered, then one record says it all."""

from __future__ import annotations

from typing import Any

from agent.rainstorm.leader.core.epochs import Epoch

TASKS = ["0.0", "0.1", "1.0"]


def ack(**changed: Any) -> dict[str, Any]:
    """Returns what a task hands over."""
    empty = {"base": False, "positions": {}, "done": False, "state": [], "sink": []}
    return {**empty, "records": 0, "bytes": 0, **changed}


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
    """Positions together, state as base or delta, output by sink, who is done, counts."""
    epoch = Epoch(7, 2, 0.0, TASKS)
    epoch.acknowledge({"0.0": ack(positions={"0": "10", 2: 30}, done=True, records=4, bytes=40)})
    epoch.acknowledge({"0.1": ack(positions={1: 20}, state=[("f", 0, 3)], base=True)})
    epoch.acknowledge({"1.0": ack(state=[("f", 3, 1)], sink=[("g", 0, 9)], done=True, records=2)})
    assert epoch.commit_record(published=5) == {
        "t": "commit",
        "e": 7,
        "g": 2,
        "positions": {0: 10, 2: 30, 1: 20},
        "base": {"0.1": [("f", 0, 3)]},
        "delta": {"1.0": [("f", 3, 1)]},
        "sink": {"1.0": [("g", 0, 9)]},
        "done": ["0.0", "1.0"],
        "counts": {"0.0": [4, 40], "0.1": [0, 0], "1.0": [2, 0]},
        "published": 5,
    }
