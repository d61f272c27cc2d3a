"""A job played from texts: the commit and publication of an epoch, failures, and a new leader.

There are one leader core and the host cores of three nodes. The tasks 0.0 and 0.1 read, 1.0 and 1.1 write to
the sink. Commands of the leader wait until the text delivers them. Appends to the job log and to the sink
wait as long as the text holds them back. Processes, segment files and reports follow at once. A job cannot be
rescaled yet, so no text plays that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from agent.rainstorm.host.core import events
from agent.rainstorm.leader.core.effects import AppendLog, JobEnded, Tell
from agent.rainstorm.messages import commands, reports
from agent.rainstorm.messages import joblog as records
from tests.scenarios import Command, play
from tests.unit.rainstorm.cluster import JOB, Cluster

FOLDER = Path(__file__).parent / "scenarios"
TASKS = ("0.0", "0.1", "1.0", "1.1")


class Told(Cluster):
    """A cluster that notes the effects of its cores as lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__()

    def _lead(self, effect: Any) -> None:
        match effect:
            case Tell(node=node, message=message):
                text = _command(message)
                self.lines += [f"leader -> {node}: {text}"] if text else []
            case AppendLog(records=found):
                self.lines.append(f"leader: log {', '.join(_record(record) for record in found)}")
            case JobEnded():
                self.lines.append("leader: the job has ended")
        super()._lead(effect)

    def _host(self, node: str, effect: Any) -> None:
        match effect:
            case events.AppendSegments(epoch=epoch):
                self.lines.append(f"{node}: store state and output of epoch {epoch}")
            case events.PublishOutput(epoch=epoch, task=task, output=output):
                origin = "" if output is not None else ", read from its segments"
                self.lines.append(f"{node}: publish epoch {epoch} of {task}{origin}")
            case events.AssignTask(task=task, generation=generation, command=command):
                how = "goes back to" if effect.in_place else "starts at"
                self.lines.append(f"{node}: {task} {how} epoch {command.epoch}, generation {generation}")
            case events.KillTask(task=task):
                self.lines.append(f"{node}: {task} is ended")
            case events.Report(report=report):
                self.lines.append(f"{node} -> leader: {_report(report)}")
        super()._host(node, effect)


class Job:
    """The commands of the texts, each a method."""

    def __init__(self) -> None:
        self.cluster = Told()
        self.cluster.lead()
        self.read = 0

    def carry_out(self, command: Command) -> Iterable[str]:
        """Carries out a command and returns the result."""
        do: Callable[[Command], Iterable[str] | None] = getattr(self, f"do_{command.name}")
        self.cluster.lines = []
        found = do(command)
        return self.cluster.lines if found is None else found

    def do_submit(self, command: Command) -> None:
        """Submits the job."""
        self.cluster.submit()

    def do_deliver(self, command: Command) -> None:
        """Delivers the waiting commands to a node, or to all nodes until none is left."""
        if not command.words:
            self.cluster.settle()
            return
        (node,) = command.words
        told = [tell for tell in self.cluster.told if tell.node == node]
        self.cluster.told = [tell for tell in self.cluster.told if tell.node != node]
        for tell in told:
            self.cluster.deliver(tell)

    def do_wait(self, command: Command) -> None:
        """Lets time pass."""
        self.cluster.pass_time(float(command.options["seconds"]))

    def do_hold(self, command: Command) -> None:
        """Holds back appends to the log, or to the sink."""
        self._hold(command, True)

    def do_release(self, command: Command) -> None:
        """Carries out the delayed appends."""
        self._hold(command, False)
        self.cluster.release_log()
        if not self.cluster.hold_publications:
            self.cluster.release_publications()

    def do_kill_task(self, command: Command) -> None:
        """Ends the process of a task."""
        self.cluster.kill_task(command.words[0])

    def do_lose(self, command: Command) -> None:
        """Makes a node stop answering."""
        self.cluster.lose(command.words[0])

    def do_new_leader(self, command: Command) -> None:
        """Replaces the leader; appends in progress are lost, or in the log but unconfirmed."""
        self.cluster.restart_leader(lose_appends="lose" in command.words)

    def do_late(self, command: Command) -> None:
        """Lets a task hand over an epoch again, as a task of an earlier generation would."""
        task, options = command.words[0], command.options
        node = self.cluster.home(task)
        self.cluster.hand_over(node, task, int(options["epoch"]), generation=int(options["generation"]))

    def do_read_out(self, command: Command) -> None:
        """Lets all tasks end: they have nothing left to read."""
        self.cluster.finished_tasks = set(TASKS)
        for task in TASKS:
            self.cluster.want_epoch(task, done=True)

    def do_log(self, command: Command) -> Iterable[str]:
        """Shows the new records in the job log since the last time."""
        found = list(records.decode(records.JOB_LOG, self.cluster.log[JOB]))
        fresh, self.read = found[self.read :], len(found)
        return [_record(record) for record in fresh]

    def do_sink(self, command: Command) -> Iterable[str]:
        """Shows the destination file."""
        return [
            f"epoch {epoch} of {task}: {output.decode().strip()}"
            for epoch, task, output in self.cluster.published
        ]

    def _hold(self, command: Command, wanted: bool) -> None:
        for what in command.words:
            match what:
                case "log":
                    self.cluster.hold_log = wanted
                case "sink":
                    self.cluster.hold_publications = wanted
                case other:
                    raise AssertionError(f"{other} cannot be held back")


def _command(command: commands.Command) -> str:
    """Returns a command of the leader for people; '' for those that only keep contact."""
    match command:
        case commands.Deploy(generation=generation, tasks=tasks):
            return f"deploy {','.join(tasks)}, generation {generation}"
        case commands.Start(epoch=epoch):
            return f"start after epoch {epoch}"
        case commands.Trigger(epoch=epoch, committed=committed):
            return f"end epoch {epoch}; {committed} is committed"
        case commands.Publish(epoch=epoch, task=task):
            return f"publish epoch {epoch} of {task}"
        case commands.Stop():
            return "stop"
        case commands.Keep() | commands.Ping():
            return ""


def _record(record: records.JobLogRecord) -> str:
    match record:
        case records.JobRecord():
            return "job"
        case records.TermRecord(term=term):
            return f"term {term}"
        case records.GenerationRecord(generation=generation, placement=placement, cause=cause):
            places = " ".join(f"{task}@{node}" for task, node in placement.items())
            return f"generation {generation} ({cause}): {places}"
        case records.CommitRecord(epoch=epoch, published=published, done=done):
            ended = f", {','.join(done)} have ended" if done else ""
            return f"commit of epoch {epoch}, published up to {published}{ended}"
        case records.OutcomeRecord(outcome=outcome):
            return f"outcome: {outcome}"


def _report(report: reports.Report) -> str:
    match report:
        case reports.Prepared(endpoints=endpoints, generation=generation):
            return f"{','.join(endpoints)} are ready, generation {generation}"
        case reports.Acknowledged(epoch=epoch, tasks=tasks):
            return f"epoch {epoch} of {','.join(tasks)} is durable"
        case reports.EpochWanted(task=task, done=done):
            return f"{task} {'has ended' if done else 'must not take more into the epoch'}"
        case reports.Published(epoch=epoch, task=task):
            return f"epoch {epoch} of {task} is published"
        case reports.PublicationRefused(epoch=epoch, task=task):
            return f"epoch {epoch} of {task} cannot be published"
        case reports.TaskFailed(task=task, cause=cause):
            return f"{task} failed: {cause}"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    play(path, Job().carry_out)
