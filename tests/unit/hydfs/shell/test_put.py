"""Puts: a client's bytes become visible atomically or not at all, and no slot is ever lost."""

from __future__ import annotations

import threading
from functools import partial
from typing import Any

import pytest

from agent.common.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    DiskFull,
    NoMajority,
    NotFound,
    Overloaded,
    RainStormError,
    Unreachable,
    UsageError,
)
from agent.common.message import Done
from agent.hydfs.core import filetable
from agent.hydfs.messages.block import AskPut, DropFile, PutLife, StorePiece
from agent.hydfs.messages.file import AbortPut, CommitPut
from agent.hydfs.shell import put as module
from agent.hydfs.shell.put import BUFFERED_BLOCKS, PIECE_BYTES, PUTS_MAX
from tests.support import wait_until
from tests.unit.hydfs import putting
from tests.unit.hydfs.putting import BLOCK, NODES, Gateway, all_slots_free, in_thread

gateway = putting.gateway


def test_a_put_becomes_visible_with_its_commit(gateway: Gateway) -> None:
    """Its blocks are on all replicas by then, cut at the size of a block."""
    file_id = gateway.begin()
    assert gateway.puts.is_alive(file_id)
    gateway.piece(file_id, 0, b"x" * 70)
    gateway.piece(file_id, 70, b"y" * 70)
    assert gateway.entry().state == "creating"
    stat = gateway.ask(CommitPut(file_id, 140)).stat
    assert (stat.length, [block.length for block in stat.blocks]) == (140, [100, 40])
    assert gateway.entry().state == "live"
    assert not gateway.puts.is_alive(file_id)
    sent = gateway.peers.requests(StorePiece)
    assert {node for node, _ in sent} == set(NODES)
    assert [(p.number, p.offset, p.last) for node, p in sent if node == "n2" and p.number == 0] == [
        (0, 0, False),
        (0, 70, True),
    ]
    all_slots_free(gateway)


def test_an_empty_file_can_be_put(gateway: Gateway) -> None:
    assert gateway.ask(CommitPut(gateway.begin(), 0)).stat.length == 0


def test_an_abort_while_a_piece_waits_for_a_slot_loses_no_slot(gateway: Gateway) -> None:
    """The piece is refused; an earlier version let it take a slot that was never given back."""
    for turn in range(3):
        holders = [gateway.begin(f"slow{turn}.{number}") for number in range(BUFFERED_BLOCKS)]
        for file_id in holders:
            gateway.piece(file_id, 0, b"x")
        assert gateway.puts.free_slots == 0
        late = gateway.begin(f"late{turn}")
        thread, errors = in_thread(partial(gateway.piece, late, 0, b"x"))
        gateway.ask(AbortPut(late))
        for file_id in holders:
            gateway.ask(AbortPut(file_id))
        thread.join(5.0)
        assert not thread.is_alive()
        assert [type(error) for error in errors] == [NotFound]
        all_slots_free(gateway)
    file_id = gateway.begin("another")
    gateway.piece(file_id, 0, b"x")


def test_an_aborted_piece_does_not_wait_for_a_slot_any_longer(gateway: Gateway) -> None:
    for number in range(BUFFERED_BLOCKS):
        gateway.piece(gateway.begin(str(number)), 0, b"x")
    late = gateway.begin("late")
    thread, errors = in_thread(lambda: gateway.piece(late, 0, b"x", timeout_s=60.0))
    wait_until(lambda: gateway.puts._puts[late].requests == 1, 5.0, "the piece waits")
    gateway.ask(AbortPut(late))
    thread.join(5.0)
    assert [type(error) for error in errors] == [NotFound]
    assert gateway.puts.free_slots == 0


def test_a_piece_that_finds_no_slot_in_time_is_refused(gateway: Gateway) -> None:
    for number in range(BUFFERED_BLOCKS):
        gateway.piece(gateway.begin(str(number)), 0, b"x")
    with pytest.raises(DeadlineExceeded, match="do not keep up"):
        gateway.piece(gateway.begin(), 0, b"x", timeout_s=0.01)


def test_a_slot_is_free_again_when_its_block_is_stored_or_failed(gateway: Gateway) -> None:
    def full(node: str, request: Any, payload: Any) -> Any:
        raise DiskFull(f"{node} is full")

    gateway.peers.respond = full
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x" * BLOCK)
    all_slots_free(gateway)
    with pytest.raises(DiskFull):
        gateway.ask(CommitPut(file_id, BLOCK))


def test_a_failed_block_ends_the_put_at_its_next_piece(gateway: Gateway) -> None:
    def broken(node: str, request: Any, payload: Any) -> Any:
        raise Unreachable("down")

    gateway.peers.respond = broken
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x" * BLOCK)
    wait_until(lambda: gateway.puts._puts[file_id].blocks[0].done(), 5.0, "all attempts failed")
    all_slots_free(gateway)
    with pytest.raises(Unreachable):
        gateway.piece(file_id, BLOCK, b"y")
    assert gateway.entry().state == "deleted"
    with pytest.raises(NotFound):
        gateway.piece(file_id, BLOCK, b"y")
    assert {request for _, request in gateway.peers.told} == {DropFile(file_id, "f")}


