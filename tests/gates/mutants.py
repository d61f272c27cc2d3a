"""Mutants: one line of the code is changed, and a test must fail (``python -m tests.gates.mutants``).

Each mutant breaks a rule that safety depends on. It is made in a copy of the checkout, where the tests that
guard the rule are run: they must fail. A mutant that survives means that no test guards the line. All tests
are first run on the unchanged copy, where they must pass, because a test that always fails kills every
mutant. The text of a mutant must occur exactly once in its file: when code moves, its mutants must move too.

A mutant names the quickest tests that notice it, and its tests run in processes that already have all
libraries (``testserver``). Two mutants are judged at a time, each in a separate copy.
"""

from __future__ import annotations

import argparse
import contextlib
import queue
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.gates.mutant import Mutant, UnfitMutantError
from tests.gates.sandbox import Sandbox
from tests.support import REPOSITORY

# The tests of a mutant take seconds at most; the rest is for a busy machine.
LIMIT_S = 120.0
# Tests that are stated to hang need a shorter wait: without the mutant they take less than a second.
HANG_S = 20.0
JOBS = 2
# The number of mutants between two lines of progress.
PROGRESS_EVERY = 20
TEXT_MAX = 60


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for a mutant: ``killed``, ``survived`` or the problem with it."""

    mutant: Mutant
    outcome: str
    by: str
    seconds: float

    @property
    def killed(self) -> bool:
        """Tells whether a test noticed the mutant."""
        return self.outcome == "killed"


@contextlib.contextmanager
def sandboxes(checkout: Path, count: int) -> Iterator[queue.SimpleQueue[Sandbox]]:
    """Makes sandboxes; a user of one takes it from the queue and puts it back."""
    with contextlib.ExitStack() as stack:
        idle: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        for _ in range(count):
            idle.put(stack.enter_context(Sandbox(checkout)))
        yield idle


@contextlib.contextmanager
def taken(idle: queue.SimpleQueue[Sandbox]) -> Iterator[Sandbox]:
    """Takes a sandbox for a ``with`` block."""
    sandbox = idle.get()
    try:
        yield sandbox
    finally:
        idle.put(sandbox)


def judge(mutant: Mutant, sandbox: Sandbox, limit_s: float = LIMIT_S) -> Verdict:
    """Makes a mutant in a sandbox and runs its tests."""
    try:
        with sandbox.mutated(mutant):
            run = sandbox.run(mutant.tests, min(limit_s, HANG_S) if mutant.hangs else limit_s)
    except UnfitMutantError as error:
        return Verdict(mutant, str(error), "", 0.0)
    if run.outcome == "hung" and mutant.hangs:
        return Verdict(mutant, "killed", "a test that does not end", run.seconds)
    outcome = {
        "failed": "killed",
        "passed": "survived",
        "hung": f"its tests did not end within {limit_s:g} s",
    }.get(run.outcome, run.outcome)
    return Verdict(mutant, outcome, run.failed, run.seconds)


def control(tests: Sequence[str], sandbox: Sandbox, limit_s: float = LIMIT_S) -> str:
    """Runs tests of one file on the unchanged copy; returns their problem, or ''."""
    run = sandbox.run(tests, limit_s)
    if run.outcome != "passed":
        return f"{run.failed or ' '.join(tests)} without any mutant: {run.outcome}"
    # A name may stand for a test with several parameters, or for all tests of a class or file.
    passed = {name for test in run.passed for name in (test, test.partition("[")[0], *_rooms(test))}
    return "".join(f"{test} was skipped" for test in tests if test not in passed)


def _rooms(test: str) -> list[str]:
    """Returns the file and the class of a test."""
    parts = test.partition("[")[0].split("::")
    return ["::".join(parts[:count]) for count in range(1, len(parts))]


def control_all(mutants: Sequence[Mutant], idle: queue.SimpleQueue[Sandbox], jobs: int) -> list[str]:
    """Runs the tests of all mutants on the unchanged copies; returns their problems."""
    files: dict[str, dict[str, None]] = {}
    for test in (test for mutant in mutants for test in mutant.tests):
        files.setdefault(test.partition("::")[0], {})[test] = None

    def run(tests: Sequence[str]) -> str:
        with taken(idle) as sandbox:
            return control(tests, sandbox)

    with ThreadPoolExecutor(jobs) as pool:
        return [problem for problem in pool.map(run, map(list, files.values())) if problem]


def judge_all(
    mutants: Sequence[Mutant],
    idle: queue.SimpleQueue[Sandbox],
    jobs: int,
    report: Callable[[str], None],
) -> list[Verdict]:
    """Judges mutants, and reports the progress; returns the verdicts in the order of the mutants."""

    def run(mutant: Mutant) -> Verdict:
        with taken(idle) as sandbox:
            return judge(mutant, sandbox)

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run, mutant) for mutant in mutants]
        for done, future in enumerate(as_completed(futures), 1):
            verdict = future.result()
            if not verdict.killed:
                report(f"mutants: {verdict.outcome}: {verdict.mutant.rule}")
            if done % PROGRESS_EVERY == 0:
                report(f"mutants: {done} of {len(mutants)} judged")
        return [future.result() for future in futures]


def show(verdicts: Iterable[Verdict], console: Console) -> None:
    """Prints the table, with the mutants that were not killed at the end."""
    table = Table(box=None, pad_edge=False)
    for column in ("rule", "file", "outcome", "test that failed"):
        table.add_column(column)
    table.add_column("seconds", justify="right")
    for verdict in sorted(verdicts, key=lambda verdict: not verdict.killed):
        rule = verdict.mutant.rule
        shown = rule if len(rule) <= TEXT_MAX else f"{rule[: TEXT_MAX - 1]}…"
        test = verdict.by.partition("[")[0].rpartition("::")[2]
        table.add_row(shown, verdict.mutant.path, verdict.outcome, test, f"{verdict.seconds:.1f}")
    console.print(table)


def main(
    arguments: list[str] | None = None,
    *,
    mutants: Sequence[Mutant] | None = None,
    checkout: Path = REPOSITORY,
    console: Console | None = None,
) -> int:
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
    console = console or Console(width=200, highlight=False, soft_wrap=True)
    chosen = [
        mutant
        for mutant in (MUTANTS if mutants is None else mutants)
        if any(text in mutant.rule or text in mutant.path for text in options.only)
    ]
    if not chosen:
        console.print(f"mutants: none has {' or '.join(options.only)} in its rule or file")
        return 2
    began = time.monotonic()
    with sandboxes(checkout, options.jobs) as idle:
        problems = control_all(chosen, idle, options.jobs)
        for problem in problems:
            console.print(f"mutants: {problem}")
        if problems:
            return 1
        console.print(f"mutants: the tests of {len(chosen)} mutants pass on the unchanged code")
        verdicts = judge_all(chosen, idle, options.jobs, console.print)
    show(verdicts, console)
    killed = sum(verdict.killed for verdict in verdicts)
    console.print(f"mutants: {killed} of {len(verdicts)} killed, in {time.monotonic() - began:.0f} s")
    return 0 if killed == len(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
