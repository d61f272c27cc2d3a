"""Recognises the files of a scan, so that the collector neither repeats nor misses a file.

A stream is everything that is written to a log from one empty file to the next. At any moment it can be in
several files: in the one that is being written, in a copy, in a compressed copy. Names and inodes pass from
one stream to another, and after a crash the collector may remember an inode that the stream has left. Only
the beginning of a stream never changes. So a position belongs to the stream that begins like it, and an
inode only helps to choose:

1. A plain file goes on from the position that has its inode, if the file begins like it and is no shorter.
   A file that was truncated, or that got the inode of another file, fails this.
2. A rotated or compressed file that is left goes on from the position that it begins like, in whatever file
   that was read before. The longest file comes first, and a plain one before a compressed one: while a file
   exists, its copies are not read. A file that is shorter than the position is a copy, and is not read.
3. A rotated or compressed file that is left is a copy, perhaps an unfinished one, if a file that it can be
   a copy of begins like it: the live file, or for a compressed file any plain one. It is not read.
4. Any other file is new. So is every live file that rule 1 does not know.

Some things cannot be known. A beginning of less than SHORT_HEAD_BYTES tells no file from another: only with
the inode or, in a rotated file, with the same length does it count. Two files with the same first
HEAD_BYTES count as one stream if their inodes do not tell them apart. A copy that was never finished is
collected as a file of its own when its original is gone. Lines that are written and truncated away before
they were read are lost.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from agent.logs.core.position import JOURNAL_KEY, Key, Position, Seen


def recognise(
    positions: Sequence[Position], files: Sequence[Seen], next_number: int
) -> list[tuple[Seen, Position]]:
    """Returns the files that are to be read, in their order, with their positions.

    New files get numbers from ``next_number`` on. Of positions that fit equally well the last is taken.
    """
    return _Scan(positions, files).recognised(next_number)


class _Scan:
    """The files of one scan while they are being recognised."""

    def __init__(self, positions: Sequence[Position], files: Sequence[Seen]) -> None:
        self._by_inode: defaultdict[int, list[Position]] = defaultdict(list)
        self._by_log: defaultdict[str, list[Position]] = defaultdict(list)
        for position in reversed(positions):
            if position.key != JOURNAL_KEY:
                self._by_inode[position.inode].append(position)
                self._by_log[position.log].append(position)
        # While a file is renamed by link and unlink, it has two names.
        self._files: dict[Key, Seen] = {}
        for seen in files:
            if seen.live or seen.key not in self._files:
                self._files[seen.key] = seen
        self._found: dict[Key, Position] = {}
        self._taken: set[int] = set()
        self._shorter: set[Key] = set()

    def recognised(self, next_number: int) -> list[tuple[Seen, Position]]:
        """Applies the rules in order."""
        files = [each for each in self._files.values() if each.size]
        for seen in files:
            if not seen.packed:
                self._find_by_inode(seen)
        for seen in sorted(files, key=lambda each: (-each.size, each.packed)):
            if not seen.live and seen.key not in self._found:
                self._find_by_beginning(seen)
        left = [each for each in files if each.key not in self._found and each.key not in self._shorter]
        originals = {each.key: self._originals(each) for each in left}
        for seen in left:
            if not originals[seen.key] and not self._find_short(seen):
                self._take(seen, Position(seen.log, *seen.key, next_number))
                next_number += 1
        for seen in left:
            for key in originals[seen.key]:
                if key in self._found:
                    # When the original is gone, its position must be found in a copy that is shorter than it.
                    self._found[key] = self._found[key].shortened_to(seen)
        return [(each, self._found[each.key]) for each in files if each.key in self._found]

    def _find_by_inode(self, seen: Seen) -> None:
        fitting = [
            each
            # The device is not compared: its number may change when the machine starts.
            for each in self._by_inode[seen.inode]
            if each.number not in self._taken
            and each.continues_in(seen)
            and (each.tells_apart or (seen.live and (each.key, each.log) == (seen.key, seen.log)))
        ]
        if fitting:
            best = max(
                fitting, key=lambda each: (each.tells_apart, each.key == seen.key, each.log == seen.log)
            )
            self._take(seen, best)

    def _find_by_beginning(self, seen: Seen) -> None:
        alike = [
            each
            for each in self._by_log[seen.log]
            if each.number not in self._taken and each.tells_apart and each.begins_like(seen.head)
        ]
        fitting = [each for each in alike if each.offset <= seen.size]
        if fitting:
            self._take(seen, max(fitting, key=lambda each: (each.key == seen.key, each.offset)))
        elif alike:
            self._shorter.add(seen.key)

    def _find_short(self, seen: Seen) -> bool:
        """Finds, by its inode or its length, a file whose beginning is too short to tell it apart."""
        for each in self._by_log[seen.log]:
            same = each.key == seen.key or (each.offset == seen.size and not seen.live)
            if each.number not in self._taken and not each.tells_apart and same and each.continues_in(seen):
                self._take(seen, each)
                return True
        return False

    def _take(self, seen: Seen, position: Position) -> None:
        self._found[seen.key] = position.found_in(seen)
        self._taken.add(position.number)

    def _originals(self, seen: Seen) -> list[Key]:
        """Returns the files of which ``seen`` can be a copy."""
        if seen.live:
            return []
        return [
            other.key
            for other in self._files.values()
            if other.log == seen.log
            and other.key != seen.key
            and not other.packed
            and (other.live or seen.packed)
            and other.head is not None
            and other.head.startswith(seen.head or b"")
        ]
