"""The requests of clients to any store agent, with a real cluster of three and with damaged data."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from agent.common import message
from agent.common.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Fenced,
    NameInvalid,
    NotFound,
    ProtocolError,
    Unavailable,
    Unreachable,
    UsageError,
)
from agent.common.message import Done
from agent.common.register import KEYS_MAX
from agent.common.shell import clock
from agent.hydfs.client import HydfsClient
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockMeta
from agent.hydfs.messages.block import ListOwnStored, ReadBlock, Seal
from agent.hydfs.messages.file import Delete, DeletePrefix, ListFiles, ListStored, Read, Stat, StoredBlocks
from agent.hydfs.shell.gateway import Gateway
from agent.wire.client import Answered, Client
from agent.wire.codec.framing import HEADER_BYTES_MAX, encode_header
from tests.support import wait_until
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters, call
from tests.unit.hydfs.stores import SettableView, Stores

BLOCK = 64 * 1024
NODES = ["n1", "n2", "n3"]


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with Stores(tmp_path) as made:
        made.start()
        yield made


def test_appends_are_in_order_once_each_and_roll_to_new_blocks(stores: Stores) -> None:
    one, other = stores.hydfs("n1"), stores.hydfs("n2")
    assert one.create("f").length == 0
    with pytest.raises(AlreadyExists):
        other.create("f")
    record = bytes(range(256)) * 60
    for number in range(6):
        client = (one, other)[number % 2]
        done = client.append("f", record, writer="w", sequence=number)
        assert (done.offset, done.copies, done.duplicate) == (number * len(record), 3, False)
    again = other.append("f", record, writer="w", sequence=5)
    assert (again.offset, again.duplicate) == (5 * len(record), True)
    assert other.append("f", record, writer="w", sequence=1).offset == -1
    with pytest.raises(Conflict) as refused:
        one.append("f", b"x", writer="v", sequence=0, if_offset=3)
    assert refused.value.details["length"] == 6 * len(record)
    stat = one.stat("f")
    assert (stat.length, len(stat.blocks)) == (6 * len(record), 2)
    assert bytes(other.read("f", 0, 10 * BLOCK)) == 6 * record
    assert bytes(one.read("f", BLOCK - 5, 10)) == (6 * record)[BLOCK - 5 : BLOCK + 5]
    assert bytes(one.read("f", 6 * len(record), 5)) == b""
    assert bytes(one.read("f", 7, 0)) == b""


def test_bad_requests_are_refused_with_a_code(stores: Stores) -> None:
    client = stores.hydfs()
    client.create("f")
    for ask, error in (
        (lambda: client.append("f", b"", writer="w", sequence=0), UsageError),
        (lambda: client.append("f", b"x" * BLOCK, writer="w", sequence=0), UsageError),
        (lambda: client.append("f", b"x", writer="", sequence=0), UsageError),
        (lambda: client.append("f", b"x", writer="w", sequence=-1), UsageError),
        (lambda: client.append("g", b"x", writer="w", sequence=0), NotFound),
        (lambda: client.read("f", -1, 5), UsageError),
        (lambda: client.read("g", 0, 5), NotFound),
        (lambda: client.create("a/../b"), NameInvalid),
        (lambda: client.create(""), NameInvalid),
        (lambda: client.create("x" * 256), NameInvalid),
        (lambda: client.put("x" * 5000, io.BytesIO(b"x")), NameInvalid),
        (lambda: client.delete_prefix(""), UsageError),
        (lambda: client.store("n9"), UsageError),
        (lambda: client.delete("g"), NotFound),
    ):
        with pytest.raises(error):
            ask()
    assert client.stat("f").length == 0


def test_only_nodes_may_ask_what_nodes_ask_each_other(stores: Stores) -> None:
    client = stores.hydfs()
    with pytest.raises(Fenced, match="for the cluster's nodes only"):
        client._ask(Seal("id1", 0, "f"), timeout_s=5.0)


def test_a_deleted_file_is_gone_even_while_it_took_appends(stores: Stores) -> None:
    client = stores.hydfs()
    client.create("a/f")
    client.append("a/f", b"x", writer="w", sequence=0)
    client.put("a/g", io.BytesIO(b"y" * BLOCK))
    client.delete("a/f")
    with pytest.raises(NotFound):
        stores.hydfs("n2").read("a/f", 0, 1)
    assert [stat.name for stat in client.list("a/")] == ["a/g"]
    old = client.stat("a/g").file_id
    assert client.delete_prefix("a/") == 1
    client.create("a/g")
    with pytest.raises(NotFound, match="was deleted"):
        client.read("a/g", 0, 1, file_id=old)
    wait_until(lambda: all(not client.store(node) for node in NODES), 10.0, "the blocks are gone")


def test_a_local_process_maps_a_sealed_block(stores: Stores) -> None:
    stores.hydfs().put("f", io.BytesIO(b"x" * BLOCK + b"y" * 10))
    local = stores.local()
    stat = local.stat("f")
    for offset, wanted in ((0, (0, b"x")), (BLOCK + 3, (BLOCK, b"y"))):
        block = local.map_block("f", offset, stat.file_id)
        assert block is not None
        with block.memory as memory:
            assert (block.start, memory[:1]) == wanted
    assert local.map_block("f", BLOCK + 10, stat.file_id) is None
    assert local.map_block("f", 0, "other") is None
    local.append("f", b"z", writer="w", sequence=0)
    assert local.map_block("f", BLOCK + 10, stat.file_id) is None, "the block is open"
    with pytest.raises(UsageError, match="same machine"):
        stores.hydfs().map_block("f", 0, stat.file_id)


def test_a_damaged_copy_is_neither_mapped_nor_read_and_is_repaired(stores: Stores) -> None:
    data = os.urandom(BLOCK)
    stat = stores.hydfs().put("f", io.BytesIO(data))
    path = stores.folder / "n1" / "hydfs" / "blocks" / f"{stat.file_id}.0"
    stores.stop("n1")
    path.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    stores.start("n1")
    local = stores.local("n1")
    assert local.map_block("f", 0, stat.file_id) is None
    assert bytes(local.read("f", 0, BLOCK)) == data
    wait_until(lambda: path.exists() and path.read_bytes() == data, 20.0, "the copy was fetched again")


def test_tasks_may_read_and_nothing_else(stores: Stores) -> None:
    stores.hydfs().put("f", io.BytesIO(b"abc"))
    client = Client(None)
    tasks = HydfsClient(client, stores.config("n1").socket_path("task/hydfs"))
    assert bytes(tasks.read("f", 0, 9)) == b"abc"
    with pytest.raises(ProtocolError, match="does not know"):
        tasks.delete("f")
    client.close()


def test_stored_blocks_are_listed_with_their_place_on_the_ring(stores: Stores) -> None:
    stores.hydfs().put("f", io.BytesIO(b"abc"))
    (block,) = stores.hydfs().store("n2")
    assert (block.name, block.number, block.length, block.state) == ("f", 0, 3, "sealed")
    assert len(block.ring_id) == 8


class Alone:
    """A gateway among fakes; its own copies are in ``replicas``."""

    def __init__(self, **values: Any) -> None:
        self.peers = FakePeers()
        self.registers = FakeRegisters(**values)
        surroundings: tuple[Any, ...] = (None, self.peers, self.registers, SettableView(NODES))
        self.gateway = Gateway(*surroundings, block_size_bytes=BLOCK, ack="all", ack_timeout_s=10.0)
        self._handlers = {each.request: each.handle for each in self.gateway.endpoints()}

    def ask(self, request: Any, **settings: Any) -> Any:
        return self._handlers[type(request)](request, call(**settings))


def sealed_file(file_id: str = "id1") -> Any:
    value = filetable.create("f", file_id, "all")(None)
    value = filetable.open_next("f", file_id, ["n2", "n3", "n1"], 1, "s")(value)
    return filetable.seal("f", file_id, 0, 10, 7, ["n2", "n3", "n1"], {})(value)


def test_an_entry_that_is_not_valid_is_named_and_hides_no_other_file() -> None:
    alone = Alone(a=sealed_file(), b="a text", c=filetable.create("c", "id3", "all")(None), d=None)
    found = alone.ask(ListFiles())
    assert [stat.name for stat in found.files] == ["a", "c"]
    assert found.damaged == ("b",)
    with pytest.raises(Corrupt, match="'b'"):
        alone.ask(Delete("b"))


def many(count: int) -> Alone:
    """A gateway whose table has files with long names, one in ten of them deleted, one not valid."""
    values: dict[str, Any] = {}
    for number in range(count):
        name = f"many/{number:06d}/".ljust(120, "x")
        values[name] = filetable.create(name, f"id{number}", "all")(None)
        if number % 10 == 3:
            values[name] = filetable.remove(name, f"id{number}")(values[name])
    values["many/bad"] = "a text"
    return Alone(**values)


def client_of(alone: Alone, encoded: list[int]) -> HydfsClient:
    """A client whose requests and answers cross the codec; notes the sizes of the headers."""

    class Wire:
        def ask(self, target: str, request: Any, payload: Any = b"", *, timeout_s: float) -> Answered[Any]:
            answer = alone.ask(request, timeout_s=timeout_s)
            encoded.append(len(encode_header(message.encode(answer), 0)))
            return Answered(answer, b"")

    wire: Any = Wire()
    return HydfsClient(wire, "agent")


@pytest.mark.slow
def test_twenty_thousand_files_are_listed_and_deleted_page_by_page() -> None:
    """Before there were pages, they did not fit the header of one frame."""
    alone, encoded = many(20_000), list[int]()
    alone.registers.page = KEYS_MAX
    client = client_of(alone, encoded)
    pages = list(client.pages("many/"))
    names = [stat.name for page in pages for stat in page.files]
    assert names == sorted(names)
    assert len(names) == 18_000
    assert [name for page in pages for name in page.damaged] == ["many/bad"]
    assert len(pages) > 5
    assert max(encoded) < HEADER_BYTES_MAX // 4
    del alone.registers.values["many/bad"]
    assert client.delete_prefix("many/") == 18_000
    assert client.list() == []


@pytest.mark.parametrize("voters_page", [1, 7, 1000])
@pytest.mark.parametrize("entries", [1, 4, 1000])
def test_pages_of_every_size_show_the_same_files(
    monkeypatch: pytest.MonkeyPatch, voters_page: int, entries: int
) -> None:
    monkeypatch.setattr("agent.hydfs.shell.gateway.PAGE_ENTRIES", entries)
    alone = many(25)
    alone.registers.page = voters_page
    expected = [name for name in sorted(alone.registers.values) if not name.startswith(("many/bad",))]
    expected = [name for name in expected if "3/" not in name]
    assert [stat.name for stat in client_of(alone, []).list("many/")] == expected


def test_a_page_ends_when_half_of_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock:
        """A clock that advances by six seconds with each reading."""

        now = clock.monotonic()

        def monotonic(self) -> float:
            self.now += 6.0
            return self.now

    alone = many(5)
    monkeypatch.setattr("agent.hydfs.shell.gateway.clock", Clock())
    found = alone.ask(ListFiles("many/0", paged=True), timeout_s=10.0)
    assert len(found.files) == 1
    assert found.next == found.files[0].name


def test_a_client_that_knows_no_pages_is_refused_when_one_is_not_enough() -> None:
    alone = many(3)
    assert len(alone.ask(ListFiles("many/0")).files) == 3
    alone.registers.page = 2
    for request in (ListFiles("many/0"), DeletePrefix("many/0")):
        with pytest.raises(UsageError, match="too many names"):
            alone.ask(request)
    alone.registers.page = 3
    assert len(alone.ask(ListFiles("many/0")).files) == 3, "nothing was deleted"


def large_file(blocks: int, file_id: str = "id1") -> Any:
    """The value of a file of 8 MiB blocks that were appended to."""
    chain = tuple(
        filetable.BlockEntry(number, ("vm01", "vm02", "vm03"), 7, "sealed", 8 << 20, 1 << 31, "s" * 32)
        for number in range(blocks)
    )
    return filetable.to_value(filetable.FileEntry(file_id, "live", next_number=blocks, blocks=chain))


@pytest.mark.slow
def test_a_file_of_fifty_thousand_blocks_is_described_page_by_page() -> None:
    """In one answer they were more than the header of a frame may have."""
    alone, encoded = Alone(a=sealed_file("id0"), f=large_file(50_000), g=sealed_file("id2")), list[int]()
    client = client_of(alone, encoded)
    stat = client.stat("f")
    assert [block.number for block in stat.blocks] == list(range(50_000))
    assert stat.length == 50_000 * (8 << 20)
    assert len(encoded) == 10
    assert [(each.name, len(each.blocks)) for each in client.list()] == [("a", 1), ("f", 50_000), ("g", 1)]
    assert max(encoded) < HEADER_BYTES_MAX // 4


@pytest.mark.parametrize("room", [1, 2, 3, 1000])
def test_pages_of_every_size_show_the_same_blocks(monkeypatch: pytest.MonkeyPatch, room: int) -> None:
    monkeypatch.setattr("agent.hydfs.shell.filetable.BLOCKS_PAGE", room)
    monkeypatch.setattr("agent.hydfs.shell.gateway.PAGE_ENTRIES", room)
    alone = Alone(a=sealed_file("id0"), f=large_file(5), g=large_file(3, "id2"), h=sealed_file("id3"))
    client = client_of(alone, [])
    for stat in (client.stat("f"), client.list()[1]):
        assert [block.number for block in stat.blocks] == [0, 1, 2, 3, 4]
        assert [block.offset for block in stat.blocks] == [number * (8 << 20) for number in range(5)]
    assert [len(each.blocks) for each in client.list()] == [1, 5, 3, 1]


def test_a_page_of_blocks_is_of_the_very_file_that_was_asked_for() -> None:
    alone = Alone(f=large_file(3))
    assert alone.ask(Stat("f", "id1", 0, paged=True)).stat.blocks[0].number == 1
    with pytest.raises(NotFound, match="was deleted"):
        alone.ask(Stat("f", "id0", 0, paged=True))


def test_a_client_that_knows_no_pages_of_blocks_gets_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.hydfs.shell.filetable.BLOCKS_PAGE", 1)
    alone = Alone(f=large_file(3))
    found = alone.ask(Stat("f"))
    assert (len(found.stat.blocks), found.more) == (3, False)


def test_a_read_goes_to_the_own_copy_first_and_to_others_when_that_fails() -> None:
    alone = Alone(f=sealed_file())
    asked: list[str] = []

    def respond(node: str, request: Any, payload: Any) -> Any:
        assert isinstance(request, ReadBlock)
        asked.append(node)
        if node == "n1":
            raise Corrupt("quarantined")
        if node == "n2":
            raise Unreachable("n2 is down")
        return Done()

    alone.peers.respond = respond
    alone.ask(Read("f", 0, 5))
    assert asked == ["n1", "n2", "n3"]
    assert alone.peers.suspected == ["n2"]
    alone.ask(Read("f", 0, 5))
    assert asked[3:] == ["n1", "n3"], "a suspect comes last"


def test_a_read_that_no_replica_answers_is_an_error() -> None:
    alone = Alone(f=sealed_file())

    def respond(node: str, request: Any, payload: Any) -> Any:
        raise Unreachable(f"{node} is down")

    alone.peers.respond = respond
    with pytest.raises(Unavailable, match="no replica of block 0"):
        alone.ask(Read("f", 0, 5))


def test_a_read_of_what_changed_meanwhile_starts_again() -> None:
    """The blocks were copied elsewhere since the gateway read the file table."""
    alone = Alone(f=sealed_file())
    alone.ask(Read("f", 0, 5))

    def respond(node: str, request: Any, payload: Any) -> Any:
        if node != "n9":
            change = filetable.set_replicas("f", "id1", 0, add=["n9"], drop=["n1", "n2", "n3"])
            if "n9" not in str(alone.registers.values["f"]):
                alone.registers.values["f"] = change(alone.registers.values["f"])
            raise NotFound("not here")
        return Done()

    alone.peers.respond = respond
    assert not alone.ask(Read("f", 0, 5, "id1")).message.end
    assert alone.peers.asked[-1][0] == "n9"


def test_a_delete_needs_a_replica_that_can_seal() -> None:
    value = filetable.create("f", "id1", "all")(None)
    alone = Alone(f=filetable.open_next("f", "id1", NODES, 1, "s")(value))

    def respond(node: str, request: Any, payload: Any) -> Any:
        raise Unreachable(f"{node} is down")

    alone.peers.respond = respond
    with pytest.raises(Unavailable, match="cannot be closed for deletion"):
        alone.ask(Delete("f"))


def test_a_delete_that_meets_a_new_open_block_seals_that_too() -> None:
    value = filetable.create("f", "id1", "all")(None)
    opened = filetable.open_next("f", "id1", NODES, 1, "s")(value)
    alone = Alone(f=opened)
    left = [filetable.open_next("f", "id1", NODES, 1, "t")]

    def respond(node: str, request: Any, payload: Any) -> Any:
        sealed = filetable.seal("f", "id1", request.number, 5, 7, NODES, {})(alone.registers.values["f"])
        alone.registers.values["f"] = left.pop()(sealed) if left else sealed
        return Done()

    alone.peers.respond = respond
    alone.ask(Delete("f"))
    assert filetable.from_value(alone.registers.values["f"]) == filetable.FileEntry("id1", "deleted")
    assert {node for node, _ in alone.peers.told} == set(NODES)


def test_blocks_are_asked_of_the_node_that_keeps_them() -> None:
    alone = Alone()
    alone.peers.respond = lambda node, request, payload: StoredBlocks(())
    found = alone.ask(ListStored("n2"))
    assert alone.peers.asked == [("n2", ListOwnStored())]
    assert (found.node, found.blocks, len(found.ring_id)) == ("n2", (), 8)


@pytest.mark.slow
def test_twenty_thousand_copies_on_a_node_come_page_by_page() -> None:
    alone, encoded = Alone(), list[int]()
    metas = [BlockMeta((f"id{n:032d}", n % 3), f"{n // 2:06d}/".ljust(250, "x"), "s") for n in range(20_000)]
    store = SimpleNamespace(index={meta.key: meta for meta in reversed(metas)})
    alone.gateway._replicas = SimpleNamespace(store=store)  # type: ignore[assignment]
    alone.peers.respond = lambda node, request, payload: alone.ask(request)
    found = client_of(alone, encoded).store("n2")
    assert [each.place for each in found] == [(meta.name, *meta.key) for meta in metas]
    assert len(encoded) == 7
    assert max(encoded) < HEADER_BYTES_MAX // 2
    before = ListStored("n2")
    assert len(alone.ask(before).blocks) == len(metas), "a client of an earlier release gets all"
