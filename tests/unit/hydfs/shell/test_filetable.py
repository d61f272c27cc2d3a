"""A gateway's knowledge about files, and how it reaches the node that knows more."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, NotFound, Unavailable, Unreachable, UsageError
from agent.common.message import Done
from agent.common.shell import clock
from agent.hydfs.core import filetable
from agent.hydfs.core.errors import MOVED, NOT_COORDINATOR, Moved, error_of
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.route import AskCoordinator, AskSeal
from agent.hydfs.messages.block import AskTail, Seal, TailLength
from agent.hydfs.shell import filetable as module
from agent.hydfs.shell.filetable import FileTable, describe, same_end
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters
from tests.unit.hydfs.stores import SettableView

NODES = ["n1", "n2", "n3"]


def soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(clock.monotonic(), timeout_s)


class Setting:
    """A file table in front of fakes; ``f`` has an open block on all nodes."""

    def __init__(self) -> None:
        self.peers = FakePeers()
        value = filetable.create("f", "id1", "all")(None)
        self.opened = filetable.open_next("f", "id1", NODES, 1, "s")(value)
        self.registers = FakeRegisters(f=self.opened)
        surroundings: tuple[Any, ...] = (self.peers, self.registers, SettableView(NODES))
        self.table = FileTable(*surroundings, ack_timeout_s=10.0)

    def seal(self, length: int = 10) -> None:
        change = filetable.seal("f", "id1", 0, length, 7, NODES, {})
        self.registers.values["f"] = change(self.registers.values["f"])


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_an_entry_is_remembered_until_the_file_is_gone(setting: Setting) -> None:
    entry = setting.table.entry("f", soon())
    assert setting.table.known("f") == entry
    setting.registers.values["f"] = None
    with pytest.raises(NotFound):
        setting.table.entry("f", soon())
    assert setting.table.known("f") is None


def test_remembered_entries_are_bounded(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENTRIES_MAX", 2)
    for name in ("a", "b", "a", "c"):
        setting.table.remember(name, FileEntry(name, "live"))
    assert [setting.table.known(name) is not None for name in "abc"] == [True, False, True]


def test_the_length_is_that_of_the_coordinator_while_the_block_is_open(setting: Setting) -> None:
    setting.peers.respond = lambda node, request, payload: TailLength(6)
    stat = setting.table.stat("f", soon())
    assert (stat.length, stat.blocks[0].length, stat.blocks[0].state) == (6, 6, "open")
    assert setting.peers.asked == [("n1", AskTail("id1", 0))]


def test_a_block_that_is_sealed_meanwhile_has_the_length_of_the_table(setting: Setting) -> None:
    def respond(node: str, request: Any, payload: Any) -> Any:
        setting.seal(10)
        return TailLength(6)

    setting.peers.respond = respond
    assert setting.table.stat("f", soon()).length == 10


def test_a_block_that_is_opened_meanwhile_is_asked_again(setting: Setting) -> None:
    def respond(node: str, request: Any, payload: Any) -> Any:
        if request.number == 0:
            setting.seal(10)
            opened = filetable.open_next("f", "id1", NODES, 1, "s2")(setting.registers.values["f"])
            setting.registers.values["f"] = opened
            return TailLength(6)
        return TailLength(1)

    setting.peers.respond = respond
    assert setting.table.stat("f", soon()).length == 11


def test_a_file_without_an_open_block_needs_no_other_node(setting: Setting) -> None:
    setting.seal()
    assert setting.table.stat("f", soon()).length == 10
    assert setting.peers.asked == []


def test_a_coordinator_that_is_down_is_suspected_and_its_block_sealed(setting: Setting) -> None:
    def respond(node: str, request: Any, payload: Any) -> Any:
        if node == "n1":
            raise Unreachable("n1 is down")
        assert request == Seal("id1", 0, "f")
        setting.seal(4)
        return Done()

    setting.peers.respond = respond
    assert setting.table.stat("f", soon()).length == 4
    assert setting.peers.suspected == ["n1"]


def test_an_answer_that_the_file_moved_is_followed(setting: Setting) -> None:
    codes = [NOT_COORDINATOR, MOVED, MOVED]

    def respond(node: str, request: Any, payload: Any) -> Any:
        setting.seal(4)
        return Done()

    setting.peers.respond = respond  # the coordinator has lost the block: another replica seals it

    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        if codes:
            raise error_of(codes.pop(), "elsewhere", Moved(("n3",), "UNREACHABLE"))
        assert step.number is None
        return step.node

    assert setting.table.follow("f", soon(), ask) in NODES


def test_a_file_that_was_deleted_and_made_again_is_found(setting: Setting) -> None:
    """The gateway's cached entry is out of date: the coordinator does not know the old id."""
    setting.table.entry("f", soon())
    setting.registers.values["f"] = filetable.create("f", "id2", "all")(
        filetable.remove("f", "id1")(filetable.seal("f", "id1", 0, 0, 0, [], {})(self_opened(setting)))
    )

    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        if entry.file_id == "id1":
            raise NotFound("no such block")
        return entry.file_id

    assert setting.table.follow("f", soon(), ask) == "id2"
    setting.table.entry("f", soon())

    def missing(step: AskCoordinator, entry: FileEntry) -> str:
        raise NotFound("no such block")

    with pytest.raises(NotFound):
        setting.table.follow("g", soon(), missing)


