"""Incoming transfers: pieces in order, each taken once, none left behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, Fenced, InvalidMessage, Overloaded
from agent.hydfs.core.block import SEALED, BlockKey, chain
from agent.hydfs.core.events import BlockSealed
from agent.hydfs.messages.block import StorePiece
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.transfers import incoming as module
from agent.hydfs.shell.transfers.incoming import Transfers
from tests.unit.hydfs.fakes import call

DATA = b"abcdefghij"
KEY: BlockKey = ("id1", 0)


@pytest.fixture
def sealed() -> list[BlockSealed]:
    """Returns the events of the core."""
    return []


@pytest.fixture
def transfers(store: Store, sealed: list[BlockSealed]) -> Iterator[Transfers]:
    made = Transfers(store, sealed.append)
    yield made
    made.close()
    assert made._taken == 0
    assert not list((store.root / "blocks").glob("*.part"))


def piece(
    offset: int, end: int, *, key: BlockKey = KEY, sender: str = "n2", crc: int | None = None
) -> tuple[StorePiece, bytes]:
    wanted = chain(DATA, 0) if crc is None else crc
    last = end == len(DATA)
    return StorePiece(*key, "f", sender, offset, last, len(DATA), wanted), DATA[offset:end]


def take(transfers: Transfers, found: tuple[StorePiece, bytes]) -> None:
    transfers.take(found[0], call(found[1]))


def test_a_block_is_here_with_its_last_piece(
    transfers: Transfers, store: Store, sealed: list[BlockSealed]
) -> None:
    take(transfers, piece(0, 4))
    assert KEY not in store.index
    take(transfers, piece(4, 10))
    assert store.index[KEY].state == SEALED
    assert store.crc_of(KEY, len(DATA)) == chain(DATA, 0)
    assert sealed == [BlockSealed(KEY, "f", 10, chain(DATA, 0))]


def test_a_piece_that_is_sent_twice_is_taken_once(
    transfers: Transfers, store: Store, sealed: list[BlockSealed]
) -> None:
    """The answer to the first piece was lost, so the sender cannot know that it was taken."""
    take(transfers, piece(0, 4))
    take(transfers, piece(0, 4))
    take(transfers, piece(4, 8))
    take(transfers, piece(4, 8))
    take(transfers, piece(8, 10))
    take(transfers, piece(8, 10))
    take(transfers, piece(0, 4))
    assert len(sealed) == 1


def test_a_missing_piece_ends_the_transfer(transfers: Transfers) -> None:
    with pytest.raises(Fenced, match="a piece is missing before 4"):
        take(transfers, piece(4, 10))
    take(transfers, piece(0, 4))
    with pytest.raises(Fenced):
        take(transfers, piece(6, 10))
    with pytest.raises(Fenced):
        take(transfers, piece(4, 6))


def test_two_senders_do_not_disturb_each_other(transfers: Transfers, store: Store) -> None:
    take(transfers, piece(0, 4, sender="n2"))
    take(transfers, piece(0, 6, sender="n3/repair"))
    take(transfers, piece(4, 10, sender="n2"))
    take(transfers, piece(6, 10, sender="n3/repair"))
    assert store.index[KEY].length == 10


def test_a_sender_may_start_again(transfers: Transfers, store: Store) -> None:
    take(transfers, piece(0, 4))
    take(transfers, piece(0, 6))
    take(transfers, piece(6, 10))
    assert store.index[KEY].length == 10


def test_a_damaged_block_is_refused_and_removed(transfers: Transfers, store: Store) -> None:
    with pytest.raises(Corrupt):
        take(transfers, piece(0, 10, crc=1))
    assert KEY not in store.index


@pytest.mark.parametrize(
    "found",
    [
        (StorePiece(*KEY, "f", "n2", 0, False, 10, 0), b""),
        (StorePiece(*KEY, "f", "n2", 0, False, 10, 0), DATA),
        (StorePiece(*KEY, "f", "n2", 0, True, 10, 0), DATA[:4]),
        (StorePiece(*KEY, "f", "n2", 5, True, 10, 0), DATA),
    ],
)
def test_a_piece_that_does_not_fit_its_block_is_refused(
    transfers: Transfers, found: tuple[StorePiece, bytes]
) -> None:
    with pytest.raises(InvalidMessage, match="does not fit"):
        take(transfers, found)


def test_transfers_are_bounded_and_idle_ones_make_room(
    transfers: Transfers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PARTS_MAX", 2)
    for number in range(2):
        take(transfers, piece(0, 4, key=("id1", number)))
    with pytest.raises(Overloaded, match="too many incoming block transfers"):
        take(transfers, piece(0, 4, key=("id1", 9)))
    monkeypatch.setattr(module, "IDLE_S_MAX", -1.0)
    take(transfers, piece(0, 4, key=("id1", 9)))
    transfers.abandon_idle()
    assert transfers._taken == 0


def test_a_disk_that_fails_frees_the_place(
    transfers: Transfers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(key: BlockKey) -> None:
        raise DiskFailed("broken")

    monkeypatch.setattr(store, "receive", fail)
    with pytest.raises(DiskFailed):
        take(transfers, piece(0, 4))
    assert transfers._taken == 0


def test_a_part_that_cannot_be_written_frees_the_place(
    transfers: Transfers, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "free_bytes", lambda: 0)
    with pytest.raises(Exception, match="no room"):
        take(transfers, piece(0, 4))
    assert transfers._taken == 0


def test_what_another_thread_kept_meanwhile_wins(transfers: Transfers, tmp_path: Path) -> None:
    """Pieces of one sender arrive on two connections, because it has started again."""
    first, _ = piece(0, 4)
    slot = (first.sender, KEY)
    part = transfers._claim(slot, first)
    take(transfers, piece(0, 4))
    assert not transfers._keep(slot, part)
    transfers._discard(part)
    take(transfers, piece(4, 10))
