"""One node's part in all jobs: what it does for the leader, and what it ignores."""

from __future__ import annotations

from typing import Any

import pytest

from agent.rainstorm.host.core.host import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    HostCore,
    KillTask,
    OutputPublished,
    PublishOutput,
    Report,
    SegmentsAppended,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)

JOB = "j-1"


class Node:
    """A host core with short ways to speak to it."""

    def __init__(self) -> None:
        self.core = HostCore("n1")

    def event(self, event: Any) -> list[Any]:
        """Feeds an event."""
        effects = self.core.handle(0.0, event)
        self.core.check_invariants()
        assert self.core.next_deadline() is None
        return effects

    def command(self, kind: str, generation: int = 1, term: int = 1, **fields: Any) -> list[Any]:
        """Feeds a command of the leader."""
        about = {"type": kind, "job": JOB, "term": term, "generation": generation}
        return self.event(CommandReceived({**about, **fields}))

    def deploy(
        self, *tasks: str, generation: int = 1, term: int = 1, in_place: bool = True, epoch: int = 4
    ) -> list[Any]:
        """Deploys tasks."""
        detail = {
            "epoch": epoch,
            "in_place": in_place,
            "done": False,
            "segments": [],
            "positions": {},
            "counts": [0, 0],
        }
        shared = {"spec": {}, "header": {}, "survey": False, "identity": b"pem"}
        return self.command("deploy", generation, term, tasks=dict.fromkeys(tasks, detail), **shared)

    def prepared(self, task: str, generation: int = 1) -> list[Any]:
        """A task is ready."""
        return self.event(TaskPrepared(JOB, task, generation, "h", 9, 7, {int(task[2:]): 3}))

    def snapshot(
        self, task: str, epoch: int, generation: int = 1, state: bytes = b"", output: bytes = b""
    ) -> list[Any]:
        """A task hands over an epoch."""
        return self.event(TaskSnapshot(JOB, task, generation, epoch, {"done": False}, state, output))


@pytest.fixture
def node() -> Node:
    """A node with two tasks of generation 1."""
    made = Node()
    made.deploy("0.0", "1.0")
    return made


def reports(effects: list[Any]) -> list[Any]:
    """Returns the messages to the leader; there is nothing else."""
    assert all(isinstance(effect, Report) for effect in effects)
    return [effect.message for effect in effects]


def test_a_first_deployment_starts_all_tasks_afresh() -> None:
    """Whatever the leader believes: what this node does not know it cannot keep in place."""
    effects = Node().deploy("0.0", "1.0", in_place=True)
    assert [(type(one), one.task, one.in_place) for one in effects] == [
        (AssignTask, "0.0", False),
        (AssignTask, "1.0", False),
    ]
    assert all(one.message["in_place"] is False and one.message["identity"] == b"pem" for one in effects)


def test_a_later_deployment_keeps_ends_and_starts_tasks(node: Node) -> None:
    """A task that stays may be reset in place, one that moved away is ended, a new one starts afresh."""
    effects = node.deploy("1.0", "1.1", generation=2)
    assert effects[0] == KillTask(JOB, "0.0")
    assert [(one.task, one.in_place, one.generation) for one in effects[1:]] == [
        ("1.0", True, 2),
        ("1.1", False, 2),
    ]
    assert [one.in_place for one in node.deploy("1.0", "1.1", generation=3, in_place=False)] == [False, False]


@pytest.mark.parametrize("generation", [1, 0])
def test_an_old_deployment_is_ignored(node: Node, generation: int) -> None:
    """A repeated or late command of the same or an older generation must not throw tasks back."""
    assert node.deploy("0.0", generation=generation) == []
    assert node.core.jobs[JOB].tasks == ["0.0", "1.0"]


@pytest.mark.parametrize("kind", ["deploy", "publish", "stop", "trigger", "start", "keep", "ping"])
def test_an_old_leader_commands_nothing(node: Node, kind: str) -> None:
    """Once a node has heard a later term, all words of earlier ones are void."""
    node.event(CommandReceived({"type": "ping", "term": 5}))
    before = node.core.jobs[JOB]
    fields: dict[str, Any] = {
        "epoch": 1,
        "committed": 0,
        "task": "1.0",
        "references": [],
        "sink": "s",
        "jobs": {},
    }
    if kind == "deploy":
        assert node.deploy("0.0", generation=9, term=4) == []
    assert node.command(kind, generation=9, term=4, **fields) == []
    assert node.core.jobs == {JOB: before}
    assert node.core.term == 5


