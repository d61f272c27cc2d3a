"""Outgoing blocks: they count once all replicas have them, go elsewhere when one fails, and always end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.common.errors import DiskFull, RainStormError, Unavailable, Unreachable
from agent.common.message import Done
from agent.hydfs.messages.block import StorePiece
from agent.hydfs.shell.transfers.outgoing import TRIES_MAX, Block, Outgoing
from tests.unit.hydfs.fakes import FakePeers
from tests.unit.hydfs.stores import SettableView

NODES = ["n1", "n2", "n3"]
BLOCK = Block("f", "id1", 2, (b"abcd", b"ef"), 6, 7)


class Setting:
    """The surroundings of outgoing blocks."""

    def __init__(self) -> None:
        self.peers = FakePeers()
        self.avoided: list[list[str]] = []
        self.places = NODES
        surroundings: tuple[Any, ...] = (self.choose, self.peers, SettableView(NODES), 1)
        self.outgoing = Outgoing(*surroundings)

    def choose(self, file_id: str, number: int, avoid: list[str]) -> list[str]:
        self.avoided.append(list(avoid))
        return [node for node in self.places if node not in avoid] or self.places

    def fail(self, error: type[RainStormError], *nodes: str) -> None:
        def respond(node: str, request: Any, payload: Any) -> Done:
            if node in nodes:
                raise error(f"{node} fails")
            return Done()

        self.peers.respond = respond


@pytest.fixture
def setting() -> Iterator[Setting]:
    made = Setting()
    yield made
    made.outgoing.stop(5.0)


def test_a_block_is_sent_to_all_replicas_in_order(setting: Setting) -> None:
    entry = setting.outgoing.place(BLOCK)
    assert (entry.number, entry.replicas, entry.length, entry.crc) == (2, ("n1", "n2", "n3"), 6, 7)
    sent = setting.peers.requests(StorePiece)
    assert sorted(node for node, _ in sent) == ["n1", "n1", "n2", "n2", "n3", "n3"]
    for name in NODES:
        assert [(p.offset, p.last) for node, p in sent if node == name] == [(0, False), (4, True)]


def test_a_block_goes_to_other_nodes_when_a_replica_fails(setting: Setting) -> None:
    setting.fail(Unreachable, "n2")
    assert setting.outgoing.place(BLOCK).replicas == ("n1", "n3")
    assert setting.avoided == [[], ["n2"]]
    assert setting.peers.suspected == ["n2"]


def test_after_some_attempts_the_failure_is_that_of_the_replicas(setting: Setting) -> None:
    setting.fail(Unreachable, *NODES)
    with pytest.raises(Unreachable):
        setting.outgoing.place(BLOCK)
    assert len(setting.avoided) == TRIES_MAX


def test_no_attempt_follows_when_all_nodes_are_full(setting: Setting) -> None:
    setting.fail(DiskFull, *NODES)
    with pytest.raises(DiskFull):
        setting.outgoing.place(BLOCK)
    assert len(setting.avoided) == 1


def test_without_a_node_there_is_no_block(setting: Setting) -> None:
    setting.places = []
    with pytest.raises(Unavailable, match="no node that is up"):
        setting.outgoing.place(BLOCK)


def test_a_block_that_comes_after_the_end_fails(setting: Setting) -> None:
    setting.outgoing.stop(5.0)
    with pytest.raises(RainStormError):
        setting.outgoing.place(BLOCK)
