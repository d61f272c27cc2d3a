"""The searches of one agent: the logs that each goes through, their number, and their requests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Generator, Sequence
from pathlib import Path

from agent.common.config import LogsConfig
from agent.common.errors import NotFound, Overloaded
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.logs.core.query import Query, file_patterns, query_of
from agent.logs.core.timerange import find_time
from agent.logs.messages import (
    EndSearch,
    FileInfo,
    ListLogs,
    LogList,
    Piece,
    SearchStarted,
    StartSearch,
    TakePiece,
)
from agent.logs.shell import journald as journal
from agent.logs.shell import sources
from agent.logs.shell.archive import Archive
from agent.logs.shell.search import Entered, Search, Source, check, entered_stream
from agent.logs.shell.sources import LogFile
from agent.wire.endpoint import Answer, Call, Endpoint, endpoint

# Each is a grep that may use a whole processor.
SEARCHES_MAX = 4
# Searches that ended, for callers who lost the last answer.
ENDED_MAX = 64
# A request holds a thread of the server while it waits.
WAIT_S_MAX = 10.0
STOP_TIMEOUT_S = 5.0
COUNT_BYTES = 1024 * 1024


class Searches:
    """Starts searches on request and hands out their output."""

    def __init__(self, folder: Path, knobs: LogsConfig, archive: Archive) -> None:
        self._folder = folder
        self._knobs = knobs
        self._archive = archive
        self._units = journal.Units(knobs.journal_units)
        self._lock = threads.lock()
        self._searches: dict[str, Search] = {}

    def endpoints(self) -> list[Endpoint]:
        """Returns the endpoints for the requests."""
        return [
            endpoint(StartSearch, self._start),
            endpoint(TakePiece, self._piece),
            endpoint(EndSearch, self._end),
            endpoint(ListLogs, self._list),
        ]

    def status(self) -> str:
        """Returns one line about the searches in progress."""
        return f"{sum(each.is_active for each in list(self._searches.values()))} searches"

    def stop(self, timeout_s: float) -> None:
        """Ends all searches."""
        with self._lock:
            left = list(self._searches.values())
        for search in left:
            search.stop(timeout_s)

    def _start(self, request: StartSearch, call: Call) -> SearchStarted:
        name = f"{call.peer}/{request.search}"
        knobs = self._knobs
        query = query_of(request, knobs.search_output_bytes, knobs.search_time_limit_s)
        check(query)
        found = self._sources(query)
        search = Search(name, query, found)
        with self._lock:
            if name in self._searches:  # the answer to the same request was lost
                return SearchStarted(len(found))
            ended = [each.name for each in self._searches.values() if not each.is_active]
            for old in ended[:-ENDED_MAX]:
                del self._searches[old]
            if len(self._searches) - len(ended[-ENDED_MAX:]) >= SEARCHES_MAX:
                raise Overloaded(f"{SEARCHES_MAX} searches are already in progress", hint="try again later")
            search.start()
            self._searches[name] = search
        return SearchStarted(len(found))

    def _piece(self, request: TakePiece, call: Call) -> Answer[Piece]:
        with self._lock:
            search = self._searches.get(f"{call.peer}/{request.search}")
        if search is None:
            raise NotFound("the search is unknown here, or has been forgotten", hint="run it again")
        wait_s = min(WAIT_S_MAX, max(0.0, call.deadline.remaining(clock.monotonic()) - 1.0))
        return Answer(*search.take(request.number, wait_s))

    def _end(self, request: EndSearch, call: Call) -> Done:
        with self._lock:
            search = self._searches.pop(f"{call.peer}/{request.search}", None)
        if search is not None:
            search.stop(STOP_TIMEOUT_S)
        return Done()

    def _list(self, request: ListLogs, call: Call) -> LogList:
        patterns = file_patterns(request.files)
        files = sources.in_folder(self._folder, patterns)
        return LogList(
            tuple(FileInfo(each.label, each.size, each.modified_at) for each in files),
            tuple(self._own_units(patterns)),
            tuple(self._knobs.system_files),
            tuple(self._knobs.system_units),
        )

    def _sources(self, query: Query) -> list[Source]:
        if query.collected_of:
            return self._archive.sources(query)
        paths = [name for name in query.system if name.startswith("/")]
        units = [name for name in query.system if not name.startswith("/")]
        files = sources.in_folder(self._folder, query.files)
        files += sources.system_files(paths, self._knobs.system_files)
        since = query.since
        found = [
            file_source(each, query) for each in files if since is None or each.modified_at >= since - 1.0
        ]
        named = self._own_units(query.files)
        named += [unit for unit in journal.chosen(units, self._knobs.system_units) if unit not in named]
        return found + [_journal_source(unit, query) for unit in named]

    def _own_units(self, patterns: Sequence[str]) -> list[str]:
        return [unit for unit in self._units.known() if not patterns or journal.matches(unit, patterns)]


def file_source(file: LogFile, query: Query) -> Source:
    """Returns a file as a source of a search."""
    return Source(file.label, file.size, lambda: _enter_file(file, query))


def _enter_file(file: LogFile, query: Query) -> Entered:
    descriptor = sources.open_regular(file.path)
    if file.packed:
        chunks = sources.unpacked(descriptor, file.packed)
        return entered_stream(chunks, query, file.modified_at, lambda: os.close(descriptor))
    if query.since is None and query.until is None:
        return Entered(descriptor)
    try:
        return _enter_range(descriptor, query)
    except BaseException:
        os.close(descriptor)
        raise


def _enter_range(descriptor: int, query: Query) -> Entered:
    status = os.fstat(descriptor)
    size, reference = status.st_size, status.st_mtime

    def read(offset: int, length: int) -> bytes:
        return os.pread(descriptor, length, offset)

    begin = find_time(read, size, query.since, reference) if query.since is not None else 0
    end = find_time(read, size, query.until, reference) if query.until is not None else size
    skipped = 0
    if query.numbered:
        skipped = sum(
            read(offset, min(COUNT_BYTES, begin - offset)).count(b"\n")
            for offset in range(0, begin, COUNT_BYTES)
        )
    os.lseek(descriptor, begin, os.SEEK_SET)
    if end >= size:
        return Entered(descriptor, skipped_lines=lambda: skipped)
    return Entered(-1, _part(descriptor, begin, end), lambda: skipped, lambda: os.close(descriptor))


def _part(descriptor: int, begin: int, end: int) -> Generator[bytes, None, None]:
    try:
        while begin < end:
            data = os.pread(descriptor, min(sources.READ_BYTES, end - begin), begin)
            if not data:
                return
            begin += len(data)
            yield data
    finally:
        os.close(descriptor)


def _journal_source(unit: str, query: Query) -> Source:
    command = journal.command(unit, since=query.since, until=query.until)
    return Source(journal.label(unit), 0, lambda: Entered(chunks=_printed(command)))


def _printed(command: Sequence[str]) -> Generator[bytes, None, None]:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
    ) as process:
        assert process.stdout is not None
        try:
            while data := process.stdout.read(sources.READ_BYTES):
                yield data
        finally:
            process.kill()
    if process.returncode not in (0, -9):
        raise OSError(f"journalctl ended with status {process.returncode}")
