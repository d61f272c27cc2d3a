"""One task's rules, and exactly-once of all tasks together under any order of events and any failures."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.common.errors import JobFailed
from agent.rainstorm.job import plan
from agent.rainstorm.job.plan import LINE
from agent.rainstorm.job.spec import parse
from agent.rainstorm.task.core import processor
from agent.rainstorm.task.core.processor import (
    BarrierReceived,
    BatchReceived,
    EndReceived,
    EpochTriggered,
    RequestEpoch,
    Restore,
    SendBarrier,
    SendBatch,
    SendEnd,
    Snapshot,
    SourceRead,
    TaskCore,
)
from tests.properties import examples
from tests.unit.rainstorm.chain import Chain, header_of, job_file
from tests.unit.rainstorm.rows import batch, rows_of

IDENTITY = {"operator": "identity"}
COUNT = {"operator": "aggregate-by-key", "key": "k", "tasks": 1}


def counter(*, upstream: int = 2, **options: Any) -> TaskCore:
    """Returns the counting task behind ``upstream`` source tasks, reset to epoch 0."""
    raw = job_file({"operator": "identity", "tasks": upstream}, {**COUNT, **options}, format="csv")
    spec = parse(raw)
    core = TaskCore("1.0", spec, plan.make(spec, header_of(spec, b"k,v\n1,2\n3,4\n", [6])))
    core.reset(Restore(0))
    return core


def source(data: bytes, *, next_tasks: int = 2) -> TaskCore:
    """Returns the only source task of a job on lines, started."""
    spec = parse(job_file(IDENTITY, {**IDENTITY, "tasks": next_tasks}))
    core = TaskCore("0.0", spec, plan.make(spec, header_of(spec, data)))
    core.reset(Restore(0))
    return core


def read(core: TaskCore, data: bytes, size: int) -> list[Any]:
    """Lets a source take its next read."""
    request = core.next_read(size)
    assert request is not None
    return list(core.handle(SourceRead(request, data[request.offset : request.offset + request.size])))


def partials(*rows: tuple[bytes, bytes]) -> pa.RecordBatch:
    """Returns rows as a combiner sends them."""
    return batch(["key", "partial"], *rows)


def kinds(effects: list[Any]) -> list[str]:
    """Returns the names of effects."""
    return [type(effect).__name__ for effect in effects]


def snapshot(effects: list[Any]) -> Snapshot:
    """Returns the snapshot among effects, which comes last."""
    assert isinstance(effects[-1], Snapshot)
    assert kinds(effects).count("Snapshot") == 1
    return effects[-1]


def test_an_epoch_ends_when_all_channels_have_delivered_it() -> None:
    """The snapshot has the tuples before the barriers, and the channel that is ahead is held back."""
    core = counter()
    core.handle(BatchReceived("0.0", partials((b"a", b"2"))))
    assert core.handle(BarrierReceived("0.0", 4)) == []
    assert core.blocked("0.0")
    core.handle(BatchReceived("0.1", partials((b"a", b"1"), (b"b", b"1"))))
    found = snapshot(core.handle(BarrierReceived("0.1", 4)))
    assert (found.epoch, dict(found.changes), found.output) == (4, {b"a": 3, b"b": 1}, b"")
    assert (found.done, found.records, found.base) == (False, 3, False)
    assert not core.blocked("0.0")
    core.handle(BarrierReceived("0.0", 5))
    assert dict(snapshot(core.handle(BarrierReceived("0.1", 5))).changes) == {}


def test_results_leave_with_the_epoch_in_which_the_input_ended() -> None:
    """``final`` results are in the snapshot that says ``done``, once."""
    core = counter()
    core.handle(BatchReceived("0.0", partials((b"a", b"2"))))
    assert core.handle(EndReceived("0.0")) == []
    assert core.handle(EndReceived("0.1")) == [RequestEpoch(done=True)]
    core.handle(BarrierReceived("0.0", 1))
    found = snapshot(core.handle(BarrierReceived("0.1", 1)))
    assert (found.done, found.output) == (True, b"a,2\n")
    core.handle(BarrierReceived("0.0", 2))
    found = snapshot(core.handle(BarrierReceived("0.1", 2)))
    assert (found.done, found.output) == (True, b"")


@pytest.mark.parametrize("committed", [True, False])
def test_results_are_written_again_only_if_they_were_lost(committed: bool) -> None:
    """After a reset to a commit that has the results the task is done; otherwise it writes them again."""
    core = counter()
    core.handle(BatchReceived("0.0", partials((b"a", b"2"))))
    for channel in ("0.0", "0.1"):
        core.handle(BarrierReceived(channel, 1))
    for channel in ("0.0", "0.1"):
        core.handle(EndReceived(channel))
    for channel in ("0.0", "0.1"):
        core.handle(BarrierReceived(channel, 2))
    core.reset(Restore(2, done=True) if committed else Restore(1))
    assert core.start() == []
    core.handle(EndReceived("0.0"))
    assert core.handle(EndReceived("0.1")) == [RequestEpoch(done=True)]
    core.handle(BarrierReceived("0.0", 3))
    found = snapshot(core.handle(BarrierReceived("0.1", 3)))
    assert (found.done, found.output) == (True, b"" if committed else b"a,2\n")


def test_a_reset_undoes_whatever_came_after_the_commit() -> None:
    """State of open and closed epochs, output not handed over, barriers and counts are as they were."""
    core = counter(emit="tuple")
    core.handle(BatchReceived("0.0", partials((b"a", b"1"))))
    core.handle(BarrierReceived("0.0", 1))
    assert snapshot(core.handle(BarrierReceived("0.1", 1))).output == b"a,1\n"
    core.handle(BatchReceived("0.0", partials((b"a", b"1"), (b"b", b"1"))))
    core.handle(BarrierReceived("0.0", 2))
    core.handle(BarrierReceived("0.1", 2))
    core.handle(BatchReceived("0.0", partials((b"a", b"1"))))
    core.handle(BarrierReceived("0.0", 3))
    core.reset(Restore(1, records=1))
    assert not core.blocked("0.0")
    core.handle(BatchReceived("0.1", partials((b"a", b"1"))))
    core.handle(BarrierReceived("0.1", 4))
    found = snapshot(core.handle(BarrierReceived("0.0", 4)))
    assert (found.output, dict(found.changes), found.records) == (b"a,2\n", {b"a": 2}, 2)


def test_a_fresh_task_goes_on_from_loaded_state() -> None:
    """Committed segments, oldest first, and a reset give the same state as in the lost task."""
    core = counter(emit="tuple")
    core.load({b"a": 1, b"b": 7})
    core.load({b"a": 5})
    core.reset(Restore(9, records=12))
    core.handle(BatchReceived("0.0", partials((b"a", b"1"), (b"b", b"1"))))
    core.handle(BarrierReceived("0.0", 12))
    found = snapshot(core.handle(BarrierReceived("0.1", 12)))
    assert (found.output, found.records) == (b"a,6\nb,8\n", 14)


def test_a_full_state_replaces_deltas_that_outgrew_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the segments of a task stay within a few times the size of its state."""
    monkeypatch.setattr(processor, "BASE_KEYS_MIN", 4)
    core = counter(upstream=1)
    bases = []
    for epoch in range(1, 12):
        core.handle(BatchReceived("0.0", partials((b"a", b"1"), (b"b", b"1"))))
        found = snapshot(core.handle(BarrierReceived("0.0", epoch)))
        assert dict(found.changes) == {b"a": epoch, b"b": epoch}
        bases.append(found.base)
    assert bases[:3] == [False, False, True]
    assert bases.count(True) == 3