def test_the_leader_hears_when_all_tasks_are_prepared(node: Node) -> None:
    """One report for the node, with where each task listens and the quotes that were counted."""
    assert node.prepared("0.0") == []
    assert node.prepared("0.0") == []
    (report,) = reports(node.prepared("1.0"))
    assert (report["type"], report["job"], report["generation"], report["node"]) == ("prepared", JOB, 1, "n1")
    assert report["quotes"] == {0: 3}
    assert report["endpoints"]["1.0"] == {"host": "h", "port": 9, "pid": 7, "node": "n1"}


@pytest.mark.parametrize("kind", ["trigger", "start"])
def test_commands_reach_all_tasks_of_this_generation_only(node: Node, kind: str) -> None:
    """A command of another generation, older or newer, reaches no task."""
    effects = node.command(kind, epoch=1, committed=0)
    assert [(one.task, one.message["type"]) for one in effects] == [("0.0", kind), ("1.0", kind)]
    assert all(isinstance(one, TellTask) for one in effects)
    assert node.command(kind, generation=0, epoch=1, committed=0) == []
    assert node.command(kind, generation=2, epoch=1, committed=0) == []


def test_a_second_start_is_ignored(node: Node) -> None:
    """A repeated start must not throw back tasks that are under way; a new generation starts again."""
    assert len(node.command("start")) == 2
    assert node.command("start") == []
    node.deploy("0.0", generation=2)
    assert len(node.command("start", generation=2)) == 1


def test_an_epoch_leaves_in_one_append_and_is_acknowledged_when_durable(node: Node) -> None:
    """State and output of all tasks go together; only durable ones are acknowledged, with their places."""
    assert node.snapshot("1.0", 5, state=b"st", output=b"out") == []
    (append,) = node.snapshot("0.0", 5)
    assert append == AppendSegments(JOB, 1, 5, [b"", b"", b"st", b"out"])
    places = [[], [], [("f", 0, 2)], [("f", 2, 3)]]
    (report,) = reports(node.event(SegmentsAppended(JOB, 1, 5, places)))
    assert (report["type"], report["epoch"], report["generation"]) == ("ack", 5, 1)
    assert report["tasks"]["0.0"] == {"done": False, "state": [], "sink": []}
    assert report["tasks"]["1.0"] == {"done": False, "state": [("f", 0, 2)], "sink": [("f", 2, 3)]}
    assert node.event(SegmentsAppended(JOB, 1, 5, places)) == [], "once"


def test_an_epoch_without_bytes_is_acknowledged_at_once(node: Node) -> None:
    """Nothing to make durable, nothing to wait for."""
    node.snapshot("0.0", 5)
    (report,) = reports(node.snapshot("1.0", 5))
    assert report["tasks"]["1.0"] == {"done": False, "state": [], "sink": []}


def test_words_of_an_older_generation_are_ignored(node: Node) -> None:
    """Snapshots, appends, endings and readiness of tasks that have been replaced change nothing."""
    node.snapshot("0.0", 5)
    node.snapshot("1.0", 5, state=b"s")
    node.deploy("0.0", "1.0", generation=2)
    assert node.event(SegmentsAppended(JOB, 1, 5, [[], [], [("f", 0, 1)], []])) == []
    assert node.snapshot("0.0", 5, generation=1) == []
    assert node.snapshot("1.0", 5, generation=1, state=b"s") == []
    assert node.prepared("0.0", 1) == node.prepared("1.0", 1) == []
    assert node.event(TaskGone(JOB, "0.0", 1, "killed", None)) == []
    assert node.core.jobs[JOB].open == {}
    node.snapshot("0.0", 5, generation=2)
    node.snapshot("1.0", 5, generation=2, state=b"s")
    assert node.event(SegmentsAppended(JOB, 1, 5, [[], [], [("f", 0, 1)], []])) == []
    assert node.snapshot("0.0", 6, generation=2) == []
    (report,) = reports(node.snapshot("1.0", 6, generation=2))
    assert report["generation"] == 2


