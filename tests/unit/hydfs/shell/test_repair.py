"""Repair: its comparisons, its actions, and its retries."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import Corrupt, NoMajority, NotFound
from agent.common.message import Done
from agent.common.shell import clock
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockMeta
from agent.hydfs.core.events import NodeLost, SealRequested
from agent.hydfs.core.postponed import RETRY_S
from agent.hydfs.core.repair import Push
from agent.hydfs.messages.block import ReadBlock, StorePiece
from agent.hydfs.messages.file import StoreHealth
from agent.hydfs.shell import repair as module
from agent.hydfs.shell.repair import NAMES_WAITING_MAX
from agent.hydfs.shell.store import Store
from agent.membership.view import DOWN, UP, NodeEntry, View
from agent.wire.client import Answered
from tests.support import wait_until
from tests.unit.hydfs.repairing import CRC, DATA, KEY, NODES, Setting
from tests.unit.hydfs.stores import Stores


@pytest.fixture
def setting(store: Store) -> Setting:
    return Setting(store)


def give(node: str, request: Any, payload: Any) -> Any:
    """Answers like a node that has the block, or takes it."""
    if isinstance(request, StorePiece):
        os.close(payload.descriptor)
        return Done()
    return Answered(Done(), DATA[request.offset : request.offset + request.length])


def quarantined(node: str, request: Any, payload: Any) -> Any:
    """Answers like a node whose copy is damaged."""
    raise Corrupt(f"{node} has put it into quarantine")


def test_a_copy_that_should_be_here_is_fetched(setting: Setting) -> None:
    setting.file()
    setting.peers.respond = give
    setting.compare()
    assert setting.store.index[KEY].state == "sealed"
    assert setting.health() == StoreHealth(0, True, 0, 0, 1, len(DATA))
    assert setting.tidied == 1


def test_a_damaged_holder_is_not_asked_again_at_once(setting: Setting) -> None:
    """Every failure doubles the wait; a change of the view ends it."""
    setting.file()
    setting.peers.respond = quarantined
    setting.compare()
    asked = len(setting.peers.requests(ReadBlock))
    assert asked == 2
    for _ in range(3):
        setting.compare()
        setting.look()
    assert len(setting.peers.requests(ReadBlock)) == asked
    assert (setting.health().checked, setting.health().waiting) == (False, 1)
    due = setting.repair._postponed.next_at()
    assert due is not None
    assert RETRY_S - 1.0 < due - clock.monotonic() <= RETRY_S
    setting.repair._postponed.view_changed(clock.monotonic())
    setting.peers.respond = give
    setting.look()
    assert setting.health() == StoreHealth(0, True, 0, 0, 1, len(DATA))
    assert setting.repair._postponed.next_at() is None


def test_what_is_due_is_looked_at_next(setting: Setting) -> None:
    setting.file()
    setting.peers.respond = quarantined
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.look()
    setting.repair._postponed.view_changed(clock.monotonic())
    assert setting.repair._next_names() == {"f": []}
    setting.repair.look_at("g")
    setting.repair._postponed.succeed("f")
    assert setting.repair._next_names() == {"g": []}
    setting.repair._pass_at = clock.monotonic()
    assert setting.repair._next_names() is None


def test_a_defect_in_one_file_does_not_end_repair(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread continues, and the file is retried later."""
    setting.file("f")
    setting.file("g")
    setting.registers.values["f"] = "a text"
    setting.peers.respond = give
    setting.keep(("id0", 0), "g")
    setting.compare()
    assert ("id0", 0) not in setting.store.index
    assert setting.repair._postponed.waits(clock.monotonic(), "f")

    def fail(name: str, metas: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(setting.repair, "_repair_file", fail)
    setting.look("h")
    assert setting.repair._postponed.waits(clock.monotonic(), "h")


def test_missing_copies_are_pushed_and_the_table_learns_of_them(setting: Setting) -> None:
    setting.keep()
    setting.file(replicas="19")
    setting.peers.respond = give
    setting.look()
    assert sorted(setting.entry().blocks[0].replicas) == NODES
    assert {node for node, _ in setting.peers.requests(StorePiece)} == {"n2", "n3"}


def test_nothing_is_pushed_before_the_own_copy_is_right(setting: Setting) -> None:
    setting.file(replicas="19")
    setting.peers.respond = quarantined
    setting.look()
    setting.store.index[KEY] = BlockMeta(KEY, "f", "s", 6, CRC, "open")
    setting.repair._push("f", setting.entry(), Push(setting.entry().blocks[0], 1, ("n2",), ()))
    assert setting.peers.requests(StorePiece) == []
    del setting.store.index[KEY]


def test_a_good_copy_that_the_table_does_not_know_is_announced_or_dropped(setting: Setting) -> None:
    setting.keep()
    setting.file(replicas="29")
    setting.peers.respond = give
    setting.look()
    assert "n1" in setting.entry().blocks[0].replicas
    setting.registers.values["g"] = filetable.seal("g", "id2", 0, 3, 7, ["n2"], {})(
        filetable.open_next("g", "id2", ["n2"], 1, "s")(filetable.create("g", "id2", "all")(None))
    )
    setting.keep(("id2", 0), "g", b"xyz")
    setting.store.index["id2", 0] = BlockMeta(("id2", 0), "g", "", 3, 7, "sealed")
    setting.look("g")
    assert ("id2", 0) not in setting.store.index, "its bytes are not those of the block"


def test_a_copy_beyond_the_wanted_ones_is_dropped(setting: Setting) -> None:
    setting.views.set(_view("n1", "n2", "n3", "n4"))
    setting.keep()
    setting.file(replicas="234")
    setting.look()
    assert KEY not in setting.store.index


def test_an_unsealed_copy_of_a_sealed_block_is_certified(setting: Setting) -> None:
    setting.keep()
    setting.store.index[KEY] = BlockMeta(KEY, "f", "s", 6, CRC, "open")
    setting.file()
    setting.look()
    assert setting.store.index[KEY].state == "sealed"
    assert "f" in setting.repair._names, "it is checked again"


def test_a_block_whose_coordinator_lost_it_is_sealed(setting: Setting) -> None:
    setting.file(is_open=True)
    setting.look()
    assert setting.taken_over == [("f", 0)]
    setting.file(is_open=True)
    setting.coordinated.add(KEY)
    setting.look()
    assert len(setting.taken_over) == 1


def test_the_reservation_of_an_abandoned_put_is_removed(setting: Setting) -> None:
    for name, owner in (("mine", "n1"), ("alive", "n1"), ("dead", "n9"), ("other", "n2")):
        value = filetable.create(name, f"id-{name}", "all", state="creating", owner=owner)(None)
        setting.registers.values[name] = value
        setting.keep((f"id-{name}", 0), name)
    setting.puts.add("id-alive")
    setting.look("mine", "alive", "dead", "other")
    assert [setting.entry(name).state for name in ("mine", "alive", "dead", "other")] == [
        "deleted",
        "creating",
        "deleted",
        "creating",
    ]
    assert sorted(meta.name for meta in setting.store.index.values()) == ["alive", "other"]


def test_a_put_that_was_committed_after_all_is_no_orphan(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its gateway was taken for dead, and commits between the look at the file table and the change."""
    created = filetable.create("f", "id1", "all", state="creating", owner="n9")(None)
    setting.registers.values["f"] = created
    setting.keep()
    blocks = [filetable.BlockEntry(0, ("n1", "n2", "n3"), 1, "sealed", len(DATA), CRC, "")]
    read = setting.registers.read

    def read_and_commit(name: str, **options: Any) -> Any:
        found = read(name, **options)
        setting.registers.values["f"] = filetable.publish("f", "id1", blocks)(setting.registers.values["f"])
        return found

    monkeypatch.setattr(setting.registers, "read", read_and_commit)
    setting.look()
    assert setting.entry("f").state == "live"
    assert KEY in setting.store.index


def test_a_file_that_was_deleted_meanwhile_is_not_postponed(setting: Setting) -> None:
    setting.file()

    def respond(node: str, request: Any, payload: Any) -> Any:
        setting.registers.values["f"] = filetable.remove("f", "id1")(setting.registers.values["f"])
        raise NotFound("deleted")

    setting.peers.respond = respond
    setting.look()
    assert setting.repair._postponed.next_at() is None
    setting.look("never used")


def test_a_file_that_cannot_be_looked_up_is_postponed(setting: Setting) -> None:
    setting.file()

    def respond(node: str, request: Any, payload: Any) -> Any:
        setting.registers.error = NoMajority("no voter answers")
        raise NotFound("not here")

    setting.peers.respond = respond
    setting.look()
    assert setting.repair._postponed.waits(clock.monotonic(), "f")


def test_names_that_cannot_be_listed_are_listed_later(setting: Setting) -> None:
    """Listing is retried less and less often; until it succeeds, not everything is checked."""
    setting.registers.error = NoMajority("no voter answers")
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.compare()
    first = setting.repair._pass_at - clock.monotonic()
    assert first <= RETRY_S
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.compare()
    assert setting.repair._pass_at - clock.monotonic() > first
    assert not setting.health().checked
    setting.registers.error = None
    setting.compare()
    assert setting.health().checked


def test_a_voter_that_is_still_learning_is_not_checked(setting: Setting) -> None:
    setting.compare()
    assert setting.health().checked
    setting.votes = False
    assert not setting.health().checked


def test_a_new_disk_settles_when_every_open_block_that_belongs_here_is_sealed(store: Store) -> None:
    setting = Setting(store, new_disk=True)
    setting.file(replicas="213", is_open=True)
    setting.compare()
    assert setting.taken_over == [("f", 0)]
    assert setting.disk.pending, "it is not known yet that the block is sealed"
    assert not setting.health().checked
    setting.look()
    setting.compare()
    assert not setting.disk.pending
    assert setting.health().checked


def test_a_new_disk_does_not_settle_while_a_file_cannot_be_looked_at(store: Store) -> None:
    setting = Setting(store, new_disk=True)
    setting.file(replicas="231")
    setting.peers.respond = quarantined
    for _ in range(3):
        setting.compare()
    assert setting.disk.pending
    setting.repair._postponed.view_changed(clock.monotonic())
    setting.peers.respond = give
    setting.compare()
    assert not setting.disk.pending


def test_a_new_disk_does_not_settle_before_all_files_were_listed(store: Store) -> None:
    """Without a majority of the voters it is unknown which blocks belong here."""
    setting = Setting(store, new_disk=True)
    setting.file(replicas="123", is_open=True)
    setting.registers.error = NoMajority("too few voters answer")
    setting.compare()
    setting.registers.error = None
    assert setting.disk.pending
    assert not setting.taken_over
    for _ in range(3):
        setting.compare()
    assert ("f", 0) in setting.taken_over
    assert not setting.disk.pending


def test_a_name_for_which_there_is_no_room_is_found_by_the_next_listing(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting.file()
    setting.peers.respond = quarantined
    setting.repair._everything = False
    monkeypatch.setattr(setting.repair._postponed, "fail", lambda now, name: False)
    setting.look()
    assert setting.repair._everything
    setting.repair._names = dict.fromkeys(str(number) for number in range(NAMES_WAITING_MAX))
    setting.repair.look_at("one too many")
    assert len(setting.repair._names) == NAMES_WAITING_MAX


def test_a_thin_open_block_is_sealed_after_a_while(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its coordinator opened it while a store was down; the next block gets all copies."""
    monkeypatch.setattr(module, "RETRY_S", 0.0)
    setting.file(replicas="12", is_open=True)
    setting.coordinated.add(KEY)
    setting.views.down = {"n3"}
    setting.look()
    setting.look()
    assert setting.posted == []
    setting.views.down = set()
    setting.look()
    assert setting.posted == [SealRequested(KEY)]
    assert setting.repair._thin == {}


def test_thin_blocks_are_looked_at_again(setting: Setting) -> None:
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.repair._thin = {"f": (0, 0.0)}
    setting.repair._thin_at = clock.monotonic()
    assert setting.repair._next_names() == {"f": []}
    assert setting.repair._thin_at > clock.monotonic() + 1.0
    assert setting.repair._next_at() == setting.repair._thin_at


def _view(*up: str, version: int = 1) -> View:
    names = {*NODES, *up}
    return View(version, nodes={name: NodeEntry(UP if name in up else DOWN, name) for name in sorted(names)})


def test_a_lost_node_is_reported_and_everything_compared_soon(setting: Setting) -> None:
    setting.compare()
    for _ in range(9):
        setting.repair._postponed.fail(clock.monotonic(), "f")
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.repair._on_view(_view("n1", "n2"))
    due = setting.repair._postponed.next_at()
    assert due is not None
    assert due <= clock.monotonic() + module.REPAIR_DELAY_S
    setting.repair._postponed.succeed("f")
    assert setting.posted == [NodeLost("n3")]
    assert setting.repair._pass_at <= clock.monotonic() + module.REPAIR_DELAY_S
    assert not setting.health().checked
    setting.repair._pass_at = clock.monotonic() + 60.0
    setting.repair._on_view(_view("n1", "n2", version=2))
    assert setting.repair._pass_at > clock.monotonic() + 50.0


def test_a_stopped_repair_does_nothing_more(setting: Setting) -> None:
    setting.repair.stop()
    setting.file()
    setting.look()
    assert setting.repair._next_names() == {}
    setting.compare()
    assert setting.peers.asked == []


@pytest.fixture
def stores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stores]:
    monkeypatch.setattr(module, "REPAIR_DELAY_S", 0.05)
    with Stores(tmp_path, 4) as made:
        made.start()
        yield made


def test_the_blocks_of_a_lost_node_get_their_copies_elsewhere(stores: Stores) -> None:
    client = stores.hydfs("n1")
    for number in range(4):
        client.put(f"f{number}", io.BytesIO(os.urandom(1000)))
    stores.stop("n4")
    stores.up("n1", "n2", "n3")

    def complete() -> bool:
        health = [stores.hydfs(name).health() for name in ("n1", "n2", "n3")]
        if not all(each.checked and not each.under_replicated and not each.waiting for each in health):
            return False
        stats = client.list("f")
        return all(sorted(block.replicas) == ["n1", "n2", "n3"] for stat in stats for block in stat.blocks)

    wait_until(complete, 20.0, "every block is on the three nodes that are left")


def test_an_open_block_of_a_lost_node_is_sealed_and_appends_go_on(stores: Stores) -> None:
    client = stores.hydfs("n1")
    client.create("f")
    client.append("f", b"abc", writer="w", sequence=0)
    coordinator = client.stat("f").blocks[0].replicas[0]
    other = next(name for name in stores.names if name != coordinator)
    stores.stop(coordinator)
    left = [name for name in stores.names if name != coordinator]
    stores.up(*left)
    done = stores.hydfs(other).append("f", b"def", writer="w", sequence=1, timeout_s=20.0)
    assert (done.offset, done.copies) == (3, 3)
    assert bytes(stores.hydfs(other).read("f", 0, 10)) == b"abcdef"
