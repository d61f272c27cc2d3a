"""The system journal: which units this node lets be read, and the command that prints one of them."""

from __future__ import annotations

import fnmatch
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from agent.common.errors import Forbidden, NotFound

JOURNALS = ("/var/log/journal", "/run/log/journal")
LABEL = "journal/"
LIST_TIMEOUT_S = 10.0
UNITS_MAX = 256


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
    """Tells whether a unit is meant, with or without its ``.service``."""
    short = unit.removesuffix(".service")
    return any(fnmatch.fnmatchcase(unit, p) or fnmatch.fnmatchcase(short, p) for p in patterns)


def chosen(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """Returns the units that a request names, as far as they are allowed.

    Raises:
        Forbidden: the configuration does not allow one.
        NotFound: the journal has nothing of one.
    """
    if not names:
        return []
    allowed = units(patterns)
    found: dict[str, None] = {}
    for name in names:
        fitting = [unit for unit in allowed if matches(unit, [name])]
        if not fitting and not any(matches(name, [pattern]) for pattern in patterns):
            raise Forbidden(
                f"the journal of {name} may not be read here (allowed: {', '.join(patterns) or 'no unit'})",
                hint="allow it in the node's configuration: logs: {journal_units: [...]}",
            )
        if not fitting:
            raise NotFound(f"the journal has nothing of {name}", hint="is the unit's name right?")
        found.update(dict.fromkeys(fitting))
    return list(found)


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
