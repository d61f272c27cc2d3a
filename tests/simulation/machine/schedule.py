"""A schedule of faults as plain data: drawn from a seed, applied by ``faults.Faults``, shrunk, and kept.

Each seed enables its own subset of the kinds and draws its own rates; one in ten is free of faults (swarm
testing: Groce et al., ISSTA 2012). Every random choice about the faults is in the schedule, so a shorter
schedule is another valid run, and the ``repr`` of a schedule is Python that replays it.

A step has a duration, after which its fault ends by itself. The end of the schedule ends all faults at once.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.machine.wires import Quality

CALM_SHARE = 0.1
STEPS_MAX = 8
DURATIONS_S = (0.05, 0.3, 1.0, 2.0, 4.0)
QUALITIES = (Quality(), Quality(), Quality(0.0005, 0.02), Quality(0.001, 0.08, loss=0.1, duplication=0.1))


@dataclass(frozen=True)
class Step:
    """One fault: its start, kind, nodes and duration, and an amount between 0 and 1."""

    at_s: float
    kind: str
    nodes: tuple[str, ...] = ()
    duration_s: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """Everything that a run depends on."""

    seed: int | str
    size: int = 5
    quality: Quality = field(default_factory=Quality)
    steps: tuple[Step, ...] = ()
    variant: str = ""

    def names(self) -> list[str]:
        """Returns the names of the nodes."""
        return [f"vm{number}" for number in range(1, self.size + 1)]

    def on_good_wires(self) -> Schedule:
        """Returns the same schedule with wires that lose nothing."""
        return replace(self, quality=Quality())

    def __str__(self) -> str:
        """Returns Python that makes the schedule, with one line for each step."""
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        quality = "" if self.quality == Quality() else f"    quality={self.quality!r},\n"
        variant = f"    variant={self.variant!r},\n" if self.variant else ""
        head = f"    seed={self.seed!r},\n    size={self.size},\n{variant}{quality}"
        return f"Schedule(\n{head}    steps=(\n{steps}    ),\n)"


# Every kind of fault that any cluster may meet, and the number of nodes that its steps name: a number, or
# "some" for one side of a partition.
KINDS: dict[str, int | str] = {
    "kill": 1,
    "power": 1,
    "power_all": 0,
    "pause": 1,
    "restart": 1,
    "rolling_restart": 0,
    "cut": 2,
    "cut_one_way": 2,
    "isolate": 1,
    "deafen": 1,
    "silence": 1,
    "partition": "some",
    "slow_wires": 1,
    "slow_disk": 1,
    "full_disk": 1,
    "failing_disk": 1,
    "no_descriptors": 1,
    "jump": 1,
}


def draw(
    seed: int | str,
    duration_s: float,
    *,
    sizes: Sequence[int] = (3, 4, 5, 5),
    kinds: Sequence[str] = (),
    extra: Mapping[str, int | str] | None = None,
    once: Sequence[str] = (),
) -> Schedule:
    """Returns the schedule of a seed.

    Args:
        seed: the source of all random choices.
        duration_s: the latest start of a step.
        sizes: the possible numbers of nodes.
        kinds: the kinds of fault to use (default: all).
        extra: further kinds, which the subsystem applies itself, in the form of ``KINDS``.
        once: kinds that share a limit: a schedule has at most one step of all of them together.
    """
    rng = random.Random(f"{seed}:schedule")
    counts = {kind: count for kind, count in {**KINDS, **(extra or {})}.items() if not kinds or kind in kinds}
    schedule = Schedule(seed, rng.choice(sizes))
    if rng.random() < CALM_SHARE and not kinds:
        return schedule
    quality = rng.choice(QUALITIES)
    enabled = rng.sample(sorted(counts), rng.randint(1, len(counts)))
    steps: list[Step] = []
    for _ in range(rng.randint(1, STEPS_MAX)):
        kind = rng.choice(enabled)
        if kind in once and any(step.kind in once for step in steps):
            continue
        count = counts[kind]
        chosen = rng.randint(1, schedule.size - 1) if isinstance(count, str) else count
        steps.append(
            Step(
                round(rng.uniform(0.0, duration_s), 3),
                kind,
                tuple(rng.sample(schedule.names(), chosen)),
                rng.choice(DURATIONS_S),
                min(0.999, round(rng.random(), 3)),
            )
        )
    return replace(schedule, quality=quality, steps=tuple(sorted(steps, key=lambda step: step.at_s)))
