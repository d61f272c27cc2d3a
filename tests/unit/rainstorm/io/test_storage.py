"""The engine's access to HyDFS: complete reads, appends until they are certain, lines kept together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import AlreadyExists, Conflict, DeadlineExceeded, NotFound, Unavailable
from agent.common.shell import threads
from agent.rainstorm.io import storage as module
from agent.rainstorm.io.storage import pieces
from tests.unit.rainstorm.memorystore import MemoryStore


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> MemoryStore:
    """A store with one file; attempts follow each other at once."""
    monkeypatch.setattr(module, "RETRY_S", 0.0005)
    made = MemoryStore()
    made.put_bytes("f", bytes(range(200)))
    return made


def test_a_read_is_whole(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads in pieces, and retries after an error that may pass."""
    monkeypatch.setattr(module, "READ_BYTES_MAX", 64)
    store.fail("read", Unavailable("no copy"), 3)
    found = store.storage().read_exactly("f", 10, 150)
    assert bytes(found) == bytes(range(10, 160))
    assert bytes(store.storage().read_exactly("f", 0, 0)) == b""


def test_a_file_that_is_too_short_is_an_error(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error comes after the time limit, because a replica may be behind."""
    monkeypatch.setattr(module, "READ_TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match="ends at byte 200, not 210"):
        store.storage().read_exactly("f", 190, 20)


def test_an_error_that_will_not_pass_is_raised_at_once(store: MemoryStore) -> None:
    """A missing file, or another one of that name."""
    with pytest.raises(NotFound):
        store.storage().read_exactly("g", 0, 1)
    with pytest.raises(NotFound, match="another file"):
        store.storage().read_exactly("f", 0, 1, file_id="other")


def test_a_file_is_created_unless_it_exists(store: MemoryStore) -> None:
    """Even when the answer to the creation was lost."""
    store.storage().create_if_missing("f")
    store.fail("create", Unavailable("lost"), after=True)
    store.storage().create_if_missing("g")
    assert bytes(store.files["f"].data) == bytes(range(200))
    assert "g" in store.files
    store.fail("create", NotFound("never"))
    with pytest.raises(NotFound):
        store.storage().create_if_missing("h")


def test_an_append_whose_answer_is_lost_is_made_once(store: MemoryStore) -> None:
    """The same writer and sequence are sent again until the store answers."""
    store.fail("append", DeadlineExceeded("late"), 3, after=True)
    result = store.storage().append("f", b"x", "w", 1, if_offset=200, timeout_s=5.0)
    assert result.duplicate
    assert len(store.files["f"].data) == 201


def test_a_conflict_is_certain(store: MemoryStore) -> None:
    """Nothing was appended, so the caller decides."""
    with pytest.raises(Conflict):
        store.storage().append("f", b"x", "w", 1, if_offset=7, timeout_s=5.0)
    assert len(store.files["f"].data) == 200


def test_time_runs_out_with_the_last_error(store: MemoryStore) -> None:
    """That error tells the reason."""
    store.fail("append", Unavailable("no copy"), 10_000)
    with pytest.raises((Unavailable, DeadlineExceeded)):
        store.storage().append("f", b"x", "w", 1, timeout_s=0.02)


def test_an_agent_that_stops_does_not_wait(store: MemoryStore) -> None:
    """Its retries end with the last error."""
    stopping = threads.event()
    stopping.set()
    store.fail("read", Unavailable("no copy"))
    with pytest.raises(Unavailable):
        store.storage(stopping).read_exactly("f", 0, 1)
    with pytest.raises(AlreadyExists):
        store.storage(stopping).client.create("f")


@given(
    st.lists(st.sampled_from([b"a", b"bb", b'"', b"\n", b","]), max_size=60).map(b"".join), st.integers(1, 9)
)
def test_pieces_are_the_whole_in_order(data: bytes, size: int) -> None:
    """Each is within the size, and cut after a record if possible."""
    found: list[Any] = list(pieces(data, size))
    assert b"".join(found) == data
    assert all(0 < len(piece) <= size for piece in found)
    for piece in found[:-1]:
        assert piece.endswith(b"\n") or b"\n" not in piece
