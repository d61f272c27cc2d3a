"""The coordinator: one order of records, enough copies of each, and no record twice."""

from __future__ import annotations

from typing import Any

from agent.hydfs.core.block import WRITERS_MAX, WriterMark, chain
from agent.hydfs.core.coordinator import WAITING_BYTES_MAX, WAITING_MAX, WINDOW_RECORDS, Coordinator
from agent.hydfs.core.errors import MOVED, FoundLength, Moved
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerTail,
    AppendRequested,
    BlockOpened,
    Refuse,
    SealBlock,
    SealFailed,
    SendWrite,
    TailRequested,
    WriteAnswered,
)

KEY = ("id1", 4)


def coordinator(ack: str = "all", writers: dict[str, WriterMark] | None = None) -> Coordinator:
    opened = BlockOpened(KEY, "f", "s", ("a", "b", "c"), ack, 1000, writers or {}, 7)
    return Coordinator(opened, block_size_bytes=100, ack_timeout_s=1.0)


def request(
    sequence: int, data: bytes = b"0123456789", *, writer: str = "w", if_offset: int | None = None
) -> Any:
    return AppendRequested((writer, sequence), KEY, writer, sequence, if_offset, data)


def acks(core: Coordinator, end: int, nodes: str = "abc") -> list[Any]:
    return [effect for node in nodes for effect in core.answered(0.0, WriteAnswered(node, KEY, end))]


def test_answers_when_all_copies_are_durable() -> None:
    core = coordinator()
    sent = core.append(0.0, request(0))
    assert [effect.peer for effect in sent if isinstance(effect, SendWrite)] == ["a", "b", "c"]
    assert acks(core, 10, "ab") == []
    assert acks(core, 10, "c") == [AnswerAppend(("w", 0), 1000, 10, 3, False)]
    core.check_invariants()


def test_a_quorum_is_enough_when_asked_for() -> None:
    core = coordinator("quorum")
    core.append(0.0, request(0))
    assert acks(core, 10, "ac") == [AnswerAppend(("w", 0), 1000, 10, 2, False)]


def test_a_repeated_append_gets_the_first_answer() -> None:
    core = coordinator(writers={"v": (5, 900, 8)})
    core.append(0.0, request(0))
    assert core.append(0.0, request(0)) == []  # joins the append in progress
    assert [effect.duplicate for effect in acks(core, 10)] == [False, True]
    assert core.append(0.0, request(0)) == [AnswerAppend(("w", 0), 1000, 10, 3, True)]
    assert core.append(0.0, request(5, writer="v")) == [AnswerAppend(("v", 5), 900, 8, 3, True)]
    assert core.append(0.0, request(4, writer="v")) == [AnswerAppend(("v", 4), -1, 0, 3, True)]


def test_a_refused_condition_waits_for_what_it_rests_on() -> None:
    core = coordinator()
    core.append(0.0, request(0, if_offset=1000))
    assert core.append(0.0, request(0, writer="v", if_offset=1000)) == []
    answered, refused = acks(core, 10)
    assert isinstance(answered, AnswerAppend)
    assert (refused.code, refused.details) == ("CONFLICT", FoundLength(1010))
    other = coordinator()
    other.append(0.0, request(0))
    other.append(0.0, request(0, writer="v", if_offset=1000))
    other.lose("b")
    assert [effect.code for effect in other.sealed() if isinstance(effect, Refuse)] == [MOVED, MOVED]


def test_a_failed_replica_seals_at_the_committed_length() -> None:
    core = coordinator()
    core.append(0.0, request(0))
    acks(core, 10)
    core.append(0.0, request(1))
    core.answered(0.0, WriteAnswered("a", KEY, 20))
    (seal,) = core.answered(0.0, WriteAnswered("b", KEY, 20, "UNREACHABLE"))
    assert isinstance(seal, SealBlock)
    assert (seal.length, seal.crc, seal.failed) == (10, chain(b"0123456789", 0), ("b",))
    assert seal.writers == {"w": (0, 1000, 10)}
    assert acks(core, 20, "c") == []  # too late: nothing is acknowledged any more
    (moved,) = core.sealed()
    assert isinstance(moved, Refuse)
    assert (moved.token, moved.code, moved.details) == (("w", 1), MOVED, Moved(("b",), "UNREACHABLE"))


