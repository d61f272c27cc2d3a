"""Schedules of faults: they are data, runs repeat, failures shrink, and old findings are replayed."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.simulation.machine.schedule import Schedule, Step
from tests.simulation.machine.wires import Quality
from tests.simulation.membership import run as membership
from tests.simulation.planted import membership as membership_bugs
from tests.simulation.power import bug_named, hunt
from tests.simulation.schedules.membership import FOUND, FOUND_FAULTS_S
from tests.simulation.seeds import each, seed_ranges
from tests.simulation.shrink import Shrinker
from tests.support import REPOSITORY


def play(seed: int) -> None:
    membership.run(membership.schedule_of(seed))


@pytest.mark.slow
@pytest.mark.parametrize("seeds", seed_ranges(quick=3, full=30))
def test_membership_under_any_schedule(seeds: range) -> None:
    each(seeds, play)


@pytest.mark.simulation_quick
@pytest.mark.parametrize(
    "name",
    # Those of more than three nodes last a second each.
    [
        pytest.param(name, marks=pytest.mark.slow if schedule.size > 3 else ())
        for name, schedule in FOUND.items()
    ],
)
def test_what_was_found_once(name: str) -> None:
    membership.run(FOUND[name], faults_s=FOUND_FAULTS_S)


@pytest.mark.simulation_quick
def test_a_schedule_is_the_python_that_is_printed_of_it() -> None:
    names = {"Schedule": Schedule, "Step": Step, "Quality": Quality}
    for seed in range(20):
        schedule = membership.schedule_of(seed)
        assert eval(str(schedule), names) == schedule


@pytest.mark.simulation_quick
def test_some_seeds_are_free_of_faults_and_no_two_are_alike() -> None:
    schedules = [membership.schedule_of(seed) for seed in range(300)]
    calm = [schedule for schedule in schedules if not schedule.steps]
    assert 15 <= len(calm) <= 50
    assert len({replace(schedule, seed=0) for schedule in schedules if schedule.steps}) > 240


@pytest.mark.slow
@pytest.mark.simulation_quick
def test_the_same_seed_gives_the_same_trace_in_every_process() -> None:
    code = "from tests.simulation.membership import run as m; print(m.run(m.schedule_of(3)).trace)"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    here = membership.run(membership.schedule_of(3)).trace
    assert found.stdout.split() == [here]
    assert here != membership.run(membership.schedule_of(4)).trace


def _fails(schedule: Schedule) -> bool:
    try:
        membership.run(schedule)
    except AssertionError:
        return True
    return False


def _fails_by_its_steps(schedule: Schedule) -> bool:
    """Tells whether a schedule fails because of its steps, and not only because its links lose datagrams."""
    return _fails(schedule) and not _fails(replace(schedule, steps=()))


@pytest.mark.simulation
def test_a_failing_schedule_shrinks_to_what_it_needs() -> None:
    noise = tuple(Step(at_s, "jump", ("vm1",), 0.3, 0.9) for at_s in (0.5, 2.0, 3.0, 4.0, 5.0))
    with bug_named("refutes without raising its incarnation").planted():
        found = next(filter(_fails_by_its_steps, map(membership.schedule_of, range(60))))
        long = replace(found, steps=(*noise[:2], *found.steps, *noise[2:]))
        assert _fails(long)
        short = Shrinker(membership.run, runs_max=40).shrink(long)
        assert 1 <= len(short.steps) < len(found.steps), str(short)
        assert not any(step in noise for step in short.steps), str(short)
        assert _fails(short), str(short)
    assert not _fails(short), "without the bug there is nothing to find"


@pytest.mark.simulation_quick
def test_a_schedule_that_passes_is_not_shrunk() -> None:
    schedule = Schedule("calm")
    shrinker = Shrinker(membership.run)
    assert shrinker.shrink(schedule) is schedule
    assert shrinker.runs == 1


@pytest.mark.simulation
@pytest.mark.parametrize("name", membership_bugs.QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    verdict = hunt(bug_named(name), limit_s=60.0, seeds_max=30)
    assert verdict.found_by, verdict
