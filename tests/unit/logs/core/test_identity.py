"""How the files of a scan are matched with positions, rule by rule."""

from __future__ import annotations

from dataclasses import replace

from agent.logs.core.identity import recognise
from agent.logs.core.position import JOURNAL_KEY, Position, Seen
from agent.logs.messages import HEAD_BYTES

FIRST = b"2026-11-20T10:00:00Z the first line\n" * 60
OTHER = b"2026-11-20T11:00:00Z another first line\n" * 60


def _seen(data: bytes, inode: int, age: int = 0, *, packed: bool = False, log: str = "a.log") -> Seen:
    return Seen(log, age, 1, inode, len(data), data[:HEAD_BYTES], packed)


def _read(data: bytes, inode: int, number: int) -> Position:
    """Returns the position of a file that was read to its end."""
    return Position("a.log", 1, inode, number, len(data)).found_in(_seen(data, inode))


def _found(positions: list[Position], *files: Seen) -> dict[int, tuple[int, int]]:
    """Returns the number and offset with which the files of a scan are read, by their inodes."""
    found = recognise(positions, files, 90)
    assert [seen for seen, _ in found] == [each for each in files if each in [seen for seen, _ in found]]
    assert all(position.key == seen.key for seen, position in found)
    return {seen.inode: (position.number, position.offset) for seen, position in found}


SIZE = len(FIRST)
A = _read(FIRST, 1, 1)


def test_a_file_that_has_grown_or_was_renamed_goes_on() -> None:
    assert _found([A], _seen(FIRST + b"more\n", 1)) == {1: (1, SIZE)}
    assert _found([A], _seen(FIRST, 1, 1), _seen(OTHER, 2)) == {1: (1, SIZE), 2: (90, 0)}


def test_a_device_that_has_another_number_after_a_start_changes_nothing() -> None:
    assert _found([replace(A, device=7)], _seen(FIRST, 1)) == {1: (1, SIZE)}


def test_a_truncated_file_and_one_that_got_the_inode_are_new() -> None:
    assert _found([A], _seen(FIRST[:100], 1)) == {1: (90, 0)}
    assert _found([A], _seen(OTHER + FIRST, 1)) == {1: (90, 0)}


def test_an_empty_file_is_not_read_and_gets_no_number() -> None:
    assert _found([A], _seen(b"", 1), _seen(b"", 5)) == {}


def test_a_copy_is_read_only_when_its_original_is_gone() -> None:
    copy, packed = _seen(FIRST, 2, 1), _seen(FIRST, 3, 1, packed=True)
    assert _found([A], copy, _seen(FIRST, 1)) == {1: (1, SIZE)}
    assert _found([A], copy, _seen(OTHER, 1)) == {2: (1, SIZE), 1: (90, 0)}
    assert _found([A], copy, packed) == {2: (1, SIZE)}
    assert _found([A], packed) == {3: (1, SIZE)}
    assert _found([], copy, _seen(FIRST, 1)) == {1: (90, 0)}, "nor is the copy of a new file"


def test_a_copy_that_is_not_finished_is_not_read() -> None:
    for size in (0, 5, 500, SIZE - 1):
        assert _found([A], _seen(FIRST[:size], 2, 1), _seen(FIRST, 1)) == {1: (1, SIZE)}
    assert _found([A], _seen(FIRST[: SIZE - 1], 2, 1)) == {}


def test_a_plain_file_goes_before_a_packed_one_whatever_inode_is_remembered() -> None:
    """The position has inode 1, although its file moved to another inode: a crash lost that knowledge."""
    assert _found([A], _seen(FIRST, 2, 1), _seen(FIRST, 1, 1, packed=True)) == {2: (1, SIZE)}
    stale = replace(_read(OTHER, 1, 2), offset=100)
    assert _found([A, stale], _seen(OTHER, 2, 2), _seen(FIRST, 1, 1)) == {2: (2, 100), 1: (1, SIZE)}


def test_the_longest_copy_is_read() -> None:
    begun = replace(A, offset=40)
    assert _found([begun], _seen(FIRST[:1500], 2, 2), _seen(FIRST, 3, 1))[3] == (1, 40)


def test_what_was_read_behind_a_short_copy_is_found_in_it() -> None:
    """The lines behind a copy were read before they were truncated away: the copy has nothing new."""
    copy = _seen(FIRST[:100], 2, 1)
    whole = _seen(FIRST[:150], 1)
    ((_, position),) = recognise([_read(FIRST[:100], 1, 1)], (copy, whole), 90)
    assert position.head_bytes == 100
    assert _found([replace(position, offset=150)], copy) == {}
    # The same holds when a scan sees the file and its copy for the first time.
    ((_, position),) = recognise([], (copy, whole), 90)
    assert _found([replace(position, offset=150)], copy) == {}


def test_files_with_the_same_beginning_are_told_apart_by_their_inodes() -> None:
    first, second = _read(FIRST, 1, 1), replace(_read(FIRST, 2, 2), offset=100)
    assert _found([first, second], _seen(FIRST, 2, 2), _seen(FIRST, 1, 1)) == {2: (2, 100), 1: (1, SIZE)}
    assert _found([first], _seen(FIRST, 1, 1), _seen(FIRST, 2)) == {1: (1, SIZE), 2: (90, 0)}


def test_a_short_beginning_counts_only_with_the_inode_or_the_length() -> None:
    short = _read(b"ok\n", 1, 1)
    assert _found([short], _seen(b"ok\nmore\n", 1)) == {1: (1, 3)}
    assert _found([short], _seen(b"ok\nmore\n", 1, 1)) == {1: (1, 3)}
    assert _found([short], _seen(b"ok\n", 2, 1, packed=True)) == {2: (1, 3)}
    assert _found([short], _seen(b"ok\nmore\n", 2, 1)) == {2: (90, 0)}
    assert _found([short], _seen(b"ok\n", 2)) == {2: (90, 0)}
    # A position that a crash left behind, of a line that was not whole, has no claim to a copy.
    begun = replace(_read(b"2026-11", 2, 1), offset=0)
    assert _found([A, begun], _seen(FIRST, 2, 1), _seen(FIRST, 1)) == {1: (1, SIZE)}


def test_a_file_that_has_two_names_is_read_once() -> None:
    assert _found([A], _seen(FIRST, 1, 1), _seen(FIRST, 1)) == {1: (1, SIZE)}
    assert _found([], _seen(FIRST, 1, 1), _seen(FIRST, 1)) == {1: (90, 0)}


def test_another_log_and_the_journal_have_positions_of_their_own() -> None:
    assert _found([A], _seen(FIRST, 2, 1, log="b.log")) == {2: (90, 0)}
    journal = Position("journal", *JOURNAL_KEY, 3, offset=SIZE)
    assert _found([journal], _seen(FIRST, 2, 1, log="journal")) == {2: (90, 0)}
