"""The power of the simulator: every planted bug must be found (``python -m tests.simulation.power``).

For each bug seeds are run until one fails, at most 300 and at most ``--limit-s`` seconds of processor time,
so that a busy machine finds what a quiet one does. The seed that failed is then run without the bug:
when it fails all the same, that says nothing and the hunt goes on. Prints a table (bug, rule, what found it,
seeds needed, processor seconds); returns 1 when a bug was not found.
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

SEEDS_MAX = 300
LIMIT_S = 90.0
TEXT_MAX = 52


@dataclass(frozen=True, slots=True)
class Candidate:
    """A bug of any subsystem: how to run a seed with it, and without it."""

    subsystem: str
    name: str
    rule: str
    run: Callable[[int], object]
    control: Callable[[int], object]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one bug; ``found_by`` is empty when nothing found it."""

    subsystem: str
    name: str
    rule: str
    found_by: str
    seeds: int
    seconds: float
    problem: str = ""


def candidates() -> list[Candidate]:
    """Returns the bugs of all subsystems."""
    found = [
        Candidate(bug.subject.name, bug.name, bug.rule, bug.run, bug.run_without)
        for bug in (
            *membership.BUGS,
            *membership_shell.BUGS,
            *rainstorm.BUGS,
            *rainstorm_shell.BUGS,
            *register.BUGS,
            *store.BUGS,
            *wire.BUGS,
        )
    ]
    return found


def hunt(candidate: Candidate, limit_s: float = LIMIT_S, seeds_max: int = SEEDS_MAX) -> Verdict:
    """Runs seeds until one finds the bug."""
    began = time.process_time()
    verdict = partial(Verdict, candidate.subsystem, candidate.name, candidate.rule)
    seed, problems = 0, list[str]()
    while seed < seeds_max and time.process_time() - began < limit_s:
        found = _failure(candidate.run, seed)
        seed += 1
        if found:
            seconds = time.process_time() - began
            without = _failure(candidate.control, seed - 1)
            if not without:
                return verdict(found, seed, seconds)
            problems.append(f"seed {seed - 1} fails without the bug too: {without}")
    return verdict("", seed, time.process_time() - began, "; ".join(problems[:2]) or "no seed fails")


def _failure(run: Callable[[int], object], seed: int) -> str:
    """Returns what failed, or nothing."""
    try:
        run(seed)
    except AssertionError as error:
        return check_of(error)
    except Exception as error:  # a bug may also break the code in another way than a check finds
        return f"{type(error).__name__}: {error}"[:TEXT_MAX]
    return ""


def check_of(error: BaseException) -> str:
    """Returns which check failed: its number when it has one, else the start of its message."""
    text = (str(error).splitlines() or ["an assertion without words"])[0]
    text = re.sub(r"^seed \S+: (after \S+ simulated s it still does not hold: )?", "", text)
    return text.partition(" {")[0].partition(": (")[0].partition(": Invocation")[0][:TEXT_MAX]


def _hunt_number(limit_s: float, number: int) -> Verdict:
    return hunt(candidates()[number], limit_s)


def table(verdicts: list[Verdict]) -> str:
    """Returns the verdicts as a table."""
    head = ("where", "bug", "rule broken", "found by", "seeds", "seconds")
    rows = [
        (
            v.subsystem,
            v.name,
            v.rule,
            v.found_by or f"NOT FOUND: {v.problem}",
            str(v.seeds),
            f"{v.seconds:.1f}",
        )
        for v in verdicts
    ]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    lines = []
    for row in (head, tuple("-" * width for width in widths), *rows):
        cells = [text.ljust(width) for text, width in zip(row[:4], widths[:4], strict=True)]
        cells += [text.rjust(width) for text, width in zip(row[4:], widths[4:], strict=True)]
        lines.append("  ".join(cells))
    return "\n".join(lines)


def main() -> int:
    """Hunts all bugs, or those of one subsystem."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.power", description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument(
        "--limit-s", type=float, default=LIMIT_S, help="processor seconds for each bug at most"
    )
    parser.add_argument("--subsystem", choices=sorted({found.subsystem for found in candidates()}))
    arguments = parser.parse_args()
    if arguments.jobs < 1 or arguments.limit_s <= 0:
        parser.error("jobs and limit must be positive")
    known = candidates()
    wanted = [
        number for number, candidate in enumerate(known) if arguments.subsystem in (None, candidate.subsystem)
    ]
    began = time.monotonic()
    verdicts = []
    with multiprocessing.get_context("spawn").Pool(arguments.jobs) as pool:
        for verdict in pool.imap(partial(_hunt_number, arguments.limit_s), wanted):
            verdicts.append(verdict)
            what = verdict.found_by or "NOT FOUND"
            print(f"{len(verdicts)}/{len(wanted)} {verdict.name}: {what}", file=sys.stderr, flush=True)
    print(table(verdicts))
    missed = sum(not verdict.found_by for verdict in verdicts)
    spent = sum(verdict.seconds for verdict in verdicts)
    print(
        f"\n{len(verdicts) - missed} found, {missed} not found, {time.monotonic() - began:.0f} s "
        f"({spent:.0f} s of processor time)"
    )
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
