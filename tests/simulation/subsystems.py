"""The subsystems that the simulator can run from a seed: schedules, traces, and required moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.simulation import test_membership, test_rainstorm
from tests.simulation.membership import run as membership
from tests.simulation.rainstorm import scenario as rainstorm
from tests.simulation.rainstorm import whole
from tests.simulation.register import world as register
from tests.simulation.store import world as store
from tests.simulation.wire import run as wire


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of one seed: the trace's hash and how often each moment was reached."""

    trace: str
    hits: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Subsystem:
    """How to run one seed, and the moments that a batch of ``moments_from_seeds`` seeds must reach.

    ``schedule`` and ``replay`` exist if a failing schedule can be shrunk.
    """

    run: Callable[[int | str], Outcome]
    moments: tuple[str, ...] = ()
    moments_from_seeds: int = 100
    schedule: Callable[[int | str], Any] | None = None
    replay: Callable[[Any], Any] | None = None
    # Only one in this many seeds is run: the others add little to the findings of the parts' own schedules.
    one_of: int = 1


# The short schedules; tests replay all of them.
SCENARIOS: tuple[Callable[[int], Any], ...] = (
    test_membership.kill_one,
    test_membership.kill_leader,
    test_membership.restart_quickly,
)


def _membership(seed: int | str) -> Outcome:
    found = membership.run(membership.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _register(seed: int | str) -> Outcome:
    found = register.run(register.schedule_of(seed))
    return Outcome(found.cluster.trace(), found.hits)


def _scenario(seed: int | str) -> Outcome:
    SCENARIOS[int(seed) % len(SCENARIOS)](int(seed))
    return Outcome("")


def _wire(seed: int | str) -> Outcome:
    found = wire.run(wire.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _store(seed: int | str) -> Outcome:
    found = store.run(store.schedule_of(seed))
    return Outcome(found.cluster.trace(), found.hits)


def _rainstorm(seed: int | str) -> Outcome:
    found = rainstorm.run(rainstorm.schedule_of(seed))
    return Outcome(found.trace, found.hits)


def _whole(seed: int | str) -> Outcome:
    return Outcome(whole.run(whole.schedule_of(seed)), {"job of the whole system finished": 1})


# The slowest first, so that both workers end at about the same time.
SUBSYSTEMS: dict[str, Subsystem] = {
    "store": Subsystem(_store, store.MOMENTS, schedule=store.schedule_of, replay=store.run),
    "membership": Subsystem(
        _membership,
        membership.MOMENTS,
        schedule=membership.schedule_of,
        replay=membership.run,
    ),
    # Membership's schedules also kill and examine a node, but after faults: these have a single fault.
    "scenarios": Subsystem(_scenario, one_of=10),
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
    "wire": Subsystem(_wire, wire.MOMENTS, schedule=wire.schedule_of, replay=wire.run),
    "register": Subsystem(
        _register,
        register.MOMENTS,
        schedule=register.schedule_of,
        replay=register.run,
    ),
}
