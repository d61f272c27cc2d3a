"""The node's core: messages between its own coordinator and replica, and the routing of events."""

from __future__ import annotations

from agent.common.core import Tick
from agent.hydfs.core.block import Record, chain
from agent.hydfs.core.errors import MOVED, NOT_COORDINATOR
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    BlockSealed,
    CallerLeft,
    Effect,
    Event,
    NodeLost,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    SealBlock,
    SealFailed,
    SealRequested,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.node import NodeCore

KEY = ("id1", 0)


def node(*, opened: bool = True) -> NodeCore:
    core = NodeCore("a", [], block_size_bytes=100, ack_timeout_s=1.0)
    if opened:
        core.handle(0.0, BlockOpened(KEY, "f", "s", ("a", "b"), "all", 0, {}, 1))
    return core


def feed(core: NodeCore, *events: Event, now: float = 0.0) -> list[Effect]:
    effects = [effect for event in events for effect in core.handle(now, event)]
    core.check_invariants()
    return effects


def append(token: str, data: bytes = b"abc", sequence: int = 0) -> AppendRequested:
    return AppendRequested(token, KEY, "w", sequence, None, data)


def test_a_record_for_the_own_replica_never_leaves_the_node() -> None:
    core = node()
    effects = feed(core, append("t"))
    assert [type(effect) for effect in effects] == [SendWrite, PersistRecord]
    assert isinstance(effects[0], SendWrite)
    assert effects[0].peer == "b"
    assert feed(core, RecordWritten(KEY, 3)) == []
    assert feed(core, WriteAnswered("b", KEY, 3)) == [AnswerAppend("t", 0, 3, 2, False)]
    assert feed(core, TailRequested("r", KEY)) == [AnswerTail("r", 3)]


def test_requests_for_a_block_that_it_does_not_coordinate_are_refused() -> None:
    core = node(opened=False)
    for event in (append("t"), TailRequested("t", KEY)):
        (refused,) = feed(core, event)
        assert isinstance(refused, Refuse)
        assert (refused.token, refused.code) == ("t", NOT_COORDINATOR)
    late = (WriteAnswered("b", KEY, 3), SealRequested(KEY), SealFailed(KEY, "X", "x"), NodeLost("b"), Tick())
    assert feed(core, *late) == []


def test_a_sealed_block_moves_its_clients_and_ends_the_coordination() -> None:
    core = node()
    feed(core, append("t"))
    (seal,) = feed(core, NodeLost("b"))
    assert isinstance(seal, SealBlock)
    assert seal.failed == ("b",)
    moved = feed(core, BlockSealed(KEY, "f", 0, 0), BlockSealed(KEY, "f", 0, 0))
    assert [effect.code for effect in moved if isinstance(effect, Refuse)] == [MOVED]
    assert not core.coordinates(KEY)
    assert core.next_deadline() is None


def test_a_seal_that_was_asked_for_or_timed_out_or_failed() -> None:
    core = node()
    assert core.next_deadline() is None
    feed(core, append("t"))
    assert core.next_deadline() == 1.0
    (seal,) = feed(core, Tick(), now=1.0)
    assert isinstance(seal, SealBlock)
    assert feed(core, SealRequested(KEY)) == []  # it is already being sealed
    (refused,) = feed(core, SealFailed(KEY, "NO_MAJORITY", "no voter answers"))
    assert refused == Refuse("t", "NO_MAJORITY", "no voter answers")
    asked = node()
    (seal,) = feed(asked, SealRequested(KEY))
    assert isinstance(seal, SealBlock)


def test_a_dropped_block_refuses_records_and_ends_the_coordination() -> None:
    core = node()
    feed(core, append("t"))
    effects = feed(core, BlockDropped(KEY))
    assert [type(effect) for effect in effects] == [Refuse]
    assert not core.coordinates(KEY)


def test_promises_of_a_copy() -> None:
    core = node(opened=False)
    record = Record(0, 3, chain(b"abc", 0), "w", 0, 1)
    feed(core, WriteReceived("r", KEY, "f", "s", record, b"abc"), RecordWritten(KEY, 3))
    assert feed(core, PromiseRequested("p", KEY, "f")) == [PersistPromise(KEY, "f")]
    (promised,) = feed(core, PromiseWritten(KEY))
    assert promised == AnswerPromise("p", 3, record.crc, {"w": (0, 0, 3)}, False)


def test_a_caller_that_left_is_forgotten_by_coordinator_and_replica() -> None:
    core = node()
    feed(core, append("t"), CallerLeft(KEY, "t"), RecordWritten(KEY, 3))
    assert feed(core, WriteAnswered("b", KEY, 3)) == []  # the append took place; no one waits for it
    other = node(opened=False)
    record = Record(0, 3, chain(b"abc", 0), "w", 0, 1)
    feed(other, WriteReceived("r", KEY, "f", "s", record, b"abc"), CallerLeft(KEY, "r"))
    assert feed(other, RecordWritten(KEY, 3)) == []
