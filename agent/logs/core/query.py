"""Turns a search into arguments of GNU grep, refuses what is not allowed, and reads grep's output.

The pattern is hostile input: it reaches grep as the argument of ``-e``, never through a shell, and the files
reach it as open files on its standard input, so that neither can be taken for an option. What grep prints is
read here: matching lines are counted, and line numbers corrected where grep began in the middle of a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.common.errors import UsageError
from agent.logs.messages import NAMES_MAX, PATTERN_BYTES_MAX, StartSearch

NUMBER_MAX = 1_000_000_000
# Far beyond any sensible time or duration.
AMOUNT_MAX = 1e15
SWITCHES = {
    "ignore_case": "-i",
    "invert": "-v",
    "extended": "-E",
    "fixed": "-F",
    "count": "-c",
    "line_numbers": "-n",
}
NUMBERS = {"after": "-A", "before": "-B", "context": "-C", "max_count": "-m"}
GROUP_SEPARATOR = b"--\n"


@dataclass(frozen=True, slots=True)
class Query:
    """One search; ``files`` are patterns of names in the log folder, ``system`` names further logs."""

    pattern: bytes
    switches: tuple[str, ...] = ()
    numbers: tuple[tuple[str, int], ...] = ()
    files: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None
    # If set, search the logs that this node collected into HyDFS instead of its own files.
    collected_of: str = ""
    output_bytes_max: int = 0
    time_limit_s: float = 0.0

    @property
    def counts(self) -> bool:
        """Tells whether only counts are wanted."""
        return "count" in self.switches

    @property
    def numbered(self) -> bool:
        """Tells whether lines are printed with their numbers."""
        return "line_numbers" in self.switches and not self.counts

    @property
    def has_groups(self) -> bool:
        """Tells whether grep separates groups of lines."""
        return not self.counts and any(name != "max_count" for name, _ in self.numbers)

    def arguments(self, label: str) -> list[bytes]:
        """Returns grep's arguments for a search of its standard input under the name ``label``."""
        words = [b"grep", b"-a", b"-H", b"--color=never", b"--label=" + label.encode()]
        words += [SWITCHES[name].encode() for name in self.switches]
        words += [f"{NUMBERS[name]}{number}".encode() for name, number in self.numbers]
        return [*words, b"-e", self.pattern, b"-"]


def query_of(request: StartSearch, output_bytes_max: int, time_limit_s: float) -> Query:
    """Returns the search that a request asks for, within the limits of this agent.

    Raises:
        UsageError: it cannot be carried out; the message names the option.
    """
    if request.extended and request.fixed:
        raise UsageError("-E and -F exclude each other", hint="drop one of them")
    numbers = []
    for name, option in NUMBERS.items():
        number = getattr(request, name)
        if number is not None:
            if not 0 <= number <= NUMBER_MAX:
                raise UsageError(f"{option} takes a number from 0 to {NUMBER_MAX}, not {number}")
            numbers.append((name, number))
    since, until = amount("since", request.since), amount("until", request.until)
    if since is not None and until is not None and until <= since:
        raise UsageError("the time range is empty: --until is not after --since", hint="swap them")
    wanted_bytes = amount("output_bytes_max", request.output_bytes_max)
    wanted_s = amount("time_limit_s", request.time_limit_s)
    return Query(
        pattern=_pattern(request.pattern),
        switches=tuple(name for name in SWITCHES if getattr(request, name)),
        numbers=tuple(numbers),
        files=file_patterns(request.files),
        system=plain_names(request.system),
        since=since,
        until=until,
        collected_of=request.collected_of,
        output_bytes_max=min(int(wanted_bytes or output_bytes_max), output_bytes_max),
        time_limit_s=min(wanted_s or time_limit_s, time_limit_s),
    )


def _pattern(pattern: bytes) -> bytes:
    if len(pattern) > PATTERN_BYTES_MAX:
        raise UsageError(
            f"the pattern has {len(pattern)} bytes, the limit is {PATTERN_BYTES_MAX}", hint="shorten it"
        )
    if b"\0" in pattern:
        raise UsageError(
            "the pattern contains a NUL byte, which grep does not accept", hint="match it with a dot"
        )
    return pattern


def file_patterns(patterns: Sequence[str]) -> tuple[str, ...]:
    """Returns patterns of file names, none of which may leave the log folder.

    Raises:
        UsageError: one of them may.
    """
    found = plain_names(patterns)
    for name in found:
        if "/" in name:
            raise UsageError(
                f"{name!r} is not the name of a file in the log folder",
                hint="name files like 'tasks.log*'; others: --system PATH, when the node allows it",
            )
    return found


def plain_names(names: Sequence[str]) -> tuple[str, ...]:
    """Returns names of logs that are printable and do not climb out of a folder.

    Raises:
        UsageError: one of them is something else.
    """
    if len(names) > NAMES_MAX:
        raise UsageError(f"a request names up to {NAMES_MAX} logs, not {len(names)}", hint="use a pattern: *")
    for name in names:
        if not is_plain_name(name) or ".." in name.split("/"):
            raise UsageError(f"{name[:60]!r} may not name a log: empty, '..' or not printable")
    return tuple(names)


def amount(name: str, value: float | None) -> float | None:
    """Returns a number that must not be negative, or None when it is not given.

    Raises:
        UsageError: it is negative.
    """
    if value is not None and not 0 <= value < AMOUNT_MAX:
        raise UsageError(f"{name} takes a number of 0 or more, not {value:g}")
    return value


def is_plain_name(name: str) -> bool:
    """Tells whether a name can be shown in front of a line: printable, not empty, not too long."""
    return 0 < len(name) <= 255 and name.isprintable()


class OutputReader:
    """Reads what grep prints for one file: counts its lines, and corrects the numbers of lines."""

    def __init__(self, query: Query, label: str) -> None:
        self.matches = 0
        self.lines = 0
        # The number of lines before those that grep was given; known before grep prints anything.
        self.skipped_lines = 0
        self._counts = query.counts
        self._has_groups = query.has_groups
        self._numbered = query.numbered
        self._label = label.encode()
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Returns ``data`` as it must be shown; if each line must be read, only whole lines."""
        shifted = self._numbered and self.skipped_lines
        if not (self._counts or self._has_groups or shifted):
            found = data.count(b"\n")
            self.matches += found
            self.lines += found
            return data
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if not newline:
            return b""
        return b"".join(self._line(line) for line in whole.split(b"\n"))

    def _line(self, line: bytes) -> bytes:
        self.lines += 1
        rest = line[len(self._label) :]
        mark = rest[:1]
        if not line.startswith(self._label) or mark not in (b":", b"-"):
            return line + b"\n"  # between two groups
        if self._counts:
            self.matches += int(rest[1:])
        else:
            self.matches += mark == b":"
        if not (self._numbered and self.skipped_lines):
            return line + b"\n"
        number, _, text = rest[1:].partition(mark)
        return b"%s%s%d%s%s\n" % (self._label, mark, int(number) + self.skipped_lines, mark, text)
