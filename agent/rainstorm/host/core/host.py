"""The part of a node's agent in all jobs: its tasks, their epochs, their publications (a core).

Its events are the leader's commands and the tasks' messages; its effects act on tasks, on HyDFS and on the
leader. When all tasks that the node has in a job have handed over an epoch, their state and output are
appended together to the node's segment file. Only when that is durable does the leader get the
acknowledgement, with references into the file. Commands of an older term and messages of an older generation
are ignored: a leader or task that was replaced changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from agent.rainstorm.host.core.events import (
    AppendSegments,
    AssignTask,
    CommandReceived,
    Effect,
    Event,
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
from agent.rainstorm.job.segment import Reference
from agent.rainstorm.messages import commands, control, reports

# The leader has one epoch in flight; a task that hands over this many before the others is at fault.
EPOCHS_OPEN_MAX = 8
TOO_MANY_EPOCHS = f"the task handed over more than {EPOCHS_OPEN_MAX} epochs that others have not"


@dataclass(slots=True)
class _Job:
    """This node's part in one job."""

    generation: int
    tasks: list[str]
    started: bool = False
    prepared: dict[str, TaskPrepared] = field(default_factory=dict)
    open: dict[int, dict[str, TaskSnapshot]] = field(default_factory=dict)
    output: dict[tuple[int, str], bytes] = field(default_factory=dict)
    #: The requests of tasks since the last trigger: repetitions are not passed on.
    wanted: dict[tuple[str, bool], None] = field(default_factory=dict)


