"""Requests of a put that arrive again because their answer was lost, or while the first is in progress."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.common.errors import (
    Conflict,
    NoMajority,
    NotFound,
)
from agent.hydfs.core import filetable
from agent.hydfs.messages.file import AbortPut, BeginPut, CommitPut
from tests.support import wait_until
from tests.unit.hydfs import putting
from tests.unit.hydfs.putting import NODES, Gateway, in_thread

gateway = putting.gateway


def test_a_begin_whose_answer_was_lost_finds_the_put_again(gateway: Gateway) -> None:
    begun = gateway.ask(BeginPut("f", "key"))
    gateway.piece(begun.file_id, 0, b"abc")
    assert gateway.ask(BeginPut("f", "key")) == begun
    assert len(gateway.puts._puts) == 1
    assert gateway.ask(BeginPut("g", "key")).file_id != begun.file_id, "a key is good for one name"
    assert gateway.ask(CommitPut(begun.file_id, 3, "f")).stat.length == 3
    with pytest.raises(Conflict, match="has ended already"):
        gateway.ask(BeginPut("f", "key"))  # a first request that was late
    assert gateway.entry().state == "live"
    assert len(gateway.puts._puts) == 1


def test_two_begins_of_one_put_reserve_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second one arrives while the first one still asks the voters."""
    asked, go_on = threading.Event(), threading.Event()
    times: list[float] = []

    def slow(*args: Any, **options: Any) -> Any:
        times.append(options["timeout_s"])
        asked.set()
        assert go_on.wait(10.0)
        raise NoMajority("no voter answers")

    monkeypatch.setattr(gateway.registers, "change", slow)
    first, errors = in_thread(lambda: gateway.ask(BeginPut("f", "key")))
    assert asked.wait(5.0)
    second, more = in_thread(lambda: gateway.ask(BeginPut("f", "key")))
    wait_until(lambda: next(iter(gateway.puts._puts.values())).requests == 2, 5.0, "both are there")
    go_on.set()
    first.join(5.0)
    second.join(5.0)
    assert [type(error) for error in errors + more] == [NoMajority, NoMajority]
    assert len(times) == 1
    assert not gateway.puts._puts


def test_a_put_that_is_aborted_while_its_name_is_reserved_leaves_nothing(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = gateway.registers.change

    def abort_first(*args: Any, **options: Any) -> Any:
        monkeypatch.setattr(gateway.registers, "change", change)
        gateway.ask(AbortPut(filetable.put_id("f", "key")))
        return change(*args, **options)

    monkeypatch.setattr(gateway.registers, "change", abort_first)
    with pytest.raises(NotFound, match="was aborted"):
        gateway.ask(BeginPut("f", "key"))
    assert gateway.entry().state == "deleted"
    assert not gateway.puts._puts


@pytest.mark.parametrize("appended", [0, 5])
def test_a_commit_whose_answer_was_lost_has_the_same_answer_again(gateway: Gateway, appended: int) -> None:
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x" * 100)
    gateway.piece(file_id, 100, b"x" * 40)
    found = gateway.ask(CommitPut(file_id, 140, "f"))
    if appended:
        change = filetable.open_next("f", file_id, NODES, 1, "session")
        gateway.registers.values["f"] = change(gateway.registers.values["f"])
    assert gateway.ask(CommitPut(file_id, 140, "f")) == found
    for wrong in (CommitPut(file_id, 140), CommitPut(file_id, 100 + 7, "f"), CommitPut(file_id, 140, "g")):
        with pytest.raises(NotFound):
            gateway.ask(wrong)
    gateway.registers.values["f"] = filetable.create("f", "other", "all")(None)
    with pytest.raises(NotFound):
        gateway.ask(CommitPut(file_id, 140, "f"))


def test_a_commit_that_is_repeated_tells_of_the_file_as_its_put_left_it(gateway: Gateway) -> None:
    """The voters' answer was lost; others have appended since, and their block was sealed."""
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x" * 140)
    change = gateway.registers.change

    def lose_answer(*args: Any, **options: Any) -> Any:
        change(*args, **options)
        raise NoMajority("no voter answers")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(gateway.registers, "change", lose_answer)
        with pytest.raises(NoMajority):
            gateway.ask(CommitPut(file_id, 140, "f"))
    number = gateway.entry().next_number
    for later in (
        filetable.open_next("f", file_id, NODES, 1, "session"),
        filetable.seal("f", file_id, number, 10, 0, NODES, {}),
        filetable.open_next("f", file_id, NODES, 1, "session"),
    ):
        gateway.registers.change("f", later)
    stat = gateway.ask(CommitPut(file_id, 140, "f")).stat
    assert (stat.length, [block.length for block in stat.blocks]) == (140, [100, 40])


def test_two_commits_of_one_put_have_the_same_answer(gateway: Gateway) -> None:
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"x")
    found: list[Any] = []
    with gateway.puts._puts[file_id].lock:
        threads = [in_thread(lambda: found.append(gateway.ask(CommitPut(file_id, 1, "f")))) for _ in range(2)]
        wait_until(lambda: gateway.puts._puts[file_id].requests == 2, 5.0, "both wait")
    for thread, _ in threads:
        thread.join(5.0)
    assert len(found) == 2
    assert found[0] == found[1]


def test_an_abort_does_not_remove_a_file_that_its_put_has_made(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer of the voters to the commit was lost; others may have appended since."""
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"abc")
    change = gateway.registers.change

    def lose_answer(*args: Any, **options: Any) -> Any:
        change(*args, **options)
        raise NoMajority("no voter answers")

    monkeypatch.setattr(gateway.registers, "change", lose_answer)
    with pytest.raises(NoMajority):
        gateway.ask(CommitPut(file_id, 3, "f"))
    monkeypatch.setattr(gateway.registers, "change", change)
    gateway.ask(AbortPut(file_id))
    assert gateway.entry().state == "live"
    assert gateway.peers.told == []
    assert not gateway.puts.is_alive(file_id)


def test_a_commit_that_may_be_repeated_keeps_the_put(gateway: Gateway) -> None:
    file_id = gateway.begin()
    gateway.piece(file_id, 0, b"abc")
    gateway.registers.error = NoMajority("no voter answers")
    with pytest.raises(NoMajority):
        gateway.ask(CommitPut(file_id, 3))
    gateway.registers.error = None
    assert gateway.ask(CommitPut(file_id, 3)).stat.length == 3
