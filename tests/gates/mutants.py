"""Mutants: one line of the code is changed, and a test must fail (``python -m tests.gates.mutants``).

Each mutant breaks a rule that safety rests on. It is made in a copy of the checkout, where the tests that
guard the rule are run: they must fail. A mutant that survives means that no test guards the line. The same
tests are run on an unchanged copy first, where they must pass, because a test that always fails kills every
mutant. The text of a mutant must occur exactly once in its file: code that moves takes its mutants along.

The unchanged copy also compiles every module once. Each mutant gets a copy of it, so that only the changed
module is compiled again.
"""

from __future__ import annotations

import argparse
import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.support import REPOSITORY

# The slowest of the named tests takes some seconds; a mutant that hangs them is killed by the clock.
LIMIT_S = 180.0
# A single test that takes this long hangs because of the mutant.
TEST_LIMIT_S = 20.0
JOBS = 2
COPIED = ("agent", "ops", "tests", "pyproject.toml", "jobs", "inventory")
TEXT_MAX = 60


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change: in ``path``, ``old`` becomes ``new``; ``tests`` must notice, because of ``rule``."""

    rule: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a mutant: ``killed``, ``survived`` or what is wrong with it."""

    mutant: Mutant
    outcome: str
    seconds: float


def make_copy(folder: Path, origin: Path | None = None) -> Path:
    """Returns a copy of what the tests need: of the checkout without caches, or of another copy with them."""
    ignored = shutil.ignore_patterns("__pycache__") if origin is None else None
    for name in COPIED:
        source = (REPOSITORY if origin is None else origin) / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=ignored)
        elif source.exists():
            shutil.copy2(source, folder / name)
    return folder


def apply(mutant: Mutant, folder: Path) -> str:
    """Changes the copy in ``folder``; returns what is wrong with the mutant, or ''."""
    path = folder / mutant.path
    if not path.is_file():
        return f"no file {mutant.path}"
    text = path.read_text("utf-8")
    count = text.count(mutant.old)
    if count != 1:
        return f"its text occurs {count} times"
    changed = text.replace(mutant.old, mutant.new)
    try:
        ast.parse(changed)
    except SyntaxError as error:
        return f"it is not Python: {error}"
    path.write_text(changed, "utf-8")
    for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
        compiled.unlink()  # it is known by its time in seconds and its size, which may be the same
    return ""


def run_tests(folder: Path, tests: Sequence[str], limit_s: float, *, compiles: bool = False) -> str:
    """Returns ``passed``, ``failed``, or what went wrong, of tests in a copy; ``compiles`` keeps bytecode."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"--timeout={TEST_LIMIT_S:g}", *tests]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    environment["PYTHONDONTWRITEBYTECODE"] = "" if compiles else "1"
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, timeout=limit_s, check=False
        )
    except subprocess.TimeoutExpired:
        return "failed"
    outcomes = {0: "passed", 1: "failed"}
    tail = done.stdout.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
    return outcomes.get(done.returncode, f"pytest ended with {done.returncode}: {tail[0]}")


def judge(mutant: Mutant, origin: Path | None = None, limit_s: float = LIMIT_S) -> Verdict:
    """Makes a mutant in a copy of its own, of the copy ``origin`` or the checkout, and runs its tests."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        folder = make_copy(Path(name), origin)
        outcome = apply(mutant, folder)
        if not outcome:
            outcome = run_tests(folder, mutant.tests, limit_s)
    outcome = {"failed": "killed", "passed": "survived"}.get(outcome, outcome)
    return Verdict(mutant, outcome, time.monotonic() - began)


def control(mutants: Iterable[Mutant], folder: Path, limit_s: float = LIMIT_S) -> str:
    """Runs the tests of all mutants on an unchanged copy; returns what is wrong with them, or ''."""
    tests = sorted({test for mutant in mutants for test in mutant.tests})
    outcome = run_tests(make_copy(folder), tests, 4 * limit_s, compiles=True)
    return "" if outcome == "passed" else f"the tests without any mutant: {outcome}"


def show(verdicts: Iterable[Verdict], console: Console) -> None:
    """Prints the table."""
    table = Table(box=None, pad_edge=False)
    for column in ("rule", "file", "outcome"):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    for verdict in verdicts:
        rule = verdict.mutant.rule
        shown = rule if len(rule) <= TEXT_MAX else f"{rule[: TEXT_MAX - 1]}…"
        table.add_row(shown, verdict.mutant.path, verdict.outcome, f"{verdict.seconds:.1f}")
    console.print(table)


def main(arguments: list[str] | None = None, *, say: Callable[[str], None] = print) -> int:
    """Judges all mutants, or those whose rule or file holds a text; returns the exit status."""
    from tests.gates.mutant_list import MUTANTS

    parser = argparse.ArgumentParser(prog="python -m tests.gates.mutants", description=__doc__)
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="judge the mutants whose rule or file holds one of these texts",
    )
    parser.add_argument("--jobs", type=int, default=JOBS, help="how many at a time (%(default)s)")
    options = parser.parse_args(arguments)
    chosen = [
        mutant
        for mutant in MUTANTS
        if any(text in mutant.rule or text in mutant.path for text in options.only)
    ]
    if not chosen:
        say(f"mutants: none has {' or '.join(options.only)} in its rule or file")
        return 2
    with tempfile.TemporaryDirectory(prefix="mutant-origin-") as name:
        origin = Path(name)
        problem = control(chosen, origin)
        if problem:
            say(f"mutants: {problem}")
            return 1
        with ThreadPoolExecutor(options.jobs) as pool:
            verdicts = list(pool.map(lambda mutant: judge(mutant, origin), chosen))
    show(verdicts, Console(width=130))
    killed = sum(verdict.outcome == "killed" for verdict in verdicts)
    say(f"mutants: {killed} of {len(verdicts)} killed")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
