"""What a run of the engine depends on, as plain data: the jobs, and when which fault strikes whom.

Each seed enables its own subset of the kinds and one in ten is free of faults (swarm testing: Groce et al.,
ISSTA 2012). A step names its victim by ``pick``, a number from 0 to 1 among those that it may strike at that
moment, so that a schedule with fewer steps is another run that makes sense.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tests.simulation.rainstorm.jobs import KINDS

CALM_SHARE = 0.1
STEPS_MAX = 8
# Jobs of a seed last for one to three seconds; most faults should meet them.
FAULTS_S = 3.0
DURATIONS_S = (0.05, 0.3, 1.0, 2.0, 4.0)
AMBUSH_S = 1.5


@dataclass(frozen=True, slots=True)
class Step:
    """One fault: when it begins (after the start of the faults), what, whom, for how long, how much."""

    at_s: float
    kind: str
    pick: float = 0.0
    duration_s: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """All that a run depends on; ``jobs`` are kinds of jobs."""

    seed: int | str
    jobs: tuple[str, ...]
    steps: tuple[Step, ...] = ()


def draw(
    seed: int | str, known: Sequence[str], *, jobs: Sequence[str] = KINDS, faults: Sequence[str] | None = None
) -> Schedule:
    """Returns the schedule of a seed, with the kinds of faults in ``known``, or exactly those in ``faults``."""
    rng = random.Random(f"{seed}:schedule")
    chosen_jobs = tuple(rng.choice(list(jobs)) for _ in range(rng.choice([1, 1, 1, 2])))
    calm = rng.random() < CALM_SHARE
    kinds = rng.sample(list(known), rng.randint(1, len(known))) if faults is None else list(faults)
    if not kinds or (calm and faults is None):
        return Schedule(seed, chosen_jobs)
    steps = [
        Step(
            round(rng.uniform(0.0, FAULTS_S), 3),
            rng.choice(kinds),
            round(rng.random(), 3),
            rng.choice(DURATIONS_S),
            round(rng.random(), 3),
        )
        for _ in range(rng.randint(1, STEPS_MAX))
    ]
    return Schedule(seed, chosen_jobs, tuple(sorted(steps, key=lambda step: step.at_s)))
