"""The collector: random schedules of events of logs and of its process, and its reaction to single events."""

from __future__ import annotations

import zlib

import pytest

from agent.logs.core.collector import (
    SETTLE_S,
    ChunkRead,
    Collector,
    Effect,
    JournalRead,
    ReadChunk,
    Record,
    RecordStored,
    Scanned,
    StoreRecord,
    record_from_wire,
)
from agent.logs.core.position import Seen
from agent.logs.messages import HEAD_BYTES
from tests.unit.logs.core.world import World

# Schedules that are red when one of the collector's rules is broken.
RED = ("0/1", "0/3", "0/77", "0/79", "2/19", "2/119", "4/143", "5/1", "7/17")
# The seeds of which schedules were red in earlier versions of the collector, or of the world.
SEEDS = (1000, 1001, 5004, 5024)
SCHEDULES = 75


def _run(schedule: str) -> None:
    number = int(schedule.partition("/")[2])
    World(schedule, renames_only=number % 2 == 0).run()


@pytest.mark.parametrize("schedule", RED)
def test_every_line_is_collected_once_in_schedules_that_were_red(schedule: str) -> None:
    _run(schedule)


@pytest.mark.slow
@pytest.mark.parametrize("fixed", SEEDS)
def test_every_line_is_collected_once_whatever_rotates_and_crashes(fixed: int) -> None:
    for number in range(SCHEDULES):
        _run(f"{fixed}/{number}")


def _look(core: Collector, now: float, *files: Seen) -> list[Effect]:
    return core.handle(now, Scanned(files, "20261120"))


def _seen(data: bytes, inode: int = 1, age: int = 0) -> Seen:
    return Seen("a.log", age, 1, inode, len(data), data[:HEAD_BYTES])


def _collect(core: Collector, now: float, data: bytes, seen: Seen) -> bytes:
    """Lets the core read one file to its end and returns what it stored."""
    stored = b""
    waiting = _look(core, now, seen)
    while waiting:
        match waiting.pop():
            case ReadChunk(key=key, number=number, offset=offset, length=length):
                chunk = data[offset : offset + length]
                waiting += core.handle(now, ChunkRead(key, number, offset, chunk, data[:HEAD_BYTES]))
            case StoreRecord(record=record):
                stored += record.data
                waiting += core.handle(now, RecordStored(record))
    return stored


def test_the_journal_goes_on_behind_its_cursor_after_a_crash() -> None:
    core, again = (Collector(target_bytes_max=1000) for _ in range(2))
    records = []
    for cursor in ("c1", "c2"):
        (effect,) = core.handle(0.0, JournalRead("journal", b"line " + cursor.encode() + b"\n", cursor))
        assert isinstance(effect, StoreRecord)
        core.handle(0.0, RecordStored(effect.record))
        records.append(effect.record)
        again.apply(record_from_wire(effect.record.to_wire()))
        core.handle(0.0, Scanned((), "20261120"))
    assert core.journal_cursor() == again.journal_cursor() == "c2"
    assert [record.sequence for record in records] == [8, 16]
    last = Collector(target_bytes_max=1000)
    last.restore(again.snapshot())
    assert last.journal_cursor() == "c2"


def test_half_a_line_waits_until_its_file_is_done() -> None:
    core = Collector(target_bytes_max=1000)
    assert _collect(core, 0.0, b"one\ntw", _seen(b"one\ntw")) == b"one\n"
    assert _collect(core, 1.0, b"one\ntw", _seen(b"one\ntw", age=1)) == b""
    # The rotated file does not change any more: there will be only half a line.
    assert _collect(core, 1.0 + SETTLE_S, b"one\ntw", _seen(b"one\ntw", age=1)) == b"tw\n"


def test_a_line_longer_than_a_record_is_collected_in_parts() -> None:
    core = Collector(target_bytes_max=10_000, record_bytes_max=100)
    data = b"y" * 250 + b"\nend\n"
    assert _collect(core, 0.0, data, _seen(data)) == data


def test_a_used_inode_is_another_file() -> None:
    core = Collector(target_bytes_max=1000)
    assert _collect(core, 0.0, b"first\n", _seen(b"first\n")) == b"first\n"
    data = b"other file, longer\n"
    assert _collect(core, 1.0, data, _seen(data)) == data


def test_a_deleted_file_that_was_not_read_counts_as_lost() -> None:
    core = Collector(target_bytes_max=1000)
    data = b"read\nnot read\n"
    assert _collect(core, 0.0, data[:5], _seen(data[:5])) == b"read\n"
    _look(core, 1.0, _seen(data))
    _look(core, 2.0)
    assert core.lost_bytes == len(data) - 5


def test_targets_are_bounded_and_start_over_each_day() -> None:
    core = Collector(target_bytes_max=25, record_bytes_max=10)
    data = b"123456789\n" * 4
    records: list[Record] = []
    waiting = _look(core, 0.0, _seen(data))
    while waiting:
        match waiting.pop():
            case ReadChunk(key=key, number=number, offset=offset, length=length):
                chunk = data[offset : offset + length]
                waiting += core.handle(0.0, ChunkRead(key, number, offset, chunk, data))
            case StoreRecord(record=record):
                records.append(record)
                waiting += core.handle(0.0, RecordStored(record))
    assert [(each.target.number, each.target.size) for each in records] == [
        (1, 10),
        (1, 20),
        (2, 10),
        (2, 20),
    ]
    assert records[-1].position.head_crc == zlib.crc32(data)
    core.handle(1.0, Scanned((_seen(data + b"new\n"),), "20261121"))
    effects = core.handle(1.0, ChunkRead((1, 1), 1, 40, b"new\n", data + b"new\n"))
    assert isinstance(effects[0], StoreRecord)
    assert (effects[0].record.target.number, effects[0].record.target.day) == (3, "20261121")


