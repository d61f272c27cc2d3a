"""The store's client: its requests, and how it treats lost or malformed answers."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.common import message
from agent.common.errors import (
    AlreadyExists,
    ConnectionLost,
    Corrupt,
    DeadlineExceeded,
    InvalidMessage,
    NotFound,
    RainStormError,
    Unavailable,
    Unreachable,
)
from agent.common.message import Done
from agent.hydfs.client import HydfsClient
from agent.hydfs.core.filetable import put_id
from agent.hydfs.messages.file import (
    AbortPut,
    BeginPut,
    BlockStat,
    CommitPut,
    Create,
    Delete,
    Deleted,
    DeletePrefix,
    Described,
    FileStat,
    Health,
    Listed,
    ListFiles,
    ListStored,
    OpenBlock,
    OpenedBlock,
    Part,
    PutBegun,
    PutPiece,
    Read,
    Stat,
    StoredBlock,
    StoredBlocks,
    StoreHealth,
)
from agent.wire.client import Answered

STAT = FileStat("f", "id1", 6, (BlockStat(0, 0, 6, ("n1",), "sealed"),))
HEALTH = StoreHealth(1, True, 0, 0, 1, 6)


class Agent:
    """Stands in for the wire: answers requests from a table, by their class."""

    def __init__(self, **answers: Any) -> None:
        self.answers = answers
        self.asked: list[Any] = []

    def ask(
        self, target: str, request: message.Request[Any], payload: Any = b"", *, timeout_s: float
    ) -> Answered[Any]:
        """Answers at once."""
        self.asked.append(request)
        found = self.answers[type(request).__name__]
        found = found(request) if callable(found) else found
        if isinstance(found, Exception):
            raise found
        return found if isinstance(found, Answered) else Answered(found, b"")


def client(**answers: Any) -> tuple[HydfsClient, Agent]:
    agent = Agent(**answers)
    wire: Any = agent
    return HydfsClient(wire, "agent"), agent


def reader(data: bytes) -> Callable[[Any], Any]:
    def read(request: Read) -> Answered[Part]:
        found = data[request.offset : request.offset + min(request.length, 4)]
        return Answered(Part(not found, "id1"), found)

    return read


def test_simple_requests_return_what_the_agent_says() -> None:
    store, agent = client(
        Create=Described(STAT),
        Stat=Described(STAT),
        ListFiles=Listed((STAT,), ("damaged",)),
        ListStored=StoredBlocks((StoredBlock("f", "id1", 0, 6, "sealed", ""),)),
        Health=HEALTH,
        Delete=Done(),
        DeletePrefix=Deleted(("a", "b")),
    )
    assert store.create("f") == STAT == store.stat("f")
    assert store.list("f") == [STAT]
    assert [block.name for block in store.store("n1")] == ["f"]
    assert store.health() == HEALTH
    store.delete("f")
    assert store.delete_prefix("a") == 2
    assert agent.asked == [
        Create("f"),
        Stat("f", paged=True),
        ListFiles("f", paged=True),
        ListStored("n1", paged=True),
        Health(),
        Delete("f"),
        DeletePrefix("a", paged=True),
    ]


def test_a_create_whose_answer_is_lost_may_have_taken_place() -> None:
    with pytest.raises(Unreachable, match="the file may exist now"):
        client(Create=ConnectionLost("lost"))[0].create("f")


def test_a_read_is_put_together_from_parts_of_one_file() -> None:
    store, agent = client(Read=reader(b"abcdef"))
    assert bytes(store.read("f", 1, 100)) == b"bcdef"
    assert [request.file_id for request in agent.asked] == [None, "id1", "id1"]
    assert bytes(store.read("f", 1, 3)) == b"bcd"


def test_a_get_writes_all_of_the_file_or_says_that_it_changed() -> None:
    store, _ = client(Stat=Described(STAT), Read=reader(b"abcdef"))
    sink = io.BytesIO()
    assert store.get("f", sink) == 6
    assert sink.getvalue() == b"abcdef"
    with pytest.raises(NotFound, match="changed while it was read"):
        client(Stat=Described(STAT), Read=reader(b""))[0].get("f", io.BytesIO())


def blocks(*numbers: int) -> FileStat:
    """The file with some of its blocks."""
    return FileStat("f", "id1", 30, tuple(BlockStat(n, 6 * n, 6, ("n1",), "sealed") for n in numbers))


def test_the_blocks_of_a_file_are_asked_for_page_by_page() -> None:
    """The length is that of the last page: the file has grown meanwhile."""
    pages = {None: Described(blocks(0, 1), more=True), 1: Described(blocks(2, 3), more=True)}
    last = FileStat("f", "id1", 32, (BlockStat(4, 24, 8, ("n1",), "open"),))
    store, agent = client(Stat=lambda asked: pages.get(asked.after, Described(last)))
    stat = store.stat("f")
    assert ([block.number for block in stat.blocks], stat.length) == ([0, 1, 2, 3, 4], 32)
    assert agent.asked == [Stat("f", paged=True), *(Stat("f", "id1", after, True) for after in (1, 3))]


def test_an_open_block_that_was_empty_may_be_gone_from_the_last_page() -> None:
    pages = {None: Described(blocks(0, 1), more=True)}
    store, _ = client(Stat=lambda asked: pages.get(asked.after, Described(blocks())))
    assert [block.number for block in store.stat("f").blocks] == [0, 1]


@pytest.mark.parametrize("second", [Described(blocks(1)), Described(blocks(), more=True)])
def test_blocks_that_do_not_go_on_are_refused(second: Described) -> None:
    store, _ = client(Stat=lambda asked: second if asked.after else Described(blocks(0, 1), more=True))
    with pytest.raises(InvalidMessage, match="goes from 1"):
        store.stat("f")


def test_a_listing_completes_a_file_with_many_blocks() -> None:
    rest = {None: Described(blocks(0), more=True), 0: Described(blocks(1))}
    cut = Listed((STAT, blocks()), more_blocks=True)
    store, agent = client(ListFiles=cut, Stat=lambda asked: rest[asked.after])
    assert store.list() == [STAT, blocks(0, 1)]
    agent.answers["Stat"] = NotFound("deleted")
    assert store.list() == [STAT]


def test_a_put_of_many_blocks_returns_all_of_them() -> None:
    store, _ = client(
        BeginPut=PutBegun("id1", 4),
        PutPiece=Done(),
        CommitPut=Described(blocks(0, 1), more=True),
        Stat=lambda asked: Described(blocks(2)),
    )
    assert len(store.put("f", io.BytesIO(b"abcdef")).blocks) == 3


def test_a_listing_is_asked_for_page_by_page() -> None:
    def pages(request: ListFiles) -> Listed:
        following = {"": "b", "b": "d"}.get(request.after, "")
        return Listed((FileStat(f"{request.after}x", "id1", 0, ()),), next=following)

    store, agent = client(
        ListFiles=pages,
        DeletePrefix=lambda asked: Deleted(("a", "b"), next="" if asked.after else "b"),
    )
    assert [stat.name for stat in store.list()] == ["x", "bx", "dx"]
    assert [request.after for request in agent.asked] == ["", "b", "d"]
    assert store.delete_prefix("p") == 4
    for same in (Listed((), next="b"), Deleted((), next="b")):
        store, _ = client(ListFiles=same, DeletePrefix=same)
        with pytest.raises(InvalidMessage, match="goes back"):
            store.list() if isinstance(same, Listed) else store.delete_prefix("p")


def test_the_blocks_of_a_node_are_asked_for_page_by_page() -> None:
    blocks = [StoredBlock("f", "id1", number, 6, "sealed", "") for number in range(5)]

    def pages(request: ListStored) -> StoredBlocks:
        behind = [each for each in blocks if request.after is None or each.place > request.after]
        return StoredBlocks(tuple(behind[:2]), more=len(behind) > 2)

    store, agent = client(ListStored=pages)
    assert store.store("n1") == blocks
    assert len(agent.asked) == 3
    with pytest.raises(InvalidMessage, match="goes back"):
        client(ListStored=StoredBlocks(tuple(blocks), more=True))[0].store()


def test_a_put_is_sent_in_pieces_and_committed() -> None:
    begun = PutBegun("id1", 4)
    store, agent = client(BeginPut=begun, PutPiece=Done(), CommitPut=Described(STAT))
    assert store.put("f", io.BytesIO(b"abcdef")) == STAT
    begin = agent.asked[0]
    assert isinstance(begin, BeginPut)
    assert len(begin.key) == 32
    assert agent.asked[1:] == [PutPiece("id1", 0), PutPiece("id1", 4), CommitPut("id1", 6, "f", paged=True)]


@pytest.mark.parametrize("losses", [1, 2, 3])
def test_a_commit_whose_answer_is_lost_is_asked_again(losses: int) -> None:
    def commit(request: CommitPut) -> Any:
        lost = sum(isinstance(each, CommitPut) for each in agent.asked) <= losses
        return ConnectionLost("cut") if lost else Described(STAT)

    store, agent = client(BeginPut=PutBegun("id1", 4), CommitPut=commit, AbortPut=Done())
    if losses < 3:
        assert store.put("f", io.BytesIO()) == STAT
        return
    with pytest.raises(Unreachable, match="may exist now"):
        store.put("f", io.BytesIO())


@pytest.mark.parametrize(
    ("answer", "aborted"), [(ConnectionLost("cut"), True), (AlreadyExists("f exists"), False)]
)
def test_a_put_whose_begin_may_have_been_done_is_aborted(answer: RainStormError, aborted: bool) -> None:
    store, agent = client(BeginPut=answer, AbortPut=Done())
    with pytest.raises(type(answer)):
        store.put("f", io.BytesIO())
    abort = AbortPut(put_id("f", agent.asked[0].key))
    assert agent.asked[1:] == ([abort] if aborted else [])


@pytest.mark.parametrize("abort", [Done(), Unreachable("away")])
def test_a_put_that_fails_is_aborted(abort: Any) -> None:
    store, agent = client(BeginPut=PutBegun("id1", 4), PutPiece=Unavailable("no room"), AbortPut=abort)
    with pytest.raises(Unavailable, match="no room"):
        store.put("f", io.BytesIO(b"abcdef"))
    assert agent.asked[-1] == AbortPut("id1")


def test_a_put_ends_with_its_time_limit() -> None:
    store, agent = client(BeginPut=PutBegun("id1", 4), AbortPut=Done())
    with pytest.raises(DeadlineExceeded):
        store.put("f", io.BytesIO(b"abcdef"), timeout_s=0.0)
    assert agent.asked[-1] == AbortPut("id1")


def opened(path: Path) -> int:
    path.write_bytes(b"abcdef")
    return os.open(path, os.O_RDONLY)


def test_a_block_is_mapped_from_the_file_that_was_handed_over(tmp_path: Path) -> None:
    def answer(request: OpenBlock) -> Answered[OpenedBlock]:
        return Answered(OpenedBlock(10, 6), b"", opened(tmp_path / "block"))

    block = client(OpenBlock=answer)[0].map_block("f", 12, "id1")
    assert block is not None
    with block.memory as memory:
        assert (block.start, block.length, memory[:]) == (10, 6, b"abcdef")
    assert client(OpenBlock=NotFound("elsewhere"))[0].map_block("f", 12, "id1") is None


def test_a_malformed_answer_leaves_no_open_file(tmp_path: Path) -> None:
    def too_long(request: OpenBlock) -> Answered[OpenedBlock]:
        return Answered(OpenedBlock(0, 7_000_000), b"", opened(tmp_path / "block"))

    with pytest.raises(Corrupt, match="cannot be mapped"):
        client(OpenBlock=too_long)[0].map_block("f", 0, "id1")
    with pytest.raises(InvalidMessage, match="without handing it over"):
        client(OpenBlock=OpenedBlock(0, 6))[0].map_block("f", 0, "id1")