def test_pieces_come_in_order_and_one_that_is_sent_twice_counts_once(gateway: Gateway) -> None:
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"abc")
    gateway.piece(file_id, 0, b"abc")
    with pytest.raises(UsageError, match="missing at 3"):
        gateway.piece(file_id, 5, b"abc")
    with pytest.raises(UsageError, match="3 bytes arrived"):
        gateway.ask(CommitPut(file_id, 4))
    for data in (b"", b"x" * (PIECE_BYTES + 1)):
        with pytest.raises(UsageError, match="piece of a put"):
            gateway.piece(file_id, 3, data)
    assert gateway.ask(CommitPut(file_id, 3)).stat.length == 3


def test_a_put_that_was_taken_over_cannot_be_committed(gateway: Gateway) -> None:
    file_id = gateway.begin()
    gateway.registers.values["f"] = filetable.remove("f", file_id)(gateway.registers.values["f"])
    with pytest.raises(Conflict):
        gateway.ask(CommitPut(file_id, 0))
    assert not gateway.puts.is_alive(file_id)


def test_the_number_of_puts_is_bounded(gateway: Gateway) -> None:
    for number in range(PUTS_MAX):
        gateway.begin(str(number))
    with pytest.raises(Overloaded):
        gateway.begin()


def test_an_idle_put_is_aborted_and_one_with_a_request_is_not(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(BUFFERED_BLOCKS):
        gateway.piece(gateway.begin(str(number)), 0, b"x")
    busy = gateway.begin("busy")
    thread, errors = in_thread(lambda: gateway.piece(busy, 0, b"x"))
    wait_until(lambda: gateway.puts._puts[busy].requests == 1, 5.0, "the piece is being taken")
    monkeypatch.setattr(module, "IDLE_S_MAX", -1.0)
    gateway.puts.abandon_idle()
    thread.join(5.0)
    assert errors == []
    assert gateway.puts.is_alive(busy)
    assert gateway.entry("0").state == "deleted"
    assert gateway.puts.free_slots == BUFFERED_BLOCKS - 1


def test_an_abort_that_the_voters_do_not_hear_leaves_a_reservation(gateway: Gateway) -> None:
    file_id = gateway.begin()
    gateway.registers.error = NoMajority("no voter answers")
    gateway.ask(AbortPut(file_id))
    gateway.ask(AbortPut("unknown"))
    assert gateway.entry().state == "creating"
    assert gateway.peers.told == []


def test_a_reservation_that_fails_leaves_no_put(gateway: Gateway) -> None:
    gateway.registers.error = NoMajority("no voter answers")
    with pytest.raises(NoMajority):
        gateway.begin()
    assert not gateway.puts._puts


@pytest.mark.parametrize(
    ("answer", "replaced"), [(PutLife(True), False), (PutLife(False), True), (Unreachable("n2"), False)]
)
def test_an_abandoned_reservation_is_replaced(gateway: Gateway, answer: Any, replaced: bool) -> None:
    """Its gateway tells whether it still works on the put; if it does not answer, it may still do."""

    def respond(node: str, request: Any, payload: Any) -> Any:
        assert (node, request) == ("n2", AskPut("old"))
        if isinstance(answer, RainStormError):
            raise answer
        return answer

    gateway.peers.respond = respond
    gateway.registers.values["f"] = filetable.create("f", "old", "all", state="creating", owner="n2")(None)
    if replaced:
        assert gateway.begin() != "old"
        return
    with pytest.raises(AlreadyExists):
        gateway.begin()


def test_the_reservation_of_a_node_that_is_down_is_replaced(gateway: Gateway) -> None:
    gateway.registers.values["f"] = filetable.create("f", "old", "all", state="creating", owner="gone")(None)
    gateway.begin()
    assert gateway.peers.asked == []


def test_a_name_that_is_taken_is_refused(gateway: Gateway) -> None:
    gateway.registers.values["f"] = filetable.create("f", "old", "all")(None)
    with pytest.raises(AlreadyExists):
        gateway.begin()
    assert not gateway.puts._puts


def test_another_gateway_learns_whether_a_put_is_in_progress(gateway: Gateway) -> None:
    file_id = gateway.begin()
    assert gateway.ask(AskPut(file_id)) == PutLife(True)
    assert gateway.ask(AskPut("other")) == PutLife(False)


def test_two_requests_of_one_put_take_turns(gateway: Gateway) -> None:
    file_id = gateway.begin()
    with gateway.puts._puts[file_id].lock, pytest.raises(DeadlineExceeded, match="still in progress"):
        gateway.piece(file_id, 0, b"x", timeout_s=0.01)


def test_a_stopping_agent_refuses_what_it_has_in_hand(gateway: Gateway) -> None:
    waiting = threading.Event()
    release = threading.Event()

    def slow(node: str, request: Any, payload: Any) -> Any:
        waiting.set()
        release.wait(10.0)
        return Done()

    gateway.peers.respond = slow
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x" * BLOCK)
    assert waiting.wait(5.0)
    with pytest.raises(DeadlineExceeded):
        gateway.ask(CommitPut(file_id, BLOCK), timeout_s=0.01)
    release.set()
    gateway.puts.close()
    with pytest.raises(NotFound):
        gateway.piece(file_id, BLOCK, b"x")
