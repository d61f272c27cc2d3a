<<<<<<< HEAD
"""Positions: the same file is told from another one with its name or its inode."""
=======
"""Positions: which file continues one, and what is a whole line."""
>>>>>>> main

from __future__ import annotations

import pytest

<<<<<<< HEAD
from agent.logs.core.position import Position, Seen, whole_lines
from agent.logs.messages import HEAD_BYTES

LINES = b"first line of the log\nsecond line\n"


def seen(data: bytes, age: int = 0, packed: bool = False) -> Seen:
    return Seen("a.log", age, 1, 2, len(data), data[:HEAD_BYTES], packed)


def test_a_position_holds_in_the_same_file_grown() -> None:
    position = Position("a.log", 1, 2, 7).advanced(LINES)
    assert (position.offset, position.head_bytes) == (len(LINES), len(LINES))
    assert position.continues_in(seen(LINES))
    assert position.continues_in(seen(LINES + b"third line\n"))
    assert position.continues_in(Seen("a.log", 0, 1, 2, 9, None)), "an unchanged file is not read again"


def test_a_position_does_not_hold_in_a_shorter_or_another_file() -> None:
    position = Position("a.log", 1, 2, 7).advanced(LINES)
    assert not position.continues_in(seen(LINES[:-1]))
    assert not position.continues_in(seen(LINES.replace(b"first", b"other")))
    assert not position.begins_like(Seen("a.log", 0, 1, 2, 9, None))


def test_the_beginning_that_is_remembered_is_bounded() -> None:
    position = Position("a.log", 1, 2, 7)
    for _ in range(3):
        position = position.advanced(b"x" * HEAD_BYTES)
    assert (position.head_bytes, position.offset) == (HEAD_BYTES, 3 * HEAD_BYTES)
    late = Position("a.log", 1, 2, 7, offset=5).advanced(LINES)
    assert late.head_bytes == 0, "what was read later is no beginning"


def test_a_position_is_the_same_after_its_fields() -> None:
    position = Position("a.log", 1, 2, 7, cursor="s=1").advanced(LINES)
    assert Position(*position.fields) == position
    assert position.key == seen(LINES).key == (1, 2)


@pytest.mark.parametrize(("age", "packed", "live"), [(0, False, True), (1, False, False), (0, True, False)])
def test_only_the_file_that_is_written_is_live(age: int, packed: bool, live: bool) -> None:
    assert seen(LINES, age, packed).live is live


def test_whole_lines_end_with_the_last_line_end() -> None:
    assert whole_lines(b"a\nb", cut=False) == b"a\n"
    assert whole_lines(b"abc", cut=False) == b""
    assert whole_lines(b"abc", cut=True) == b"abc"
    assert whole_lines(b"a\nb", cut=True) == b"a\n"
=======
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
    assert position.continues_in(Seen("a.log", 0, 1, 7, 0, None)), "nothing has changed since the last scan"


def test_a_file_whose_beginning_was_not_read_begins_like_nothing() -> None:
    position = START.advanced(DATA)
    assert not position.begins_like(Seen("a.log", 0, 1, 7, 0, None))
    assert not position.begins_like(_seen(DATA[:10]))
    assert START.begins_like(_seen(b"")), "of an empty beginning every file is a copy"


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
>>>>>>> main
