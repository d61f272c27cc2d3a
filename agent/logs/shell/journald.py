"""The system journal: the units that operators may read on this node, and reading them from any cursor on.

Searches use the lines that ``journalctl`` prints. Following and collecting need the cursor of each entry,
which only the JSON output has; the lines made from it look the same. All of the node's own units together are
one log, called ``journal``.
"""

from __future__ import annotations

import fnmatch
import json
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from agent.common.errors import Forbidden, NotFound
from agent.common.shell import clock

JOURNALS = ("/var/log/journal", "/run/log/journal")
LOG = "journal"
LIST_TIMEOUT_S = 10.0
UNITS_MAX = 256
UNITS_FRESH_S = 30.0
FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,_PID,_HOSTNAME,_SOURCE_REALTIME_TIMESTAMP"
# This mark before a cursor means that reading begins with the entry itself, not with the next one.
INCLUSIVE = "="


@dataclass(frozen=True, slots=True)
class Entries:
    """Lines of the journal and the cursor of the last."""

    cursor: str
    data: bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of the journal: its cursor, and its line."""

    cursor: str
    line: bytes


class Units:
    """The units that the patterns allow, cached for a while because each look-up starts a process."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._patterns = patterns
        self._known: list[str] = []
        self._asked_at = float("-inf")

    def known(self) -> list[str]:
        """Returns the units."""
        now = clock.monotonic()
        if now - self._asked_at > UNITS_FRESH_S:
            self._known, self._asked_at = units(self._patterns), now
        return self._known


