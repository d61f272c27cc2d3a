"""How a store agent asks the others: its own node by endpoint, others by the wire, in bounded queues."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.common.errors import NotFound, Unavailable
from agent.common.message import Done
from agent.hydfs.messages.block import AskPut, DropFile, PutLife, ReadBlock
from agent.hydfs.shell import peers as module
from agent.hydfs.shell.peers import Peers
from agent.wire.client import Client
from agent.wire.endpoint import Answer, Call, by_kind, endpoint
from tests.support import wait_until


@pytest.fixture
def peers() -> Iterator[Peers]:
    client = Client(None)
    made = Peers("n1", client, {"n1": "unused", "n2": "/nowhere"}, lambda: 7)
    yield made
    made.close()
    client.close()


def test_a_request_to_the_own_node_goes_to_its_endpoint(peers: Peers) -> None:
    seen: list[Call] = []

    def life(request: AskPut, call: Call) -> PutLife:
        seen.append(call)
        return PutLife(request.file_id == "id1")

    def read(request: ReadBlock, call: Call) -> Answer[Done]:
        return Answer(Done(), b"bytes")

    peers.endpoints = by_kind(endpoint(AskPut, life), endpoint(ReadBlock, read))
    assert peers.ask("n1", AskPut("id1"), timeout_s=1.0).message == PutLife(True)
    assert peers.ask("n1", ReadBlock("id1", 0, 0, 5), timeout_s=1.0).payload == b"bytes"
    assert (seen[0].peer, seen[0].view) == ("n1", 7)


def test_a_node_that_is_not_configured_or_not_there_is_an_error(peers: Peers) -> None:
    with pytest.raises(Unavailable, match="n9 is not in the configuration of n1"):
        peers.ask("n9", AskPut("id1"), timeout_s=1.0)
    with pytest.raises(Exception, match="cannot connect"):
        peers.ask("n2", AskPut("id1"), timeout_s=1.0)


def test_a_failure_of_what_was_told_is_left_to_repair(peers: Peers) -> None:
    told = threading.Event()

    def drop(request: DropFile, call: Call) -> Done:
        told.set()
        raise NotFound("nothing to drop")

    peers.endpoints = by_kind(endpoint(DropFile, drop))
    peers.tell("n1", DropFile("id1", "f"))
    assert told.wait(5.0)


def blocked(peers: Peers, node: str, release: threading.Event) -> None:
    """Keeps all threads for a node busy."""
    started = threading.Semaphore(0)

    def work() -> None:
        started.release()
        release.wait(10.0)

    for _ in range(module.LANE_THREADS):
        assert peers.later(node, work)
    for _ in range(module.LANE_THREADS):
        assert started.acquire(timeout=5.0)


def test_a_node_that_hangs_holds_up_its_own_queue_only_and_that_is_bounded(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LANE_CALLS_MAX", module.LANE_THREADS)
    release, done = threading.Event(), threading.Event()
    try:
        blocked(peers, "n2", release)
        for _ in range(module.LANE_THREADS):
            assert peers.later("n2", lambda: None)
        assert not peers.later("n2", lambda: None)
        assert peers.later("n1", done.set)
        assert done.wait(5.0)
    finally:
        release.set()


def test_a_suspect_is_avoided_for_a_while_and_named_to_membership_once(
    peers: Peers, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    peers.on_suspect = named.append
    peers.suspect("n2")
    peers.suspect("n2")
    peers.suspect("n3", "DISK_FULL")
    peers.suspect("n1")
    assert peers.suspects() == ["n2", "n3", "n1"]
    wait_until(lambda: named == ["n2"], 5.0, "membership was told")
    monkeypatch.setattr(module, "SUSPECT_S", -1.0)
    peers.suspect("n2")
    assert "n2" not in peers.suspects()


def test_a_closed_one_takes_no_work_and_drops_what_waits(peers: Peers) -> None:
    release = threading.Event()
    blocked(peers, "n2", release)
    done: list[str] = []
    work: Callable[[], Any] = lambda: done.append("late")  # noqa: E731 (a name for the type checker)
    assert peers.later("n2", work)
    closing = threading.Thread(target=peers.close)
    closing.start()
    wait_until(lambda: not peers.later("n2", work), 5.0, "it takes no more")
    wait_until(lambda: not peers._lanes["n2"].waiting, 5.0, "what waited is dropped")
    release.set()
    closing.join(5.0)
    assert done == []
    assert not peers.later("n1", work), "no threads are made for a node that had none"