def test_a_file_that_is_overlooked_once_is_not_read_twice() -> None:
    core = Collector(target_bytes_max=10_000)
    data = b"2026-11-20T10:00:00Z one line of a log\n"
    assert _collect(core, 0.0, data, _seen(data)) == data
    copy = Seen("a.log", 1, 1, 2, len(data) * 2, data * 2, True)
    # The missing file may have been deleted: its copy goes on behind the lines that were read.
    assert _look(core, 1.0, copy) == [ReadChunk((1, 2), 1, len(data), len(data))]
    # The file is back under another name, and goes on itself.
    assert _look(core, 2.0, _seen(data * 2, age=2), copy) == [ReadChunk((1, 1), 1, len(data), len(data))]
    assert _look(core, 3.0, copy) == [ReadChunk((1, 2), 1, len(data), len(data))]


def test_a_chunk_that_was_taken_is_not_taken_again() -> None:
    """Otherwise a late read would store its lines a second time."""
    core = Collector(target_bytes_max=1000)
    (read,) = _look(core, 0.0, _seen(b"one\n"))
    assert isinstance(read, ReadChunk)
    chunk = ChunkRead(read.key, read.number, read.offset, b"one\n", b"one\n")
    (store,) = core.handle(0.0, chunk)
    assert isinstance(store, StoreRecord)
    core.handle(0.0, RecordStored(store.record))
    assert core.handle(0.0, chunk) == []
    other = ChunkRead((1, 99), read.number, 4, b"two\n", b"one\ntwo\n")
    assert core.handle(0.0, other) == [], "it has another inode"


def test_a_chunk_of_a_file_that_was_truncated_after_the_scan_is_dropped() -> None:
    """At the chunk's offset the file now has the middle of other lines."""
    core = Collector(target_bytes_max=1000)
    assert _collect(core, 0.0, b"one\n", _seen(b"one\n")) == b"one\n"
    (read,) = _look(core, 1.0, _seen(b"one\ntwo\n"))
    assert isinstance(read, ReadChunk)
    other = b"new one\n"
    assert core.handle(1.0, ChunkRead(read.key, read.number, 4, other[4:8], other)) == []


LONG = b"z" * 30


def _torn(core: Collector) -> None:
    """Lets the core read one part of a line that is longer than a record."""
    (read,) = _look(core, 0.0, _seen(LONG))
    assert isinstance(read, ReadChunk)
    (store,) = core.handle(0.0, ChunkRead(read.key, read.number, 0, LONG[: read.length], LONG))
    assert isinstance(store, StoreRecord)
    core.handle(0.0, RecordStored(store.record))


@pytest.mark.parametrize("restarts", [False, True])
def test_nothing_gets_into_the_middle_of_a_line(restarts: bool) -> None:
    core = Collector(target_bytes_max=1000, record_bytes_max=20)
    _torn(core)
    if restarts:
        state = core.snapshot()
        core = Collector(target_bytes_max=1000, record_bytes_max=20)
        core.restore(state)
    older = Seen("a.log", 1, 1, 2, 6, b"older\n")
    whole = LONG + b"\n"
    # The line is completed first; older files wait for its end.
    first, second = _look(core, 1.0, older, _seen(whole))
    assert isinstance(first, ReadChunk)
    assert isinstance(second, ReadChunk)
    assert (first.key, first.offset) == ((1, 1), 20)
    waits = ChunkRead(second.key, second.number, 0, b"older\n", b"older\n")
    assert core.handle(1.0, waits) == []
    (store,) = core.handle(1.0, ChunkRead(first.key, first.number, 20, whole[20:], whole))
    assert isinstance(store, StoreRecord)
    core.handle(1.0, RecordStored(store.record))
    (store,) = core.handle(1.0, waits)
    assert isinstance(store, StoreRecord)
    assert store.record.data == b"older\n"


def test_a_line_whose_end_never_comes_is_ended_before_the_next() -> None:
    core = Collector(target_bytes_max=1000, record_bytes_max=20)
    _torn(core)
    other = b"other log\n"
    (read,) = _look(core, 1.0, _seen(other))
    assert isinstance(read, ReadChunk)
    chunk = ChunkRead(read.key, read.number, 0, other, other)
    assert core.handle(SETTLE_S - 0.1, chunk) == []
    (store,) = core.handle(SETTLE_S, chunk)
    assert isinstance(store, StoreRecord)
    assert store.record.data == b"\n" + other


def test_a_file_whose_beginning_the_collector_does_not_know_waits_for_it() -> None:
    core = Collector(target_bytes_max=1000)
    unchanged = Seen("a.log", 0, 1, 1, 4, None)
    assert not core.knows(unchanged.key)
    assert _look(core, 0.0, unchanged) == []
    assert _look(core, 1.0, _seen(b"one\n")) == [ReadChunk((1, 1), 1, 0, 4)]
    assert core.knows(unchanged.key)
    assert _look(core, 2.0, unchanged) == [ReadChunk((1, 1), 1, 0, 4)]
