"""One order, enough copies, once each."""

from __future__ import annotations

from typing import Any

from agent.hydfs.core.block import WriterMark, chain
from agent.hydfs.core.coordinator import WAITING_MAX, WINDOW_RECORDS, Coordinator
from agent.hydfs.core.errors import MOVED, FoundLength, Moved
from agent.hydfs.core.events import (
    AnswerAppend,
    AppendRequested,
    BlockOpened,
    Refuse,
    SealBlock,
    SendWrite,
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
    assert core.append(0.0, request(0)) == []  # joins the one under way
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
