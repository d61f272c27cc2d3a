"""One run of the engine: jobs under a schedule of faults, then healing, convergence and all checks."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from tests.simulation.machine.cluster import Broken
from tests.simulation.machine.schedule import Schedule, draw
from tests.simulation.rainstorm import rest
from tests.simulation.rainstorm.faults import AIMED, EXTRA, EngineFaults
from tests.simulation.rainstorm.jobs import KINDS, Workload, generate
from tests.simulation.rainstorm.operators import Operators
from tests.simulation.rainstorm.world import World, observed, small_limits

SIZES = (3, 3, 3, 4, 5)
# The jobs of a seed last one to two seconds; most faults should hit them.
FAULTS_S = 2.0
POLL_S = 0.1
HEALED_S = 150.0
RECORDS_MAX = 160
# A report is repeated for ten seconds, and a listener that was out of descriptors pauses for one.
SETTLE_S = 14.0


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements of one run."""

    trace: str
    simulated_s: float
    steps: int
    hits: dict[str, int]
    kinds: tuple[str, ...]


def schedule_of(seed: int | str, kinds: Sequence[str] = (), *, jobs: Sequence[str] = KINDS) -> Schedule:
    """Returns the schedule of a seed; only faults of ``kinds`` when any are named, and only these jobs."""
    rng = random.Random(f"{seed}:jobs")
    chosen = [rng.choice(list(jobs)) for _ in range(rng.choice([1, 1, 1, 2]))]
    extra = {**EXTRA, **{kind: count for kind, count in AIMED.items() if kind in kinds}}
    found = draw(f"rainstorm:{seed}", FAULTS_S, sizes=SIZES, kinds=kinds, extra=extra)
    return replace(found, variant=" ".join(chosen))


def calm(seed: int | str, jobs: Sequence[str]) -> Schedule:
    """Returns a schedule without faults."""
    return Schedule(f"rainstorm:{seed}", SIZES[0], variant=" ".join(jobs))


def run(schedule: Schedule, *, end_to_end_only: bool = False) -> Result:
    """Runs a schedule; raises AssertionError if a check fails."""
    rng = random.Random(f"{schedule.seed}:limits")
    with small_limits(rng):
        world = World(schedule, end_to_end_only=end_to_end_only)
        with _closing(world), observed(world.watch):
            try:
                return _Run(world, schedule, rng).run()
            except AssertionError as error:
                if isinstance(error, Broken):
                    raise
                raise world.cluster.broken([str(error)]) from error


class _Run:
    def __init__(self, world: World, schedule: Schedule, rng: random.Random) -> None:
        self._world = world
        self._schedule = schedule
        self._liveness = rest.Liveness(world)
        self._workloads = [
            generate(rng, kind, f"in{number}", rng.randint(0, RECORDS_MAX))
            for number, kind in enumerate(schedule.variant.split())
        ]

    def run(self) -> Result:
        world, watch = self._world, self._world.watch
        for workload in self._workloads:
            self._store(workload)
        world.cluster.start()
        began = world.scheduler.now
        operators = Operators(world, self._workloads)
        if not self._schedule.steps:
            operators.calm_since = began
        faults = EngineFaults(world, operators, self._schedule.steps)
        while world.scheduler.now < began + FAULTS_S or not self._is_over(operators):
            self._advance()
            if world.scheduler.now > began + 2 * FAULTS_S:
                break
        faults.end()
        operators.calm_since = world.scheduler.now
        end = world.scheduler.now + HEALED_S
        while not self._is_over(operators):
            assert world.scheduler.now < end, f"R9: not over after {HEALED_S:g} s: {self._open(operators)}"
            self._advance()
        self._rest(operators, faults)
        watch.check_end()
        if all(step.kind == "strangers" for step in self._schedule.steps):
            for job in watch.jobs.values():
                assert job.generation <= 1, f"a stranger made {job.job} recover {job.generation - 1} times"
        kinds = tuple(workload.kind for workload in self._workloads)
        simulated_s = world.scheduler.now - began
        return Result(
            world.cluster.trace(), simulated_s, world.scheduler.steps, dict(sorted(watch.hits.items())), kinds
        )

    def _store(self, workload: Workload) -> None:
        name = str(workload.raw["source"]["file"])
        self._world.watch.add(workload)
        self._world.store.create(name)
        self._world.store.append(name, workload.data, "put", 1)

    def _advance(self) -> None:
        self._world.scheduler.run_for(POLL_S)
        if self._world.store.broken is not None:
            raise self._world.store.broken
        self._world.watch.poll()
        self._liveness.look()

    def _is_over(self, operators: Operators) -> bool:
        return len(operators.accepted) == len(self._workloads) and self._world.watch.over()

    def _open(self, operators: Operators) -> list[str]:
        jobs = [
            f"{job.job} {job.workload.kind}"
            for job in self._world.watch.jobs.values()
            if not job.in_index_as_ended
        ]
        return [f"{len(operators.accepted)} of {len(self._workloads)} accepted", *jobs]

    def _rest(self, operators: Operators, faults: EngineFaults) -> None:
        """Checks that nothing is left over (R10 and the rules of shells)."""
        world = self._world
        world.cluster.wait_until(lambda: operators.is_idle, HEALED_S)
        assert not operators.complaints, f"clients complain: {operators.complaints}"
        world.cluster.wait_until(lambda: not world.tasks(), HEALED_S)
        world.cluster.settle(SETTLE_S)
        world.cluster.check(rest.findings(world, faults.common.disks_hurt))
        world.views.stop()
        world.cluster.check(world.cluster.shut_down())


@contextmanager
def _closing(world: World) -> Iterator[World]:
    try:
        yield world
    finally:
        world.close()