def test_a_silent_replica_is_given_up_after_the_timeout() -> None:
    core = coordinator()
    core.append(5.0, request(0))
    acks(core, 10, "ab")
    assert core.next_deadline() == 6.0
    assert core.tick(5.9) == []
    (seal,) = core.tick(6.0)
    assert isinstance(seal, SealBlock)
    assert (seal.length, seal.failed) == (0, ("c",))


def test_a_full_block_is_sealed_after_its_last_record() -> None:
    core = coordinator()
    core.append(0.0, request(0, b"x" * 95))
    assert core.append(0.0, request(1)) == []
    effects = acks(core, 95)
    assert isinstance(effects[0], AnswerAppend)
    assert isinstance(effects[1], SealBlock)
    assert effects[1].length == 95
    assert effects[1].failed == ()


def test_the_window_and_the_queue_are_bounded() -> None:
    core = coordinator()
    for sequence in range(WINDOW_RECORDS):
        assert core.append(0.0, request(sequence, b"x"))
    for sequence in range(WAITING_MAX):
        assert core.append(0.0, request(1000 + sequence, b"x")) == []
    (refused,) = core.append(0.0, request(9999, b"x"))
    assert isinstance(refused, Refuse)
    assert refused.code == "OVERLOADED"
    effects = acks(core, 1)
    assert any(isinstance(effect, SendWrite) for effect in effects)


def test_a_late_sequence_is_refused_while_a_later_one_is_in_flight() -> None:
    """If it were appended behind the later one, a retry of the later one would look new."""
    core = coordinator()
    core.append(0.0, request(5))
    (refused,) = core.append(0.0, request(4))
    assert isinstance(refused, Refuse)
    assert (refused.token, refused.code) == (("w", 4), "CONFLICT")
    acks(core, 10)
    assert core.append(0.0, request(5)) == [AnswerAppend(("w", 5), 1000, 10, 3, True)]
    assert core.append(0.0, request(4)) == [AnswerAppend(("w", 4), -1, 0, 3, True)]
    sent = core.append(0.0, request(6))
    assert len([effect for effect in sent if isinstance(effect, SendWrite)]) == 3


def test_a_late_sequence_that_waits_behind_the_later_one_is_refused_too() -> None:
    core = coordinator()
    for sequence in range(WINDOW_RECORDS):
        core.append(0.0, request(sequence, b"x", writer="v"))
    assert core.append(0.0, request(5, b"x")) == []
    assert core.append(0.0, request(4, b"x")) == []
    effects = acks(core, 1) + acks(core, 2)
    assert [e.record.sequence for e in effects if isinstance(e, SendWrite) and e.record.writer == "w"] == [
        5,
        5,
        5,
    ]
    assert [(e.token, e.code) for e in effects if isinstance(e, Refuse)] == [(("w", 4), "CONFLICT")]


def test_a_seal_names_exactly_the_replicas_that_hold_all_committed_records() -> None:
    core = coordinator("quorum")
    core.append(0.0, request(0))
    acks(core, 10, "ab")
    core.append(0.0, request(1))
    core.answered(0.0, WriteAnswered("b", KEY, 20))
    (seal,) = core.answered(0.0, WriteAnswered("c", KEY, 0, "UNREACHABLE"))
    assert isinstance(seal, SealBlock)
    assert (seal.length, seal.holders, seal.failed) == (10, ("a", "b"), ("c",))


def test_a_seal_without_committed_records_names_all_replicas() -> None:
    core = coordinator()
    core.append(0.0, request(0))
    (seal,) = core.close()
    assert isinstance(seal, SealBlock)
    assert (seal.length, seal.holders, seal.failed, seal.writers) == (0, ("a", "b", "c"), (), {})
    assert core.close() == []
    assert core.lose("a") == []
    assert core.tick(99.0) == []
    assert acks(core, 10) == []


