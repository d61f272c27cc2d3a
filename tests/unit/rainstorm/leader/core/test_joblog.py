"""The state of a job from its records, and records that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agent.common.errors import Corrupt
from agent.common.failure import Failure
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.leader.core.joblog import HISTORY_MAX, JobState, fold
from agent.rainstorm.messages.joblog import (
    JOB_LOG,
    CommitRecord,
    GenerationRecord,
    JobLogRecord,
    JobRecord,
    OutcomeRecord,
    TermRecord,
    decode,
    encode,
)
from tests.unit.rainstorm.cluster import JOB, job_record, new_job

PLACED = {"0.0": "n1", "0.1": "n2", "1.0": "n1", "1.1": "n2"}


def commit(epoch: int, generation: int = 1, published: int = 0, **parts: Any) -> CommitRecord:
    """Returns a commit record."""
    empty = CommitRecord(epoch, generation, {}, {}, {}, {}, (), {}, published, 100.0 + epoch)
    return replace(empty, **parts)


def generation(number: int, epoch_max: int = 0, **placement: str) -> GenerationRecord:
    """Returns a generation record."""
    placed = {f"0.{task[1:]}": node for task, node in placement.items()}
    return GenerationRecord(number, placed, f"cause {number}", epoch_max, 10.0 * number)


def folded(*records: JobLogRecord) -> JobState:
    """Returns the state after these records, through the bytes of a log."""
    state = JobState()
    for record in decode(JOB_LOG, encode(JOB_LOG, records)):
        state.apply(record)
    return state


def test_the_first_record_says_what_the_job_is() -> None:
    """Job, term and outcome are taken over as they are."""
    header = SourceHeader(("x",), 0, 1, ((0, 0, 1, 0),), 10, "id")
    failure = Failure("JOB_FAILED", "why")
    state = folded(
        JobRecord("j", {"a": 1}, header, "out", 5.0),
        TermRecord(3, "n1"),
        OutcomeRecord("failed", failure, 9.0),
    )
    assert (state.job, state.spec, state.header, state.sink) == ("j", {"a": 1}, header, "out")
    assert (state.submitted_at, state.term, state.finished_at) == (5.0, 3, 9.0)
    assert (state.outcome, state.error) == ("failed", failure)


GOOD: list[JobLogRecord] = [
    job_record(new_job()),
    TermRecord(1, "n1"),
    GenerationRecord(1, PLACED, "submitted", 0),
    commit(1, positions={0: 5}, delta={"1.0": (("f", 0, 1),)}, done=("0.1",), counts={"0.0": (1, 2)}),
    OutcomeRecord("finished"),
]


def test_a_whole_log_is_folded() -> None:
    """The records of one job from its first to its last."""
    state = fold(JOB, GOOD)
    assert (state.outcome, state.epoch, state.placement, state.positions) == ("finished", 1, PLACED, {0: 5})


@pytest.mark.parametrize(
    ("place", "record", "problem"),
    [
        (0, TermRecord(1), "does not begin with the job"),
        (0, replace(job_record(new_job()), job="j-other"), "does not begin with the job"),
        (0, replace(job_record(new_job()), spec={"stages": []}), "holds a job that cannot be run"),
        (0, replace(job_record(new_job()), header=SourceHeader(("x",), 0, 0, (), 1, "")), "cannot be run"),
        (1, job_record(new_job()), "record 1, job: the job is already there"),
        (2, TermRecord(0), "term 0 after term 1"),
        (2, GenerationRecord(0, PLACED, "", 0), "generation 0 after generation 0"),
        (2, GenerationRecord(1, {**PLACED, "7.7": "n1"}, "", 0), "a task is not placed"),
        (2, GenerationRecord(1, {**dict(list(PLACED.items())[1:]), "7.7": "n1"}, "", 0), "no task 7.7"),
        (2, GenerationRecord(1, {"0.0": "n1"}, "", 0), "a task is not placed"),
        (3, commit(0), "epoch 0, published 0, after epoch 0"),
        (3, commit(1, published=2), "epoch 1, published 2, after epoch 0"),
        (3, commit(1, positions={7: 1}), "the job has no such split"),
        (3, commit(1, base={"7.7": ()}), "no task 7.7"),
        (3, commit(1, delta={"7.7": ()}), "no task 7.7"),
        (3, commit(1, sink={"7.7": ()}), "no task 7.7"),
        (3, commit(1, done=("7.7",)), "no task 7.7"),
        (3, commit(1, counts={"7.7": (0, 0)}), "no task 7.7"),
    ],
)
def test_records_that_contradict_each_other_are_refused(
    place: int, record: JobLogRecord, problem: str
) -> None:
    """The error names job, record and problem; a leader would fail on such a job again and again."""
    records = [*GOOD[:place], record, *GOOD[place + 1 :]]
    with pytest.raises(Corrupt, match=problem):
        fold(JOB, records)


def test_an_empty_log_is_refused() -> None:
    """A log has at least the job."""
    with pytest.raises(Corrupt, match=f"the log of job {JOB} is empty"):
        fold(JOB, [])


def test_segments_of_a_task_are_a_base_and_its_deltas() -> None:
    """A delta is added, a base replaces all before it; tasks do not touch each other."""
    state = folded(
        commit(1, delta={"1.0": (("f", 0, 5),), "1.1": (("g", 0, 1),)}),
        commit(2, delta={"1.0": (("f", 5, 2),)}),
    )
    assert state.segments == {"1.0": [("f", 0, 5), ("f", 5, 2)], "1.1": [("g", 0, 1)]}
    state.apply(commit(3, base={"1.0": (("f", 9, 3),)}))
    state.apply(commit(4, delta={"1.0": (("h", 0, 1),)}))
    assert state.segments == {"1.0": [("f", 9, 3), ("h", 0, 1)], "1.1": [("g", 0, 1)]}


def test_positions_and_counts_are_updated_one_by_one() -> None:
    """A split or task that a commit omits keeps its position; each commit lists all ended tasks."""
    state = folded(
        commit(
            1, positions={0: 10, 1: 50}, counts={"0.0": (1, 10), "0.1": (2, 20), "1.0": (9, 9)}, done=("0.1",)
        ),
        commit(2, positions={0: 30}, counts={"0.0": (3, 30)}),
    )
    assert state.positions == {0: 30, 1: 50}
    assert (state.records(), state.bytes()) == (5, 50), "of source tasks only"
    assert state.done == ()


def test_output_waits_until_it_is_published() -> None:
    """References of sinks stay, in epoch order, until a later commit says that they are in the file."""
    state = folded(
        commit(1, sink={"1.0": (("f", 0, 5),)}),
        commit(2, sink={"1.0": (("f", 5, 5),), "1.1": (("g", 0, 1),)}),
    )
    assert state.unpublished == [
        (1, "1.0", (("f", 0, 5),)),
        (2, "1.0", (("f", 5, 5),)),
        (2, "1.1", (("g", 0, 1),)),
    ]
    state.apply(commit(3, published=1, sink={"1.0": (("f", 10, 1),)}))
    assert [entry[:2] for entry in state.unpublished] == [(2, "1.0"), (2, "1.1"), (3, "1.0")]
    state.apply(commit(4, published=0))
    assert (state.published, len(state.unpublished)) == (1, 3), "publication never goes back"
    state.mark_published(4)
    assert (state.published, state.unpublished) == (4, [])


def test_epoch_numbers_only_grow() -> None:
    """The highest number that may have been used comes from commits and from generations."""
    state = folded(generation(1), commit(3), generation(2, epoch_max=7))
    assert (state.epoch, state.epoch_max, state.generation) == (3, 7, 2)
    state.apply(generation(3, epoch_max=2))
    assert state.epoch_max == 7
    state.apply(commit(9, 3))
    assert (state.epoch, state.epoch_max) == (9, 9)


def test_a_generation_says_where_tasks_are() -> None:
    """The placement is replaced as a whole."""
    state = folded(generation(1, t0="n1", t1="n2"), generation(2, t0="n3"))
    assert state.placement == {"0.0": "n3"}


def test_recoveries_are_timed_until_the_next_commit() -> None:
    """The first generation is not a recovery; one that another overtakes lasts as long as the other."""
    state = folded(generation(1), commit(1), generation(2), generation(3), commit(5, 3), generation(4))
    assert [found.generation for found in state.recoveries] == [2, 3, 4]
    assert [found.seconds for found in state.recoveries] == [85.0, 75.0, None]
    assert [found.epoch for found in state.commits] == [1, 5]
    assert state.epochs_committed == 2


def test_an_old_commit_does_not_end_a_new_recovery() -> None:
    """A commit of the previous generation, just before the new one's record, counts only for its own."""
    state = folded(generation(1), generation(2), commit(1, 1))
    assert state.recoveries[0].seconds is None


def test_history_is_bounded() -> None:
    """A job of a million epochs has a state of some hundred commits, and still knows how many there were."""
    state = JobState()
    for number in range(1, HISTORY_MAX + 20):
        state.apply(commit(number, number, published=number))
        state.apply(generation(number + 1, epoch_max=number))
    assert len(state.commits) == len(state.recoveries) == HISTORY_MAX
    assert state.commits[-1].epoch == state.epochs_committed == HISTORY_MAX + 19


def test_rates_follow_what_each_task_took_in() -> None:
    """The first rate is the measured one; a step shows at once and settles within some epochs."""
    state = folded(commit(1, counts={"0.0": (100, 0)}))
    assert state.rates == {}
    state.apply(commit(2, counts={"0.0": (150, 0)}))
    assert state.rates == {"0.0": pytest.approx(50.0)}
    for epoch in range(3, 20):
        state.apply(commit(epoch, counts={"0.0": (150 + 200 * (epoch - 2), 0)}))
    assert state.rates["0.0"] == pytest.approx(200.0, rel=0.01)