def test_words_about_unknown_jobs_are_ignored() -> None:
    """A job that was stopped, or never was, has no effects."""
    node = Node()
    assert node.snapshot("0.0", 5) == node.prepared("0.0") == []
    assert node.event(SegmentsAppended(JOB, 1, 5, [])) == []
    assert node.event(TaskGone(JOB, "0.0", 1, "killed", None)) == []
    assert node.command("trigger", epoch=1, committed=0) == node.command("stop") == []


def test_the_leader_hears_of_ended_tasks_and_wishes(node: Node) -> None:
    """With the generation, so that the leader can tell old ones."""
    error = {"code": "JOB_FAILED"}
    (report,) = reports(node.event(TaskGone(JOB, "0.0", 1, "killed by signal 9", error)))
    assert (report["type"], report["task"], report["cause"]) == ("task-failed", "0.0", "killed by signal 9")
    assert (report["error"], report["generation"], report["node"]) == (error, 1, "n1")
    (report,) = reports(node.event(TaskWantsEpoch(JOB, "0.0", 1, True)))
    assert (report["type"], report["task"], report["done"]) == ("epoch-wanted", "0.0", True)


def test_output_is_published_from_memory_where_it_was_made(node: Node) -> None:
    """Another node reads it from the segments; once published it is forgotten."""
    node.snapshot("0.0", 5)
    node.snapshot("1.0", 5, output=b"out")
    wanted: dict[str, Any] = {"epoch": 5, "task": "1.0", "sink": "dest", "references": [["f", 0, 3]]}
    expected = PublishOutput(JOB, 5, "1.0", "dest", [("f", 0, 3)], b"out")
    assert node.command("publish", **wanted) == [expected]
    node.deploy("0.0", generation=2, epoch=5)
    assert node.command("publish", generation=2, **wanted) == [expected], "also in the next generation"
    (report,) = reports(node.event(OutputPublished(JOB, 5, "1.0")))
    assert (report["type"], report["epoch"], report["task"]) == ("published", 5, "1.0")
    (again,) = node.command("publish", generation=2, **wanted)
    assert again.output is None
    (elsewhere,) = Node().command("publish", **wanted)
    assert (elsewhere.output, elsewhere.references) == (None, [("f", 0, 3)])


def test_output_that_was_not_committed_is_forgotten(node: Node) -> None:
    """A generation that starts from an earlier epoch says that a later one never happened."""
    node.snapshot("0.0", 5)
    node.snapshot("1.0", 5, output=b"never")
    node.deploy("0.0", "1.0", generation=2, epoch=4)
    (published,) = node.command("publish", epoch=5, task="1.0", sink="dest", references=[])
    assert published.output is None


def test_a_stop_ends_tasks_but_not_those_of_a_newer_generation(node: Node) -> None:
    """The stop of a generation that has been replaced comes too late."""
    node.deploy("0.0", "1.0", generation=3)
    assert node.command("stop", generation=2) == []
    assert node.command("stop", generation=4) == [KillTask(JOB, "0.0"), KillTask(JOB, "1.0")]
    assert node.core.jobs == {}


def test_what_a_new_leader_does_not_know_is_ended(node: Node) -> None:
    """``keep`` lists the jobs that have tasks here; tasks older than the generation before are left-overs."""
    keep = {"type": "keep", "term": 2}
    assert node.event(CommandReceived({**keep, "jobs": {JOB: 1}})) == []
    assert node.event(CommandReceived({**keep, "jobs": {JOB: 2}})) == [], "its deployment is on the way"
    assert node.event(CommandReceived({**keep, "jobs": {JOB: 3}})) == [
        KillTask(JOB, "0.0"),
        KillTask(JOB, "1.0"),
    ]
    node.deploy("0.0", generation=4, term=2)
    assert node.event(CommandReceived({**keep, "jobs": {"j-2": 1}})) == [KillTask(JOB, "0.0")]
