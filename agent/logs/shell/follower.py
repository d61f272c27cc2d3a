"""Follows a node's logs: returns the new lines after a reader's positions, across rotation and restarts.

The reader keeps the positions and sends them with each request, so that this agent keeps no state: a request
with the positions of an answer gets the lines after it, once, even if the agent was restarted
meanwhile.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.common.errors import UsageError
from agent.common.shell import clock, threads
from agent.logs.core.position import JOURNAL_KEY, Key, Position, Seen, whole_lines
from agent.logs.core.query import amount, file_patterns
from agent.logs.core.timerange import find_time
from agent.logs.messages import HEAD_BYTES, POSITIONS_MAX, Follow, Followed
from agent.logs.shell import journald as journal
from agent.logs.shell import sources
from agent.logs.shell.sources import LogFile
from agent.wire.endpoint import Answer, Call, Endpoint, endpoint

# An answer fits well into a frame, and one busy file leaves room for the others.
ANSWER_BYTES_MAX = 1024 * 1024
CHUNK_BYTES_MAX = 256 * 1024
# A request holds a thread of the server while it waits.
WAIT_S_MAX = 20.0
POLL_S = 0.2
TAIL_LINES = 10
TAIL_LINES_MAX = 100_000
BACK_BYTES = 64 * 1024
# Each read of the journal starts a process or two: once a second is enough.
POLLS_PER_JOURNAL_READ = 5
JOURNAL_ENTRIES = 1000
# In a follower's position the number counts the polls that did not find its file, or says that it was read to
# its end.
ABSENT_POLLS_MAX = 100
COMPLETE = -1


@dataclass(slots=True)
class _Found:
    """The answer to a request: the new positions, and the pieces of files one after the other."""

    positions: list[Position] = field(default_factory=list)
    pieces: list[tuple[str, bytes]] = field(default_factory=list)
    size: int = 0

    def add(self, file: LogFile, position: Position, data: bytes) -> None:
        """Adds the whole lines of the bytes that were read at a position."""
        taken = whole_lines(data, cut=len(data) >= CHUNK_BYTES_MAX or file.packed != "")
        self.positions.append(position.advanced(taken))
        if taken:
            self.pieces.append((file.label, taken))
            self.size += len(taken)

    def room(self) -> int:
        """Returns how many bytes of one file may still be added."""
        return min(CHUNK_BYTES_MAX, ANSWER_BYTES_MAX - self.size)


class Follower:
    """Answers requests for new lines; holds a request for a while when there are none."""

    def __init__(self, folder: Path, journal_units: Sequence[str]) -> None:
        self._folder = folder
        self._own_units = journal.Units(journal_units)
        self._stopping = threads.event()

    def endpoint(self) -> Endpoint:
        """Returns the endpoint for the requests."""
        return endpoint(Follow, self._follow)

    def stop(self) -> None:
        """Lets requests that wait return."""
        self._stopping.set()

    def _follow(self, request: Follow, call: Call) -> Answer[Followed]:
        patterns = file_patterns(request.files)
        if request.positions is None:
            start = self._begin(patterns, _tail(request.tail), amount("since", request.since))
            return Answer(Followed(tuple(each.fields for each in start[-POSITIONS_MAX:])))
        positions = [_checked(Position(*fields)) for fields in request.positions]
        left_s = call.deadline.remaining(clock.monotonic()) - 1.0
        until = clock.monotonic() + min(WAIT_S_MAX, left_s, amount("wait_s", request.wait_s) or 0.0)
        polls = 0
        while True:
            answer = self._read_files(patterns, positions)
            self._read_journal(patterns, positions, answer, skip=polls % POLLS_PER_JOURNAL_READ != 0)
            if answer.pieces or clock.monotonic() >= until or self._stopping.is_set():
                return _answer(answer)
            positions = answer.positions
            polls += 1
            self._stopping.wait(POLL_S)

    def _begin(self, patterns: Sequence[str], tail: int, since: float | None) -> list[Position]:
        """Returns the positions at which the last lines of each log begin, or those since a time."""
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
        # A file that was compressed before the first request is not new.
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

    def _read_files(self, patterns: Sequence[str], positions: Sequence[Position]) -> _Found:
        answer = _Found()
        left = {position.key: position for position in positions if position.key != JOURNAL_KEY}
        packed = []
        # Logs of which an older file has more to read: their newer files wait, so that lines stay in order.
        behind: set[str] = set()
        for file in sources.in_folder(self._folder, patterns):
            if file.packed:
                packed.append(file)
            elif file.log in behind:
                answer.positions += [left.pop(file.key)] if file.key in left else []
            elif not self._read_file(file, left, answer):
                behind.add(file.log)
        for file in packed:
            self._read_packed(file, left, answer)
        for position in left.values():
            # Its file may have been overlooked while it was being renamed.
            if position.number < ABSENT_POLLS_MAX:
                answer.positions.append(replace(position, number=position.number + 1))
        answer.positions = answer.positions[-POSITIONS_MAX:]
        return answer

    def _read_file(self, file: LogFile, left: dict[Key, Position], answer: _Found) -> bool:
        """Reads the new lines of a file; returns whether that was all of them."""
        try:
            with sources.opened(file) as descriptor:
                read = _reader(descriptor)
                size = os.fstat(descriptor).st_size
                seen = Seen(file.log, file.age, file.device, file.inode, size, read(0, HEAD_BYTES))
                position = left.pop(file.key, None)
                if position is None or not position.continues_in(seen):
                    position = Position(file.log, file.device, file.inode, 0)
                data = read(position.offset, answer.room())
        except OSError:
            return False  # it was renamed after it was listed
        answer.add(file, replace(position, number=0), data)
        return position.offset + len(data) >= size

    def _read_packed(self, file: LogFile, left: dict[Key, Position], answer: _Found) -> None:
        """Reads the rest of a file that was compressed before it was read to its end."""
        known = left.pop(file.key, None)
        if known is not None and known.number == COMPLETE:
            answer.positions.append(known)
            return
        try:
            head = sources.unpacked_part(file, 0, HEAD_BYTES)
            position = known or next(
                (p for p in left.values() if p.log == file.log and p.offset and p.begins_like(head)), None
            )
            if position is None:
                # It was read to its end under its former name.
                answer.positions.append(Position(file.log, file.device, file.inode, COMPLETE))
                return
            data = sources.unpacked_part(file, position.offset, answer.room())
        except OSError:
            return  # it is still being written
        left.pop(position.key, None)
        number = 0 if data else COMPLETE
        answer.add(file, replace(position, device=file.device, inode=file.inode, number=number), data)

    def _read_journal(
        self, patterns: Sequence[str], positions: Sequence[Position], answer: _Found, *, skip: bool
    ) -> None:
        for position in positions:
            if position.key != JOURNAL_KEY:
                continue
            if not skip:
                with contextlib.suppress(OSError, ValueError):
                    units = self._units(patterns)
                    found = journal.read(units, position.cursor, JOURNAL_ENTRIES, ANSWER_BYTES_MAX)
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
    """Returns the offset at which the last ``lines`` lines begin."""
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


def _answer(found: _Found) -> Answer[Followed]:
    pieces = tuple((label, len(data)) for label, data in found.pieces)
    message = Followed(tuple(position.fields for position in found.positions), pieces)
    return Answer(message, b"".join(data for _, data in found.pieces))


def _checked(position: Position) -> Position:
    if not (position.cursor + "x").isprintable():
        raise UsageError("the cursor of a position in the journal is not printable")
    return position


def _tail(lines: int | None) -> int:
    if lines is None:
        return TAIL_LINES
    if not 0 <= lines <= TAIL_LINES_MAX:
        raise UsageError(f"the number of last lines is from 0 to {TAIL_LINES_MAX}, not {lines}")
    return lines