def test_a_lost_node_matters_only_to_the_blocks_it_has_a_replica_of() -> None:
    core = coordinator()
    assert core.lose("z") == []
    (seal,) = core.lose("c")
    assert isinstance(seal, SealBlock)
    assert seal.failed == ("c",)


def test_appends_wait_while_the_block_is_sealed_and_move_afterwards() -> None:
    core = coordinator()
    core.append(0.0, request(0))
    core.lose("c")
    assert core.append(0.0, request(1)) == []
    assert [(e.token, e.code) for e in core.sealed() if isinstance(e, Refuse)] == [
        (("w", 0), MOVED),
        (("w", 1), MOVED),
    ]
    (moved,) = core.append(0.0, request(2))
    assert isinstance(moved, Refuse)
    assert moved.code == MOVED


def test_a_seal_that_failed_is_reported_to_all_clients() -> None:
    core = coordinator()
    core.append(0.0, request(0))
    core.lose("c")
    core.append(0.0, request(1))
    effects = core.seal_failed(SealFailed(KEY, "NO_MAJORITY", "no voter answers"))
    assert effects == [
        Refuse(("w", 0), "NO_MAJORITY", "no voter answers"),
        Refuse(("w", 1), "NO_MAJORITY", "no voter answers"),
    ]


def test_waiting_payloads_are_bounded_in_bytes() -> None:
    core = Coordinator(
        BlockOpened(KEY, "f", "s", ("a",), "all", 0, {}, 7), block_size_bytes=100, ack_timeout_s=1.0
    )
    core.append(0.0, request(0))
    core.close()
    assert core.append(0.0, request(1, b"x" * (WAITING_BYTES_MAX - 1))) == []
    (refused,) = core.append(0.0, request(2, b"xx"))
    assert isinstance(refused, Refuse)
    assert refused.code == "OVERLOADED"
    core.forget(("w", 1))  # an equal token is another token
    assert core.append(0.0, request(2, b"x")) == []


def test_a_client_that_left_gets_no_answer_and_its_waiting_append_is_dropped() -> None:
    core = coordinator()
    first, second = request(0, b"x" * 95), request(1)
    core.append(0.0, first)
    assert core.append(0.0, second) == []  # the block is full: it waits for the next one
    core.forget(first.token)
    core.forget(second.token)
    effects = acks(core, 95)
    assert [type(effect) for effect in effects] == [SealBlock]
    assert core.sealed() == []


def test_the_tail_is_the_committed_length() -> None:
    core = coordinator()
    core.append(0.0, request(0))
    acks(core, 10, "ab")
    assert core.tail(TailRequested("r", KEY)) == [AnswerTail("r", 0)]
    acks(core, 10, "c")
    assert core.tail(TailRequested("r", KEY)) == [AnswerTail("r", 10)]


def test_marks_of_writers_are_bounded() -> None:
    core = Coordinator(
        BlockOpened(KEY, "f", "s", ("a",), "all", 0, {}, 7), block_size_bytes=10_000, ack_timeout_s=1.0
    )
    for number in range(WRITERS_MAX + 1):
        core.append(0.0, request(0, b"x", writer=f"w{number}"))
        core.answered(0.0, WriteAnswered("a", KEY, number + 1))
    (seal,) = core.close()
    assert isinstance(seal, SealBlock)
    assert len(seal.writers) == WRITERS_MAX
    assert "w0" not in seal.writers


def test_a_replica_confirms_no_record_behind_the_one_that_it_names() -> None:
    core = coordinator("quorum")
    core.append(0.0, request(0))
    core.append(0.0, request(1))
    assert [effect.token for effect in acks(core, 10, "ab")] == [("w", 0)]
    assert acks(core, 20, "a") == [], "only one copy of the second record is durable"
    assert [effect.token for effect in acks(core, 20, "b")] == [("w", 1)]
