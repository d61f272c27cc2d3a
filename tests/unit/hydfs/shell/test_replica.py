"""The requests between store agents, with a real store."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Fenced,
    NotFound,
    Overloaded,
    StaleView,
    Unavailable,
    Unreachable,
)
from agent.common.message import Done
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockKey, DroppedEntry, Record, SealedEntry, chain
from agent.hydfs.core.errors import NOT_COORDINATOR, StoreError, code_of
from agent.hydfs.core.events import NodeLost
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.messages.block import (
    AppendToBlock,
    AskPromise,
    AskTail,
    BlockAppended,
    Certify,
    DropFile,
    Promised,
    ReadBlock,
    Seal,
    TailLength,
    WriteRecord,
)
from agent.hydfs.shell import replica as module
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.node import Engine
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.store import Store
from agent.wire.endpoint import by_kind
from tests.support import wait_until
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters, call
from tests.unit.hydfs.stores import SettableView

KEY: BlockKey = ("id1", 0)
NODES = ["n1", "n2", "n3"]


class QueueingPeers(FakePeers):
    """Peers whose background work the test starts: the core's lock is held while it is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.queued: list[Any] = []

    def later(self, node: str, work: Any) -> bool:
        """Queues work, unless the queue is full."""
        if not self.full:
            self.queued.append(work)
        return not self.full

    def run(self) -> None:
        """Runs the queued work."""
        work, self.queued = self.queued, []
        for each in work:
            each()


