"""The state of a job, which is computed from the records of its log.

The leader appends records conditionally (each at the offset where it believes the log ends), so a leader
that has been replaced fails at its next append. A commit record is the commit point of an epoch: once it is
in the log the epoch happened, before that it never did. Bulk data (state, sink output) lies in the agents'
own logs; records hold references to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

from agent.common.errors import Corrupt, JobInvalid
from agent.common.failure import Failure
from agent.rainstorm.job import plan as planning
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.segment import Reference
from agent.rainstorm.job.spec import parse
from agent.rainstorm.messages.joblog import (
    CommitRecord,
    GenerationRecord,
    JobLogRecord,
    JobRecord,
    OutcomeRecord,
    TermRecord,
)
from agent.rainstorm.messages.status import CommitStatus, RecoveryStatus

# The history that is shown to people; older history is in the log itself.
HISTORY_MAX = 500
# The weight of the last epoch in a task's rate: a step in the load shows within a second.
RATE_WEIGHT = 0.3

NO_HEADER = SourceHeader((), 0, 0, (), 1, "")


@dataclass(slots=True)
class JobState:
    """The state that the job log describes."""

    job: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    header: SourceHeader = NO_HEADER
    sink: str = ""
    submitted_at: float = 0.0
    term: int = 0
    generation: int = 0
    placement: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    #: The highest epoch number that may have been used: numbers are never used twice, even after a rollback.
    epoch_max: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    inside: dict[int, bool] = field(default_factory=dict)
    segments: dict[str, list[Reference]] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    unpublished: list[tuple[int, str, tuple[Reference, ...]]] = field(default_factory=list)
    published: int = 0
    #: What each task has taken in: records and bytes.
    counts: dict[str, tuple[int, int]] = field(default_factory=dict)
    #: Records a second that each task took in, over the last epochs.
    rates: dict[str, float] = field(default_factory=dict)
    #: The last epochs committed, and the generations after the first with the time until their first commit.
    commits: list[CommitStatus] = field(default_factory=list)
    recoveries: list[RecoveryStatus] = field(default_factory=list)
    epochs_committed: int = 0
    outcome: str = ""
    error: Failure | None = None
    finished_at: float = 0.0

    def apply(self, record: JobLogRecord) -> None:
        """Applies the next record."""
        match record:
            case JobRecord():
                self.job, self.spec, self.header = record.job, record.spec, record.header
                self.sink, self.submitted_at = record.sink, record.at
            case TermRecord(term=term):
                self.term = term
            case GenerationRecord():
                self._begin_generation(record)
            case CommitRecord():
                self._commit(record)
            case OutcomeRecord(outcome=outcome, error=error, at=at):
                self.outcome, self.error, self.finished_at = outcome, error, at
            case _:
                assert_never(record)

    def _begin_generation(self, record: GenerationRecord) -> None:
        self.generation, self.placement = record.generation, dict(record.placement)
        self.epoch_max = max(self.epoch_max, record.epoch_max)
        if self.generation > 1:
            self.recoveries.append(RecoveryStatus(self.generation, record.cause, record.at))
            del self.recoveries[:-HISTORY_MAX]

    def _commit(self, record: CommitRecord) -> None:
        self.epoch = record.epoch
        self.epoch_max = max(self.epoch_max, self.epoch)
        self.positions.update(record.positions)
        self.done = record.done
        for task, references in record.base.items():
            self.segments[task] = list(references)
        for task, references in record.delta.items():
            self.segments.setdefault(task, []).extend(references)
        for task, references in record.sink.items():
            self.unpublished.append((self.epoch, task, references))
        self._measure(record)
        self.counts.update(record.counts)
        self.mark_published(record.published)
        self._remember(record)

    def _measure(self, record: CommitRecord) -> None:
        took_s = record.at - self.commits[-1].at if self.commits else 0.0
        if took_s <= 0.0:
            return
        for task, counted in record.counts.items():
            grown = counted[0] - self.counts.get(task, (0, 0))[0]
            before = self.rates.get(task, grown / took_s)
            self.rates[task] = (1 - RATE_WEIGHT) * before + RATE_WEIGHT * grown / took_s

    def _remember(self, record: CommitRecord) -> None:
        self.commits.append(CommitStatus(self.epoch, record.generation, self.records(), record.at))
        del self.commits[:-HISTORY_MAX]
        self.epochs_committed += 1
        self.recoveries = [
            replace(recovery, seconds=record.at - recovery.at)
            if recovery.seconds is None and recovery.generation <= record.generation
            else recovery
            for recovery in self.recoveries
        ]

    def records(self) -> int:
        """Returns how many records the source tasks have read."""
        return sum(counted[0] for task, counted in self.counts.items() if task.startswith("0."))

    def bytes(self) -> int:
        """Returns how many bytes the source tasks have read."""
        return sum(counted[1] for task, counted in self.counts.items() if task.startswith("0."))

    def mark_published(self, epoch: int) -> None:
        """Notes that the output of all epochs up to ``epoch`` is in the destination file."""
        self.published = max(self.published, epoch)
        self.unpublished = [entry for entry in self.unpublished if entry[0] > self.published]


def fold(job: str, records: Iterable[JobLogRecord]) -> JobState:
    """Returns the state of a job from the records of its whole log.

    Each record is checked against the ones before it, so a leader can run any state that this returns.

    Raises:
        Corrupt: the records are not those of this job, or contradict each other.
    """
    state = JobState()
    tasks: tuple[str, ...] = ()
    splits: dict[int, None] = {}
    for number, record in enumerate(records):
        if number == 0:
            if not isinstance(record, JobRecord) or record.job != job:
                raise Corrupt(f"the log of job {job} does not begin with the job")
            tasks, splits = _shape(record)
        problem = _problem(state, record, tasks, splits) if number else ""
        if problem:
            raise Corrupt(f"the log of job {job}: record {number}, {record.kind}: {problem}")
        state.apply(record)
    if not state.job:
        raise Corrupt(f"the log of job {job} is empty")
    return state


def _shape(record: JobRecord) -> tuple[tuple[str, ...], dict[int, None]]:
    """Returns the tasks and splits of a job."""
    try:
        plan = planning.make(parse(record.spec), record.header)
    except JobInvalid as error:
        raise Corrupt(f"the log of job {record.job} holds a job that cannot be run: {error}") from None
    return tuple(plan.tasks()), dict.fromkeys(split.index for split in plan.splits)


def _problem(state: JobState, record: JobLogRecord, tasks: tuple[str, ...], splits: dict[int, None]) -> str:
    """Returns the problem of a record after the first, or ''."""
    named: list[str] = []
    match record:
        case JobRecord():
            return "the job is already there"
        case TermRecord(term=term):
            return f"term {term} after term {state.term}" if term < state.term else ""
        case GenerationRecord(generation=generation, placement=placement):
            if generation <= state.generation:
                return f"generation {generation} after generation {state.generation}"
            if len(placement) != len(tasks):
                return "a task is not placed"
            named = list(placement)
        case CommitRecord(epoch=epoch, published=published, positions=positions):
            if epoch <= state.epoch or published > epoch:
                return f"epoch {epoch}, published {published}, after epoch {state.epoch}"
            if any(split not in splits for split in positions):
                return "the job has no such split"
            named = [*record.base, *record.delta, *record.sink, *record.done, *record.counts]
        case OutcomeRecord():
            pass
        case _:
            assert_never(record)
    unknown = [task for task in named if task not in tasks]
    return f"the job has no task {unknown[0]}" if unknown else ""
