"""One node's part in all jobs: the commands that it carries out, and those that it ignores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.common.failure import Failure
from agent.rainstorm.host.core.events import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    KillTask,
    OutputPublished,
    PublicationRefused,
    PublishOutput,
    Report,
    SegmentsAppended,
    TaskGone,
    TaskPrepared,
    TaskSnapshot,
    TaskWantsEpoch,
    TellTask,
)
from agent.rainstorm.host.core.host import EPOCHS_OPEN_MAX, TOO_MANY_EPOCHS, HostCore
from agent.rainstorm.leader.core.joblog import NO_HEADER
from agent.rainstorm.messages import commands, control, reports

JOB = "j-1"


class Node:
    """A host core with short ways to feed it events."""

    def __init__(self) -> None:
        self.core = HostCore("n1")

    def event(self, event: Any) -> list[Any]:
        """Feeds an event."""
        effects = self.core.handle(0.0, event)
        self.core.check_invariants()
        assert self.core.next_deadline() is None
        return effects

    def command(self, command: commands.Command) -> list[Any]:
        """Feeds a command from the leader."""
        return self.event(CommandReceived(command))

    def deploy(
        self, *tasks: str, generation: int = 1, term: int = 1, in_place: bool = True, epoch: int = 4
    ) -> list[Any]:
        """Deploys tasks."""
        start = commands.TaskStart(epoch, in_place=in_place)
        started = dict.fromkeys(tasks, start)
        return self.command(commands.Deploy(JOB, term, generation, {}, NO_HEADER, started, identity=b"pem"))

    def trigger(self, epoch: int = 1, generation: int = 1) -> list[Any]:
        """Triggers an epoch."""
        return self.command(commands.Trigger(JOB, 1, generation, epoch, 0))

    def start(self, generation: int = 1) -> list[Any]:
        """Starts a generation."""
        return self.command(commands.Start(JOB, 1, generation, {}, {}, 0))

    def stop(self, generation: int = 1) -> list[Any]:
        """Stops the job."""
        return self.command(commands.Stop(JOB, 1, generation))

    def prepared(self, task: str, generation: int = 1) -> list[Any]:
        """A task is ready."""
        return self.event(TaskPrepared(JOB, task, generation, "h", 9, 7, {int(task[2:]): 3}))

    def snapshot(
        self, task: str, epoch: int, generation: int = 1, state: bytes = b"", output: bytes = b""
    ) -> list[Any]:
        """A task hands over an epoch."""
        said = control.Snapshot(generation, epoch, len(state), False, {}, False, 2, 3)
        return self.event(TaskSnapshot(JOB, task, said, state, output))


@pytest.fixture
def node() -> Node:
    """A node with two tasks of generation 1."""
    made = Node()
    made.deploy("0.0", "1.0")
    return made


def told(effects: list[Any]) -> list[Any]:
    """Returns the reports to the leader; there must be no other effects."""
    assert all(isinstance(effect, Report) for effect in effects)
    return [effect.report for effect in effects]


def test_a_first_deployment_starts_all_tasks_afresh() -> None:
    """Whatever the leader believes, a node cannot keep a task in place that it does not know."""
    effects = Node().deploy("0.0", "1.0", in_place=True)
    assert [(type(one), one.task, one.in_place) for one in effects] == [
        (AssignTask, "0.0", False),
        (AssignTask, "1.0", False),
    ]
    assert all(one.command.in_place is False and one.command.identity == b"pem" for one in effects)


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


OLD = [
    commands.Deploy(JOB, 4, 9, {}, NO_HEADER, {"0.0": commands.TaskStart(1)}),
    commands.Publish(JOB, 4, 9, 1, "1.0", "s", ()),
    commands.Stop(JOB, 4, 9),
    commands.Trigger(JOB, 4, 1, 1, 0),
    commands.Start(JOB, 4, 1, {}, {}, 1),
    commands.Keep(4, {}),
    commands.Ping(4),
]


@pytest.mark.parametrize("command", OLD)
def test_an_old_leader_commands_nothing(node: Node, command: commands.Command) -> None:
    """Once a node has heard a later term, all commands of earlier ones are void."""
    node.command(commands.Ping(5))
    before = node.core.jobs[JOB]
    assert node.command(command) == []
    assert node.core.jobs == {JOB: before}
    assert not before.started
    assert node.core.term == 5


def test_the_leader_hears_when_all_tasks_are_prepared(node: Node) -> None:
    """One report for the node, with the address of each task and the counted quotes."""
    assert node.prepared("0.0") == []
    assert node.prepared("0.0") == []
    (report,) = told(node.prepared("1.0"))
    endpoint = reports.Endpoint("h", 9, 7, "n1")
    assert report == reports.Prepared(JOB, 1, {"0.0": endpoint, "1.0": endpoint}, {0: 3}, "n1")


def test_commands_reach_all_tasks_of_this_generation_only(node: Node) -> None:
    """A command of another generation, older or newer, reaches no task."""
    trigger = control.Trigger(1, 3, 0)
    assert node.trigger(3) == [TellTask(JOB, task, trigger) for task in ("0.0", "1.0")]
    assert node.start() == [TellTask(JOB, task, control.Start(1, {}, {}, 0)) for task in ("0.0", "1.0")]
    for generation in (0, 2):
        assert node.trigger(generation=generation) == node.start(generation) == []


def test_a_second_start_is_ignored(node: Node) -> None:
    """A repeated start must not throw back running tasks; a new generation starts again."""
    assert len(node.start()) == 2
    assert node.start() == []
    node.deploy("0.0", generation=2)
    assert len(node.start(2)) == 1


def test_an_epoch_leaves_in_one_append_and_is_acknowledged_when_durable(node: Node) -> None:
    """State and output of all tasks go into one append, and are acknowledged with their places."""
    assert node.snapshot("1.0", 5, state=b"st", output=b"out") == []
    (append,) = node.snapshot("0.0", 5)
    assert append == AppendSegments(JOB, 1, 5, [b"", b"", b"st", b"out"])
    places = [[], [], [("f", 0, 2)], [("f", 2, 3)]]
    (report,) = told(node.event(SegmentsAppended(JOB, 1, 5, places)))
    tasks = {
        "0.0": reports.TaskEpoch(False, {}, False, 2, 3),
        "1.0": reports.TaskEpoch(False, {}, False, 2, 3, (("f", 0, 2),), (("f", 2, 3),)),
    }
    assert report == reports.Acknowledged(JOB, 1, 5, tasks, "n1")
    assert node.event(SegmentsAppended(JOB, 1, 5, places)) == [], "once"


def test_an_epoch_without_bytes_is_acknowledged_at_once(node: Node) -> None:
    """There is nothing to make durable, and so nothing to wait for."""
    node.snapshot("0.0", 5)
    (report,) = told(node.snapshot("1.0", 5))
    assert report.tasks["1.0"] == reports.TaskEpoch(False, {}, False, 2, 3)


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
    (report,) = told(node.snapshot("1.0", 6, generation=2))
    assert report.generation == 2


def test_words_about_unknown_jobs_are_ignored() -> None:
    """A job that was stopped, or never was, has no effects."""
    node = Node()
    assert node.snapshot("0.0", 5) == node.prepared("0.0") == []
    assert node.event(SegmentsAppended(JOB, 1, 5, [])) == []
    assert node.event(TaskGone(JOB, "0.0", 1, "killed", None)) == []
    assert node.trigger() == node.stop() == node.start() == []
    assert node.event(TaskWantsEpoch(JOB, "0.0", 1, True)) == []


def test_the_leader_hears_of_ended_tasks_and_wishes(node: Node) -> None:
    """The reports carry the generation, so that the leader can recognise old ones."""
    failure = Failure("JOB_FAILED", "why")
    (report,) = told(node.event(TaskGone(JOB, "0.0", 1, "killed by signal 9", failure)))
    assert report == reports.TaskFailed(JOB, 1, "0.0", "killed by signal 9", failure, "n1")
    (report,) = told(node.event(TaskWantsEpoch(JOB, "0.0", 1, True)))
    assert report == reports.EpochWanted(JOB, 1, "0.0", True, "n1")


def test_a_wish_is_passed_on_once_in_an_epoch(node: Node) -> None:
    """A task that repeats itself must not crowd out the reports about other tasks."""
    assert len(node.event(TaskWantsEpoch(JOB, "0.0", 1, False))) == 1
    assert node.event(TaskWantsEpoch(JOB, "0.0", 1, False)) == []
    assert len(node.event(TaskWantsEpoch(JOB, "1.0", 1, False))) == 1
    node.trigger(1)
    assert len(node.event(TaskWantsEpoch(JOB, "0.0", 1, False))) == 1
    assert node.event(TaskWantsEpoch(JOB, "0.0", 2, False)) == []


def test_a_task_that_hands_over_epochs_that_nobody_asked_for_has_failed(node: Node) -> None:
    """Epochs that other tasks have not handed over stay in memory, so their number is bounded."""
    for epoch in range(EPOCHS_OPEN_MAX):
        assert node.snapshot("0.0", epoch) == []
    (report,) = told(node.snapshot("0.0", EPOCHS_OPEN_MAX))
    assert (report.task, report.cause) == ("0.0", TOO_MANY_EPOCHS)
    assert node.snapshot("1.0", 1) != [], "an epoch that is already open still counts"


def test_an_epoch_handed_over_twice_counts_once(node: Node) -> None:
    """The first hand-over may already be durable."""
    node.snapshot("0.0", 5)
    assert node.snapshot("1.0", 5, state=b"first") == [AppendSegments(JOB, 1, 5, [b"", b"", b"first", b""])]
    assert node.snapshot("1.0", 5, state=b"second") == []


def test_output_that_can_never_be_published_is_reported(node: Node) -> None:
    """The leader ends the job; it gets the report even after the job has left this node."""
    failure = Failure("NOT_FOUND", "no such file")
    refused = reports.PublicationRefused(JOB, 5, "1.0", failure, node="n1")
    assert told(node.event(PublicationRefused(JOB, 5, "1.0", failure))) == [refused]
    assert told(Node().event(PublicationRefused(JOB, 5, "1.0", failure))) == [refused]


def test_output_is_published_from_memory_where_it_was_made(node: Node) -> None:
    """Another node reads it from the segments; once published it is forgotten."""
    node.snapshot("0.0", 5)
    node.snapshot("1.0", 5, output=b"out")
    wanted = commands.Publish(JOB, 1, 1, 5, "1.0", "dest", (("f", 0, 3),))
    expected = PublishOutput(JOB, 5, "1.0", "dest", (("f", 0, 3),), b"out")
    assert node.command(wanted) == [expected]
    node.deploy("0.0", generation=2, epoch=5)
    assert node.command(replace(wanted, generation=2)) == [expected], "even in the next generation"
    (report,) = told(node.event(OutputPublished(JOB, 5, "1.0")))
    assert report == reports.Published(JOB, 5, "1.0", node="n1")
    (again,) = node.command(replace(wanted, generation=2))
    assert again.output is None
    (elsewhere,) = Node().command(wanted)
    assert (elsewhere.output, elsewhere.references) == (None, (("f", 0, 3),))


def test_output_that_was_not_committed_is_forgotten(node: Node) -> None:
    """A generation that starts from an earlier epoch says that a later one never happened."""
    node.snapshot("0.0", 5)
    node.snapshot("1.0", 5, output=b"never")
    node.deploy("0.0", "1.0", generation=2, epoch=4)
    (published,) = node.command(commands.Publish(JOB, 1, 2, 5, "1.0", "dest", ()))
    assert published.output is None


def test_a_stop_ends_tasks_but_not_those_of_a_newer_generation(node: Node) -> None:
    """The stop of a generation that has been replaced comes too late."""
    node.deploy("0.0", "1.0", generation=3)
    assert node.stop(2) == []
    assert node.stop(4) == [KillTask(JOB, "0.0"), KillTask(JOB, "1.0")]
    assert node.core.jobs == {}


def test_what_a_new_leader_does_not_know_is_ended(node: Node) -> None:
    """``keep`` lists the jobs that have tasks here; tasks older than the generation before are left-overs."""
    assert node.command(commands.Keep(2, {JOB: 1})) == []
    assert node.command(commands.Keep(2, {JOB: 2})) == [], "its deployment is on the way"
    assert node.command(commands.Keep(2, {JOB: 3})) == [
        KillTask(JOB, "0.0"),
        KillTask(JOB, "1.0"),
    ]
    node.deploy("0.0", generation=4, term=2)
    assert node.command(commands.Keep(2, {"j-2": 1})) == [KillTask(JOB, "0.0")]