def units(patterns: Sequence[str]) -> list[str]:
    """Returns the units that have written to the journal and that the patterns allow; none without one."""
    program = shutil.which("journalctl")
    if program is None or not patterns or not any(_holds_files(Path(folder)) for folder in JOURNALS):
        return []
    try:
        done = subprocess.run(
            [program, "--quiet", "--no-pager", "--field=_SYSTEMD_UNIT"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIST_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    names = sorted(line.decode("utf-8", "replace") for line in done.stdout.splitlines())
    return [name for name in names if matches(name, patterns)][:UNITS_MAX]


def matches(unit: str, patterns: Sequence[str]) -> bool:
    """Tells whether a pattern matches a unit, with or without its ``.service``."""
    short = unit.removesuffix(".service")
    return any(fnmatch.fnmatchcase(unit, p) or fnmatch.fnmatchcase(short, p) for p in patterns)


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Returns the units that a request names.

    Raises:
        Forbidden: the configuration does not allow one.
        NotFound: the journal has no entries of one.
    """
    if not names:
        return []
    allowed = units(patterns)
    found: dict[str, None] = {}
    for name in names:
        fitting = [unit for unit in allowed if matches(unit, [name])]
        if not fitting and not any(matches(name, [pattern]) for pattern in patterns):
            raise Forbidden(
                f"this node does not allow reading the journal of {name} "
                f"(allowed: {', '.join(patterns) or 'no unit'})",
                hint="allow it in the node's configuration: logs: {journal_units: [...]}",
            )
        if not fitting:
            raise NotFound(f"the journal has no entries of {name}", hint="check the name of the unit")
        found.update(dict.fromkeys(fitting))
    return list(found)


def label(unit: str) -> str:
    """Returns the name in front of a unit's lines."""
    return unit.removesuffix(".service") + ".journal"


def read(names: Sequence[str], cursor: str, limit: int, bytes_max: int) -> Entries:
    """Returns entries of some units after a cursor, or from the beginning when it is empty.

    There are at most ``limit`` entries and ``bytes_max`` bytes; a single entry that is longer is cut.

    Raises:
        OSError, ValueError: journalctl cannot be run or refuses, for instance a cursor that is gone.
    """
    while True:
        found = _read(names, cursor, limit)
        if len(found.data) <= bytes_max:
            return found
        if limit == 1:
            return Entries(found.cursor, found.data[: bytes_max - 1] + b"\n")
        limit = max(1, limit // 4)


def _read(names: Sequence[str], cursor: str, limit: int) -> Entries:
    words = []
    if cursor.startswith(INCLUSIVE):
        words = [f"--cursor={cursor[len(INCLUSIVE) :]}"]
    elif cursor:
        words = [f"--after-cursor={cursor}"]
    # Without a cursor, ``--lines`` means the last lines; with the oldest time as ``--since``, the first ones.
    found = _entries(names, [*(words or ["--since=@0"]), f"--lines={limit}"])
    if not found:
        return Entries(cursor, b"")
    return Entries(found[-1].cursor, b"".join(entry.line for entry in found))


def tail_cursor(names: Sequence[str], lines: int) -> str:
    """Returns the cursor after which the last ``lines`` entries are.

    Raises:
        OSError, ValueError: as for ``read``.
    """
    found = _entries(names, [f"--lines={lines + 1}"])
    return found[0].cursor if len(found) > lines else ""


def since_cursor(names: Sequence[str], since: float) -> str:
    """Returns the cursor of the first entry written at ``since`` or later.

    Raises:
        OSError, ValueError: as for ``read``.
    """
    first = _entries(names, [f"--since=@{since:.6f}"], stop_after=1)
    return INCLUSIVE + first[0].cursor if first else tail_cursor(names, 0)


def _entries(names: Sequence[str], words: Sequence[str], stop_after: int = 0) -> list[_Entry]:
    command = ["journalctl", "--quiet", "--no-pager", "--output=json", "--all", f"--output-fields={FIELDS}"]
    command += [f"--unit={name}" for name in names] + list(words)
    found: list[_Entry] = []
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                found.append(_entry(text))
                if len(found) == stop_after:
                    return found
        finally:
            if stop_after and len(found) == stop_after:
                process.kill()
    if process.returncode:
        raise OSError(f"journalctl ended with status {process.returncode}")
    return found


def _entry(text: bytes) -> _Entry:
    """Returns the entry that a line of JSON holds.

    Raises:
        ValueError: it holds no entry.
    """
    try:
        fields = json.loads(text)
        at = int(fields.get("_SOURCE_REALTIME_TIMESTAMP") or fields["__REALTIME_TIMESTAMP"])
        stamp = datetime.fromtimestamp(at // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        host, program, pid = (fields.get(key, "-") for key in ("_HOSTNAME", "SYSLOG_IDENTIFIER", "_PID"))
        head = f"{stamp}.{at % 1_000_000:06d}+0000 {host} {program}[{pid}]: "
        line = head.encode("utf-8", "replace") + _message(fields.get("MESSAGE")).replace(b"\n", b"\n    ")
        return _Entry(str(fields["__CURSOR"]), line + b"\n")
    except (KeyError, TypeError, AttributeError, OverflowError, OSError, RecursionError) as error:
        raise ValueError(f"journalctl printed something else than an entry: {error!r}") from None


def _message(value: object) -> bytes:
    """Returns the text of a message: journalctl prints a text that is not UTF-8 as a list of numbers, and a
    field that occurs several times as the list of its values.
    """
    if not isinstance(value, list):
        return str(value or "").encode("utf-8", "replace")
    if all(isinstance(each, int) and 0 <= each < 256 for each in value):
        return bytes(value)
    return b"\n".join(_message(each) for each in value)


def command(unit: str, *, since: float | None = None, until: float | None = None) -> list[str]:
    """Returns the command that prints a unit's lines, each with its time in front."""
    words = ["journalctl", "--quiet", "--no-pager", "--output=short-iso-precise", "--utc", f"--unit={unit}"]
    if since is not None:
        words.append(f"--since=@{since:.6f}")
    if until is not None:
        words.append(f"--until=@{until:.6f}")
    return words


def _holds_files(folder: Path) -> bool:
    return folder.is_dir() and next(folder.glob("*/*.journal"), None) is not None
