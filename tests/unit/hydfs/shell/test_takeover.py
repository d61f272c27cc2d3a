"""Sealing in the file table, and its consequences on this node's copy and on the others."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from agent.common.errors import NoMajority, Unavailable, Unreachable
from agent.hydfs.core import filetable
from agent.hydfs.core.block import BlockKey, PromiseEntry, Record, RecordEntry, chain
from agent.hydfs.core.events import BlockDropped, BlockSealed, Event, SealBlock, SealFailed
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.messages.block import AskPromise, Certify, Promised
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.takeover import Sealer
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters

KEY: BlockKey = ("id1", 0)
CRC = chain(b"abcdef", 0)


class Setting:
    """A sealer whose file ``f`` has an open block on n1, n2 and n3."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.peers = FakePeers()
        value = filetable.create("f", "id1", "all")(None)
        value = filetable.open_next("f", "id1", ["n1", "n2", "n3"], 1, "s")(value)
        self.registers = FakeRegisters(f=value)
        self.events: list[Event] = []
        self.thin: list[str] = []
        surroundings: tuple[Any, ...] = (store, self.peers, self.registers, self.events.append)
        self.sealer = Sealer(*surroundings, replicas=3, ack_timeout_s=60.0)
        self.sealer.on_missing_copies = self.thin.append

    def entry(self) -> FileEntry:
        return filetable.live("f", self.registers.values["f"])

    def write(self, data: bytes) -> None:
        record = Record(0, len(data), chain(data, 0), "w", 0, 1)
        self.store.submit(RecordEntry(KEY, "f", "s", record, None), data, lambda code: None)
        self.store.write(PromiseEntry(("other", 0), "g"))


@pytest.fixture
def setting(store: Store) -> Setting:
    return Setting(store)


def seal(
    length: int = 6, holders: tuple[str, ...] = ("n1", "n2", "n3"), failed: tuple[str, ...] = ()
) -> SealBlock:
    return SealBlock(KEY, "f", length, CRC if length else 0, holders, {"w": (0, 0, 6)}, failed)


def test_a_sealed_block_is_certified_everywhere(setting: Setting) -> None:
    setting.write(b"abcdef")
    setting.sealer.seal_in_table(seal(holders=("n1", "n2"), failed=("n3",)))
    (block,) = setting.entry().blocks
    assert (block.state, block.length, block.replicas) == ("sealed", 6, ("n1", "n2"))
    assert setting.entry().writers == {"w": (0, 0, 6)}
    assert setting.store.index[KEY].state == "sealed"
    assert setting.events == [BlockSealed(KEY, "f", 6, CRC)]
    certify = Certify("id1", 0, "f", 6, CRC)
    assert setting.peers.told == [("n2", certify), ("n3", certify)]
    assert setting.peers.suspected == ["n3"]
    assert setting.thin == ["f"], "two copies of three"


def test_a_block_that_is_sealed_empty_leaves_nothing(setting: Setting) -> None:
    setting.write(b"abc")
    setting.sealer.seal_in_table(seal(0))
    assert setting.entry().blocks == ()
    assert KEY not in setting.store.index
    assert setting.events == [BlockDropped(KEY)]


def test_a_seal_that_the_table_does_not_take_is_reported(setting: Setting) -> None:
    setting.registers.error = NoMajority("no voter answers")
    with pytest.raises(NoMajority):
        setting.sealer.seal_in_table(seal())
    assert setting.events == [SealFailed(KEY, "NO_MAJORITY", "no voter answers")]
    setting.registers.error = None
    setting.registers.values.clear()
    assert setting.sealer.seal_in_table(seal()) is None
    assert isinstance(setting.events[-1], SealFailed)
    assert setting.events[-1].code == "NOT_FOUND"


def test_a_copy_is_shortened_kept_or_dropped_as_the_table_says(setting: Setting) -> None:
    setting.write(b"abcdefXYZ")
    setting.sealer.certify(KEY, "f", 6, CRC)
    assert (setting.store.index[KEY].length, setting.store.index[KEY].state) == (6, "sealed")
    setting.sealer.certify(KEY, "f", 6, CRC)
    assert setting.events == [BlockSealed(KEY, "f", 6, CRC)] * 2
    setting.sealer.certify(KEY, "f", 5, 1)
    assert KEY not in setting.store.index
    setting.sealer.certify(KEY, "f", 6, CRC)
    assert setting.events[2:] == [BlockDropped(KEY)] * 2


def test_a_copy_that_is_too_short_is_dropped(setting: Setting) -> None:
    setting.write(b"abc")
    setting.sealer.certify(KEY, "f", 6, CRC)
    assert KEY not in setting.store.index


def promises(**lengths: int | None) -> Callable[[str, Any, Any], Any]:
    def respond(node: str, request: Any, payload: Any) -> Any:
        length = lengths[node]
        if length is None:
            raise Unreachable(f"{node} is down")
        assert request == AskPromise("id1", 0, "f")
        return Promised(length, CRC, {"w": (0, 0, length)}, False)

    return respond


def test_a_take_over_seals_at_the_longest_copy(setting: Setting) -> None:
    setting.write(b"abcdef")
    setting.peers.respond = promises(n1=6, n2=None, n3=3)
    block = setting.entry().open_block
    assert block is not None
    setting.sealer.take_over("f", setting.entry(), block)
    (sealed,) = setting.entry().blocks
    assert (sealed.length, sealed.replicas) == (6, ("n1",))
    assert setting.peers.suspected == ["n2"]


def test_a_take_over_that_no_replica_answers_fails(setting: Setting) -> None:
    setting.peers.respond = promises(n1=None, n2=None, n3=None)
    block = setting.entry().open_block
    assert block is not None
    with pytest.raises(Unavailable, match="cannot be sealed"):
        setting.sealer.take_over("f", setting.entry(), block)


def test_full_queues_count_as_failed_replicas_and_silence_ends_with_the_time_out(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    block = setting.entry().open_block
    assert block is not None
    setting.peers.full = True
    errors: list[Exception] = []

    def take_over() -> None:
        try:
            setting.sealer.take_over("f", setting.entry(), block)
        except Unavailable as error:
            errors.append(error)

    thread = threading.Thread(target=take_over)
    thread.start()
    thread.join(5.0)
    assert len(errors) == 1
    setting.sealer._ack_timeout = 0.05
    monkeypatch.setattr(setting.peers, "later", lambda node, work: True)  # nobody ever answers
    with pytest.raises(Unavailable):
        setting.sealer.take_over("f", setting.entry(), block)