def test_a_source_hands_over_where_it_is() -> None:
    """Positions are first bytes of records not taken yet; the barrier follows everything sent before."""
    data = b"one\ntwo\nthree\n"
    core = source(data)
    effects = read(core, data, 600)
    assert kinds(effects) == ["SendBatch", "SendEnd", "RequestEpoch"]
    effects = core.handle(EpochTriggered(3, 0))
    assert effects[0] == SendBarrier(3)
    found = snapshot(effects)
    assert (found.positions, found.done, found.records, found.bytes) == ({0: 14}, True, 3, 14)
    assert core.handle(EpochTriggered(3, 0)) == [], "a repeated trigger ends nothing"
    assert core.handle(EpochTriggered(2, 0)) == []


def test_a_source_with_nothing_left_ends_at_once() -> None:
    """An empty file, or a task whose splits were all read before the commit."""
    core = source(b"")
    assert core.is_source
    assert kinds(core.start()) == ["SendEnd", "RequestEpoch"]
    assert core.next_read(1000) is None
    core = source(b"a\nb\n")
    core.reset(Restore(5, positions={0: 4}))
    assert kinds(core.start()) == ["SendEnd", "RequestEpoch"]


def test_a_source_stops_when_its_epoch_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """It asks for the end of the epoch and takes nothing more until the epoch has ended."""
    monkeypatch.setattr(processor, "EPOCH_BYTES_MAX", 1000)
    data = b"x" * 599 + b"\n"
    data = data * 4
    core = source(data)
    assert kinds(read(core, data, 600)) == ["SendBatch"]
    effects = read(core, data, 600)
    assert kinds(effects) == ["SendBatch", "RequestEpoch"]
    assert effects[-1] == RequestEpoch(done=False)
    assert core.next_read(600) is None
    assert snapshot(core.handle(EpochTriggered(1, 0))).positions == {0: 1200}
    assert core.next_read(600) is not None
    core.reset(Restore(1, positions={0: 1200}))
    assert kinds(read(core, data, 600)) == ["SendBatch"], "a reset empties the epoch"


def test_tuples_are_dealt_out_evenly_without_a_key() -> None:
    """A rebalance sends batch after batch to the next task."""
    data = (b"x" * 599 + b"\n") * 6
    core = source(data, next_tasks=3)
    targets = [
        effect.target for _ in range(6) for effect in read(core, data, 600) if isinstance(effect, SendBatch)
    ]
    assert Counter(targets) == {"1.0": 2, "1.1": 2, "1.2": 2}


