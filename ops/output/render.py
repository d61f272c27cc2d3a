"""The output of commands: results on stdout, messages on stderr.

Tables are drawn by rich on a terminal and are plain columns elsewhere; ``--json`` prints one object with a
``schema_version``. Numbers are right-aligned, and states have a colour in addition to the word. An empty
result is reported on stderr and is not a failure. rich is imported only where it is used, because importing
it takes as long as a whole request.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION = 1
COLOURS = {
    "up": "green",
    "alive": "green",
    "running": "green",
    "finished": "green",
    "yes": "green",
    "sealed": "cyan",
    "suspect": "yellow",
    "recovering": "yellow",
    "deploying": "yellow",
    "submitted": "yellow",
    "left": "yellow",
    "down": "red",
    "dead": "red",
    "failed": "red",
    "no": "red",
    "cancelled": "magenta",
}


def say(message: str) -> None:
    """Prints a message: one line on stderr."""
    print(message, file=sys.stderr, flush=True)


_printed = {"objects": 0}


def json_objects() -> int:
    """Returns how many JSON objects this process has printed."""
    return _printed["objects"]


def print_json(**values: Any) -> None:
    """Prints one JSON object on stdout."""
    _print_json(values, 2)


def say_dry(what: str, *, json: bool) -> None:
    """Prints what a command would do without --dry-run."""
    if json:
        print_json(dry_run=True, would=what)
    else:
        print(f"would {what}")


def print_json_line(**values: Any) -> None:
    """Prints one of several JSON objects as a line on stdout."""
    _print_json(values, None)


def _print_json(values: Mapping[str, Any], indent: int | None) -> None:
    _printed["objects"] += 1
    content = {"schema_version": SCHEMA_VERSION, **values}
    print(json.dumps(content, default=_plain, ensure_ascii=False, indent=indent), flush=indent is None)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str = "") -> None:
    """Prints a table on stdout."""
    cells = [[_cell(value) for value in row] for row in rows]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) and not isinstance(row[i], bool) for row in rows)
        for i in range(len(columns))
    ]
    if sys.stdout.isatty():
        _print_rich(columns, cells, right, title)
        return
    if title:
        print(title)
    widths = [max(len(text) for text in column) for column in zip(columns, *cells, strict=True)]
    for row in [list(columns), *cells]:
        padded = [
            text.rjust(width) if is_right else text.ljust(width)
            for text, width, is_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(padded).rstrip())


def _print_rich(columns: Sequence[str], cells: list[list[str]], right: list[bool], title: str) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for name, is_right in zip(columns, right, strict=True):
        table.add_column(name, justify="right" if is_right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text, style=COLOURS.get(text, "")) for text in row))
    stdout_console().print(table)


def stdout_console() -> Console:
    """Returns a console for results."""
    from rich.console import Console

    return Console(no_color="NO_COLOR" in os.environ or None, highlight=False)


def stderr_console() -> Console:
    """Returns a console for progress."""
    from rich.console import Console

    return Console(stderr=True, no_color="NO_COLOR" in os.environ or None, highlight=False)


def count(number: float) -> str:
    """Returns a whole number with thousands separators."""
    return f"{number:,.0f}"


def size(number_bytes: float) -> str:
    """Returns a number of bytes in a readable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number_bytes < 1024 or unit == "GiB":
            return f"{number_bytes:,.0f} {unit}" if unit == "B" else f"{number_bytes:,.1f} {unit}"
        number_bytes /= 1024
    raise AssertionError("unreachable")


def seconds(duration_s: float | None) -> str:
    """Returns a duration with two decimals, or a dash if there is none."""
    return "-" if duration_s is None else f"{duration_s:.2f} s"


def utc(wall_at: float | None) -> str:
    """Returns a wall-clock time as RFC 3339, or a dash if there is none."""
    if not wall_at:
        return "-"
    return datetime.fromtimestamp(wall_at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    return str(value)


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    raise TypeError(f"{type(value).__name__} cannot be printed as JSON")
