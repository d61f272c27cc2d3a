"""What a replica takes and what its promise means."""

from __future__ import annotations

from typing import Any

from agent.hydfs.core.block import BlockMeta, Record, chain
from agent.hydfs.core.events import (
    AnswerPromise,
    AnswerWrite,
    BlockDropped,
    BlockSealed,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    WriteReceived,
)
from agent.hydfs.core.replica import HELD_MAX, Replica

KEY = ("id1", 0)


def write(data: bytes, offset: int, before: int = 0, token: Any = "t", session: str = "s") -> WriteReceived:
    record = Record(offset, len(data), chain(data, before), "w", offset, 1)
    return WriteReceived(token, KEY, "f", session, record, data)


def code(effects: list[Any]) -> str:
    assert len(effects) == 1
    assert isinstance(effects[0], AnswerWrite)
    return effects[0].code


def test_answers_only_after_the_disk() -> None:
    replica = Replica()
    (effect,) = replica.write(write(b"abc", 0))
    assert isinstance(effect, PersistRecord)
    assert replica.written(RecordWritten(KEY, 3)) == [AnswerWrite("t", 3)]
    assert replica.write(write(b"abc", 0, token="again")) == [AnswerWrite("again", 3)]


def test_an_early_record_waits_for_its_predecessor() -> None:
    replica = Replica()
    assert replica.write(write(b"def", 3, chain(b"abc", 0), token="second")) == []
    effects = replica.write(write(b"abc", 0))
    assert [effect.record.offset for effect in effects if isinstance(effect, PersistRecord)] == [0, 3]
    for offset in range(HELD_MAX):
        assert replica.write(write(b"x", 100 + offset)) == []
    assert code(replica.write(write(b"x", 999))) == "OVERLOADED"


def test_a_record_that_does_not_continue_the_copy_is_refused() -> None:
    replica = Replica()
    assert code(replica.write(write(b"abc", 0, before=1))) == "CORRUPT"
    replica.write(write(b"abc", 0))
    assert code(replica.write(write(b"bcdef", 1))) == "CORRUPT"
    assert code(replica.write(write(b"def", 3, chain(b"abc", 0), session="other"))) == "FENCED"


def test_a_promise_is_durable_before_it_is_answered_and_stops_records() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    assert replica.promise(PromiseRequested("p", KEY, "f")) == [PersistPromise(KEY, "f")]
    assert code(replica.write(write(b"def", 3, chain(b"abc", 0)))) == "FENCED"
    assert replica.promise_written(PromiseWritten(KEY)) == []  # the record before it is not durable yet
    first, second = replica.written(RecordWritten(KEY, 3))
    assert first == AnswerWrite("t", 3)
    assert second == AnswerPromise("p", 3, chain(b"abc", 0), {"w": (0, 0, 3)}, False)
    (again,) = replica.promise(PromiseRequested("q", KEY, "f"))
    assert isinstance(again, AnswerPromise)
    replica.check_invariants()


def test_a_promise_survives_a_restart() -> None:
    replica = Replica([BlockMeta(KEY, "f", "s", 3, chain(b"abc", 0), "promised")])
    assert code(replica.write(write(b"def", 3, chain(b"abc", 0)))) == "FENCED"


def test_a_full_disk_refuses_everything_behind_it() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    replica.write(write(b"def", 3, chain(b"abc", 0), token="second"))
    refused = replica.written(RecordWritten(KEY, 3, "DISK_FULL"))
    assert refused
    assert all(isinstance(e, AnswerWrite) and e.code == "DISK_FULL" for e in refused)
    assert code(replica.write(write(b"abc", 0))) == "DISK_FULL"
    replica.promise(PromiseRequested("p", KEY, "f"))
    (answer,) = replica.promise_written(PromiseWritten(KEY))
    assert isinstance(answer, AnswerPromise)
    assert (answer.length, answer.crc) == (0, 0)


def test_a_promise_that_the_disk_refused_is_none() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    replica.written(RecordWritten(KEY, 3))
    replica.promise(PromiseRequested("p", KEY, "f"))
    (refused,) = replica.promise_written(PromiseWritten(KEY, "DISK_FULL"))
    assert isinstance(refused, Refuse)
    assert refused.code == "DISK_FULL"
    assert replica.promise(PromiseRequested("q", KEY, "f")) == [PersistPromise(KEY, "f")]
    (answer,) = replica.promise_written(PromiseWritten(KEY))
    assert isinstance(answer, AnswerPromise)
    replica.check_invariants()


def test_a_dropped_block_takes_nothing() -> None:
    replica = Replica()
    replica.promise(PromiseRequested("p", KEY, "f"))
    replica.promise_written(PromiseWritten(KEY))
    replica.dropped(BlockDropped(KEY))  # it was sealed empty; its coordinator may not know that
    assert code(replica.write(write(b"abc", 0))) == "FENCED"


def test_a_sealed_block_takes_nothing() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    assert replica.sealed(BlockSealed(KEY, "f", 0, 0)) == [
        AnswerWrite("t", 0, "FENCED", "the block is sealed")
    ]
    assert code(replica.write(write(b"abc", 0))) == "FENCED"
