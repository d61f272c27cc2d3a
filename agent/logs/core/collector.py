"""Which bytes of which log file go where in HyDFS, so that every line gets there exactly once.

The rules, without any input or output. A file is known by its inode and its beginning (``position``), and
bears a number of its own from its first sight on. What is read of it becomes *records*: whole lines, with
the file's number as writer and the offset behind them as sequence, bound for one HyDFS file. A record is
stored durably before it is sent and before the position moves; after a crash the same records are sent
again, and HyDFS recognises them. So no order of crashes loses or repeats a line that was still on the disk
when it was looked at.

Rotation by renaming needs nothing more: the inode stays. A file that was copied and cut (``copytruncate``)
or compressed has another inode and the same beginning: its copy goes on where the original was left. A
copy of a file that is still there is left alone. What a writer adds between the copy and the cut is lost
to everybody; that is the nature of copytruncate.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.logs.core.position import JOURNAL_KEY, Key, Position, Seen, position_from_wire, whole_lines

# Larger records save appends; HyDFS takes a quarter of a block at once.
RECORD_BYTES_MAX = 512 * 1024
# A last line without an end is taken as it is when its file was rotated and has been still for so long.
SETTLE_S = 5.0
# A look at a folder may overlook a file that is being renamed, but not twice.
ABSENT_LOOKS = 2
# Files that are gone are remembered, lest a compressed copy of them is taken for a new one.
GONE_MAX = 1024
# A beginning as long as a time stamp and a few words tells a copy from another file.
SHORT_HEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class Target:
    """The HyDFS file that a log is being appended to."""

    number: int = 0
    day: str = ""
    size: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """Lines on their way: where they come from, up to where, and where they go."""

    position: Position
    target: Target
    data: bytes

    @property
    def sequence(self) -> int:
        """Returns what makes the append idempotent, beside its writer: the offset behind the lines."""
        return self.position.offset

    def to_wire(self) -> list[Any]:
        """Returns the record as plain values."""
        target = [self.target.number, self.target.day, self.target.size]
        return [self.position.to_wire(), target, self.data]


def record_from_wire(value: Any) -> Record:
    """Returns the record that ``to_wire`` made."""
    position, target, data = value
    return Record(position_from_wire(position), Target(*target), bytes(data))


@dataclass(frozen=True, slots=True)
class Scanned:
    """The log folder was looked at; ``day`` is today's."""

    files: tuple[Seen, ...]
    day: str


@dataclass(frozen=True, slots=True)
class ChunkRead:
    """Bytes of a file were read, at the offset of its position."""

    key: Key
    number: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class JournalRead:
    """Lines of the journal were read, behind the cursor of its position and up to another."""

    log: str
    data: bytes
    cursor: str


