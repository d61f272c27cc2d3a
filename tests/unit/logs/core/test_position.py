"""Positions: which file continues one, and where a whole line ends."""

from __future__ import annotations

import pytest

from agent.logs.core.position import JOURNAL_KEY, Position, Seen, whole_lines
from agent.logs.messages import HEAD_BYTES

DATA = b"2026-11-20T10:00:00Z first line\n" * 60
START = Position("a.log", 1, 7, 3)


def _seen(data: bytes, *, inode: int = 7, age: int = 0, packed: bool = False) -> Seen:
    return Seen("a.log", age, 1, inode, len(data), data[:HEAD_BYTES], packed)


def test_a_position_carries_a_checksum_of_the_first_bytes_only() -> None:
    once = START.advanced(DATA)
    assert (once.offset, once.head_bytes) == (len(DATA), HEAD_BYTES)
    in_parts = START.advanced(DATA[:100]).advanced(DATA[100:1500]).advanced(DATA[1500:])
    assert in_parts == once
    assert once.advanced(b"more").head_crc == once.head_crc


def test_the_same_file_grown_continues_and_a_shorter_or_other_one_does_not() -> None:
    position = START.advanced(DATA)
    assert position.continues_in(_seen(DATA))
    assert position.continues_in(_seen(DATA + b"more"))
    assert not position.continues_in(_seen(DATA[:-1]))
    assert not position.continues_in(_seen(b"x" + DATA))


def test_a_file_whose_beginning_was_not_read_begins_like_nothing() -> None:
    position = START.advanced(DATA)
    assert not position.begins_like(None)
    assert not position.begins_like(DATA[:10])
    assert START.begins_like(b""), "every file would be a copy of an empty beginning"


def test_a_position_knows_as_much_of_the_beginning_as_its_copies_have() -> None:
    position = START.found_in(_seen(DATA, inode=8))
    assert (position.inode, position.offset, position.head_bytes) == (8, 0, HEAD_BYTES)
    shorter = position.shortened_to(_seen(DATA[:50]))
    assert shorter.head_bytes == 50
    assert shorter.begins_like(DATA[:50])
    assert shorter.found_in(_seen(DATA, inode=8)) == position
    assert position.shortened_to(_seen(DATA[:31])) == position, "so little tells no file from another"
    assert position.shortened_to(_seen(DATA)) == position


def test_a_position_is_the_same_again_from_its_fields() -> None:
    position = START.advanced(DATA)
    assert Position(*position.fields) == position
    assert position.key == (1, 7) != JOURNAL_KEY


def test_only_the_newest_plain_file_is_written_to() -> None:
    assert _seen(b"").live
    assert not _seen(b"", age=1).live
    assert not _seen(b"", packed=True).live
    assert _seen(b"").key == (1, 7)


@pytest.mark.parametrize(
    ("data", "cut", "taken"),
    [
        (b"one\ntwo", False, b"one\n"),
        (b"one\ntwo", True, b"one\n"),
        (b"one", False, b""),
        (b"one", True, b"one"),
        (b"", True, b""),
        (b"\n", False, b"\n"),
    ],
)
def test_lines_are_taken_whole(data: bytes, cut: bool, taken: bytes) -> None:
    assert whole_lines(data, cut=cut) == taken
