"""The part of a node's agent in all jobs: its tasks, their epochs, their publications (a core).

The leader's commands come in, what the tasks say comes in; what must be done to tasks, to HyDFS and to the
leader goes out. When all tasks that the node has in a job have handed over an epoch, their state and output
leave in one append to the node's segment file, and only when that is durable the leader gets the
acknowledgement with references into it. Commands of an older term and messages of an older generation are
ignored: a leader or task that was replaced changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.rainstorm.job.segment import Reference

# Snapshots of epochs that never complete (their generation ended) go with the generation; this bounds one
# generation.
EPOCHS_OPEN_MAX = 8
# What all assignments of one deployment have in common.
SHARED = ("job", "term", "generation", "spec", "header", "survey", "identity")


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """The leader wants something."""

    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskPrepared:
    """A task has gone back to the committed epoch and listens for its inputs."""

    job: str
    task: str
    generation: int
    host: str
    port: int
    pid: int
    quotes: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class TaskSnapshot:
    """A task hands over an epoch: ``fields`` as in the acknowledgement, its state and its output."""

    job: str
    task: str
    generation: int
    epoch: int
    fields: Mapping[str, Any]
    state: bytes
    output: bytes


@dataclass(frozen=True, slots=True)
class TaskWantsEpoch:
    """A task has ended (``done``) or must not take more into the epoch."""

    job: str
    task: str
    generation: int
    done: bool


@dataclass(frozen=True, slots=True)
class TaskGone:
    """A task's process ended, or the task met an error that it cannot go on from."""

    job: str
    task: str
    generation: int
    cause: str
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class SegmentsAppended:
    """The segments of an epoch are durable: ``references`` has the pieces of each part, in order."""

    job: str
    generation: int
    epoch: int
    references: Sequence[Sequence[Reference]]


@dataclass(frozen=True, slots=True)
class OutputPublished:
    """The output of a sink task's epoch is in the destination file."""

    job: str
    epoch: int
    task: str


@dataclass(frozen=True, slots=True)
class PublicationRefused:
    """The destination file does not exist any more; trying again would not help."""

    job: str
    epoch: int
    task: str
    error: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class AssignTask:
    """Effect: have a process run a task from a committed epoch, in place where it may be kept."""

    job: str
    task: str
    generation: int
    in_place: bool
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TellTask:
    """Effect: send a message to the process of a task."""

    job: str
    task: str
    message: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class KillTask:
    """Effect: end the process of a task."""

    job: str
    task: str


@dataclass(frozen=True, slots=True)
class AppendSegments:
    """Effect: append all parts to the node's segment file of the job in one go."""

    job: str
    generation: int
    epoch: int
    parts: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class PublishOutput:
    """Effect: append output to the destination, idempotently; ``output`` is None when it must be read from
    ``references``.
    """

    job: str
    epoch: int
    task: str
    sink: str
    references: Sequence[Reference]
    output: bytes | None


@dataclass(frozen=True, slots=True)
class Report:
    """Effect: tell the leader."""

    message: Mapping[str, Any]


Event = (
    CommandReceived
    | TaskPrepared
    | TaskSnapshot
    | TaskWantsEpoch
    | TaskGone
    | SegmentsAppended
    | OutputPublished
)
Effect = AssignTask | TellTask | KillTask | AppendSegments | PublishOutput | Report


@dataclass(slots=True)
class _Job:
    """What this node has of one job."""

    generation: int
    tasks: list[str]
    started: bool = False
    prepared: dict[str, TaskPrepared] = field(default_factory=dict)
    open: dict[int, dict[str, TaskSnapshot]] = field(default_factory=dict)
    output: dict[tuple[int, str], bytes] = field(default_factory=dict)


