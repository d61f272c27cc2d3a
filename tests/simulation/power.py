"""The power of the simulator: every planted bug must be found (``python -m tests.simulation.power``).

For each bug seeds are run until one fails, at most 300 and for at most ``--limit-s`` seconds of processor
time, so that a busy machine finds the same bugs as a quiet one. The seed that failed is then run without the
bug: if it still fails, that proves nothing and the hunt continues. Prints a table (where the bug is, the rule
that it breaks, the check that found it, seeds needed, processor seconds); returns 1 when a bug was not found.
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.simulation.planted import (
    membership,
    membership_shell,
    rainstorm,
    rainstorm_shell,
    register,
    store,
    wire,
)
from tests.simulation.planted.bug import PlantedBug, Subject

SEEDS_MAX = 300
LIMIT_S = 90.0
TEXT_MAX = 52
# The subsystems whose seeds take longest come first, so that all workers end at about the same time.
BUGS: tuple[PlantedBug, ...] = (
    *membership.BUGS,
    *membership_shell.BUGS,
    *rainstorm.BUGS,
    *rainstorm_shell.BUGS,
    *store.BUGS,
    *register.BUGS,
    *wire.BUGS,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one bug; ``found_by`` is empty when nothing found it."""

    bug: str
    found_by: str
    seeds: int
    seconds: float
    problem: str = ""


class Controls:
    """The failures of seeds without a bug, cached because the same seed finds many bugs."""

    def __init__(self) -> None:
        self._known: dict[tuple[Subject, tuple[str, ...], int], str] = {}

    def failure(self, bug: PlantedBug, seed: int) -> str:
        """Returns the failure, or an empty text."""
        key = (bug.subject, bug.kinds, seed)
        if key not in self._known:
            self._known[key] = _failure(bug.run_without, seed)
        return self._known[key]


def bug_named(name: str) -> PlantedBug:
    """Returns a planted bug."""
    return next(bug for bug in BUGS if bug.name == name)


def hunt(
    bug: PlantedBug, limit_s: float = LIMIT_S, seeds_max: int = SEEDS_MAX, controls: Controls | None = None
) -> Verdict:
    """Runs seeds until one finds the bug."""
    controls = controls or Controls()
    began = time.process_time()
    seed, problems = 0, list[str]()
    while seed < seeds_max and time.process_time() - began < limit_s:
        found = _failure(bug.run, seed)
        seed += 1
        if found:
            without = controls.failure(bug, seed - 1)
            if not without:
                return Verdict(bug.name, found, seed, time.process_time() - began)
            problems.append(f"seed {seed - 1} fails without the bug too: {without}")
    problem = "; ".join(problems[:2]) or "no seed fails"
    return Verdict(bug.name, "", seed, time.process_time() - began, problem)


def _failure(run: Callable[[int], object], seed: int) -> str:
    """Returns the failure, or an empty text."""
    try:
        run(seed)
    except AssertionError as error:
        return check_of(error)
    except Exception as error:  # a bug may also break the code in another way than a check finds
        return f"{type(error).__name__}: {error}"[:TEXT_MAX]
    return ""


def check_of(error: BaseException) -> str:
    """Returns the check that failed: its number if it has one, otherwise the start of its message."""
    text = (str(error).splitlines() or ["an assertion without words"])[0]
    text = re.sub(r"^seed \S+: (after \S+ simulated s it still does not hold: )?", "", text)
    return text.partition(" {")[0].partition(": (")[0].partition(": Invocation")[0][:TEXT_MAX]


# One for each worker process.
_controls = Controls()


def _hunt_named(limit_s: float, name: str) -> Verdict:
    return hunt(bug_named(name), limit_s, controls=_controls)


def table(verdicts: dict[str, Verdict]) -> str:
    """Returns the verdicts as a table, in the order of the bugs."""
    head = ("where", "in a", "bug", "rule broken", "found by", "seeds", "seconds")
    rows = [
        (
            bug.subject.name,
            "shell" if bug.is_of_a_shell else "core",
            bug.name,
            bug.rule,
            verdict.found_by or f"NOT FOUND: {verdict.problem}",
            str(verdict.seeds),
            f"{verdict.seconds:.1f}",
        )
        for bug in BUGS
        if (verdict := verdicts.get(bug.name)) is not None
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [text.ljust(width) for text, width in zip(row[:5], widths[:5], strict=True)]
        cells += [text.rjust(width) for text, width in zip(row[5:], widths[5:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main() -> int:
    """Hunts all bugs, or those that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.power", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--limit-s", type=float, default=LIMIT_S, help="most processor seconds for each bug")
    parser.add_argument("--subsystem", choices=sorted({bug.subject.name for bug in BUGS}))
    parser.add_argument("--bug", action="append", choices=[bug.name for bug in BUGS], metavar="NAME")
    arguments = parser.parse_args()
    if arguments.jobs < 1 or arguments.limit_s <= 0:
        parser.error("jobs and limit must be positive")
    wanted = [
        bug.name
        for bug in BUGS
        if arguments.subsystem in (None, bug.subject.name) and bug.name in (arguments.bug or [bug.name])
    ]
    began = time.monotonic()
    verdicts: dict[str, Verdict] = {}
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for verdict in pool.imap_unordered(partial(_hunt_named, arguments.limit_s), wanted):
            verdicts[verdict.bug] = verdict
            what = verdict.found_by or f"NOT FOUND: {verdict.problem}"
            spent = f"{verdict.seeds} seeds, {verdict.seconds:.1f} s"
            line = f"{len(verdicts)}/{len(wanted)} {verdict.bug}: {what} ({spent})"
            print(line, file=sys.stderr, flush=True)
    print(table(verdicts))
    missed = sum(not verdict.found_by for verdict in verdicts.values())
    shells = sum(bug.is_of_a_shell for bug in BUGS if bug.name in verdicts)
    spent_s = sum(verdict.seconds for verdict in verdicts.values())
    print(
        f"\n{len(verdicts) - missed} found ({shells} bugs are of shells), {missed} not found, "
        f"{time.monotonic() - began:.0f} s ({spent_s:.0f} s of processor time)"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
