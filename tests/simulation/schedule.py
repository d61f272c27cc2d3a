"""A schedule of faults as plain data: drawn from a seed, applied to a cluster, shrunk, and kept as a test.

Each seed enables its own subset of the kinds and draws its own rates; one in ten is free of faults (swarm
testing: Groce et al., ISSTA 2012). Everything chance decides about the faults is in the schedule, so a
shorter schedule is another run that makes sense, and ``repr`` of one is Python that replays it.

A step has a duration: what it began ends by itself. ``faults.Faults`` applies the steps.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.machine.wires import Quality

CALM_SHARE = 0.1
STEPS_MAX = 10
DURATIONS_S = (0.05, 0.3, 1.0, 2.0, 4.0, 6.0)


@dataclass(frozen=True)
class Step:
    """One fault: when it begins (after the start of the faults), what, whom, for how long, how much."""

    at_s: float
    kind: str
    names: tuple[str, ...] = ()
    duration_s: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """All that a run depends on."""

    seed: int | str
    nodes: int = 5
    voters: int = 5
    link: Quality = field(default_factory=Quality)
    steps: tuple[Step, ...] = ()
    variant: str = ""
    # How often a thread is suspended at a scheduling point, for up to 20 ms.
    stalls: float = 0.0

    def names(self) -> list[str]:
        """Returns the names of the nodes."""
        return [f"vm{index + 1}" for index in range(self.nodes)]


# Every kind of fault, and how many nodes its steps name: a number, or "some" for one side of a partition.
KINDS: dict[str, int | str] = {
    "crash": 1,
    "crash_all": 0,
    "power_off": 1,
    "power_off_all": 0,
    "stop": 1,
    "roll": 0,
    "wipe": 1,
    "pause": 1,
    "slow": 1,
    "jump": 1,
    "cut": 2,
    "isolate": 1,
    "deafen": 1,
    "silence": 1,
    "filter": 1,
    "filter_streams": 1,
    "partition": "some",
    "bridge": 1,
    "ring": 0,
    "clog": 2,
    "clog_node": 1,
    "bad_link": 0,
    "disk_full": 1,
    "sync_fails": 1,
    "slow_disk": 1,
}
AMOUNTS: dict[str, tuple[float, ...]] = {
    "slow": (2.0, 10.0, 50.0),
    "jump": (-288.0, -1.0, 3.0, 288.0),
    "bad_link": (0.05, 0.1, 0.2),
}


def draw(
    seed: int | str,
    duration_s: float,
    *,
    sizes: Sequence[int] = (3, 4, 5, 5, 7),
    kinds: Sequence[str] = tuple(KINDS),
    extra: dict[str, int] | None = None,
) -> Schedule:
    """Returns the schedule of a seed; ``extra`` names kinds that the subsystem applies itself."""
    rng = random.Random(f"{seed}:swarm")
    counts = {**{kind: KINDS[kind] for kind in kinds}, **(extra or {})}
    nodes = rng.choice(sizes)
    voters = rng.choice([size for size in (1, 3, 5, 5) if size <= nodes])
    schedule = Schedule(seed, nodes, voters)
    if rng.random() < CALM_SHARE:
        return schedule
    latency_s = rng.choice([0.0005, 0.0005, 0.005, 0.02])
    link = Quality(
        0.0002,
        0.0002 + 2 * latency_s,
        loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
        duplication=rng.choice([0.0, 0.0, 0.1]),
        reorder=rng.choice([0.0, 0.0, 0.05]),
    )
    stalls = rng.choice([0.0, 0.0, 0.001])
    enabled = rng.sample(list(counts), rng.randint(1, len(counts)))
    steps = []
    for _ in range(rng.randint(1, STEPS_MAX)):
        kind = rng.choice(enabled)
        count = counts[kind]
        size = rng.randint(1, nodes - 1) if isinstance(count, str) else count
        steps.append(
            Step(
                round(rng.uniform(0.0, duration_s), 3),
                kind,
                tuple(rng.sample(schedule.names(), size)),
                rng.choice(DURATIONS_S),
                rng.choice(AMOUNTS.get(kind, (0.0,))),
            )
        )
    steps.sort(key=lambda step: step.at_s)
    return replace(schedule, link=link, steps=tuple(steps), stalls=stalls)
