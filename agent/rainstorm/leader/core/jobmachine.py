"""The life of one job at the leader: generations, epochs, publication, recovery (a core).

A job runs in **generations**. A generation is a placement of all tasks plus the committed epoch from which
they start. Any failure ends it and begins the next one: the record of the new generation goes into the job
log, the agents reset their tasks to the last committed epoch in place and start lost ones on new processes,
and when all are prepared they start together. Frames, reports and commands carry job, term and generation, so
that those of an older generation are ignored wherever they arrive.

Phases: ``logging`` (a record that the next step depends on is being appended) → ``deploying`` → ``running`` →
``publishing`` → ``ended``; ``waiting`` when there is no usable node.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from agent.common.errors import JobFailed, RainStormError
from agent.common.failure import Failure
from agent.rainstorm.job import plan as planning
from agent.rainstorm.job.boundaries import parities
from agent.rainstorm.job.placement import place
from agent.rainstorm.job.spec import JobSpec, parse
from agent.rainstorm.leader.core.effects import AppendLog, DeleteFiles, Effect, JobEnded, Tell
from agent.rainstorm.leader.core.epochs import EPOCH_TIMEOUT_S, Epoch, wrong_position
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.publication import Publication
from agent.rainstorm.leader.core.segments import SegmentFiles
from agent.rainstorm.messages import commands, reports
from agent.rainstorm.messages.joblog import CommitRecord, GenerationRecord, JobLogRecord, OutcomeRecord

DEPLOY_TIMEOUT_S = 20.0
# After this many recoveries in a row without a commit the job itself is at fault.
FRUITLESS_RECOVERIES_MAX = 5
# How often a waiting job checks whether it has waited too long.
TICK_S = 0.5
# The length to which the cause of a recovery is cut; it is for people.
CAUSE_CHARS_MAX = 1000

Outcome = Literal["finished", "failed", "cancelled"]


class JobMachine:
    """One job; ``nodes`` are the usable nodes in placement order, kept up to date by the leader core."""

    def __init__(self, state: JobState, term: int, nodes: Sequence[str]) -> None:
        self.state = state
        self.term = term
        self.spec: JobSpec = parse(state.spec)
        self.plan = planning.make(self.spec, state.header)
        self._tasks = self.plan.tasks()
        self._splits = {split.index: split for split in self.plan.splits}
        self._quoted = self.spec.source.format == "csv"
        self.nodes = list(nodes)
        self.phase = "waiting"
        self._token = 0
        self._pending: tuple[str, Sequence[JobLogRecord]] = ("", ())
        self._fresh: set[str] = set()
        self._previous: dict[str, str] = dict(state.placement)
        self._prepared: dict[str, reports.Prepared] = {}
        self._quotes: dict[int, int] = {}
        self._epoch: Epoch | None = None
        self._wanted = False
        self._ended_tasks: set[str] = set()
        self._last_trigger_at = 0.0
        self._phase_at = 0.0
        self._ticked_at = 0.0
        self._segment_files = SegmentFiles()
        self._publication = Publication(state)
        self._fruitless = 0
        self._cause = ""
        self._ending: tuple[Outcome, RainStormError | None] = ("finished", None)
        self.endpoints: dict[str, reports.Endpoint] = {}

    # -- events ---------------------------------------------------------------------------------------

    def begin(self, now: float, cause: str) -> list[Effect]:
        """Starts the job or takes it over from the log: a new generation from the last committed epoch."""
        if self.state.outcome:
            self.phase = "ended"
            return [JobEnded(self.state.job)]
        if self.last_epoch_committed():
            return self._end(now, "finished", None)
        # The previous leader may have triggered one more epoch than the log knows of.
        self.state.epoch_max += 1 if self.state.generation else 0
        return self._new_generation(now, cause)

    def prepared(self, now: float, node: str, report: reports.Prepared) -> list[Effect]:
        """An agent has its tasks ready to start."""
        if self.phase != "deploying" or report.generation != self.state.generation:
            return []
        if any(task not in report.endpoints for task in self._tasks_on(node)):
            return []
        self._prepared[node] = report
        self._quotes.update(report.quotes)
        if any(node not in self._prepared for node in self._nodes_in_use()):
            return []
        return self._start(now)

    def acknowledged(self, now: float, report: reports.Acknowledged) -> list[Effect]:
        """An agent has made an epoch of its tasks durable."""
        epoch = self._epoch
        if epoch is None or report.generation != epoch.generation or report.epoch != epoch.number:
            return []
        if self.phase != "running" or epoch.committing:
            return []
        for task, found in report.tasks.items():
            if problem := wrong_position(self._splits, self.plan.data_end, task, found):
                self._fresh.add(task)
                return self._fail(now, f"task {task} handed over a wrong epoch: {problem}", None)
        if not epoch.acknowledge(report.tasks):
            return []
        epoch.committing = True
        return self._log(now, "commit", [epoch.commit_record(self.state.published)])

    def epoch_wanted(self, now: float, report: reports.EpochWanted) -> list[Effect]:
        """A task has ended or must not take more into the epoch."""
        known = report.task in self._tasks and report.generation == self.state.generation
        if not known or self.phase != "running":
            return []
        if report.done:
            self._ended_tasks.add(report.task)
            self._wanted = self._wanted or len(self._ended_tasks) == len(self._tasks)
        else:
            self._wanted = True
        return self._trigger_if_due(now)

    def published(self, now: float, report: reports.Published) -> list[Effect]:
        """Output of an epoch is in the destination file."""
        if not self._publication.confirm(report.epoch, report.task):
            return []
        if self.phase == "publishing":
            return self._end_when_published(now)
        return self._publish(now) + self._trigger_if_due(now)

    def publication_refused(self, now: float, report: reports.PublicationRefused) -> list[Effect]:
        """The output can never be published: the destination was deleted, for instance."""
        known = self._publication.in_progress(report.epoch, report.task)
        if not known or self._pending[0] == "outcome":
            return []
        return self._log_outcome(now, "failed", report.error.error())

    def task_failed(self, now: float, report: reports.TaskFailed) -> list[Effect]:
        """A task died or reported an error."""
        known = report.task in self._tasks and report.generation == self.state.generation
        if not known or self.phase not in ("deploying", "running"):
            return []
        error = None if report.error is None else report.error.error()
        if isinstance(error, JobFailed):
            return self._end(now, "failed", error)
        self._fresh.add(report.task)
        return self._fail(now, f"task {report.task} on {report.node}: {report.cause}", error)

    def node_lost(self, now: float, node: str) -> list[Effect]:
        """A node is no longer usable; its tasks and publications go elsewhere."""
        effects: list[Effect] = []
        if self.phase in ("deploying", "running") and node in self._nodes_in_use():
            self._fresh.update(task for task, home in self.state.placement.items() if home == node)
            effects += self._fail(now, f"node {node} is lost", None)
        self._publication.lose(node)
        return effects if self.phase == "ended" else effects + self._publish(now)

    def appended(self, now: float, token: int, at: float) -> list[Effect]:
        """Records are in the log, stamped with wall-clock time ``at``: the waiting step continues."""
        if token != self._token:
            return []
        what, records = self._pending
        self._pending = ("", ())
        for record in records:
            self.state.apply(replace(record, at=at))
            if isinstance(record, CommitRecord):
                self._publication.log(record.published)
        if what == "outcome":
            return self._ended()
        if self.phase == "publishing":
            return self._end_when_published(now)
        if what == "generation":
            return self._deploy(now)
        return self._committed(now) if self._epoch is not None else []  # None: its generation has ended

    def record_refused(self, now: float, token: int, error: RainStormError) -> list[Effect]:
        """Records could not be read back, so none of them was written: the job cannot continue."""
        if token != self._token:
            return []
        self._pending = ("", ())
        self._epoch = None
        return self._log_outcome(now, "failed", JobFailed(f"the job's state cannot be logged: {error}"))

    def cancel(self, now: float) -> list[Effect]:
        """Ends the job on request.

        Committed output stays and is published; a second request does not wait for that.
        """
        if self.phase == "ended" or self._pending[0] == "outcome":
            return []
        if self.phase == "publishing":
            return self._log_outcome(now, "cancelled", None)
        return self._end(now, "cancelled", None)

    def tick(self, now: float) -> list[Effect]:
        """Runs the timers that are due."""
        self._ticked_at = now
        match self.phase:
            case "waiting" if self.nodes:
                return self._new_generation(now, self._cause)
            case "deploying" if now - self._phase_at > DEPLOY_TIMEOUT_S:
                late = [node for node in self._nodes_in_use() if node not in self._prepared]
                self._fresh.update(task for task, node in self.state.placement.items() if node in late)
                return self._fail(now, f"tasks on {', '.join(late)} were not ready in time", None)
            case "running":
                return self._watch_epoch(now) + self._retry_publications(now)
            case "publishing":
                return self._retry_publications(now)
        return []

    def next_deadline(self) -> float | None:
        """Returns when ``tick`` is due."""
        if self.phase in ("ended", "logging"):
            return None
        if self.phase == "running":
            if self._epoch is not None and not self._epoch.committing:
                return self._epoch.triggered_at + self._epoch_timeout_s()
            if self._epoch is not None:  # the store may be slow: nothing can be done meanwhile
                return self._ticked_at + TICK_S
            if not self._publication.backlog():
                return self._last_trigger_at + self.spec.epoch_interval_ms / 1000
        return self._ticked_at + TICK_S

    # -- generations ----------------------------------------------------------------------------------

    def _fail(self, now: float, cause: str, error: RainStormError | None) -> list[Effect]:
        self._fruitless += 1
        if self._fruitless > FRUITLESS_RECOVERIES_MAX:
            reason = error or JobFailed(
                f"{self._fruitless} recoveries in a row without progress; the last cause: {cause}",
                hint="look at the task's log: fab job " + self.state.job,
            )
            return self._end(now, "failed", reason)
        return self._new_generation(now, cause)

    def _new_generation(self, now: float, cause: str) -> list[Effect]:
        self._cause = cause = cause[:CAUSE_CHARS_MAX]
        self._epoch = None
        if not self.nodes:
            self._enter("waiting", now)
            return []
        self._previous = dict(self.state.placement)
        keep = self.state.placement or self.state.header.homes
        placement = place(self._tasks, self.nodes, keep)
        number = self.state.generation + 1
        record = GenerationRecord(number, placement, cause, self.state.epoch_max)
        return self._log(now, "generation", [record])

    def _deploy(self, now: float) -> list[Effect]:
        self._enter("deploying", now)
        self._prepared = {}
        self._ended_tasks = set()
        in_use = self._nodes_in_use()
        left = [node for node in dict.fromkeys(self._previous.values()) if node not in in_use]
        stops: list[Effect] = [Tell(node, self._stop()) for node in left if node in self.nodes]
        if any(node not in self.nodes for node in in_use):
            return stops + self._fail(now, "a node was lost while the generation was logged", None)
        return [*(Tell(node, self._deployment(node)) for node in in_use), *stops]

    def _deployment(self, node: str) -> commands.Deploy:
        tasks = {}
        for task in self._tasks_on(node):
            tasks[task] = commands.TaskStart(
                epoch=self.state.epoch,
                done=task in self.state.done,
                segments=tuple(self.state.segments.get(task, ())),
                in_place=self._previous.get(task) == node and task not in self._fresh,
                positions=dict(self.state.positions) if task.startswith("0.") else {},
                counts=self.state.counts.get(task, (0, 0)),
            )
        survey = self._quoted and not self.state.inside
        return commands.Deploy(*self._address(), self.state.spec, self.state.header, tasks, survey)

    def _start(self, now: float) -> list[Effect]:
        self._enter("running", now)
        self._fresh = set()
        if self._quoted and not self.state.inside:
            self.state.inside = parities(self.plan.splits, self._quotes)
        self.endpoints = {
            task: found for report in self._prepared.values() for task, found in report.endpoints.items()
        }
        self._last_trigger_at = now
        listening = {task: (found.host, found.port) for task, found in self.endpoints.items()}
        inside = dict(self.state.inside)
        command = commands.Start(*self._address(), listening, inside, self.state.epoch)
        return [Tell(node, command) for node in self._nodes_in_use()]

    # -- epochs ---------------------------------------------------------------------------------------

    def _watch_epoch(self, now: float) -> list[Effect]:
        epoch = self._epoch
        if epoch is None:
            return self._trigger_if_due(now)
        if epoch.committing or now < epoch.triggered_at + self._epoch_timeout_s():
            return []
        missing = epoch.missing()
        self._fresh.update(missing)
        return self._fail(now, f"epoch {epoch.number} is stuck: no answer from {', '.join(missing)}", None)

    def _trigger_if_due(self, now: float) -> list[Effect]:
        due = self._wanted or now >= self._last_trigger_at + self.spec.epoch_interval_ms / 1000
        if self._epoch is not None or not due or self.phase != "running":
            return []
        if self._publication.backlog():
            return []  # sources stop when their epoch is full, so a slow destination slows them down
        self._wanted = False
        self._last_trigger_at = now
        self.state.epoch_max += 1
        self._epoch = Epoch(self.state.epoch_max, self.state.generation, now, self._tasks)
        command = commands.Trigger(*self._address(), self.state.epoch_max, self.state.epoch)
        return [Tell(node, command) for node in self._nodes_in_use()]

    def _committed(self, now: float) -> list[Effect]:
        epoch = self._epoch
        assert epoch is not None
        assert epoch.number == self.state.epoch
        self._epoch = None
        self._fruitless = 0
        self.phase = "running"
        effects = self._drop_segments(epoch) + self._publish(now)
        if self.last_epoch_committed():
            return effects + self._end(now, "finished", None)
        # All tasks may have ended while this epoch was in progress.
        self._wanted = self._wanted or len(self._ended_tasks) == len(self._tasks)
        return effects + self._trigger_if_due(now)

    def _drop_segments(self, epoch: Epoch) -> list[Effect]:
        kept = self._publication.confirmed_only()
        unused = self._segment_files.unused(self.state, epoch.files(), kept)
        return [DeleteFiles(unused)] if unused else []

    def last_epoch_committed(self) -> bool:
        """Tells whether all tasks had ended in the last committed epoch."""
        return self.state.epoch > 0 and len(self.state.done) == len(self._tasks)

    # -- publication ----------------------------------------------------------------------------------

    def _publish(self, now: float) -> list[Effect]:
        where, sink = self._address(), self.state.sink
        return [
            Tell(order.node, commands.Publish(*where, order.epoch, order.task, sink, order.references))
            for order in self._publication.next(now, self.nodes)
        ]

    def _retry_publications(self, now: float) -> list[Effect]:
        self._publication.expire(now)
        return self._publish(now)

    # -- ends -----------------------------------------------------------------------------------------

    def _end(self, now: float, outcome: Outcome, error: RainStormError | None) -> list[Effect]:
        """Ends the job once all committed output is in the destination: a committed epoch has happened."""
        self._ending = (outcome, error)
        self._epoch = None
        self._enter("publishing", now)
        return self._end_when_published(now)

    def _end_when_published(self, now: float) -> list[Effect]:
        if self._pending[0] == "commit" or not self._publication.done:
            return self._publish(now)
        return self._log_outcome(now, *self._ending)

    def _log_outcome(self, now: float, outcome: Outcome, error: RainStormError | None) -> list[Effect]:
        record = OutcomeRecord(outcome, None if error is None else Failure.of(error))
        return self._log(now, "outcome", [record])

    def _ended(self) -> list[Effect]:
        self.phase = "ended"
        # The last generation may not have been deployed: then the tasks are where the previous one put them.
        homes = dict.fromkeys([*self.state.placement.values(), *self._previous.values()])
        nodes = [node for node in homes if node in self.nodes]
        return [*(Tell(node, self._stop()) for node in nodes), JobEnded(self.state.job)]

    # -- helpers --------------------------------------------------------------------------------------

    def _log(self, now: float, what: str, records: Sequence[JobLogRecord]) -> list[Effect]:
        # A later step replaces an earlier one that still waits: a failure overtakes a commit. The commit may
        # still be in the log, so the records stay pending, and are applied when the append of the later step
        # is confirmed.
        self._token += 1
        self._pending = (what, [*self._pending[1], *records])
        if what != "commit":
            self._enter("logging", now)
        return [AppendLog(self.state.job, self._token, records)]

    def _enter(self, phase: str, now: float) -> None:
        self.phase = phase
        self._phase_at = now

    def _address(self) -> tuple[str, int, int]:
        """Returns job, term and generation, the first fields of the commands to hosts."""
        return self.state.job, self.term, self.state.generation

    def _stop(self) -> commands.Stop:
        return commands.Stop(*self._address())

    def _nodes_in_use(self) -> list[str]:
        return list(dict.fromkeys(self.state.placement.values()))

    def _tasks_on(self, node: str) -> list[str]:
        return [task for task in self._tasks if self.state.placement.get(task) == node]

    def _epoch_timeout_s(self) -> float:
        return EPOCH_TIMEOUT_S + self.spec.epoch_interval_ms / 100
