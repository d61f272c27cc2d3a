"""One search in progress: a grep for each log, one after the other, within limits of time and output.

A thread runs it and puts grep's output into a short queue; requests take pieces from there, so that a
slow reader slows grep down and nothing accumulates. Pieces are numbered: a caller that lost an answer asks
for the same number again. A search whose pieces are not taken ends by itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import resource
import select
import subprocess
from collections import deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, replace

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError, UsageError
from agent.common.message import TEXT_CHARS_MAX
from agent.common.shell import clock, threads
from agent.logs.core.query import GROUP_SEPARATOR, OutputReader, Query
from agent.logs.core.timerange import RangeFilter
from agent.logs.messages import PROBLEMS_MAX, Piece, Summary

logger = logging.getLogger("agent.logs.shell.search")

READ_BYTES = 512 * 1024
# grep writes 4 KiB at a time. A wide pipe, and a moment for it to fill, save waking up for each of them.
PIPE_BYTES = 1024 * 1024
GATHER_BYTES, GATHER_S = 128 * 1024, 0.002
# Four pieces: grep never waits for the network unless the reader is slow.
QUEUE_BYTES_MAX = 4 * 1024 * 1024
PIECE_BYTES_MAX = 1024 * 1024
# A reader that takes nothing for this long has gone.
IDLE_S_MAX = 20.0
POLL_S = 0.1
# Memory of a grep. A long line or a complex expression that needs more ends the search, not the machine.
GREP_MEMORY_BYTES_MAX = 512 * 1024 * 1024
CHECK_TIMEOUT_S = 5.0
ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/local/bin:/usr/bin:/bin"}
SELECTED, NOTHING_SELECTED = 0, 1
PLAIN = re.compile(rb"[A-Za-z0-9_ :=/,@%-]*")


class StoppedEarly(Exception):
    """The search reached a limit, or its reader has gone."""


def nothing() -> None:
    """Does nothing: there is nothing to close."""


@dataclass(frozen=True, slots=True)
class Entered:
    """A log that is ready to be searched: an open file, or chunks that are written into grep.

    Chunks close what they hold when they end or are closed; before the first one, ``discard`` does.
    """

    descriptor: int = -1
    chunks: Generator[bytes, None, None] | None = None
    skipped_lines: Callable[[], int] = lambda: 0
    discard: Callable[[], None] = nothing


@dataclass(frozen=True, slots=True)
class Source:
    """One log to search; ``enter`` opens it and raises OSError or RainStormError when it cannot be read."""

    label: str
    size: int
    enter: Callable[[], Entered]


def entered_stream(
    chunks: Generator[bytes, None, None],
    query: Query,
    reference: float,
    discard: Callable[[], None] = nothing,
) -> Entered:
    """Returns a log that can only be read from its beginning, limited to the query's range of time."""
    if query.since is None and query.until is None:
        return Entered(chunks=chunks, discard=discard)
    limited = RangeFilter(query.since, query.until, reference)
    return Entered(-1, limited.feed(chunks), lambda: limited.skipped_lines, discard)


