"""The records that a replica takes, and the meaning of its promise."""

from __future__ import annotations

from typing import Any

import pytest

from agent.hydfs.core import replica as rules
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


def test_a_dropped_copy_answers_everybody_who_waits() -> None:
    """The senders of records being written and of early records, and the nodes that are sealing."""
    replica = Replica()
    replica.write(write(b"abc", 0, token="written"))
    replica.write(write(b"xyz", 9, chain(b"abc", 0), token="early"))
    assert replica.dropped(BlockDropped(KEY)) == [
        AnswerWrite("written", 0, "NOT_FOUND", "the copy was dropped"),
        AnswerWrite("early", 0, "NOT_FOUND", "the copy was dropped"),
    ]
    replica = Replica()
    replica.promise(PromiseRequested("p", KEY, "f"))
    assert replica.dropped(BlockDropped(KEY)) == [Refuse("p", "NOT_FOUND", "the copy was dropped")]
    assert replica.dropped(BlockDropped(KEY)) == []


def test_a_sealed_copy_answers_everybody_who_waits() -> None:
    replica = Replica()
    replica.write(write(b"xyz", 9, chain(b"abc", 0), token="early"))
    replica.promise(PromiseRequested("p", KEY, "f"))
    effects = replica.sealed(BlockSealed(KEY, "f", 5, 1))
    assert effects == [AnswerPromise("p", 5, 0, {}, True)]
    assert replica.promise(PromiseRequested("q", KEY, "f")) == [AnswerPromise("q", 5, 0, {}, True)]
    assert replica.sealed(BlockSealed(KEY, "f", 5, 1)) == []


def test_early_records_are_refused_when_the_copy_promises() -> None:
    replica = Replica()
    replica.write(write(b"xyz", 9, chain(b"abc", 0), token="early"))
    refused, persist = replica.promise(PromiseRequested("p", KEY, "f"))
    assert code([refused]) == "FENCED"
    assert persist == PersistPromise(KEY, "f")


def test_a_caller_that_left_is_not_answered_and_its_early_record_is_forgotten() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0, token="written"))
    replica.write(write(b"def", 3, chain(b"abc", 0), token="next"))
    replica.write(write(b"xyz", 9, chain(b"abc", 0), token="early"))
    for token in ("written", "early", "p"):
        replica.forget(KEY, token)
    replica.forget(("id9", 9), "written")
    assert replica.written(RecordWritten(KEY, 6)) == [AnswerWrite("next", 6)]
    replica.promise(PromiseRequested("p", KEY, "f"))
    replica.forget(KEY, "p")
    assert replica.promise_written(PromiseWritten(KEY)) == []


def test_what_comes_for_an_unknown_copy_changes_nothing() -> None:
    replica = Replica()
    assert replica.written(RecordWritten(KEY, 3)) == []
    assert replica.promise_written(PromiseWritten(KEY)) == []


def test_a_record_that_is_sent_again_while_it_is_written_waits_for_the_disk() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    assert replica.write(write(b"abc", 0, token="again")) == []
    assert replica.written(RecordWritten(KEY, 3)) == [AnswerWrite("t", 3), AnswerWrite("again", 3)]


def test_a_record_whose_length_is_wrong_is_refused() -> None:
    replica = Replica()
    empty = WriteReceived("t", KEY, "f", "s", Record(0, 0, 0, "w", 0, 1), b"")
    short = WriteReceived("t", KEY, "f", "s", Record(0, 5, 0, "w", 0, 1), b"abc")
    assert code(replica.write(empty)) == code(replica.write(short)) == "CORRUPT"


def test_a_record_without_a_writer_leaves_no_mark() -> None:
    replica = Replica()
    replica.write(WriteReceived("t", KEY, "f", "s", Record(0, 3, chain(b"abc", 0), "", 0, 1), b"abc"))
    replica.written(RecordWritten(KEY, 3))
    replica.promise(PromiseRequested("p", KEY, "f"))
    (answer,) = replica.promise_written(PromiseWritten(KEY))
    assert isinstance(answer, AnswerPromise)
    assert answer.writers == {}


def test_a_copy_that_was_sealed_before_a_restart_is_known() -> None:
    replica = Replica([BlockMeta(KEY, "f", "s", 3, 9, "sealed")])
    assert code(replica.write(write(b"abc", 0))) == "FENCED"
    replica.dropped(BlockDropped(KEY))
    assert code(replica.write(write(b"abc", 0))) == "FENCED"


def test_dropped_blocks_are_remembered_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules, "GONE_MAX", 2)
    replica = Replica()
    for number in range(3):
        replica.dropped(BlockDropped(("id1", number)))
    assert isinstance(replica.write(write(b"abc", 0))[0], PersistRecord)  # block 0 is forgotten


def test_a_promise_that_is_not_durable_yet_is_not_answered_by_a_record_that_is() -> None:
    replica = Replica()
    replica.write(write(b"abc", 0))
    assert replica.promise(PromiseRequested("p", KEY, "f")) == [PersistPromise(KEY, "f")]
    assert replica.written(RecordWritten(KEY, 3)) == [AnswerWrite("t", 3)]
    (promise,) = replica.promise_written(PromiseWritten(KEY))
    assert isinstance(promise, AnswerPromise)