def self_opened(setting: Setting) -> Any:
    return setting.registers.values["f"]


def test_an_error_of_the_request_itself_is_passed_on(setting: Setting) -> None:
    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        raise UsageError("nothing to append")

    with pytest.raises(UsageError, match="nothing to append"):
        setting.table.follow("f", soon(), ask)


def test_full_nodes_are_reported_as_such(setting: Setting) -> None:
    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        raise error_of(MOVED, "elsewhere", Moved(("n3",), "DISK_FULL"))

    with pytest.raises(Exception, match="no node has room") as found:
        setting.table.follow("f", soon(), ask)
    assert getattr(found.value, "code", "") == "DISK_FULL"


def test_attempts_end_with_the_deadline_and_name_the_last_error(setting: Setting) -> None:
    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        raise Unavailable("not now")

    with pytest.raises(DeadlineExceeded, match="the last attempt failed with: not now"):
        setting.table.follow("f", soon(0.1), ask)


def test_a_stopping_gateway_makes_no_further_attempt(setting: Setting) -> None:
    def ask(step: AskCoordinator, entry: FileEntry) -> str:
        threading.Thread(target=setting.table.close).start()
        raise Unavailable("not now")

    with pytest.raises(Unavailable, match="stopping"):
        setting.table.follow("f", soon(60.0), ask)


def test_a_seal_is_asked_of_the_node_that_the_route_names(setting: Setting) -> None:
    entry = setting.table.entry("f", soon())
    setting.table.ask_seal("f", entry, AskSeal("n2", 0))
    assert setting.peers.asked == [("n2", Seal("id1", 0, "f"))]


def test_ends_are_compared_by_session_or_by_the_chain() -> None:
    value = filetable.create("f", "id1", "all")(None)
    empty = filetable.live("f", value)
    one, other = (
        filetable.live("f", filetable.open_next("f", "id1", NODES, 1, session)(value)) for session in "st"
    )
    assert same_end(empty, empty)
    assert same_end(one, one)
    assert not same_end(one, other)
    assert not same_end(one, empty)
    assert not same_end(empty, FileEntry("id2", "live"))


def test_a_description_gives_each_block_its_place() -> None:
    value = filetable.create("f", "id1", "all")(None)
    for change in (
        filetable.open_next("f", "id1", NODES, 1, "s"),
        filetable.seal("f", "id1", 0, 10, 7, NODES, {}),
        filetable.open_next("f", "id1", NODES, 1, "t"),
    ):
        value = change(value)
    stat = describe("f", filetable.live("f", value), 13)
    assert [(block.offset, block.length) for block in stat.blocks] == [(0, 10), (10, 3)]
    assert all(len(block.ring_id) == 8 for block in stat.blocks)