def test_equal_keys_meet_in_one_task() -> None:
    """Rows are split by key; no row is lost or doubled, and batches of no rows are not sent."""
    raw = job_file(IDENTITY, {**COUNT, "tasks": 5, "emit": "tuple"}, format="csv")
    data = b"k,v\n" + b"".join(b"key%d,1\n" % (n % 40) for n in range(200))
    spec = parse(raw)
    core = TaskCore("0.0", spec, plan.make(spec, header_of(spec, data)))
    core.reset(Restore(0))
    homes: dict[bytes, set[str]] = {}
    rows: Counter[bytes] = Counter()
    while (request := core.next_read(600)) is not None:
        for effect in core.handle(SourceRead(request, data[request.offset : request.offset + request.size])):
            if isinstance(effect, SendBatch):
                assert effect.batch.num_rows
                for key, _ in rows_of(effect.batch):
                    homes.setdefault(key, set()).add(effect.target)
                    rows[key] += 1
    assert all(len(found) == 1 for found in homes.values())
    assert len({home for found in homes.values() for home in found}) > 1
    assert rows == {b"key%d" % n: 5 for n in range(40)}


def test_a_bad_value_fails_the_job_and_names_the_task() -> None:
    """Bad data is still bad after every recovery."""
    with pytest.raises(JobFailed, match=r"task 1\.0, operator AggregateByKey: b'x' is not a number"):
        counter().handle(BatchReceived("0.0", partials((b"a", b"x"))))


FAULTS = settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FAULTS
@given(st.integers(0, 1 << 30), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["final", "tuple"]))
def test_counts_are_exact_under_any_schedule(seed: int, tasks: int, counters: int, emit: str) -> None:
    """Random order of reads, channels and epochs, resets in place and of fresh tasks: the committed output is
    that of one pass over the input. Running counts have no gap and no repetition.
    """
    chance = random.Random(seed)
    keys = [chance.choice([b"a", b"b", b'"c,d"', b""]) for _ in range(chance.randrange(60))]
    data = b"k,v\n" + b"".join(key + b",x\n" for key in keys)
    cuts = [chance.randrange(5, 200) for _ in range(chance.randrange(5))]
    raw = job_file(
        {**IDENTITY, "tasks": tasks},
        {"operator": "aggregate-by-key", "key": "k", "tasks": counters, "emit": emit},
        format="csv",
    )
    chain = Chain(raw, data, cuts, seed)
    found = sorted(chain.run(failures=chance.randrange(6), read_bytes=(1, 15, 40)).splitlines())
    totals = Counter(keys)
    expected = (
        [b"%b,%d" % (key, total) for key, total in totals.items()]
        if emit == "final"
        else [b"%b,%d" % (key, n) for key, total in totals.items() for n in range(1, total + 1)]
    )
    assert found == sorted(expected)
    assert sum(records for task, (records, _) in chain.counts.items() if task[0] == "0") == len(keys)


@FAULTS
@given(st.integers(0, 1 << 30), st.integers(1, 3), st.integers(1, 3))
def test_identical_lines_are_different_tuples(seed: int, tasks: int, sinks: int) -> None:
    """The number of output lines equals that of input lines, with failures and a rebalance in between."""
    chance = random.Random(seed)
    lines = chance.randrange(200)
    chain = Chain(
        job_file({**IDENTITY, "tasks": tasks}, {**IDENTITY, "tasks": sinks}),
        b"twin\n" * lines,
        [chance.randrange(1, 1000) for _ in range(3)],
        seed,
    )
    assert chain.run(failures=5, read_bytes=(1, 30, 200)) == b"twin\n" * lines


@given(st.integers(0, 1 << 30))
@FAULTS
def test_running_totals_of_epochs_grow_to_the_final_ones(seed: int) -> None:
    """``emit: epoch``: committed values of a key only grow, and the last one is its total."""
    chance = random.Random(seed)
    lines = [chance.choice([b"a", b"b"]) for _ in range(80)]
    stage = {"operator": "aggregate-by-key", "emit": "epoch", "tasks": 2}
    chain = Chain(job_file({**IDENTITY, "tasks": 2}, stage), b"\n".join(lines), [40, 90], seed)
    values: dict[bytes, list[int]] = {}
    for line in chain.run(failures=3, read_bytes=(10, 30)).splitlines():
        key, value = line.split(b",")
        values.setdefault(key, []).append(int(value))
    for key, found in values.items():
        assert found == sorted(set(found))
        assert found[-1] == lines.count(key)
    assert set(values) == set(lines)
    assert LINE.encode() not in values


def test_ends_go_downstream_once_per_generation() -> None:
    """Every downstream task gets the end, and gets it again after a reset, because its channels are new."""
    core = source(b"a\n", next_tasks=2)
    first = read(core, b"a\n", 600)
    assert kinds(first).count("SendEnd") == 1
    core.handle(EpochTriggered(1, 0))
    core.reset(Restore(1, done=True, positions={0: 2}))
    assert core.start() == [SendEnd(), RequestEpoch(done=True)]
