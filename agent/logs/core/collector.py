"""Decides which bytes of which log file go where in HyDFS, so that every line gets there exactly once.

A file is identified by its inode and its beginning (``position``), and gets a number of its own when it is
first seen. What is read of it becomes *records*: whole lines, with the file's number as writer and the offset
behind them as sequence, bound for one HyDFS file. A record is stored durably before it is sent and before the
position moves; after a crash the same records are sent again, and HyDFS recognises them. So no order of
crashes loses or repeats a line that was still on the disk when it was scanned.

Rotation by renaming needs nothing more: the inode stays. A file that was copied and truncated
(``copytruncate``) or compressed has another inode and the same beginning: its copy is read from where the
original was left. A copy of a file that still exists is not read. What a writer adds between the copy and the
truncation is lost to every reader; copytruncate cannot do better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, assert_never

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.logs.core.position import JOURNAL_KEY, Key, Position, Seen, whole_lines
from agent.logs.messages import GONE_MAX, CollectorState, RecordFields, SpooledRecord, TargetFields

# Larger records save appends; HyDFS takes a quarter of a block at once.
RECORD_BYTES_MAX = 512 * 1024
# The last line of a rotated file may lack its end; it is taken when the file has not changed for this long.
SETTLE_S = 5.0
# A scan of a folder may overlook a file that is being renamed, but not twice.
ABSENT_SCANS = 2
# A beginning as long as a time stamp and a few words tells a copy from another file.
SHORT_HEAD_BYTES = 32


@dataclass(frozen=True, slots=True)
class Target:
    """The HyDFS file that a log is being appended to."""

    number: int = 0
    day: str = ""
    size: int = 0

    @property
    def fields(self) -> TargetFields:
        """Returns the target as it is stored: ``Target(*fields)`` is the same again."""
        return (self.number, self.day, self.size)


@dataclass(frozen=True, slots=True)
class Record:
    """Lines on their way: the position behind them in their log, and the file they go to."""

    position: Position
    target: Target
    data: bytes

    @property
    def sequence(self) -> int:
        """Returns the offset behind the lines: with the writer it makes the append idempotent."""
        return self.position.offset

    def to_wire(self) -> RecordFields:
        """Returns the record as it is stored."""
        return (self.position.fields, self.target.fields, self.data)


def record_from_wire(fields: Any) -> Record:
    """Returns the record that was stored as ``fields``.

    Raises:
        InvalidMessage: they are not those of a record.
    """
    found = message.decode(SpooledRecord, {"record": fields}, "record of the spool")
    position, target, data = found.record
    return Record(Position(*position), Target(*target), data)


@dataclass(frozen=True, slots=True)
class Scanned:
    """The log folder was scanned on the day ``day``."""

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
    """Lines of the journal were read, from behind the cursor of its position up to another cursor."""

    log: str
    data: bytes
    cursor: str


@dataclass(frozen=True, slots=True)
class RecordStored:
    """A record is durable."""

    record: Record


@dataclass(frozen=True, slots=True)
class ReadChunk:
    """Read ``length`` bytes of a file."""

    key: Key
    number: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class StoreRecord:
    """Make a record durable, then report ``RecordStored``."""

    record: Record


Event = Scanned | ChunkRead | JournalRead | RecordStored
Effect = ReadChunk | StoreRecord


class Collector:
    """Decides which part of the logs is read next and where it goes."""

    def __init__(self, *, target_bytes_max: int, record_bytes_max: int = RECORD_BYTES_MAX) -> None:
        # The bytes that vanished before they were read; more when a copy was read under another number.
        self.lost_bytes = 0
        self._target_bytes_max = target_bytes_max
        self._record_bytes_max = record_bytes_max
        self._next_number = 1
        # By number: every file ever seen, the latest last. By key: the number of the file that has it now.
        self._positions: dict[int, Position] = {}
        self._numbers: dict[Key, int] = {}
        self._targets: dict[str, Target] = {}
        # The result of the last scan, and other state that need not outlive the process.
        self._seen: dict[int, Seen] = {}
        self._grew_at: dict[int, tuple[int, float]] = {}
        self._missing: dict[int, int] = {}
        self._absent: dict[int, int] = {}
        self._heads: dict[Key, bytes] = {}
        self._day = ""

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Applies an event and returns the effects to carry out."""
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
            case _:
                assert_never(event)

    def next_deadline(self) -> None:
        """Returns None: the shell scans again by its own clock."""
        return

    def knows(self, key: Key) -> bool:
        """Tells whether a file has a position; if not, the next scan must read its first bytes."""
        return key in self._numbers

    def journal_cursor(self) -> str:
        """Returns the cursor of the last journal entry that was taken; '' before the first."""
        number = self._numbers.get(JOURNAL_KEY)
        return "" if number is None else self._positions[number].cursor

    def unread_bytes(self) -> int:
        """Returns how many bytes of the last scan's files are not in a record yet."""
        return sum(max(0, seen.size - self._positions[n].offset) for n, seen in self._seen.items())

    def apply(self, record: Record) -> None:
        """Moves the position of a record's log, when the record was stored, and again after a restart."""
        position = record.position
        before = self._positions.pop(position.number, None)
        if before is not None and self._numbers.get(before.key) == position.number:
            del self._numbers[before.key]
        self._positions[position.number] = position
        self._numbers[position.key] = position.number
        self._next_number = max(self._next_number, position.number + 1)
        self._targets[position.log] = record.target

    def snapshot(self) -> CollectorState:
        """Returns the state that must outlive a crash."""
        gone = [number for number, each in self._positions.items() if self._numbers.get(each.key) != number]
        for number in gone[:-GONE_MAX]:
            del self._positions[number]
        return CollectorState(
            self._next_number,
            tuple(each.fields for each in self._positions.values()),
            tuple(self._numbers.values()),
            {log: target.fields for log, target in self._targets.items()},
        )

    def restore(self, state: CollectorState) -> None:
        """Starts from what ``snapshot`` returned.

        Raises:
            InvalidMessage: it names a file whose position it does not hold; nothing has changed.
        """
        positions = {each.number: each for each in (Position(*fields) for fields in state.positions)}
        unknown = [number for number in state.current if number not in positions]
        if unknown or any(number >= state.next for number in positions):
            raise InvalidMessage(f"state of the collector: next number {state.next}, unknown {unknown[:3]}")
        self._positions = positions
        self._numbers = {positions[number].key: number for number in state.current}
        self._targets = {log: Target(*fields) for log, fields in state.targets.items()}
        self._next_number = state.next

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
        self._heads = {
            each.key: self._heads.get(each.key, b"") if each.head is None else each.head
            for each in event.files
        }
        unknown = []
        for seen in event.files:
            number = self._numbers.get(seen.key)
            reused = number is not None and seen.packed and self._is_copy(seen, event.files)
            if number is not None and (reused or not self._positions[number].continues_in(seen)):
                # Truncated, or its inode belongs to another file now: perhaps to the packed copy of a file
                # that was found under another inode since, which a restart forgets.
                del self._numbers[seen.key]
                number = None
            if number is None:
                unknown.append(seen)
            else:
                self._seen[number] = seen
        for seen in unknown:
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
        """Tells whether an unknown file is a copy, perhaps unfinished, of a file that still exists."""
        return not seen.live and any(
            other.log == seen.log
            and other.key != seen.key
            and not other.packed
            and (other.live or seen.packed)
            # As long as an original exists, it is at least as long as its copy.
            and self._heads[other.key].startswith(self._heads[seen.key] or b"\n")
            for other in files
        )

    def _recognise(self, seen: Seen, keys: set[Key]) -> int | None:
        """Returns the number of a file with an unknown inode: a new one, or that of its original."""
        for position in reversed(list(self._positions.values())):
            if position.key == seen.key and position.offset and position.continues_in(seen):
                self._move(position, seen)  # it was overlooked while it was being renamed
                return position.number
        if not seen.live:
            for position in self._alike(seen):
                overlooked = position.key not in keys and self._absent[position.number] < ABSENT_SCANS
                if seen.size < position.offset or overlooked:
                    return None  # the copy is not finished, or the original is being renamed
                self._move(position, seen)
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

    def _move(self, position: Position, seen: Seen) -> None:
        moved = replace(position, device=seen.device, inode=seen.inode)
        self._positions[position.number] = moved
        self._numbers[seen.key] = position.number
        # This file has the bytes that were counted as lost.
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
        # The next record in the collection must begin on a new line.
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
