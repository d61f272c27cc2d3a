"""Decides which bytes of which log file go where in HyDFS, so that every line gets there exactly once.

A *stream* is everything that is written to a log from one empty file to the next. It gets a number when a
scan first sees it, and is recognised later by its beginning, in whatever file it then is: ``identity`` has
the rule. The bytes read from it become *records*: whole lines for one HyDFS file, with the stream's number as
writer and the offset behind the lines as sequence. A record is stored durably before it is sent and before
the position moves; after a crash the same records are sent again, and HyDFS recognises them. A crash may
take everything else that the collector knows, because the next scan finds it again. So no order of crashes
and rotations loses or repeats a line that was still on the disk when it was to be read.

A file may be truncated between the scan and a read. So each chunk comes with the beginning that its file
had after the read, and is dropped if that is another stream's. A line that is longer than a record is
stored in parts; the other files of its log wait for its end, so that nothing gets into the middle of a
line.

Lines that a writer adds between the copy and the truncation of ``copytruncate`` are lost unless they are
read before the truncation; copytruncate cannot do better.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, assert_never

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.logs.core.identity import recognise
from agent.logs.core.position import JOURNAL_KEY, Key, Position, Seen, whole_lines
from agent.logs.messages import GONE_MAX, CollectorState, RecordFields, SpooledRecord, TargetFields

# Larger records save appends; HyDFS takes a quarter of a block at once.
RECORD_BYTES_MAX = 512 * 1024
# How long the end of a line is waited for, from when its file grew last. After that the last line of a
# rotated file is taken as it is, and a log whose last record ends within a line goes on with the next file.
SETTLE_S = 5.0


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
    """Bytes of a file were read, at the offset of its position; after that the file began with ``head``."""

    key: Key
    number: int
    offset: int
    data: bytes
    head: bytes


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
        # The bytes that vanished before they were read.
        self.lost_bytes = 0
        self._target_bytes_max = target_bytes_max
        self._record_bytes_max = record_bytes_max
        self._next_number = 1
        # By number: every stream ever seen, the latest last. By key: the stream that is in that file now.
        self._positions: dict[int, Position] = {}
        self._numbers: dict[Key, int] = {}
        self._targets: dict[str, Target] = {}
        # By log: the number of the stream whose record was the last, if that ends within a line.
        self._torn: dict[str, int] = {}
        # The result of the last scan, and other state that need not outlive the process.
        self._seen: dict[int, Seen] = {}
        self._grew_at: dict[int, tuple[int, float]] = {}
        self._missing: dict[int, int] = {}
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
                return self._next_read(record.position.number)
            case _:
                assert_never(event)

    def next_deadline(self) -> None:
        """Returns None: the shell scans again by its own clock."""
        return

    def knows(self, key: Key) -> bool:
        """Tells whether the last scan read a file's first bytes; if not, the next one must."""
        return key in self._heads

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
        if record.data.endswith(b"\n"):
            self._torn.pop(position.log, None)
        else:
            self._torn[position.log] = position.number

    def snapshot(self) -> CollectorState:
        """Returns the state that must outlive a crash."""
        gone = [number for number, each in self._positions.items() if self._numbers.get(each.key) != number]
        for number in gone[:-GONE_MAX]:
            del self._positions[number]
            self._missing.pop(number, None)
        return CollectorState(
            self._next_number,
            tuple(each.fields for each in self._positions.values()),
            tuple(self._numbers.values()),
            {log: target.fields for log, target in self._targets.items()},
            dict(self._torn),
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
        self._torn = dict(state.torn)
        self._next_number = state.next

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        for key, number in self._numbers.items():
            assert self._positions[number].key == key
            assert number < self._next_number

    def _scanned(self, now: float, event: Scanned) -> list[Effect]:
        self._day = event.day
        files = self._with_heads(event.files)
        before, self._seen = self._seen, {}
        self._numbers = {key: number for key, number in self._numbers.items() if key == JOURNAL_KEY}
        for seen, position in recognise(list(self._positions.values()), files, self._next_number):
            number = position.number
            self._positions[number] = position
            self._numbers[seen.key] = number
            self._seen[number] = seen
            self._next_number = max(self._next_number, number + 1)
        self._count_lost(before)
        self._note_growth(now)
        # A line that was begun is completed before anything else of its log is read.
        torn = set(self._torn.values())
        in_order = sorted(self._seen, key=lambda number: number not in torn)
        return [effect for number in in_order for effect in self._next_read(number)]

    def _with_heads(self, files: tuple[Seen, ...]) -> list[Seen]:
        """Adds the first bytes of unchanged files; leaves out files whose first bytes are unknown."""
        before = self._heads
        self._heads = {}
        found = []
        for seen in files:
            head = before.get(seen.key) if seen.head is None else seen.head
            if head is not None:
                self._heads[seen.key] = head
                found.append(seen if seen.head is head else replace(seen, head=head))
        return found

    def _count_lost(self, before: dict[int, Seen]) -> None:
        """Counts bytes that vanished unread as lost until they are found again, perhaps in a copy."""
        for number, seen in before.items():
            unread = seen.size - self._positions[number].offset
            if number not in self._seen and unread > 0:
                self._missing[number] = unread
                self.lost_bytes += unread
        for number in self._seen:
            self.lost_bytes -= self._missing.pop(number, 0)

    def _note_growth(self, now: float) -> None:
        kept = {*self._seen, *self._torn.values()}
        self._grew_at = {number: grew for number, grew in self._grew_at.items() if number in kept}
        for number in kept:
            before = self._grew_at.setdefault(number, (-1, now))
            if number in self._seen and self._seen[number].size != before[0]:
                self._grew_at[number] = (self._seen[number].size, now)

    def _journal(self, log: str) -> Position:
        number = self._numbers.get(JOURNAL_KEY)
        if number is not None:
            return self._positions[number]
        self._next_number += 1
        return Position(log, *JOURNAL_KEY, self._next_number - 1)

    def _next_read(self, number: int) -> list[Effect]:
        seen, position = self._seen.get(number), self._positions[number]
        if seen is None or seen.size <= position.offset:
            return []
        length = min(seen.size - position.offset, self._record_bytes_max)
        return [ReadChunk(position.key, number, position.offset, length)]

    def _chunk_read(self, now: float, event: ChunkRead) -> list[Effect]:
        position, seen = self._positions.get(event.number), self._seen.get(event.number)
        if position is None or seen is None or (position.key, position.offset) != (event.key, event.offset):
            return []
        torn = self._torn.get(position.log, position.number)
        waits = torn != position.number and now - self._grew_at[torn][1] < SETTLE_S
        if waits or not position.begins_like(event.head):
            return []
        ends = self._has_ended(now, event.number, seen, event.offset + len(event.data))
        taken = whole_lines(event.data, cut=ends or len(event.data) >= self._record_bytes_max)
        if not taken:
            return []
        # The next record in the collection must begin on a new line.
        data = taken if taken.endswith(b"\n") or not ends else taken + b"\n"
        data = data if torn == position.number else b"\n" + data
        target = self._target(position.log, len(data))
        # The position keeps the beginning that the scan found, which takes the file's copies into account.
        position = replace(position, offset=position.offset + len(taken))
        return [StoreRecord(Record(position, target, data))]

    def _has_ended(self, now: float, number: int, seen: Seen, end: int) -> bool:
        still_for_s = now - self._grew_at[number][1]
        return not seen.live and end >= seen.size and (seen.packed or still_for_s >= SETTLE_S)

    def _target(self, log: str, size: int) -> Target:
        target = self._targets.get(log, Target())
        if target.day != self._day or target.size + size > self._target_bytes_max:
            target = Target(target.number + 1, self._day)
        return replace(target, size=target.size + size)
