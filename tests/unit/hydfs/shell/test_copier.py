"""Copies of whole blocks: from a holder that can provide them, piece by piece, checked at the end."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agent.common.errors import Corrupt, NotFound, Unreachable
from agent.common.message import Done
from agent.hydfs.core.block import BlockKey, chain
from agent.hydfs.core.events import BlockSealed
from agent.hydfs.core.filetable import BlockEntry
from agent.hydfs.messages.block import ReadBlock, StorePiece
from agent.hydfs.shell.copier import PIECE_BYTES, Copier
from agent.hydfs.shell.store import Store
from agent.wire.client import Answered
from agent.wire.connection import FileSlice
from tests.unit.hydfs.fakes import FakePeers

KEY: BlockKey = ("id1", 0)
DATA = os.urandom(PIECE_BYTES + 10)
BLOCK = BlockEntry(0, ("n2", "n1", "n3"), 1, "sealed", len(DATA), chain(DATA, 0), "s")


class Setting:
    """A copier of n1 among fakes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.peers = FakePeers()
        self.posted: list[Any] = []
        surroundings: tuple[Any, ...] = (self, self.peers)
        self.copier = Copier(*surroundings)
        self.received: dict[str, bytes] = {}

    def post(self, event: Any) -> None:
        self.posted.append(event)

    def slice(self, name: str, key: BlockKey, offset: int, length: int) -> FileSlice:
        return self.store.slice(key, offset, length)

    def store_block(self) -> None:
        part = self.store.receive(KEY)
        part.write(DATA)
        part.finish("f", BLOCK.length, BLOCK.crc)

    def take(self, node: str, request: StorePiece, payload: Any) -> Done:
        assert isinstance(payload, FileSlice)
        data = os.pread(payload.descriptor, payload.length, payload.offset)
        os.close(payload.descriptor)
        assert request.offset == len(self.received.get(node, b""))
        self.received[node] = self.received.get(node, b"") + data
        assert request.last == (len(self.received[node]) == len(DATA))
        return Done()


@pytest.fixture
def setting(store: Store) -> Setting:
    return Setting(store)


def test_a_block_is_sent_whole_to_each_target(setting: Setting) -> None:
    setting.store_block()
    setting.peers.respond = setting.take
    setting.copier.push("f", KEY, BLOCK, ("n4", "n5"))
    assert setting.received == {"n4": DATA, "n5": DATA}
    assert {request.sender for _, request in setting.peers.asked} == {"n1/repair"}


def test_a_target_that_fails_ends_the_push(setting: Setting) -> None:
    setting.store_block()

    def respond(node: str, request: Any, payload: Any) -> Any:
        os.close(payload.descriptor)
        raise Unreachable("n4 is down")

    setting.peers.respond = respond
    with pytest.raises(Unreachable):
        setting.copier.push("f", KEY, BLOCK, ("n4",))


def give(data: bytes, *, failing: tuple[str, ...] = ()) -> Any:
    def respond(node: str, request: Any, payload: Any) -> Any:
        assert isinstance(request, ReadBlock)
        if node in failing:
            raise Corrupt(f"{node} has put it into quarantine")
        return Answered(Done(), data[request.offset : request.offset + request.length])

    return respond


def test_a_block_is_fetched_from_the_first_holder_that_can_give_it(setting: Setting) -> None:
    setting.peers.respond = give(DATA, failing=("n2",))
    setting.copier.pull("f", KEY, BLOCK)
    assert setting.store.crc_of(KEY, len(DATA)) == BLOCK.crc
    assert setting.posted == [BlockSealed(KEY, "f", BLOCK.length, BLOCK.crc)]
    assert [node for node, _ in setting.peers.asked] == ["n2", "n3", "n3"]


@pytest.mark.parametrize("respond", [give(b"?" * len(DATA)), give(b""), give(DATA, failing=("n2", "n3"))])
def test_a_block_that_no_holder_can_give_leaves_nothing(setting: Setting, respond: Any) -> None:
    setting.peers.respond = respond
    with pytest.raises(Corrupt):
        setting.copier.pull("f", KEY, BLOCK)
    assert KEY not in setting.store.index
    assert not list((setting.store.root / "blocks").iterdir())
    assert setting.posted == []


def test_a_block_without_another_holder_is_not_found(setting: Setting) -> None:
    alone = BlockEntry(0, ("n1",), 1, "sealed", 5, 7, "s")
    with pytest.raises(NotFound, match="no other replica"):
        setting.copier.pull("f", KEY, alone)