@dataclass(frozen=True, slots=True)
class RecordStored:
    """A record is durable."""

    record: Record


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Read so many bytes of a file."""

    key: Key
    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """Make a record durable, then say so."""

    record: Record


Event = Scanned | ChunkRead | JournalRead | RecordStored
Effect = ReadChunk | StoreRecord


class Collector:
    """Decides what of the logs is read next and where it goes."""

    def __init__(self, *, target_bytes_max: int, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        # What vanished before it was read: all of it, or more when a copy was read under another number.
        self.lost_bytes = 0
        self._target_bytes_max = target_bytes_max
        self._record_bytes_max = record_bytes_max
        self._next_number = 1
        # By number: every file ever seen, the latest last. By key: the number of the file that has it now.
        self._positions: dict[int, Position] = {}
        self._numbers: dict[Key, int] = {}
        self._targets: dict[str, Target] = {}
        # What is only of this look or this life of the process.
        self._seen: dict[int, Seen] = {}
        self._grew_at: dict[int, tuple[int, float]] = {}
        self._missing: dict[int, int] = {}
        self._absent: dict[int, int] = {}
        self._heads: dict[Key, bytes] = {}
        self._day = ""

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Returns what is to be done after an event."""
        match event:
            case Scanned():
                return self._scanned(now, event)
            case ChunkRead():
                return self._chunk_read(now, event)
            case JournalRead(log=log, data=data, cursor=cursor):
                position = replace(self._journal(log), cursor=cursor)
                position = replace(position, offset=position.offset + len(data))
                return [StoreRecord(Record(position, self._target(log, len(data)), data))]
            case RecordStored(record=record):
                self.apply(record)
                return self._next_read(now, record.position.number)

    def next_deadline(self) -> None:
        """Returns nothing: time passes by looking at the folder again."""
        return

    def knows(self, key: Key) -> bool:
        """Tells whether a file has a position; if not, its next look must say how it begins."""
        return key in self._numbers

    def journal_cursor(self) -> str:
        """Returns behind which entry of the journal to read on; '' before the first."""
        number = self._numbers.get(JOURNAL_KEY)
        return "" if number is None else self._positions[number].cursor

    def unread_bytes(self) -> int:
        """Returns how much of the files of the last look is not in a record yet."""
        return sum(max(0, seen.size - self._positions[n].offset) for n, seen in self._seen.items())

    def apply(self, record: Record) -> None:
        """Takes a durable record into account: as it is stored, or again after a crash."""
        position = record.position
        before = self._positions.pop(position.number, None)
        if before is not None and self._numbers.get(before.key) == position.number:
            del self._numbers[before.key]
        self._positions[position.number] = position
        self._numbers[position.key] = position.number
        self._next_number = max(self._next_number, position.number + 1)
        self._targets[position.log] = record.target

    def snapshot(self) -> dict[str, Any]:
        """Returns all that must outlive a crash, as plain values."""
        gone = [number for number, each in self._positions.items() if self._numbers.get(each.key) != number]
        for number in gone[:-GONE_MAX]:
            del self._positions[number]
        return {
            "next": self._next_number,
            "positions": [each.to_wire() for each in self._positions.values()],
            "current": list(self._numbers.values()),
            "targets": {log: [t.number, t.day, t.size] for log, t in self._targets.items()},
        }

    def restore(self, value: Mapping[str, Any]) -> None:
        """Starts from what ``snapshot`` returned."""
        positions = [position_from_wire(each) for each in value["positions"]]
        self._positions = {each.number: each for each in positions}
        self._numbers = {self._positions[number].key: number for number in value["current"]}
        self._targets = {log: Target(*each) for log, each in value["targets"].items()}
        self._next_number = int(value["next"])

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        for key, number in self._numbers.items():
            assert self._positions[number].key == key
            assert number < self._next_number

    def _scanned(self, now: float, event: Scanned) -> list[Effect]:
        self._day = event.day
        keys = {JOURNAL_KEY, *(seen.key for seen in event.files)}
        self._forget_vanished(keys)
        self._seen = {}
        strangers = []
        for seen in event.files:
            number = self._numbers.get(seen.key)
            if number is not None and not self._positions[number].goes_on_in(seen):
                del self._numbers[seen.key]  # cut, or its inode belongs to another file now
                number = None
            if number is None:
                strangers.append(seen)
            else:
                self._seen[number] = seen
        self._heads = {
            each.key: self._heads.get(each.key, b"") if each.head is None else each.head
            for each in event.files
        }
        for seen in strangers:
            if self._is_copy(seen, event.files):
                continue
            number = self._recognise(seen, keys)
            if number is not None:
                self._seen[number] = seen
        for number, seen in self._seen.items():
            if self._grew_at.get(number, (-1, 0.0))[0] != seen.size:
                self._grew_at[number] = (seen.size, now)
        return [effect for number in self._seen for effect in self._next_read(now, number)]

    def _journal(self, log: str) -> Position:
        number = self._numbers.get(JOURNAL_KEY)
        if number is not None:
            return self._positions[number]
        self._next_number += 1
        return Position(log, *JOURNAL_KEY, self._next_number - 1)

    def _forget_vanished(self, keys: set[Key]) -> None:
        for key, number in list(self._numbers.items()):
            if key not in keys:
                del self._numbers[key]
                self._grew_at.pop(number, None)
                if number in self._seen:
                    self._missing[number] = max(0, self._seen[number].size - self._positions[number].offset)
                    self.lost_bytes += self._missing[number]
        absent = [n for n, each in self._positions.items() if each.key not in keys]
        self._absent = {number: self._absent.get(number, 0) + 1 for number in absent}

    def _is_copy(self, seen: Seen, files: tuple[Seen, ...]) -> bool:
        """Tells whether a stranger is a copy, perhaps unfinished, of a file that is still there."""
        return not seen.live and any(
            other.log == seen.log
            and other.key != seen.key
            and not other.packed
            and (other.live or seen.packed)
            # While it is there, an original is at least as long as its copy.
            and self._heads[other.key].startswith(self._heads[seen.key] or b"\n")
            for other in files
        )

    def _recognise(self, seen: Seen, keys: set[Key]) -> int | None:
        """Returns the number of a file with an unknown inode: a new one, or that of what it is a copy of."""
        for position in reversed(list(self._positions.values())):
            if position.key == seen.key and position.offset and position.goes_on_in(seen):
                self._take_over(position, seen)  # it was overlooked while it was being renamed
                return position.number
        if not seen.live:
            for position in self._alike(seen):
                overlooked = position.key not in keys and self._absent[position.number] < ABSENT_LOOKS
                if seen.size < position.offset or overlooked:
                    return None  # the copy is not finished, or the original is just being renamed
                self._take_over(position, seen)
                return position.number
        if not seen.size:
            return None
        number = self._next_number
        self._next_number += 1
        self._positions[number] = Position(seen.log, seen.device, seen.inode, number)
        self._numbers[seen.key] = number
        return number

    def _alike(self, seen: Seen) -> Iterator[Position]:
        for position in reversed(list(self._positions.values())):
            told_apart = position.head_bytes >= SHORT_HEAD_BYTES or position.offset == seen.size
            gone = self._numbers.get(position.key) != position.number
            candidate = gone and position.log == seen.log and position.offset and told_apart
            if candidate and position.begins_like(seen):
                yield position

    def _take_over(self, position: Position, seen: Seen) -> None:
        moved = replace(position, device=seen.device, inode=seen.inode)
        self._positions[position.number] = moved
        self._numbers[seen.key] = position.number
        # The bytes that were counted as lost are here.
        self.lost_bytes -= self._missing.pop(position.number, 0)

    def _next_read(self, now: float, number: int) -> list[Effect]:
        seen, position = self._seen.get(number), self._positions[number]
        if seen is None or seen.size <= position.offset:
            return []
        length = min(seen.size - position.offset, self._record_bytes_max)
        return [ReadChunk(position.key, number, position.offset, length)]

    def _chunk_read(self, now: float, event: ChunkRead) -> list[Effect]:
        position, seen = self._positions.get(event.number), self._seen.get(event.number)
        if position is None or seen is None or (position.key, position.offset) != (event.key, event.offset):
            return []
        ends = self._has_ended(now, event.number, seen, event.offset + len(event.data))
        taken = whole_lines(event.data, cut=ends or len(event.data) >= self._record_bytes_max)
        if not taken:
            return []
        # What comes after it in the collection must begin on a line of its own.
        data = taken if taken.endswith(b"\n") or not ends else taken + b"\n"
        target = self._target(position.log, len(data))
        return [StoreRecord(Record(position.advanced(taken), target, data))]

    def _has_ended(self, now: float, number: int, seen: Seen, end: int) -> bool:
        still_for_s = now - self._grew_at[number][1]
        return not seen.live and end >= seen.size and (seen.packed or still_for_s >= SETTLE_S)

    def _target(self, log: str, size: int) -> Target:
        target = self._targets.get(log, Target())
        if target.day != self._day or target.size + size > self._target_bytes_max:
            target = Target(target.number + 1, self._day)
        return replace(target, size=target.size + size)