class HostCore:
    """The tasks of one node."""

    def __init__(self, node: str) -> None:
        self.node = node
        self.term = 0
        self.jobs: dict[str, _Job] = {}

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Applies one event and returns the effects in order."""
        match event:
            case CommandReceived(message=message):
                return self._command(message)
            case TaskPrepared():
                return self._prepared(event)
            case TaskSnapshot():
                return self._snapshot(event)
            case SegmentsAppended():
                return self._appended(event)
            case OutputPublished(job=job, epoch=epoch, task=task):
                if job in self.jobs:
                    self.jobs[job].output.pop((epoch, task), None)
                return [self._report("published", job, 0, {"epoch": epoch, "task": task})]
            case PublicationRefused(job=job, epoch=epoch, task=task, error=error):
                detail = {"epoch": epoch, "task": task, "error": error}
                return [self._report("publication-refused", job, 0, detail)]
            case TaskWantsEpoch(job=job, task=task, generation=generation, done=done):
                return [self._report("epoch-wanted", job, generation, {"task": task, "done": done})]
            case TaskGone(job=job, task=task, generation=generation):
                if not self._current(job, generation):
                    return []
                detail = {"task": task, "cause": event.cause, "error": event.error}
                return [self._report("task-failed", job, generation, detail)]

    def next_deadline(self) -> float | None:
        """Returns None: everything that can be late is watched by the leader."""
        return None

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        for name, job in self.jobs.items():
            assert len(job.open) <= EPOCHS_OPEN_MAX, f"{name}: {len(job.open)} epochs are open"

    def _known(self, job: str, generation: int) -> bool:
        return job in self.jobs and self.jobs[job].generation <= generation

    def _current(self, job: str, generation: int) -> bool:
        return job in self.jobs and self.jobs[job].generation == generation

    def _report(self, kind: str, job: str, generation: int, detail: Mapping[str, Any]) -> Report:
        return Report({"type": kind, "job": job, "generation": generation, "node": self.node, **detail})

    def _command(self, message: Mapping[str, Any]) -> list[Effect]:
        if message["term"] < self.term:
            return []
        self.term = message["term"]
        kind = message["type"]
        if kind == "keep":
            return self._keep(message["jobs"])
        if kind == "ping":
            return []
        job, generation = message["job"], message["generation"]
        match kind:
            case "deploy":
                return self._deploy(job, generation, message)
            case "publish":
                return [self._publication(job, message)]
            case "stop":  # an older generation must not stop a newer one
                return self._stop(job) if self._known(job, generation) else []
        if not self._current(job, generation):
            return []
        if kind == "start":
            if self.jobs[job].started:  # a repetition: it must not throw back tasks that are under way
                return []
            self.jobs[job].started = True
        return [TellTask(job, task, message) for task in self.jobs[job].tasks]

    def _publication(self, job: str, message: Mapping[str, Any]) -> PublishOutput:
        epoch, task = message["epoch"], message["task"]
        output = self.jobs[job].output.get((epoch, task)) if job in self.jobs else None
        references = [(str(file), int(offset), int(length)) for file, offset, length in message["references"]]
        return PublishOutput(job, epoch, task, message["sink"], references, output)

    def _deploy(self, job: str, generation: int, message: Mapping[str, Any]) -> list[Effect]:
        before = self.jobs.get(job)
        if before is not None and before.generation >= generation:
            return []
        wanted = list(message["tasks"])
        fresh = _Job(generation, wanted)
        effects: list[Effect] = []
        if before is not None:
            # Committed epochs may still have to be published from here; the others never happened.
            committed = max((detail["epoch"] for detail in message["tasks"].values()), default=0)
            fresh.output = {key: kept for key, kept in before.output.items() if key[0] <= committed}
            effects += [KillTask(job, task) for task in before.tasks if task not in wanted]
        self.jobs[job] = fresh
        shared = {key: message[key] for key in SHARED}
        for task in wanted:
            detail = message["tasks"][task]
            known = before is not None and task in before.tasks
            in_place = bool(detail["in_place"]) and known
            command = {**shared, **detail, "type": "assign", "task": task, "in_place": in_place}
            effects.append(AssignTask(job, task, generation, in_place, command))
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
            task: {"host": found.host, "port": found.port, "pid": found.pid, "node": self.node}
            for task, found in job.prepared.items()
        }
        detail = {"endpoints": endpoints, "quotes": quotes}
        return [self._report("prepared", event.job, event.generation, detail)]

    def _snapshot(self, event: TaskSnapshot) -> list[Effect]:
        if not self._current(event.job, event.generation):
            return []
        job = self.jobs[event.job]
        gathered = job.open.setdefault(event.epoch, {})
        gathered[event.task] = event
        if len(gathered) < len(job.tasks):
            return []
        for task, found in gathered.items():
            if found.output:
                job.output[event.epoch, task] = found.output
        parts = [part for task in job.tasks for part in (gathered[task].state, gathered[task].output)]
        if not any(parts):
            return self._acknowledge(event.job, event.epoch, [() for _ in parts])
        return [AppendSegments(event.job, event.generation, event.epoch, parts)]

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
            task: {
                **gathered[task].fields,
                "state": list(references[2 * place]),
                "sink": list(references[2 * place + 1]),
            }
            for place, task in enumerate(job.tasks)
        }
        return [self._report("ack", name, job.generation, {"epoch": epoch, "tasks": tasks})]

    def _stop(self, name: str) -> list[Effect]:
        job = self.jobs.pop(name)
        return [KillTask(name, task) for task in job.tasks]

    def _keep(self, jobs: Mapping[str, int]) -> list[Effect]:
        over = [
            name for name, job in self.jobs.items() if name not in jobs or job.generation < jobs[name] - 1
        ]
        return [effect for name in over for effect in self._stop(name)]
