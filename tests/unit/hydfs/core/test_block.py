"""Journal entries: they are read as they were written, and each changes a copy as it should."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common.errors import InvalidMessage
from agent.hydfs.core.block import (
    WRITERS_MAX,
    BlockKey,
    BlockMeta,
    DroppedEntry,
    Entry,
    PromiseEntry,
    Record,
    RecordEntry,
    RefusedCopies,
    SealedEntry,
    StateEntry,
    apply,
    chain,
    pack_entry,
    unpack_entry,
)

KEY: BlockKey = ("id1", 3)
RECORD = Record(0, 3, chain(b"abc", 0), "writer", 8, 2)


@pytest.mark.parametrize(
    "entry",
    [
        RecordEntry(KEY, "f", "s", RECORD, b"abc"),
        RecordEntry(KEY, "f", "s", RECORD, None),
        PromiseEntry(KEY, "f"),
        PromiseEntry(KEY, "f", doubtful=True),
        SealedEntry(KEY, "f", 3, 99),
        DroppedEntry(KEY),
        StateEntry(BlockMeta(KEY, "f", "s", 3, 99, "open", {"w": (8, 0, 3)}, True)),
    ],
)
def test_entries_survive_the_journal(entry: Entry) -> None:
    assert unpack_entry(pack_entry(entry)) == entry


def packed(*values: Any) -> bytes:
    data: bytes = msgpack.packb(values)
    return data


def test_entries_of_a_newer_and_of_an_older_release_are_read() -> None:
    """A newer release may add elements; an older one did not know whether a copy is doubtful."""
    assert unpack_entry(packed("dropped", "id1", 3, "new")) == DroppedEntry(KEY)
    assert unpack_entry(packed("promise", "id1", 3, "f")) == PromiseEntry(KEY, "f")
    older = unpack_entry(packed("state", "id1", 3, "f", "s", 3, 99, "open", {}))
    assert older == StateEntry(BlockMeta(KEY, "f", "s", 3, 99))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        packed(),
        packed("later", "id1", 3),
        packed("dropped", "../id1", 3),
        packed("dropped", "id1", -1),
        packed("promise", "id1", 3),
        packed("sealed", "id1", 3, "f", -1, 0),
        packed("state", "id1", 3, "f", "s", 3, 99, "melted", {}, False),
        packed("state", "id1", 3, "f", "s", 3, 99, "open", {"w": [1, 2]}, False),
        packed("record", "id1", 3, "f", "s", [0, 3, 1 << 40, "w", 8, 2], b"abc"),
        packed("record", "id1", 3, "f", "s", {"offset": 0}, b"abc"),
        packed(*[["x"]] * 9),
    ],
)
def test_an_entry_that_is_not_valid_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidMessage, match="journal entry"):
        unpack_entry(data)


def test_marks_of_writers_are_bounded_and_the_one_silent_for_longest_goes_first() -> None:
    index: dict[BlockKey, BlockMeta] = {}
    for number in range(WRITERS_MAX):
        apply(index, RecordEntry(KEY, "f", "s", Record(number, 1, 0, f"w{number}", 0, 1), None))
    apply(index, RecordEntry(KEY, "f", "s", Record(WRITERS_MAX, 1, 0, "w0", 1, 1), None))
    apply(index, RecordEntry(KEY, "f", "s", Record(WRITERS_MAX + 1, 1, 0, "new", 0, 1), None))
    writers = index[KEY].writers
    assert len(writers) == WRITERS_MAX
    assert "w1" not in writers
    assert {"w0", "new"} < set(writers)


def test_an_entry_of_the_most_writers_is_not_larger_than_a_journal_takes() -> None:
    writers = {f"{number:0255d}": (1 << 60, 1 << 60, 1 << 60) for number in range(WRITERS_MAX)}
    entry = StateEntry(BlockMeta(KEY, "f" * 255, "s" * 255, 1, 1, "open", writers))
    data = pack_entry(entry)
    assert len(data) < 1024 * 1024
    assert unpack_entry(data) == entry


def test_the_whole_state_replaces_what_was_known() -> None:
    index: dict[BlockKey, BlockMeta] = {}
    apply(index, RecordEntry(KEY, "f", "s", Record(0, 3, 5, "", 0, 1), None))
    assert index[KEY].writers == {}
    apply(index, StateEntry(BlockMeta(KEY, "f", "s", 9, 8, "promised")))
    assert (index[KEY].length, index[KEY].state) == (9, "promised")
    apply(index, PromiseEntry(("id2", 0), "g"))
    apply(index, SealedEntry(("id3", 0), "h", 4, 4))
    assert [index["id2", 0].state, index["id3", 0].length] == ["promised", 4]


def test_after_a_refused_record_its_copy_takes_no_record_until_it_is_final() -> None:
    copies = RefusedCopies()
    record = RecordEntry(KEY, "f", "s", RECORD, None)
    other = RecordEntry(("id2", 0), "g", "s", RECORD, None)
    copies.refused(PromiseEntry(KEY, "f"))
    assert copies.admits(record)
    copies.refused(record)
    assert not copies.admits(record)
    assert copies.admits(other)
    assert copies.admits(PromiseEntry(KEY, "f"))
    copies.written(PromiseEntry(KEY, "f"))
    assert not copies.admits(record)
    copies.written(SealedEntry(KEY, "f", 0, 0))
    assert copies.admits(record)


def test_the_chain_depends_on_everything_before() -> None:
    assert chain(b"def", chain(b"abc", 0)) == chain(b"abcdef", 0)
    assert chain(b"def", chain(b"abd", 0)) != chain(b"abcdef", 0)


def test_a_copy_goes_from_open_to_promised_to_sealed_and_away() -> None:
    index: dict[BlockKey, BlockMeta] = {}
    apply(index, RecordEntry(KEY, "f", "s", RECORD, None))
    assert (index[KEY].length, index[KEY].writers) == (3, {"writer": (8, 0, 3)})
    apply(index, PromiseEntry(KEY, "f"))
    assert index[KEY].state == "promised"
    apply(index, SealedEntry(KEY, "f", 2, 5))
    apply(index, PromiseEntry(KEY, "f"))
    assert (index[KEY].state, index[KEY].length, index[KEY].crc) == ("sealed", 2, 5)
    apply(index, DroppedEntry(KEY))
    assert index == {}
