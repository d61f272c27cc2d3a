"""Journal entries: what is written is what is read, and what each one does."""

from __future__ import annotations

import pytest

from agent.hydfs.core.block import (
    BlockKey,
    BlockMeta,
    DroppedEntry,
    Entry,
    PromiseEntry,
    Record,
    RecordEntry,
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
        SealedEntry(KEY, "f", 3, 99),
        DroppedEntry(KEY),
        StateEntry(BlockMeta(KEY, "f", "s", 3, 99, "open", {"w": (8, 0, 3)}, True)),
    ],
)
def test_entries_survive_the_journal(entry: Entry) -> None:
    assert unpack_entry(pack_entry(entry)) == entry


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