def check(query: Query) -> None:
    """Has grep check the pattern, unless it consists of plain characters.

    Raises:
        UsageError: grep refuses it, or is not installed.
    """
    if PLAIN.fullmatch(query.pattern):
        return
    try:
        done = subprocess.run(
            query.arguments("check"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=ENVIRONMENT,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise UsageError(f"grep cannot be run here: {error}", hint="install grep on the node") from None
    except subprocess.TimeoutExpired:
        raise UsageError(f"grep did not accept the pattern within {CHECK_TIMEOUT_S:g} s") from None
    if done.returncode > NOTHING_SELECTED or done.returncode < 0:
        said = done.stderr.decode("utf-8", "replace").strip().removeprefix("grep: ")
        raise UsageError(f"grep refuses the pattern: {said[:200]}", hint="use -F to take it literally")


class Search:
    """Runs one query over the logs and keeps the output until it is taken."""

    def __init__(self, name: str, query: Query, sources: Sequence[Source]) -> None:
        self.name = name
        self._query = query
        self._sources = sources
        self._began_at = clock.monotonic()
        self._deadline = Deadline(self._began_at, query.time_limit_s)
        self._condition = threads.condition()
        self._pause = threads.event()
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._last = (0, b"")
        self._touched_at = self._began_at
        self._finished = False
        self._cancelled = False
        self._sent_bytes = 0
        self._matches = self._lines = self._files = self._searched_bytes = 0
        self._problems: list[str] = []
        self._summary = Summary()
        self._thread = threads.thread(f"log-search-{name[:8]}", self._run)

    @property
    def is_active(self) -> bool:
        """Tells whether it still searches, or has output that was not taken."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Begins to search."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the search and waits for its thread."""
        with self._condition:
            self._cancelled = True
            self._condition.notify_all()
        if self._thread is not threads.current() and self._thread.ident is not None:
            self._thread.join(timeout_s)

    def take(self, number: int, wait_s: float) -> tuple[Piece, bytes]:
        """Returns piece ``number``; piece 0 while there is nothing yet, and the summary at the end.

        Raises:
            UsageError: it is not the next piece, nor the one before.
        """
        deadline = Deadline(clock.monotonic(), wait_s)
        with self._condition:
            self._touched_at = clock.monotonic()
            if number == self._last[0]:
                return Piece(number), self._last[1]
            if number != self._last[0] + 1:
                raise UsageError(f"piece {number} of the search is gone; the last was {self._last[0]}")
            while not (self._pieces or self._finished or self._cancelled):
                left = deadline.remaining(clock.monotonic())
                if not left:
                    return Piece(0), b""
                self._condition.wait(left)
            taken: list[bytes] = []
            size = 0
            while self._pieces and (not taken or size + len(self._pieces[0]) <= PIECE_BYTES_MAX):
                taken.append(self._pieces.popleft())
                size += len(taken[-1])
            self._waiting_bytes -= size
            self._touched_at = clock.monotonic()
            self._condition.notify_all()
            if not taken:
                return Piece(number, True, self._summary), b""
            self._last = (number, b"".join(taken))
            return Piece(number), self._last[1]

    def _run(self) -> None:
        cut = ""
        try:
            self._search_all()
        except StoppedEarly as stopped:
            cut = str(stopped)
        except Exception as error:
            logger.exception("search_failed search=%s", self.name)
            self._problem(f"the search failed: {error!r}")
        with self._condition:
            self._summary = Summary(
                self._matches,
                self._lines,
                self._files,
                self._searched_bytes,
                round(clock.monotonic() - self._began_at, 4),
                cut,
                tuple(self._problems),
            )
            self._finished = True
            self._condition.notify_all()
            # The output that was not taken is kept for a while.
            while self._pieces and not self._gone():
                self._condition.wait(IDLE_S_MAX)
            if self._pieces:
                self._summary = replace(self._summary, cut="the output was not taken")
                self._pieces.clear()

    def _problem(self, text: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(text[:TEXT_CHARS_MAX])

    def _search_all(self) -> None:
        printed = False
        for source in self._sources:
            self._check_limits()
            try:
                entered = source.enter()
            except FileNotFoundError:
                continue  # rotated since the files were listed; its lines have another name now
            except (OSError, RainStormError) as error:
                self._problem(f"{source.label}: {_text(error)}")
                continue
            self._files += 1
            self._searched_bytes += source.size
            try:
                grep = _Grep(self._query, source.label, entered)
            except (OSError, RuntimeError) as error:  # too many processes, threads or open files
                self._problem(f"{source.label}: grep cannot be started: {_text(error)}")
                continue
            with grep:
                printed |= self._search(source.label, entered, grep, printed)

    def _search(self, label: str, entered: Entered, grep: _Grep, printed: bool) -> bool:
        """Takes the output of one grep; returns whether there was any."""
        reader = OutputReader(self._query, label)
        separator = GROUP_SEPARATOR if printed and self._query.has_groups else b""
        printed = False
        while data := self._read(grep):
            reader.skipped_lines = entered.skipped_lines()
            if shown := reader.feed(data):
                self._put(separator + shown)
                self._lines += bool(separator)
                printed, separator = True, b""
        problem = grep.end()
        self._matches += reader.matches
        self._lines += reader.lines
        if problem:
            self._problem(f"{label}: {problem}")
        return printed

    def _read(self, grep: _Grep) -> bytes:
        if grep.last_bytes < GATHER_BYTES:
            self._pause.wait(GATHER_S)
        while True:
            self._check_limits()
            ready, _, _ = select.select([grep.output], [], [], POLL_S)
            if ready:
                data = os.read(grep.output, READ_BYTES)
                grep.last_bytes = len(data)
                return data

    def _put(self, data: bytes) -> None:
        room = self._query.output_bytes_max - self._sent_bytes
        cut = len(data) > room
        if cut:
            data = data[: data.rfind(b"\n", 0, room) + 1]
        self._sent_bytes += len(data)
        for begin in range(0, len(data), PIECE_BYTES_MAX):
            piece = data[begin : begin + PIECE_BYTES_MAX]
            with self._condition:
                while self._waiting_bytes + len(piece) > QUEUE_BYTES_MAX and not self._gone():
                    self._condition.wait(POLL_S)
                if self._gone():
                    raise StoppedEarly("the output is not taken")
                self._pieces.append(piece)
                self._waiting_bytes += len(piece)
                self._condition.notify_all()
        if cut:
            raise StoppedEarly(f"cut at {self._query.output_bytes_max:,} bytes of output")

    def _gone(self) -> bool:
        return self._cancelled or clock.monotonic() - self._touched_at > IDLE_S_MAX

    def _check_limits(self) -> None:
        if self._gone():
            raise StoppedEarly("the output is not taken")
        if self._deadline.expired(clock.monotonic()):
            raise StoppedEarly(f"cut after {self._query.time_limit_s:g} s")


class _Grep:
    """One grep process, fed from a file or by a separate thread; it ends with the ``with`` block."""

    def __init__(self, query: Query, label: str, entered: Entered) -> None:
        self._entered = entered
        # Does not wait for the pipe to fill at first, so that a short output is shown at once.
        self.last_bytes = GATHER_BYTES
        self._problem = ""
        self._feeder: threads.Thread | None = None
        piped = entered.chunks is not None
        try:
            self._process = subprocess.Popen(
                query.arguments(label),
                stdin=subprocess.PIPE if piped else entered.descriptor,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=ENVIRONMENT,
                bufsize=0,
            )
        except BaseException:
            entered.discard()
            raise
        finally:
            if not piped:
                os.close(entered.descriptor)
        assert self._process.stdout is not None
        self.output = self._process.stdout.fileno()
        with contextlib.suppress(OSError):  # the user's share of memory for pipes is used up
            fcntl.fcntl(self.output, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        with contextlib.suppress(ProcessLookupError):  # it has ended already
            limit = GREP_MEMORY_BYTES_MAX
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, (limit, limit))
            # Even if this agent is killed, its grep ends.
            seconds = int(query.time_limit_s) + 2
            resource.prlimit(self._process.pid, resource.RLIMIT_CPU, (seconds, seconds))
            # When memory runs out, the kernel ends grep before the agent.
            with contextlib.suppress(OSError), open(f"/proc/{self._process.pid}/oom_score_adj", "w") as file:
                file.write("900")
        if piped:
            try:
                self._feeder = threads.start(f"log-feed-{label[:40]}", self._feed)
            except BaseException:
                self.__exit__()
                entered.discard()
                raise

    def __enter__(self) -> _Grep:
        return self

    def end(self) -> str:
        """Returns the error of a grep that has closed its output, or ''."""
        assert self._process.stderr is not None
        said = self._process.stderr.read(4096).decode("utf-8", "replace").strip()
        status = self._process.wait()
        if self._feeder is not None:
            self._feeder.join()
        if status not in (SELECTED, NOTHING_SELECTED):
            return said.removeprefix("grep: ")[:200] or f"grep ended with status {status}"
        return self._problem

    def __exit__(self, *error: object) -> None:
        self._process.kill()  # does nothing when it has ended
        if self._feeder is not None:
            self._feeder.join()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):  # the unwritten rest is no longer wanted
                    pipe.close()
        self._process.wait()

    def _feed(self) -> None:
        assert self._process.stdin is not None
        assert self._entered.chunks is not None
        try:
            with contextlib.closing(self._entered.chunks) as chunks:
                for chunk in chunks:
                    view = memoryview(chunk)
                    while view:
                        view = view[self._process.stdin.write(view) :]
        except BrokenPipeError:
            pass  # grep has seen enough (-m), or was killed
        except (OSError, RainStormError) as error:
            self._problem = f"read only in part: {_text(error)}"
        finally:
            with contextlib.suppress(OSError):
                self._process.stdin.close()


def _text(error: Exception) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error)
