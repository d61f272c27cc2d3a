"""What a search asks for, what of it is refused, and how it reads as arguments of GNU grep.

The pattern is hostile input: it reaches grep as the argument of ``-e``, never through a shell, and the
files reach it as open files on its standard input, so that neither can be taken for an option. What grep
prints is read back here: how many lines matched, and line numbers of a file that was entered in its
middle.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.common.errors import UsageError

# Linux takes 128 KiB for one argument; nobody types a pattern of 32 KiB.
PATTERN_BYTES_MAX = 32 * 1024
NUMBER_MAX = 1_000_000_000
NAMES_MAX = 64
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
    # Search what this node left in HyDFS instead of the own files.
    collected_of: str = ""
    output_bytes_max: int = 0
    time_limit_s: float = 0.0

    @property
    def counts(self) -> bool:
        """Tells whether only counts are wanted."""
        return "count" in self.switches

    @property
    def numbered(self) -> bool:
        """Tells whether lines carry their number in the file."""
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


def query_from_wire(fields: Mapping[str, Any], output_bytes_max: int, time_limit_s: float) -> Query:
    """Returns the search that a request asks for, within the limits of this agent.

    Raises:
        UsageError: it cannot be carried out; the message names the field.
    """
    switches = tuple(name for name in SWITCHES if _flag(fields, name))
    if "extended" in switches and "fixed" in switches:
        raise UsageError("-E and -F exclude each other", hint="drop one of them")
    numbers = []
    for name, option in NUMBERS.items():
        number = fields.get(name)
        if number is not None:
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= NUMBER_MAX:
                raise UsageError(f"{option} takes a number from 0 to {NUMBER_MAX}, not {number!r}")
            numbers.append((name, number))
    wanted_bytes, wanted_s = amount(fields, "output_bytes_max"), amount(fields, "time_limit_s")
    since, until = amount(fields, "since"), amount(fields, "until")
    if since is not None and until is not None and until <= since:
        raise UsageError("the time range is empty: --until is not after --since", hint="swap them")
    return Query(
        pattern=_pattern(fields),
        switches=switches,
        numbers=tuple(numbers),
        files=file_patterns(fields),
        system=names_of(fields, "system"),
        since=since,
        until=until,
        collected_of=str(fields.get("collected_of") or ""),
        output_bytes_max=min(int(wanted_bytes or output_bytes_max), output_bytes_max),
        time_limit_s=min(wanted_s or time_limit_s, time_limit_s),
    )


def _pattern(fields: Mapping[str, Any]) -> bytes:
    pattern = fields.get("pattern")
    if isinstance(pattern, str):
        pattern = pattern.encode("utf-8", "surrogateescape")
    if not isinstance(pattern, bytes):
        raise UsageError("a search needs a pattern", hint="fab grep PATTERN")
    if len(pattern) > PATTERN_BYTES_MAX:
        raise UsageError(
            f"the pattern has {len(pattern)} bytes, the limit is {PATTERN_BYTES_MAX}", hint="shorten it"
        )
    if b"\0" in pattern:
        raise UsageError("the pattern holds a NUL, which grep cannot be given", hint="match it with a dot")
    return pattern


def file_patterns(fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the patterns of file names, none of which may leave the log folder."""
    found = names_of(fields, "files")
    for name in found:
        if "/" in name:
            raise UsageError(
                f"{name!r} is not the name of a file in the log folder",
                hint="name files like 'tasks.log*'; others: --system PATH, when the node allows it",
            )
    return found


def names_of(fields: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Returns a bounded list of names without surprises in them."""
    found = fields.get(key) or []
    if not isinstance(found, list) or len(found) > NAMES_MAX or not all(isinstance(n, str) for n in found):
        raise UsageError(f"{key} takes up to {NAMES_MAX} names")
    for name in found:
        if not is_plain_name(name) or ".." in name.split("/"):
            raise UsageError(f"{name[:60]!r} may not name a log: empty, '..' or not printable")
    return tuple(found)


def is_plain_name(name: str) -> bool:
    """Tells whether a name can be shown in front of a line: printable, not empty, not too long."""
    return 0 < len(name) <= 255 and name.isprintable()


def _flag(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise UsageError(f"{name} is either set or not, found {value!r}")
    return value


def amount(fields: Mapping[str, Any], name: str) -> float | None:
    """Returns a field that is a number of 0 or more, or None when it is not given.

    Raises:
        UsageError: it is something else.
    """
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e15:
        raise UsageError(f"{name} takes a number of 0 or more, not {value!r}")
    return float(value)


class OutputReader:
    """Reads what grep prints for one file: counts its lines, and shifts the numbers of lines."""

    def __init__(self, query: Query, label: str) -> None:
        self.matches = 0
        self.lines = 0
        # How many lines of the file lie before those that grep was given; known before grep prints anything.
        self.skipped_lines = 0
        self._counts = query.counts
        self._has_groups = query.has_groups
        self._numbered = query.numbered
        self._label = label.encode()
        self._rest = b""

    def feed(self, data: bytes) -> bytes:
        """Returns ``data`` as it is to be shown; whole lines only when they have to be looked at."""
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
