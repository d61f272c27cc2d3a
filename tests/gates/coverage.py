"""The branch coverage of each room of ``agent`` (``python -m tests.gates.coverage REPORT.json``).

Reads a JSON report of coverage.py and adds up the modules of each folder. A room of cores needs 95 % of its
lines and branches, a room of shells 85 %; ``FLOORS`` names the rooms that do not reach that yet, each with a
floor below which it must not fall. Prints a table; returns 1 when a room is below its floor, or well above a
floor in the table, which must then be raised.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.gates import layering

CORE_PERCENT_MIN = 95.0
SHELL_PERCENT_MIN = 85.0
# A floor that is this much too low must be raised, so that the coverage is not lost again.
SLACK_PERCENT = 3.0
# Rooms that do not reach their minimum yet: the coverage that they must keep, in percent.
FLOORS: Mapping[str, float] = {}


@dataclass(frozen=True, slots=True)
class Room:
    """The number of lines and branches of one folder, and of those that the tests ran."""

    name: str
    shell: bool
    total: int
    covered: int

    @property
    def percent(self) -> float:
        """Returns the share that was run, in percent."""
        return 100.0 * self.covered / self.total if self.total else 100.0

    @property
    def floor(self) -> float:
        """Returns the coverage that the room must reach, in percent."""
        minimum = SHELL_PERCENT_MIN if self.shell else CORE_PERCENT_MIN
        return min(minimum, FLOORS.get(self.label, minimum))

    @property
    def label(self) -> str:
        """Returns the name of the room, with its kind if the folder holds both kinds."""
        return f"{self.name} ({'shell' if self.shell else 'core'})"

    @property
    def problem(self) -> str:
        """Returns the problem of the room, or ''."""
        if self.percent < self.floor:
            return f"below {self.floor:g} %"
        floor = FLOORS.get(self.label)
        if floor is not None and self.percent > floor + SLACK_PERCENT:
            return f"raise its floor of {floor:g} %"
        return ""


def is_shell(path: str) -> bool:
    """Tells whether the module at ``path`` is a shell, as the layering test does."""
    return layering.is_shell(path.removesuffix(".py").replace("/", "."))


def rooms(files: Mapping[str, Any]) -> list[Room]:
    """Returns the rooms of the files of a report, by name."""
    sums: dict[tuple[str, bool], list[int]] = {}
    for path, found in files.items():
        summary = found["summary"]
        total = summary["num_statements"] + summary["num_branches"]
        if total == 0:
            continue
        entry = sums.setdefault((str(Path(path).parent), is_shell(path)), [0, 0])
        entry[0] += total
        entry[1] += summary["covered_lines"] + summary["covered_branches"]
    return [Room(name, shell, total, covered) for (name, shell), (total, covered) in sorted(sums.items())]


def show(found: Iterable[Room], console: Console) -> None:
    """Prints the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("room", "kind"):
        table.add_column(column)
    for column in ("lines + branches", "covered", "floor"):
        table.add_column(column, justify="right")
    table.add_column("")
    for room in found:
        kind = "shell" if room.shell else "core"
        cells = (room.name, kind, str(room.total), f"{room.percent:.1f} %", f"{room.floor:g} %", room.problem)
        table.add_row(*cells)
    console.print(table)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table of a report and returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.gates.coverage", description=__doc__)
    parser.add_argument("report", type=Path, help="a JSON report of coverage.py")
    files = json.loads(parser.parse_args(arguments).report.read_text("utf-8"))["files"]
    found = rooms(files)
    show(found, Console(width=100))
    unknown = sorted(set(FLOORS) - {room.label for room in found})
    if unknown:
        print(f"coverage: no such rooms, take them out of FLOORS: {', '.join(unknown)}")
    problems = [room for room in found if room.problem]
    print(f"coverage: {len(found) - len(problems)} rooms passed, {len(problems)} failed")
    return 1 if problems or unknown else 0


if __name__ == "__main__":
    sys.exit(main())
