"""Publication: in epoch order for each sink task, again when lost or late, never beyond its bound."""

from __future__ import annotations

import pytest

from agent.rainstorm.job.segment import PUBLISH_TIMEOUT_S
from agent.rainstorm.leader.core import publication
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.publication import Publication

NODES = ["vm1", "vm2"]


@pytest.fixture
def state() -> JobState:
    """Two epochs of two sink tasks wait."""
    waiting = [(epoch, task, (("f", 10 * epoch, 10),)) for epoch in (1, 2) for task in ("1.0", "1.1")]
    return JobState(epoch=2, placement={"1.0": "vm1", "1.1": "vm2"}, unpublished=list(waiting))


def _given(found: Publication, now: float, nodes: list[str] = NODES) -> list[tuple[str, int, str]]:
    return [(order.node, order.epoch, order.task) for order in found.next(now, nodes)]


def test_one_epoch_of_a_sink_task_is_under_way_at_a_time(state: JobState) -> None:
    """The second epoch of a task is assigned only when the first is in the file."""
    found = Publication(state)
    assert _given(found, 0.0) == [("vm1", 1, "1.0"), ("vm2", 1, "1.1")]
    assert _given(found, 0.0) == []
    assert found.confirm(1, "1.0")
    assert _given(found, 0.0) == [("vm1", 2, "1.0")]


def test_published_means_all_sink_tasks(state: JobState) -> None:
    """An epoch counts as published when the output of every task is in the file."""
    found = Publication(state)
    found.next(0.0, NODES)
    assert found.confirm(1, "1.0")
    assert state.published == 0
    assert found.confirm(1, "1.1")
    assert state.published == 1
    assert not found.confirm(1, "1.1"), "a confirmation counts once"
    assert not found.done


def test_what_a_lost_node_had_goes_to_another(state: JobState) -> None:
    """This holds even if the node is the home of the sink task."""
    found = Publication(state)
    found.next(0.0, NODES)
    found.lose("vm2")
    assert _given(found, 1.0, ["vm1"]) == [("vm1", 1, "1.1")]


def test_what_is_late_is_given_out_again(state: JobState) -> None:
    """The store recognises a repetition."""
    found = Publication(state)
    found.next(0.0, NODES)
    found.expire(PUBLISH_TIMEOUT_S)
    assert _given(found, PUBLISH_TIMEOUT_S) == []
    found.expire(PUBLISH_TIMEOUT_S + 0.1)
    assert len(_given(found, PUBLISH_TIMEOUT_S + 0.1)) == 2


def test_without_a_node_nothing_is_given_out(state: JobState) -> None:
    """It waits until there is one."""
    assert _given(Publication(state), 0.0, []) == []


def test_what_the_log_does_not_call_published_is_kept(state: JobState) -> None:
    """A leader that takes over would publish it again and must find it."""
    found = Publication(state)
    found.next(0.0, NODES)
    found.confirm(1, "1.0")
    assert [entry[:2] for entry in found.confirmed_only()] == [(1, "1.0")]
    found.log(1)
    assert found.confirmed_only() == []


def test_too_much_output_holds_the_job_back(state: JobState, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forty bytes wait: more than thirty are too many."""
    found = Publication(state)
    monkeypatch.setattr(publication, "UNPUBLISHED_BYTES_MAX", 30)
    assert found.backlog()
    found.next(0.0, NODES)
    found.confirm(1, "1.0")
    assert not found.backlog()
