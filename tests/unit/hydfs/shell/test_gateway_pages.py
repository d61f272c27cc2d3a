"""Listings of names, blocks and copies come in pages that fit a frame, whatever the size of a page."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agent.common.errors import (
    NotFound,
    UsageError,
)
from agent.common.register import KEYS_MAX
from agent.common.shell import clock
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockMeta
from agent.hydfs.messages.file import DeletePrefix, ListFiles, ListStored, Stat
from agent.wire.codec.framing import HEADER_BYTES_MAX
from tests.support import PATIENCE_S
from tests.unit.hydfs.alone import Alone, client_of, sealed_file


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


@pytest.mark.slow
def test_twenty_thousand_files_are_listed_and_deleted_page_by_page() -> None:
    """So many did not fit the header of one frame before there were pages."""
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
    """In one answer they would exceed the size of a frame's header."""
    alone, encoded = Alone(a=sealed_file("id0"), f=large_file(50_000), g=sealed_file("id2")), list[int]()
    client = client_of(alone, encoded)
    stat = client.stat("f", timeout_s=PATIENCE_S)
    assert [block.number for block in stat.blocks] == list(range(50_000))
    assert stat.length == 50_000 * (8 << 20)
    assert len(encoded) == 10
    listed = [(each.name, len(each.blocks)) for each in client.list(timeout_s=PATIENCE_S)]
    assert listed == [("a", 1), ("f", 50_000), ("g", 1)]
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


@pytest.mark.slow
def test_twenty_thousand_copies_on_a_node_come_page_by_page(monkeypatch: pytest.MonkeyPatch) -> None:
    alone, encoded = Alone(), list[int]()
    metas = [BlockMeta((f"id{n:032d}", n % 3), f"{n // 2:06d}/".ljust(250, "x"), "s") for n in range(20_000)]
    store = SimpleNamespace(index={meta.key: meta for meta in reversed(metas)})
    monkeypatch.setattr(alone.gateway, "_replicas", SimpleNamespace(store=store))
    alone.peers.respond = lambda node, request, payload: alone.ask(request)
    found = client_of(alone, encoded).store("n2")
    assert [each.place for each in found] == [(meta.name, *meta.key) for meta in metas]
    assert len(encoded) == 7
    assert max(encoded) < HEADER_BYTES_MAX // 2
    before = ListStored("n2")
    assert len(alone.ask(before).blocks) == len(metas), "a client of an earlier release gets all"
