"""The report at the end of the demo, on the screen and as JSON."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from ops.output import render

TOP_ROWS = 8


@dataclass(frozen=True, slots=True)
class DemoReport:
    """The demo's measurements; the field names are those of ``.local/demo-report.json``."""

    equal: bool
    lines: int
    healthy_lines_per_s: float
    task_recovery_s: float | None
    node_recovery_s: float | None
    total_s: float
    agent_rss_mb_max: float
    task_rss_mb_max: float
    agent_rss_worst: str
    task_rss_worst: str
    killed_task: str
    killed_node: str
    nodes: int
    seed: int
    job_s: float
    start_s: float


def write(report: DemoReport, path: Path) -> None:
    """Writes the report as one JSON object."""
    values = {
        key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(report).items()
    }
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps({"schema_version": 1, **values}, indent=2) + "\n", "utf-8")
    fresh.replace(path)


def print_comparison(expected: Counter[str], found: Counter[str]) -> None:
    """Prints the largest counts of both results side by side, and every record that differs."""
    ours, theirs = _counts(found), _counts(expected)
    names = sorted({*ours, *theirs}, key=lambda name: (-max(theirs.get(name, 0), ours.get(name, 0)), name))
    rows = [
        [
            name or "(empty)",
            theirs.get(name),
            ours.get(name),
            "" if theirs.get(name) == ours.get(name) else "!",
        ]
        for name in names
    ]
    shown = [row for place, row in enumerate(rows) if place < TOP_ROWS or row[3]]
    render.print_table(("category", "reference", "RainStorm", "differs"), shown)
    if len(shown) < len(rows):
        print(f"... and {len(rows) - len(shown)} more equal rows")


def print_report(report: DemoReport) -> None:
    """Prints the verdict and the measurements."""
    print()
    if report.equal:
        print(f"EQUAL: the result for {report.lines:,} rows equals that of the sequential reference program.")
    else:
        print("DIFFERENT: the result differs from that of the sequential reference program.")
    rows = [
        ["healthy run", f"{report.healthy_lines_per_s:,.0f} lines/s, HyDFS file to HyDFS file, exactly once"],
        ["killed task", f"{report.killed_task}; next commit after {render.seconds(report.task_recovery_s)}"],
        ["killed node", f"{report.killed_node}; next commit after {render.seconds(report.node_recovery_s)}"],
        ["largest agent", f"{report.agent_rss_mb_max:.0f} MB ({report.agent_rss_worst})"],
        ["largest task", f"{report.task_rss_mb_max:.0f} MB ({report.task_rss_worst})"],
        ["whole demo", f"{report.total_s:.1f} s"],
    ]
    width = max(len(row[0]) for row in rows)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}")


def _counts(records: Counter[str]) -> dict[str, int]:
    """Returns key → count, such that a repeated key or a malformed record never counts as equal."""
    counts: dict[str, int] = {}
    for record, times in records.items():
        fields = next(csv.reader(io.StringIO(record, newline="")), [])
        whole = len(fields) == 2 and fields[1].isdecimal() and times == 1 and fields[0] not in counts
        counts[fields[0] if whole else f"{record} (x{times})"] = int(fields[1]) if whole else times
    return counts