class HostCore:
    """The tasks of one node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.term = 0
        self.jobs: dict[str, _Job] = {}

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Applies one event and returns the effects in order."""
        match event:
            case CommandReceived(command=command):
                return self._command(command)
            case TaskPrepared():
                return self._prepared(event)
            case TaskSnapshot():
                return self._snapshot(event)
            case SegmentsAppended():
                return self._appended(event)
            case OutputPublished(job=job, epoch=epoch, task=task):
                if job in self.jobs:
                    self.jobs[job].output.pop((epoch, task), None)
                return [Report(reports.Published(job, epoch, task, node=self.node))]
            case PublicationRefused(job=job, epoch=epoch, task=task, error=error):
                return [Report(reports.PublicationRefused(job, epoch, task, error, node=self.node))]
            case TaskWantsEpoch():
                return self._want_epoch(event)
            case TaskGone(job=job, task=task, generation=generation):
                if not self._current(job, generation):
                    return []
                failed = reports.TaskFailed(job, generation, task, event.cause, event.error, self.node)
                return [Report(failed)]
            case _:
                assert_never(event)

    def next_deadline(self) -> float | None:
        """Returns None: the leader watches everything that can be late."""
        return None

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        for name, job in self.jobs.items():
            assert len(job.open) <= EPOCHS_OPEN_MAX, f"{name}: {len(job.open)} epochs are open"

    def _known(self, job: str, generation: int) -> bool:
        return job in self.jobs and self.jobs[job].generation <= generation

    def _current(self, job: str, generation: int) -> bool:
        return job in self.jobs and self.jobs[job].generation == generation

    def _command(self, command: commands.Command) -> list[Effect]:
        if command.term < self.term:
            return []
        self.term = command.term
        match command:
            case commands.Keep(jobs=jobs):
                return self._keep(jobs)
            case commands.Ping():
                return []
            case commands.Deploy():
                return self._deploy(command)
            case commands.Publish():
                return [self._publication(command)]
            case commands.Stop(job=job, generation=generation):
                # An older generation must not stop a newer one.
                return self._stop(job) if self._known(job, generation) else []
            case commands.Start(job=job, generation=generation):
                if not self._current(job, generation) or self.jobs[job].started:
                    return []  # a repetition must not reset tasks that are running
                self.jobs[job].started = True
                start = control.Start(generation, command.endpoints, command.inside, command.epoch)
                return self._tell_all(job, start)
            case commands.Trigger(job=job, generation=generation):
                if not self._current(job, generation):
                    return []
                self.jobs[job].wanted.clear()
                return self._tell_all(job, control.Trigger(generation, command.epoch, command.committed))
            case _:
                assert_never(command)

    def _tell_all(self, job: str, command: control.Start | control.Trigger) -> list[Effect]:
        return [TellTask(job, task, command) for task in self.jobs[job].tasks]

    def _publication(self, command: commands.Publish) -> PublishOutput:
        job, epoch, task = command.job, command.epoch, command.task
        output = self.jobs[job].output.get((epoch, task)) if job in self.jobs else None
        return PublishOutput(job, epoch, task, command.sink, command.references, output)

    def _deploy(self, command: commands.Deploy) -> list[Effect]:
        job, generation, wanted = command.job, command.generation, list(command.tasks)
        before = self.jobs.get(job)
        if before is not None and before.generation >= generation:
            return []
        fresh = _Job(generation, wanted)
        effects: list[Effect] = []
        if before is not None:
            # This node may still have to publish committed epochs; the others never happened.
            committed = max((start.epoch for start in command.tasks.values()), default=0)
            fresh.output = {key: kept for key, kept in before.output.items() if key[0] <= committed}
            effects += [KillTask(job, task) for task in before.tasks if task not in wanted]
        self.jobs[job] = fresh
        for task, start in command.tasks.items():
            known = before is not None and task in before.tasks
            in_place = start.in_place and known
            effects.append(AssignTask(job, task, generation, in_place, _assignment(command, task, in_place)))
        return effects

    def _prepared(self, event: TaskPrepared) -> list[Effect]:
        if not self._current(event.job, event.generation):
            return []
        job = self.jobs[event.job]
        job.prepared[event.task] = event
        if len(job.prepared) < len(job.tasks):
            return []
        quotes: dict[int, int] = {}
        for found in job.prepared.values():
            quotes.update(found.quotes)
        endpoints = {
            task: reports.Endpoint(found.host, found.port, found.pid, self.node)
            for task, found in job.prepared.items()
        }
        return [Report(reports.Prepared(event.job, event.generation, endpoints, quotes, self.node))]

    def _want_epoch(self, event: TaskWantsEpoch) -> list[Effect]:
        if not self._current(event.job, event.generation):
            return []
        wanted = self.jobs[event.job].wanted
        if (event.task, event.done) in wanted:
            return []
        wanted[event.task, event.done] = None
        return [Report(reports.EpochWanted(event.job, event.generation, event.task, event.done, self.node))]

    def _snapshot(self, event: TaskSnapshot) -> list[Effect]:
        epoch, generation = event.said.epoch, event.said.generation
        if not self._current(event.job, generation):
            return []
        job = self.jobs[event.job]
        if epoch not in job.open and len(job.open) >= EPOCHS_OPEN_MAX:
            failed = reports.TaskFailed(event.job, generation, event.task, TOO_MANY_EPOCHS, None, self.node)
            return [Report(failed)]
        gathered = job.open.setdefault(epoch, {})
        if event.task in gathered:
            return []  # what it handed over first may already be durable
        gathered[event.task] = event
        if len(gathered) < len(job.tasks):
            return []
        for task, found in gathered.items():
            if found.output:
                job.output[epoch, task] = found.output
        parts = [part for task in job.tasks for part in (gathered[task].state, gathered[task].output)]
        if not any(parts):
            return self._acknowledge(event.job, epoch, [() for _ in parts])
        return [AppendSegments(event.job, generation, epoch, parts)]

    def _appended(self, event: SegmentsAppended) -> list[Effect]:
        if not self._current(event.job, event.generation):
            return []
        return self._acknowledge(event.job, event.epoch, event.references)

    def _acknowledge(self, name: str, epoch: int, references: Sequence[Sequence[Reference]]) -> list[Effect]:
        job = self.jobs[name]
        gathered = job.open.pop(epoch, None)
        if gathered is None:
            return []
        tasks = {
            task: _task_epoch(gathered[task].said, references[2 * place], references[2 * place + 1])
            for place, task in enumerate(job.tasks)
        }
        return [Report(reports.Acknowledged(name, job.generation, epoch, tasks, self.node))]

    def _stop(self, name: str) -> list[Effect]:
        job = self.jobs.pop(name)
        return [KillTask(name, task) for task in job.tasks]

    def _keep(self, jobs: Mapping[str, int]) -> list[Effect]:
        over = [
            name for name, job in self.jobs.items() if name not in jobs or job.generation < jobs[name] - 1
        ]
        return [effect for name in over for effect in self._stop(name)]


def _assignment(command: commands.Deploy, task: str, in_place: bool) -> control.Assign:
    """Returns the part of a deployment that a task's process needs."""
    start = command.tasks[task]
    return control.Assign(
        job=command.job,
        task=task,
        generation=command.generation,
        spec=command.spec,
        header=command.header,
        survey=command.survey,
        identity=command.identity,
        epoch=start.epoch,
        done=start.done,
        segments=start.segments,
        in_place=in_place,
        positions=start.positions,
        counts=start.counts,
        term=command.term,
    )


def _task_epoch(
    said: control.Snapshot, state: Sequence[Reference], sink: Sequence[Reference]
) -> reports.TaskEpoch:
    """Returns the report to the leader about a durable snapshot."""
    return reports.TaskEpoch(
        base=said.base,
        positions=said.positions,
        done=said.done,
        records=said.records,
        bytes=said.bytes,
        state=tuple(state),
        sink=tuple(sink),
    )
