"""When a file counts as repaired, the number of copied bytes, and the comparison of its content."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.errors import Corrupt
from agent.hydfs.client import READ_PIECE_BYTES, BlockStat, FileStat, StoredBlock
from experiments import replication_time
from experiments._repair import Moved, Repair, check_copies, moved, thin

ALL = frozenset("abcde")
WITHOUT_C = ALL - {"c"}


def file(*replicas: str, length: int = 8) -> FileStat:
    """Returns a file with a block for each string of one-letter nodes."""
    blocks = tuple(
        BlockStat(number, number * length, length, tuple(nodes), "sealed")
        for number, nodes in enumerate(replicas)
    )
    return FileStat("f", "id", length * len(blocks), blocks)


def test_times_are_those_of_the_first_look_that_shows_each_step() -> None:
    repair = Repair(file("abc", "bcd"), "c")
    looks = [
        (1.0, ALL, file("abc", "bcd")),
        (2.0, WITHOUT_C, file("abc", "bcd")),
        (4.0, WITHOUT_C, file("abe", "bcd")),
        (5.0, WITHOUT_C, file("abe", "bda")),
        (6.0, ALL, file("abec", "bda")),
    ]
    for at, up, stat in looks:
        assert repair.complete is (at > 5.0)
        repair.saw_view(at, up)
        repair.saw_file(at, stat, up)
    assert (repair.dead_at, repair.first_copy_at, repair.restored_at) == (2.0, 4.0, 5.0)
    assert repair.longest_gap_s == 2.0


def test_a_copy_on_the_victim_does_not_count_even_while_the_view_has_it_up() -> None:
    repair = Repair(file("abc"), "c")
    repair.saw_file(1.0, file("abc"), ALL)
    assert (repair.first_copy_at, repair.restored_at) == (None, None)
    assert repair.missing() == "c is still up in the view"


def test_a_copy_on_a_node_that_is_down_does_not_count() -> None:
    repair = Repair(file("abc"), "c")
    repair.saw_view(1.0, WITHOUT_C - {"e"})
    repair.saw_file(1.0, file("abe"), WITHOUT_C - {"e"})
    assert (repair.first_copy_at, repair.restored_at) == (None, None)
    assert repair.missing() == "some blocks still have fewer than 3 copies"


def test_one_block_with_two_copies_is_enough_not_to_be_repaired() -> None:
    assert thin(file("abd", "bc", "abe"), ALL) == [1]
    assert thin(file("abd", "bcd", "abe"), WITHOUT_C) == [1]


def test_only_what_went_to_a_new_holder_was_moved() -> None:
    before = file("abc", "bcd", "abd")
    assert moved(before, file("abe", "bda", "abd")) == Moved(blocks=2, copies=2, bytes=16)
    assert moved(before, file("abde", "bd", "abd")) == Moved(blocks=1, copies=2, bytes=16)


def test_a_store_that_lacks_a_block_of_the_file_table_is_named() -> None:
    stat = file("ab")
    good = StoredBlock("f", "id", 0, 8, "sealed", "0")
    check_copies(stat, {"a": [good], "b": [replace(good, number=1), good]})
    shorter, still_open, older = (
        replace(good, length=7),
        replace(good, state="open"),
        replace(good, file_id="old"),
    )
    for wrong in ([], [shorter], [still_open], [older]):
        with pytest.raises(Corrupt, match="b has block 0 of 'f'"):
            check_copies(stat, {"a": [good], "b": wrong})


def test_the_victim_holds_blocks_and_is_never_the_gateway() -> None:
    chosen = {replication_time.choose_victim(file("abc", "bcd"), "b", random.Random(n)) for n in range(50)}
    assert chosen == {"a", "c", "d"}


def test_the_checksum_is_that_of_the_content_and_a_changed_or_missing_byte_changes_it(tmp_path: Path) -> None:
    path = tmp_path / "content"
    wanted = replication_time.write_content(path, 9, random.Random(1))
    data = path.read_bytes()
    assert len(data) == 9_000_000 > 2 * READ_PIECE_BYTES
    assert wanted == hashlib.sha256(data).hexdigest()

    def sum_of(content: bytes) -> str:
        return replication_time.checksum(lambda offset, length: content[offset : offset + length], len(data))

    assert sum_of(data) == wanted
    assert sum_of(data[:-1]) != wanted
    assert sum_of(data[:READ_PIECE_BYTES] + b"?" + data[READ_PIECE_BYTES + 1 :]) != wanted
