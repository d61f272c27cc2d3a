"""What the simulator can run by a seed: schedules, their traces, and what a batch must reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import membership_swarm, register_swarm, test_hydfs, test_membership, test_rainstorm
from tests.simulation.hydfs_faults import MOMENTS
from tests.simulation.machine.schedule import Schedule
from tests.simulation.rainstorm import scenario as rainstorm
from tests.simulation.rainstorm import whole

# Shorter than in its own test, so that there are more seeds in the same time.
HYDFS_S = 3.5


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one seed gave: the trace's hash and how often each moment was reached."""

    trace: str
    hits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subsystem:
    """How to run one seed, and what a batch of ``moments_from_seeds`` must reach.

    ``schedule`` and ``replay`` are there when a failing schedule can be shrunk.
    """

    run: Callable[[int | str], Outcome]
    moments: tuple[str, ...] = ()
    moments_from_seeds: int = 100
    schedule: Callable[[int | str], Schedule] | None = None
    replay: Callable[[Schedule], Any] | None = None
    # Only one seed of so many is run: the others add little to what the parts' own schedules find.
    one_of: int = 1


SCENARIOS: tuple[Callable[[int], Any], ...] = (
    test_membership.kill_one,
    test_membership.kill_leader,
    test_membership.restart_quickly,
    test_membership.partition_and_heal,
    test_membership.cut_one_way,
    test_membership.lose_datagrams,
    test_membership.pause_again_and_again,
    test_membership.restart_all,
)


def _membership(seed: int | str) -> Outcome:
    found = membership_swarm.run(membership_swarm.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _register(seed: int | str) -> Outcome:
    found = register_swarm.run(register_swarm.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _scenario(seed: int | str) -> Outcome:
    SCENARIOS[int(seed) % len(SCENARIOS)](int(seed))
    return Outcome("")


def _hydfs(seed: int | str) -> Outcome:
    world, history = test_hydfs.run(seed, duration_s=HYDFS_S)
    assert history.acked, f"seed {seed}: nothing was ever acknowledged"
    return Outcome(world.trace_hash(), {**world.hits, "append acknowledged": len(history.acked)})


def _rainstorm(seed: int | str) -> Outcome:
    found = rainstorm.run(rainstorm.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _whole(seed: int | str) -> Outcome:
    return Outcome(whole.run(whole.schedule_of(seed)), {"job of the whole system finished": 1})


# The slowest first, so that both workers end at about the same time.
SUBSYSTEMS: dict[str, Subsystem] = {
    "hydfs": Subsystem(_hydfs, ("append acknowledged", *MOMENTS)),
    "membership": Subsystem(
        _membership,
        membership_swarm.MOMENTS,
        schedule=membership_swarm.schedule_of,
        replay=membership_swarm.run,
    ),
    "scenarios": Subsystem(_scenario),
    "rainstorm": Subsystem(
        _rainstorm,
        test_rainstorm.REACHED,
        test_rainstorm.MOMENTS_FROM_SEEDS,
        schedule=rainstorm.schedule_of,
        replay=rainstorm.run,
    ),
    "whole": Subsystem(
        _whole,
        ("job of the whole system finished",),
        schedule=whole.schedule_of,
        replay=whole.run,
        one_of=10,
    ),
    "register": Subsystem(
        _register,
        register_swarm.MOMENTS,
        schedule=register_swarm.schedule_of,
        replay=register_swarm.run,
    ),
}
