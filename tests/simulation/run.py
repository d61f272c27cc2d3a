"""Runs seeds of all subsystems in worker processes: ``python -m tests.simulation.run --seeds 300``.

A seed that fails is named with the command that repeats it; where the faults are a schedule, it is shrunk and
printed as Python. A few seeds (all with ``--twice``) are run once more in fresh processes, whose hash seeds
differ: their traces must be equal. With enough seeds, every moment that a subsystem names must have been
reached. The last line says how many passed and failed.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from tests.simulation.shrink import Shrinker
from tests.simulation.subsystems import SUBSYSTEMS

TWINS = 5
SHRUNK_MAX = 3
PROGRESS_S = 5.0

Task = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of one seed."""

    task: Task
    trace: str
    hits: dict[str, int]
    error: str
    processor_s: float


def run_task(task: Task) -> Ran:
    """Runs one seed of one subsystem (in a worker)."""
    gc.disable()  # a seed leaves little garbage behind: collecting it during the run costs a twentieth
    try:
        return _measured(task)
    finally:
        gc.enable()
        gc.collect()


def _measured(task: Task) -> Ran:
    began = time.process_time()
    name, seed = task
    try:
        found = SUBSYSTEMS[name].run(seed)
    except Exception as error:  # whatever it is, this seed failed and the others continue
        text = "".join(traceback.format_exception_only(error)).strip()
        if not isinstance(error, AssertionError):
            text = traceback.format_exc()
        return Ran(task, "", {}, text, time.process_time() - began)
    return Ran(task, found.trace, dict(found.hits), "", time.process_time() - began)


class Batch:
    """The outcome of many seeds."""

    def __init__(self) -> None:
        self.passed = 0
        self.failed = 0
        self.hits: dict[str, Counter[str]] = {name: Counter() for name in SUBSYSTEMS}
        self.traces: dict[Task, str] = {}
        self.processor_s: dict[str, float] = dict.fromkeys(SUBSYSTEMS, 0.0)
        self.broken: list[Task] = []

    def run(self, tasks: list[Task], jobs: int) -> None:
        """Runs tasks in ``jobs`` processes and reports progress and failures as they come."""
        began = shown = time.monotonic()
        done = 0
        with multiprocessing.get_context("spawn").Pool(jobs, gc.freeze) as pool:
            for found in pool.imap_unordered(run_task, tasks, chunksize=4):
                done += 1
                if found.error:
                    self._fail(found)
                else:
                    self._pass(found)
                if time.monotonic() - shown > PROGRESS_S:
                    shown = time.monotonic()
                    print(f"{done}/{len(tasks)} after {shown - began:.0f} s", file=sys.stderr, flush=True)

    def _pass(self, found: Ran) -> None:
        name = found.task[0]
        self.processor_s[name] += found.processor_s
        known = self.traces.setdefault(found.task, found.trace)
        if known != found.trace:
            self.failed += 1
            print(f"FAILED {name} seed {found.task[1]}: two runs, two traces: {known} and {found.trace}")
            return
        self.passed += 1
        self.hits[name].update(found.hits)

    def _fail(self, found: Ran) -> None:
        name, seed = found.task
        self.failed += 1
        self.broken.append(found.task)
        print(f"FAILED {name} seed {seed}: {found.error}")
        print(
            f"  repeat: python -m tests.simulation.run --subsystem {name} --start {seed} --seeds 1",
            flush=True,
        )

    def check_moments(self, names: Iterable[str], seeds: int) -> None:
        """Counts a subsystem as failed if its seeds have not reached all of its moments."""
        for name in names:
            if seeds < SUBSYSTEMS[name].moments_from_seeds:
                continue
            missing = [moment for moment in SUBSYSTEMS[name].moments if not self.hits[name][moment]]
            if missing:
                self.failed += 1
                print(f"FAILED {name}: never reached: {', '.join(missing)}")


def shrink(task: Task) -> None:
    """Prints the shortest schedule that still fails, if the subsystem has schedules."""
    name, seed = task
    subsystem = SUBSYSTEMS[name]
    if subsystem.schedule is None or subsystem.replay is None:
        return
    shrinker = Shrinker(subsystem.replay)
    short = shrinker.shrink(subsystem.schedule(seed))
    print(f"\n{name} seed {seed}, {len(short.steps)} steps after {shrinker.runs} runs:\n{short}")


def main() -> int:
    """Runs the seeds that the arguments select; returns 1 when something failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--start", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="worker processes")
    parser.add_argument("--subsystem", action="append", choices=list(SUBSYSTEMS), help="default: all")
    parser.add_argument("--twice", action="store_true", help="compare the traces of two runs of every seed")
    parser.add_argument("--moments", action="store_true", help="show how often each moment was reached")
    arguments = parser.parse_args()
    if arguments.seeds < 1 or arguments.jobs < 1 or arguments.start < 0:
        parser.error("seeds and jobs must be at least 1, start at least 0")
    names = arguments.subsystem or list(SUBSYSTEMS)
    seeds = range(arguments.start, arguments.start + arguments.seeds)
    began = time.monotonic()
    batch = Batch()
    tasks = [(name, seed) for name in names for seed in seeds if seed % SUBSYSTEMS[name].one_of == 0]
    batch.run(tasks, arguments.jobs)
    twins = seeds if arguments.twice else seeds[: min(TWINS, len(seeds) // 4)]
    again = [(name, seed) for name in names for seed in twins if (name, seed) in batch.traces]
    if again:
        batch.run(again, arguments.jobs)
    batch.check_moments(names, arguments.seeds)
    for task in batch.broken[:SHRUNK_MAX]:
        shrink(task)
    if arguments.moments:
        for name in names:
            print(f"{name}: " + ", ".join(f"{moment} {n}" for moment, n in sorted(batch.hits[name].items())))
    spent = ", ".join(f"{name} {batch.processor_s[name]:.0f} s" for name in names)
    print(f"{time.monotonic() - began:.0f} s ({spent} of processor time)")
    print(f"{batch.passed} passed, {batch.failed} failed")
    return 1 if batch.failed else 0


if __name__ == "__main__":
    sys.exit(main())
