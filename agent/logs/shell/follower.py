"""Reading on in a node's logs: what is new behind a reader's positions, across rotation and restarts.

The reader keeps the positions and sends them along, so that nothing is remembered here: whoever asks again
with the positions of an answer gets what came after it, once, whether or not this agent was restarted
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.common.errors import UsageError
from agent.common.shell import clock
from agent.logs.core.position import (
    HEAD_BYTES,
    JOURNAL_KEY,
    Key,
    Position,
    Seen,
    position_from_wire,
    whole_lines,
)
from agent.logs.core.query import amount, file_patterns
from agent.logs.core.timerange import find_time
from agent.logs.shell import journald as journal
from agent.logs.shell import sources
from agent.logs.shell.sources import LogFile
from agent.wire.server import Handler, Reply, Request

ANSWER_BYTES_MAX = 1024 * 1024
CHUNK_BYTES_MAX = 256 * 1024
POSITIONS_MAX = 1024
WAIT_S_MAX = 20.0
LOOK_S = 0.2
TAIL_LINES_MAX = 100_000
BACK_BYTES = 64 * 1024
# Each look at the journal is a process or two: once a second will do.
LOOKS_PER_JOURNAL_LOOK = 5
JOURNAL_ENTRIES = 1000
# In a position of a follower the number says how often its file was not there, or that nothing is left of it.
ABSENT_LOOKS_MAX = 100
OFFSET_MAX = 1 << 62
CURSOR_CHARS_MAX = 512
COMPLETE = -1


@dataclass(slots=True)
class _Answer:
    """What one request gets: the new positions and, behind each other, the pieces of files."""

    positions: list[Position] = field(default_factory=list)
    pieces: list[tuple[str, bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, file: LogFile, position: Position, data: bytes) -> None:
        """Takes what was read at a position, as far as it is whole lines."""
        taken = whole_lines(data, cut=len(data) >= CHUNK_BYTES_MAX or file.packed != "")
        self.positions.append(position.advanced(taken))
        if taken:
            self.pieces.append((file.label, taken))
            self.size += len(taken)

    def room(self) -> int:
        """Returns how much of one file may still be added."""
        return min(CHUNK_BYTES_MAX, ANSWER_BYTES_MAX - self.size)


class Follower:
    """Answers requests to read on; holds a request for a while when there is nothing new."""

    def __init__(self, folder: Path, journal_units: Sequence[str]) -> None:
        self._folder = folder
        self._own_units = journal.Units(journal_units)
        self._stopping = threading.Event()

    def handlers(self) -> dict[str, Handler]:
        """Returns the requests that are answered here."""
        return {"logs.follow": self._follow}

    def stop(self) -> None:
        """Lets requests that wait return."""
        self._stopping.set()

    def _follow(self, request: Request) -> Reply:
        fields = request.fields
        patterns = file_patterns(fields)
        if fields.get("positions") is None:
            start = self._begin(patterns, _tail(fields.get("tail")), amount(fields, "since"))
            return Reply({"positions": [each.to_wire() for each in start], "pieces": []})
        positions = _positions(fields["positions"])
        left_s = request.deadline.remaining(clock.monotonic()) - 1.0
        until = clock.monotonic() + min(WAIT_S_MAX, left_s, amount(fields, "wait_s") or 0.0)
        looks = 0
        while True:
            answer = self._read_on(patterns, positions)
            self._read_journal(patterns, positions, answer, skip=looks % LOOKS_PER_JOURNAL_LOOK != 0)
            if answer.pieces or clock.monotonic() >= until or self._stopping.is_set():
                return _reply(answer)
            positions = answer.positions
            looks += 1
            self._stopping.wait(LOOK_S)

    def _begin(self, patterns: Sequence[str], tail: int, since: float | None) -> list[Position]:
        """Returns where the last lines of each log begin, or those since a time."""
        found = []
        for file in self._files(patterns):
            with contextlib.suppress(OSError), sources.opened(file) as descriptor:
                size = os.fstat(descriptor).st_size
                read = _reader(descriptor)
                if since is not None:
                    start = find_time(read, size, since, file.modified_at)
                else:
                    start = _tail_start(read, size, tail) if file.age == 0 else size
                head = Position(file.log, file.device, file.inode, 0).advanced(
                    read(0, min(HEAD_BYTES, start))
                )
                found.append(replace(head, offset=start))
        # What was compressed before the reader came is not new.
        packed = [file for file in sources.in_folder(self._folder, patterns) if file.packed]
        found += [Position(file.log, file.device, file.inode, COMPLETE) for file in packed]
        units = self._units(patterns)
        with contextlib.suppress(OSError, ValueError):
            if units:
                cursor = journal.tail_cursor(units, tail)
                if since is not None:
                    cursor = journal.since_cursor(units, since)
                found.append(Position(journal.LOG, *JOURNAL_KEY, 0, cursor=cursor))
        return found

    def _read_on(self, patterns: Sequence[str], positions: Sequence[Position]) -> _Answer:
        answer = _Answer()
        left = {position.key: position for position in positions if position.key != JOURNAL_KEY}
        packed = []
        for file in sources.in_folder(self._folder, patterns):
            if file.packed:
                packed.append(file)
                continue
            with contextlib.suppress(OSError), sources.opened(file) as descriptor:
                read = _reader(descriptor)
                size = os.fstat(descriptor).st_size
                seen = Seen(file.log, file.age, file.device, file.inode, size, read(0, HEAD_BYTES))
                position = left.pop(file.key, None)
                if position is None or not position.goes_on_in(seen):
                    position = Position(file.log, file.device, file.inode, 0)
                answer.add(file, replace(position, number=0), read(position.offset, answer.room()))
        for file in packed:
            self._read_packed(file, left, answer)
        for position in left.values():
            # It may only have been overlooked while it was being renamed.
            if position.number < ABSENT_LOOKS_MAX:
                answer.positions.append(replace(position, number=position.number + 1))
        answer.positions = answer.positions[-POSITIONS_MAX:]
        return answer

    def _read_packed(self, file: LogFile, left: dict[Key, Position], answer: _Answer) -> None:
        """Reads the rest of a file that was compressed before it was read to its end."""
        known = left.pop(file.key, None)
        if known is not None and known.number == COMPLETE:
            answer.positions.append(known)
            return
        try:
            head = sources.unpacked_part(file, 0, HEAD_BYTES)
            seen = Seen(file.log, file.age, file.device, file.inode, 0, head, True)
            position = known or next(
                (p for p in left.values() if p.log == file.log and p.offset and p.begins_like(seen)), None
            )
            if position is None:
                # A stranger: it was read under its former name.
                answer.positions.append(Position(file.log, file.device, file.inode, COMPLETE))
                return
            data = sources.unpacked_part(file, position.offset, answer.room())
        except OSError:
            return  # it is still being written
        left.pop(position.key, None)
        number = 0 if data else COMPLETE
        answer.add(file, replace(position, device=file.device, inode=file.inode, number=number), data)

    def _read_journal(
        self, patterns: Sequence[str], positions: Sequence[Position], answer: _Answer, *, skip: bool
    ) -> None:
        for position in positions:
            if position.key != JOURNAL_KEY:
                continue
            if not skip:
                with contextlib.suppress(OSError, ValueError):
                    found = journal.read(self._units(patterns), position.cursor, JOURNAL_ENTRIES)
                    position = replace(position, cursor=found.cursor)
                    if found.data:
                        answer.pieces.append((journal.LOG, found.data))
            answer.positions.append(position)

    def _units(self, patterns: Sequence[str]) -> list[str]:
        return [unit for unit in self._own_units.known() if not patterns or journal.matches(unit, patterns)]

    def _files(self, patterns: Sequence[str]) -> list[LogFile]:
        return [file for file in sources.in_folder(self._folder, patterns) if not file.packed]


def _reader(descriptor: int) -> Callable[[int, int], bytes]:
    return lambda offset, length: os.pread(descriptor, max(0, length), offset)


def _tail_start(read: Callable[[int, int], bytes], size: int, lines: int) -> int:
    """Returns where the last ``lines`` lines begin."""
    offset, wanted = size, lines + 1
    while offset > 0:
        begin = max(0, offset - BACK_BYTES)
        data = read(begin, offset - begin)
        if offset == size and not data.endswith(b"\n"):
            wanted -= 1  # the line that is being written counts as one
        found = data.count(b"\n")
        if found >= wanted:
            place = len(data)
            for _ in range(wanted):
                place = data.rfind(b"\n", 0, place)
            return begin + place + 1
        wanted -= found
        offset = begin
    return 0


def _reply(answer: _Answer) -> Reply:
    fields: dict[str, Any] = {
        "positions": [position.to_wire() for position in answer.positions],
        "pieces": [[label, len(data)] for label, data in answer.pieces],
    }
    return Reply(fields, b"".join(data for _, data in answer.pieces))


def _positions(value: Any) -> list[Position]:
    try:
        if len(value) > POSITIONS_MAX:
            raise ValueError(f"more than {POSITIONS_MAX}")
        found = [position_from_wire(each) for each in value]
        for each in found:
            if not 0 <= each.offset < OFFSET_MAX or not 0 <= each.head_bytes <= HEAD_BYTES:
                raise ValueError(f"offset {each.offset}, head {each.head_bytes}")
            if len(each.cursor) > CURSOR_CHARS_MAX or not (each.cursor + "x").isprintable():
                raise ValueError("the cursor is none")
    except (TypeError, ValueError) as error:
        raise UsageError(f"these are no positions in logs: {error}") from None
    return found


def _tail(value: Any) -> int:
    if value is None:
        return 10
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= TAIL_LINES_MAX:
        raise UsageError(f"the number of last lines is from 0 to {TAIL_LINES_MAX}, not {value!r}")
    return value
