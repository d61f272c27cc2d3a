"""Sealing a block whose coordinator is gone."""

from __future__ import annotations

from agent.hydfs.core.events import SealBlock
from agent.hydfs.core.takeover import AskPromise, Fail, PromiseFailed, PromiseReceived, Takeover

KEY = ("id1", 2)


def takeover(ack: str = "all") -> Takeover:
    core = Takeover(KEY, "f", ["a", "b", "c"], ack, 500, timeout_s=1.0)
    assert core.start(0.0) == [AskPromise("a"), AskPromise("b"), AskPromise("c")]
    return core


def promise(peer: str, length: int, *, doubtful: bool = False) -> PromiseReceived:
    return PromiseReceived(peer, length, length * 7, {"w": (length, 0, length)}, doubtful)


def test_the_longest_copy_wins_and_the_lost_are_named() -> None:
    core = takeover()
    core.handle(0.0, PromiseFailed("a"))
    core.handle(0.0, promise("b", 10))
    (seal,) = core.handle(0.0, promise("c", 30))
    assert seal == SealBlock(KEY, "f", 30, 210, ("c",), {"w": (30, 500, 30)}, ("a",))


def test_one_promise_is_enough_under_ack_all_after_the_time_limit() -> None:
    core = takeover()
    assert core.handle(0.5, promise("b", 10)) == []
    assert core.handle(0.9, None) == []
    (seal,) = core.handle(1.0, None)
    assert isinstance(seal, SealBlock)
    assert seal.length == 10


def test_a_quorum_needs_two_promises() -> None:
    core = takeover("quorum")
    core.handle(0.0, PromiseFailed("a"))
    core.handle(0.0, PromiseFailed("c"))
    (end,) = core.handle(0.0, promise("b", 10))
    assert isinstance(end, Fail)
    assert end.code == "UNAVAILABLE"


def test_a_doubtful_copy_counts_only_when_all_answer() -> None:
    core = takeover()
    core.handle(0.0, PromiseFailed("a"))
    core.handle(0.0, PromiseFailed("b"))
    (end,) = core.handle(0.0, promise("c", 10, doubtful=True))
    assert isinstance(end, Fail)
    core = takeover()
    core.handle(0.0, promise("a", 5, doubtful=True))
    core.handle(0.0, promise("b", 10, doubtful=True))
    (seal,) = core.handle(0.0, promise("c", 8, doubtful=True))
    assert isinstance(seal, SealBlock)
    assert (seal.length, seal.holders) == (10, ("b",))


def test_answers_after_the_decision_change_nothing() -> None:
    core = takeover()
    for peer in "abc":
        core.handle(0.0, promise(peer, 10))
    assert core.next_deadline() is None
    assert core.handle(0.0, promise("a", 90)) == []
    assert core.handle(9.0, None) == []


def test_all_holders_of_the_longest_copy_are_named_and_no_other() -> None:
    core = takeover()
    assert core.next_deadline() == 1.0
    core.handle(0.0, promise("a", 30))
    core.handle(0.0, promise("b", 10))
    (seal,) = core.handle(0.0, promise("c", 30))
    assert isinstance(seal, SealBlock)
    assert (seal.holders, seal.failed) == (("a", "c"), ())


def test_a_copy_of_the_same_length_with_other_bytes_is_no_holder() -> None:
    core = takeover()
    core.handle(0.0, promise("a", 30))
    core.handle(0.0, PromiseReceived("b", 30, 1, {}, False))
    (seal,) = core.handle(0.0, PromiseFailed("c"))
    assert isinstance(seal, SealBlock)
    assert (seal.holders, seal.crc) == (("a",), 210)
