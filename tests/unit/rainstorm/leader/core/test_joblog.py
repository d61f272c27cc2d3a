"""The job log: records survive the bytes, damage is noticed, folding gives the state of the job."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.common.errors import Corrupt
from agent.rainstorm.leader.core.joblog import HISTORY_MAX, LENGTH, JobState, decode, encode

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8) | st.binary(max_size=8)
)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=5)
RECORDS = st.lists(
    st.dictionaries(st.text(max_size=6), VALUES | st.dictionaries(st.integers(0, 9), SCALARS), max_size=4),
    max_size=5,
)


def commit(epoch: int, generation: int = 1, published: int = 0, **parts: Any) -> dict[str, Any]:
    """Returns a commit record."""
    empty: dict[str, Any] = {"positions": {}, "base": {}, "delta": {}, "sink": {}, "done": [], "counts": {}}
    fixed = {"t": "commit", "e": epoch, "g": generation, "published": published, "at": 100.0 + epoch}
    return {**fixed, **empty, **parts}


def generation(number: int, epoch_max: int = 0, **placement: str) -> dict[str, Any]:
    """Returns a generation record."""
    about = {"placement": placement, "cause": f"cause {number}", "at": 10.0 * number}
    return {"t": "generation", "g": number, "epoch_max": epoch_max, **about}


def folded(*records: dict[str, Any]) -> JobState:
    """Returns the state after these records, through the bytes of a log."""
    state = JobState()
    for record in decode(encode(records)):
        state.apply(record)
    return state


@settings(max_examples=40)
@given(RECORDS)
def test_records_survive_the_log(records: list[dict[str, Any]]) -> None:
    """Whatever a record holds; appends of several records are the same as one of all."""
    data = encode(records)
    assert list(decode(data)) == records
    assert data == b"".join(encode([record]) for record in records)
    assert list(decode(memoryview(bytearray(data)))) == records


@settings(max_examples=40)
@given(RECORDS.filter(len), st.data())
def test_a_torn_log_is_noticed(records: list[dict[str, Any]], draws: st.DataObject) -> None:
    """Cut between records it is a shorter log; cut anywhere else it is corrupt, never something else."""
    data = encode(records)
    size = draws.draw(st.integers(0, len(data) - 1))
    ends = {0}
    at = 0
    while at < len(data):
        at += LENGTH.size + LENGTH.unpack_from(data, at)[0]
        ends.add(at)
    if size in ends:
        assert list(decode(data[:size])) == records[: sorted(ends).index(size)]
    else:
        with pytest.raises(Corrupt, match="ends inside a record"):
            list(decode(data[:size]))


def test_bytes_that_are_no_log_are_refused() -> None:
    """A length that leads beyond the end is damage."""
    with pytest.raises(Corrupt):
        list(decode(b"\xff\xff\xff\xff" + msgpack.packb({"t": "job"})))


def test_the_first_record_says_what_the_job_is() -> None:
    """Job, term and outcome are taken over as they are."""
    job = {"t": "job", "job": "j", "spec": {"a": 1}, "header": {"columns": ["x"]}, "sink": "out", "at": 5.0}
    outcome = {"t": "outcome", "outcome": "failed", "error": {"code": "JOB_FAILED"}, "at": 9.0}
    state = folded(job, {"t": "term", "term": 3, "node": "n1"}, outcome)
    assert (state.job, state.spec, state.header, state.sink) == ("j", {"a": 1}, {"columns": ["x"]}, "out")
    assert (state.submitted_at, state.term, state.finished_at) == (5.0, 3, 9.0)
    assert (state.outcome, state.error) == ("failed", {"code": "JOB_FAILED"})


def test_segments_of_a_task_are_a_base_and_its_deltas() -> None:
    """A delta is added, a base replaces all before it; tasks do not touch each other."""
    state = folded(
        commit(1, delta={"1.0": [["f", 0, 5]], "1.1": [["g", 0, 1]]}),
        commit(2, delta={"1.0": [["f", 5, 2]]}),
    )
    assert state.segments == {"1.0": [("f", 0, 5), ("f", 5, 2)], "1.1": [("g", 0, 1)]}
    state.apply(commit(3, base={"1.0": [["f", 9, 3]]}))
    state.apply(commit(4, delta={"1.0": [["h", 0, 1]]}))
    assert state.segments == {"1.0": [("f", 9, 3), ("h", 0, 1)], "1.1": [("g", 0, 1)]}


def test_positions_and_counts_are_updated_one_by_one() -> None:
    """A split or task that a commit does not mention stays where it was; who is done is said anew."""
    state = folded(
        commit(
            1, positions={0: 10, 1: 50}, counts={"0.0": [1, 10], "0.1": [2, 20], "1.0": [9, 9]}, done=["0.1"]
        ),
        commit(2, positions={0: 30}, counts={"0.0": [3, 30]}),
    )
    assert state.positions == {0: 30, 1: 50}
    assert (state.records(), state.bytes()) == (5, 50), "of source tasks only"
    assert state.done == ()


def test_output_waits_until_it_is_published() -> None:
    """References of sinks stay, in epoch order, until a later commit says that they are in the file."""
    state = folded(
        commit(1, sink={"1.0": [["f", 0, 5]]}),
        commit(2, sink={"1.0": [["f", 5, 5]], "1.1": [["g", 0, 1]]}),
    )
    assert state.unpublished == [
        (1, "1.0", [("f", 0, 5)]),
        (2, "1.0", [("f", 5, 5)]),
        (2, "1.1", [("g", 0, 1)]),
    ]
    state.apply(commit(3, published=1, sink={"1.0": [["f", 10, 1]]}))
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
    state = folded(generation(1, a="n1", b="n2"), generation(2, a="n3"))
    assert state.placement == {"a": "n3"}


def test_recoveries_are_timed_until_the_next_commit() -> None:
    """The first generation is no recovery; one that is overtaken by another lasts as long as that one."""
    state = folded(generation(1), commit(1), generation(2), generation(3), commit(5, 3), generation(4))
    assert [found["generation"] for found in state.recoveries] == [2, 3, 4]
    assert [found["seconds"] for found in state.recoveries] == [85.0, 75.0, None]
    assert [found["epoch"] for found in state.commits] == [1, 5]
    assert state.epochs_committed == 2


def test_an_old_commit_does_not_end_a_new_recovery() -> None:
    """A commit of the generation before, in the log just before the new one's record, counts for itself."""
    state = folded(generation(1), generation(2), commit(1, 1))
    assert state.recoveries[0]["seconds"] is None


def test_history_is_bounded() -> None:
    """A job of a million epochs has a state of some hundred commits, and still knows how many there were."""
    state = JobState()
    for number in range(1, HISTORY_MAX + 20):
        state.apply(commit(number, number, published=number))
        state.apply(generation(number + 1, epoch_max=number))
    assert len(state.commits) == len(state.recoveries) == HISTORY_MAX
    assert state.commits[-1]["epoch"] == state.epochs_committed == HISTORY_MAX + 19


def test_rates_follow_what_each_task_took_in() -> None:
    """The first rate is what was measured, a step shows at once and settles within some epochs."""
    state = folded(commit(1, counts={"0.0": [100, 0]}))
    assert state.rates == {}
    state.apply(commit(2, counts={"0.0": [150, 0]}))
    assert state.rates == {"0.0": pytest.approx(50.0)}
    for epoch in range(3, 20):
        state.apply(commit(epoch, counts={"0.0": [150 + 200 * (epoch - 2), 0]}))
    assert state.rates["0.0"] == pytest.approx(200.0, rel=0.01)
