"""The frame of all experiments: the options, the folder of results, and the order of a run (CSV, then summary
and figure).

A run writes one line per sample to ``data.csv`` as soon as it is measured, and ``meta.json`` beside it: the
code, the options, the machine and its load. Summary and figure are made from the file, never from memory, so
``--plot-only`` can recreate them from any earlier run. The summary alone (a table, or one JSON object) goes
to stdout, the progress to stderr.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import psutil

from agent.common.errors import ConfigError, RainStormError, UsageError
from agent.common.shell import clock

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "experiments" / "results"
RUNS_DEFAULT = 5
EXIT_INTERRUPTED = 130

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Experiment:
    """One experiment: how it measures, and how it summarises and plots the rows."""

    name: str
    description: str
    measure: Callable[[argparse.Namespace, Recorder], None]
    summarize: Callable[[list[Row]], list[Row]]
    draw: Callable[[list[Row], Path], None]
    add_options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    # Replaces the defaults with --quick; options given by the user take precedence.
    quick: dict[str, Any] = field(default_factory=dict)


class Recorder:
    """The folder of one run: its CSV, written line by line, and its metadata."""

    def __init__(self, folder: Path, meta: Row) -> None:
        self.folder = folder
        self._meta = meta
        self._lock = threading.Lock()
        self._writer: csv.DictWriter[str] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / "data.csv").open("w", encoding="utf-8", newline="")

    def __enter__(self) -> Recorder:
        self._write_meta()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._meta |= {"ended_at": now(), "load_at_end": os.getloadavg(), "complete": error is None}
        self._write_meta()

    def add(self, **row: Any) -> None:
        """Writes one sample; all samples of an experiment have the same columns."""
        with self._lock:
            if self._writer is None:
                self._writer = csv.DictWriter(self._file, list(row), lineterminator="\n")
                self._writer.writeheader()
            self._writer.writerow(row)
            self._file.flush()

    def note(self, **facts: Any) -> None:
        """Adds facts to the metadata."""
        self._meta |= facts

    def _write_meta(self) -> None:
        text = json.dumps(self._meta, indent=2, default=str) + "\n"
        (self.folder / "meta.json").write_text(text, "utf-8")


def run(experiment: Experiment, arguments: Sequence[str] | None = None) -> int:
    """Runs an experiment as a program and returns its exit status."""
    options = _parse(experiment, arguments)
    signal.signal(signal.SIGTERM, _interrupt)  # both ways of stopping must clean up
    try:
        folder = _folder(experiment, options)
        if not options.plot_only:
            meta = _describe(experiment, options)
            say(f"{experiment.name}: results go to {shown(folder)} (load {meta['load_at_start'][0]:.1f})")
            with Recorder(folder, meta) as recorder:
                experiment.measure(options, recorder)
        rows = read_rows(folder / "data.csv")
        summary = experiment.summarize(rows)
        _show(summary, options.json)
        for suffix in ("svg", "png"):
            figure = (options.figure or folder / "figure.svg").with_suffix(f".{suffix}")
            experiment.draw(rows, figure)
            say(f"figure: {shown(figure)}")
    except RainStormError as error:
        say(f"{experiment.name} failed [{error.code}]: {error.message}")
        if error.hint:
            say(f"  next: {error.hint}")
        return error.exit_status
    except KeyboardInterrupt:
        say(f"{experiment.name}: interrupted; everything it started was stopped")
        return EXIT_INTERRUPTED
    return 0


def read_rows(path: Path) -> list[Row]:
    """Returns the samples of a run, with numbers converted.

    Raises:
        ConfigError: there are no samples.
    """
    try:
        with open(path, encoding="utf-8", newline="") as file:
            rows = [{key: _plain(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except FileNotFoundError:
        rows = []
    if not rows:
        raise ConfigError(f"{path} contains no samples", hint="name the folder of a run: --out FOLDER")
    return rows


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least ``share`` of all do not exceed; a time-out is infinite."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def median(values: Sequence[float]) -> float:
    """Returns the median."""
    return statistics.median(values)


def number(value: float, digits: int = 3) -> float | None:
    """Returns a number for JSON, or None for an event that never happened."""
    return round(value, digits) if math.isfinite(value) else None


def say(text: str) -> None:
    """Writes a line of progress."""
    print(text, file=sys.stderr, flush=True)


def now() -> str:
    """Returns the time of day for people."""
    return datetime.fromtimestamp(clock.wall(), UTC).isoformat(timespec="seconds")


def shown(path: Path) -> Path:
    """Returns a path relative to the root of the checkout, if it is inside."""
    return path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _parse(experiment: Experiment, arguments: Sequence[str] | None) -> argparse.Namespace:
    program = f"experiments/{experiment.name}.py"
    parser = argparse.ArgumentParser(prog=program, description=experiment.description)
    parser.add_argument(
        "--runs", type=int, default=RUNS_DEFAULT, help="number of measurements for each point"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices")
    parser.add_argument("--quick", action="store_true", help="run a small version, to check that it works")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="default: a new one for each run")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="default: figure.svg and .png in FOLDER")
    parser.add_argument("--plot-only", action="store_true", help="redraw FOLDER, or the newest run")
    experiment.add_options(parser)
    if parser.parse_args(arguments).quick:
        parser.set_defaults(**experiment.quick)
    options = parser.parse_args(arguments)
    if options.runs < 1:
        parser.error("--runs must be at least 1")
    return options


def _folder(experiment: Experiment, options: argparse.Namespace) -> Path:
    if options.out is not None:
        return Path(options.out).resolve()
    all_runs = RESULTS / experiment.name
    if not options.plot_only:
        stamp = datetime.fromtimestamp(clock.wall(), UTC).strftime("%Y%m%dT%H%M%S")
        return all_runs / f"{stamp}-{_git('rev-parse', '--short', 'HEAD') or 'nogit'}-{os.getpid()}"
    found = sorted(all_runs.glob("*/data.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UsageError(f"there is no earlier run of {experiment.name}", hint="run it without --plot-only")
    return found[-1].parent


def _describe(experiment: Experiment, options: argparse.Namespace) -> Row:
    memory = psutil.virtual_memory()
    return {
        "experiment": experiment.name,
        "started_at": now(),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changed": bool(_git("status", "--porcelain", "--", "agent", "ops", "experiments")),
        "options": {key: value for key, value in vars(options).items() if key not in ("out", "figure")},
        "load_at_start": os.getloadavg(),
        "host": {
            "processors": psutil.cpu_count(),
            "processor": _processor(),
            "memory_bytes": memory.total,
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("cryptography", "msgpack", "matplotlib", "psutil")},
        },
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(
            ["git", *words], cwd=REPOSITORY, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _plain(value: str) -> Any:
    if value in ("True", "False"):
        return value == "True"
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _show(summary: list[Row], as_json: bool) -> None:
    if as_json:
        print(json.dumps({"variants": summary}), flush=True)
        return
    columns = list(summary[0])
    cells = [columns] + [["-" if row[c] is None else str(row[c]) for c in columns] for row in summary]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    for line in cells:
        print("  ".join(text.rjust(width) for text, width in zip(line, widths, strict=True)))