class Node:
    """The replicas of n1, among fakes; ``f`` is a file without blocks."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.peers = QueueingPeers()
        self.registers = FakeRegisters(f=filetable.create("f", "id1", "all")(None))
        self.views = SettableView(NODES)
        self.thin: list[str] = []
        self.crashes: list[BaseException] = []
        self.disk = NewDisk(store.root)
        surroundings: tuple[Any, ...] = (store, self.peers, self.registers, self.views, self.disk)
        self.replicas = Replicas(*surroundings, replicas=3, block_size_bytes=1000, ack_timeout_s=30.0)
        self.replicas.engine = Engine(
            self.replicas.core, self.replicas.execute, self.crashes.append, self.replicas.refuse_waiters
        )
        self.replicas.engine.start()
        self.replicas.sealer.on_missing_copies = self.thin.append
        self.endpoints = by_kind(*self.replicas.endpoints())

    def ask(self, request: Any, payload: bytes = b"", *, peer: str = "n2", **settings: Any) -> Any:
        return self.endpoints[request.kind].handle(request, call(payload, peer=peer, **settings))

    def entry(self) -> FileEntry:
        return filetable.live("f", self.registers.values["f"])

    def write(self, data: bytes, offset: int = 0, before: int = 0) -> None:
        record = Record(offset, len(data), chain(data, before), "w", offset, 1)
        self.ask(WriteRecord(*KEY, "f", "s", record), data)

    def stop(self) -> None:
        assert self.replicas.engine is not None
        self.replicas.engine.stop()
        self.replicas.close()
        assert not self.crashes


@pytest.fixture
def node(store: Store) -> Iterator[Node]:
    made = Node(store)
    yield made
    made.stop()


def append(sequence: int = 0, number: int | None = None, **settings: Any) -> AppendToBlock:
    return AppendToBlock("f", "id1", number, "w", sequence, **settings)


def appended(node: Node, request: AppendToBlock, data: bytes = b"abc") -> BlockAppended:
    """Appends while a second thread answers for the other replicas."""
    found: list[BlockAppended] = []
    thread = threading.Thread(target=lambda: found.append(node.ask(request, data)))
    thread.start()
    wait_until(lambda: len(node.peers.queued) >= 2, 5.0, "the record is sent to two replicas")
    node.peers.run()
    thread.join(5.0)
    return found[0]


def test_the_first_append_opens_a_block_and_the_next_ones_use_it(node: Node) -> None:
    first = appended(node, append())
    assert (first.offset, first.copies, first.value) == (0, 3, node.entry())
    block = node.entry().open_block
    assert block is not None
    assert block.replicas[0] == "n1"
    assert appended(node, append(1, 0)).offset == 3
    assert node.ask(AskTail("id1", 0)) == TailLength(6)
    sent = [request for peer, request in node.peers.asked if peer == "n2"]
    assert [(each.record.offset, each.session) for each in sent] == [(0, block.session), (3, block.session)]


def test_a_block_that_another_node_coordinates_is_not_appended_to(node: Node) -> None:
    value = filetable.open_next("f", "id1", ["n2", "n1"], 1, "s")(node.registers.values["f"])
    node.registers.values["f"] = value
    for request in (append(), append(0, 0), AskTail("id1", 0)):
        with pytest.raises(StoreError) as refused:
            node.ask(request, b"abc")
        assert code_of(refused.value) == NOT_COORDINATOR


def test_a_caller_with_a_newer_view_waits_for_it(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "VIEW_WAIT_S", 0.01)
    with pytest.raises(StaleView, match="does not have view 5"):
        node.ask(append(), b"abc", view=5)


def test_without_a_node_that_is_up_no_block_is_opened(node: Node) -> None:
    node.views.set(SettableView([]).current().__class__(version=1))
    with pytest.raises(Unavailable, match="no node that is up"):
        node.ask(append(), b"abc")


def test_blocks_are_placed_on_stores_that_are_up(node: Node) -> None:
    assert sorted(node.replicas.choose("id1", 0, [])) == NODES
    node.peers.suspected = ["n2"]
    assert node.replicas.choose("id1", 0, [])[-1] == "n2"
    node.views.down = {"n2"}
    assert sorted(node.replicas.choose("id1", 0, [])) == ["n1", "n3"]


def test_a_block_with_too_few_copies_is_reported(node: Node) -> None:
    node.views.down = {"n3"}
    request = append(avoid=("n3",))
    thread = threading.Thread(target=lambda: node.ask(request, b"abc"))
    thread.start()
    wait_until(lambda: node.peers.queued, 5.0, "the record is sent")
    node.peers.run()
    thread.join(5.0)
    assert node.thin == ["f"]


def test_a_replica_that_fails_has_the_block_sealed_and_the_client_sent_on(node: Node) -> None:
    appended(node, append())

    def respond(peer: str, request: Any, payload: Any) -> Any:
        if peer == "n3":
            raise Unreachable("n3 is down")
        return Done()

    node.peers.respond = respond
    errors: list[Exception] = []

    def ask() -> None:
        try:
            node.ask(append(1, 0), b"def")
        except StoreError as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: len(node.peers.queued) >= 2, 5.0, "the record is sent")
    node.peers.run()
    thread.join(5.0)
    assert [str(error) for error in errors] == ["the block was sealed; the file continues in another one"]
    (block,) = node.entry().blocks
    assert (block.state, block.length) == ("sealed", 3)
    assert "n3" in node.peers.suspected


def test_a_full_queue_to_a_replica_counts_as_its_failure(node: Node) -> None:
    node.peers.full = True
    with pytest.raises(StoreError):
        node.ask(append(), b"abc")
    assert node.entry().blocks == ()


def test_a_seal_that_finds_no_room_is_reported_to_the_clients(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*work: Any) -> None:
        raise Overloaded("too many seals")

    monkeypatch.setattr(node.replicas._seals, "run", refuse)
    node.peers.full = True
    with pytest.raises(Overloaded, match="too many seals"):
        node.ask(append(), b"abc")


def test_a_seal_that_fails_unexpectedly_is_reported_to_the_clients(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(effect: Any) -> None:
        raise ValueError("a defect")

    monkeypatch.setattr(node.replicas.sealer, "seal_in_table", fail)
    node.peers.full = True
    with pytest.raises(Exception, match="sealing failed: ValueError"):
        node.ask(append(), b"abc")


def test_a_lost_node_seals_the_blocks_it_has_replicas_of(node: Node) -> None:
    appended(node, append())
    node.replicas.post(NodeLost("n2"))
    wait_until(lambda: node.entry().open_block is None, 5.0, "the block is sealed")


def test_records_become_durable_and_promises_end_them(node: Node) -> None:
    node.write(b"abc")
    assert node.ask(AskPromise(*KEY, "f")) == Promised(3, chain(b"abc", 0), {"w": (0, 0, 3)}, False)
    with pytest.raises(Fenced):
        node.write(b"def", 3, chain(b"abc", 0))
    assert node.store.index[KEY].state == "promised"


def test_a_record_that_comes_early_waits_no_longer_than_its_caller(node: Node) -> None:
    record = Record(3, 3, chain(b"def", chain(b"abc", 0)), "w", 3, 1)
    with pytest.raises(DeadlineExceeded):
        node.ask(WriteRecord(*KEY, "f", "s", record), b"def", timeout_s=0.01)
    node.write(b"abc")
    assert node.store.index[KEY].length == 3, "the early record was forgotten with its caller"


def test_a_new_disk_makes_doubtful_promises_about_blocks_it_does_not_know(node: Node) -> None:
    node.disk.pending = True
    assert node.ask(AskPromise("id9", 0, "g")).doubtful
    node.disk.pending = False
    assert node.ask(AskPromise("id9", 0, "g")).doubtful, "it stays so"
    assert node.store.index["id9", 0].doubtful, "even over a restart"
    assert not node.ask(AskPromise("id9", 1, "g")).doubtful
    node.disk.pending = True
    node.write(b"abc")
    assert node.ask(AskPromise(*KEY, "f")) == Promised(3, chain(b"abc", 0), {"w": (0, 0, 3)}, False)


def test_a_seal_is_done_only_for_the_block_that_is_open(node: Node) -> None:
    node.write(b"abc")
    node.registers.values["f"] = filetable.open_next("f", "id1", ["n1"], 1, "s")(node.registers.values["f"])
    assert node.ask(Seal("id1", 7, "f")) == Done()
    assert node.ask(Seal("id2", 0, "f")) == Done()
    assert node.ask(Seal("id1", 0, "g")) == Done()
    assert node.entry().open_block is not None
    thread = threading.Thread(target=lambda: node.ask(Seal("id1", 0, "f")))
    thread.start()
    wait_until(lambda: node.peers.queued, 5.0, "the replicas are asked for promises")
    node.peers.respond = lambda peer, request, payload: node.ask(request)
    node.peers.run()
    thread.join(5.0)
    assert node.entry().blocks[0].length == 3


def test_a_certified_copy_is_final(node: Node) -> None:
    node.write(b"abcdef")
    node.ask(Certify(*KEY, "f", 3, chain(b"abc", 0)))
    assert (node.store.index[KEY].state, node.store.index[KEY].length) == ("sealed", 3)


def test_a_damaged_copy_is_refused_and_reported_for_repair(node: Node) -> None:
    node.write(b"abc")
    node.store.write(SealedEntry(KEY, "f", 3, 12345))
    with pytest.raises(Corrupt):
        node.ask(ReadBlock(*KEY, 0, 3, "f"))
    assert node.thin == ["f"]
    assert node.ask(AskPromise(*KEY, "f")).length == 0, "the core knows that it is gone"
    node.store.write(DroppedEntry(KEY))
    assert KEY not in node.store.index
    with pytest.raises(NotFound):
        node.ask(ReadBlock(*KEY, 0, 3, "f"))


def test_copies_are_dropped_only_when_the_table_says_so(node: Node) -> None:
    node.write(b"abc")
    with pytest.raises(Conflict, match="not deleted"):
        node.ask(DropFile("id1", "f"))
    assert KEY in node.store.index
    node.registers.values["f"] = filetable.remove("f", "id1")(node.registers.values["f"])
    node.ask(DropFile("id1", "f"))
    assert KEY not in node.store.index


def test_a_caller_that_is_no_node_of_the_cluster_is_refused(node: Node) -> None:
    with pytest.raises(Fenced, match=r"hydfs\.block\.tail is for the cluster's nodes only"):
        node.ask(AskTail("id1", 0), peer="operator")


def test_a_stopping_agent_refuses_requests_that_wait(node: Node, tmp_path: Path) -> None:
    errors: list[Exception] = []

    def ask() -> None:
        try:
            node.ask(append(), b"abc", timeout_s=60.0)
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    wait_until(lambda: node.peers.queued, 5.0, "the record is sent")
    node.replicas.refuse_waiters()
    thread.join(5.0)
    assert [str(error) for error in errors] == ["the agent is stopping"]
