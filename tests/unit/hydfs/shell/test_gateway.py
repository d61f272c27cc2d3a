"""The requests of clients to any store agent, with a real cluster of three and with damaged data."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

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
from agent.hydfs.client import HydfsClient
from agent.hydfs.core import filetable
from agent.hydfs.messages.block import ListOwnStored, ReadBlock, Seal
from agent.hydfs.messages.file import Delete, ListFiles, ListStored, Read, StoredBlocks
from agent.wire.client import Client
from tests.support import wait_until
from tests.unit.hydfs.alone import BLOCK, NODES, Alone, sealed_file
from tests.unit.hydfs.stores import Stores


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Stores]:
    with Stores(tmp_path) as made:
        made.start()
        yield made


def test_appends_are_in_order_once_each_and_roll_to_new_blocks(stores: Stores) -> None:
    stores.settle()
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
    stores.settle()
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


def test_an_entry_that_is_not_valid_is_named_and_hides_no_other_file() -> None:
    alone = Alone(a=sealed_file(), b="a text", c=filetable.create("c", "id3", "all")(None), d=None)
    found = alone.ask(ListFiles())
    assert [stat.name for stat in found.files] == ["a", "c"]
    assert found.damaged == ("b",)
    with pytest.raises(Corrupt, match="'b'"):
        alone.ask(Delete("b"))


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
