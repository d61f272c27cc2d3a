"""The real store agents under schedules of faults; schedules that once failed are replayed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.simulation.planted import store as planted
from tests.simulation.power import bug_named, hunt
from tests.simulation.seeds import each, seed_ranges
from tests.simulation.store import world
from tests.simulation.store.moments import MOMENTS
from tests.support import REPOSITORY

# Seeds that failed before a bug of the agents was fixed: a gateway that kept asking a silent coordinator
# (17), a mark that could not be removed (62), a block whose replicas all had new disks (254),
# the first request on a connection whose peer had lost power (120).
FOUND = (17, 62, 120, 254)


def play(seed: int | str) -> str:
    return world.run(world.schedule_of(seed)).cluster.trace()


@pytest.mark.slow
@pytest.mark.parametrize("seeds", seed_ranges())
def test_promises_hold_under_faults(seeds: range) -> None:
    each(seeds, play)


@pytest.mark.simulation
def test_promises_hold_with_real_membership() -> None:
    each(range(4), lambda seed: world.run(replace(world.schedule_of(seed), variant=world.WHOLE)))


@pytest.mark.simulation
def test_what_was_found_stays_mended() -> None:
    each(FOUND, play)


@pytest.mark.slow
@pytest.mark.simulation_quick
def test_same_seed_same_trace_in_fresh_processes() -> None:
    program = "from tests.simulation.test_store import play; print(play('twin'))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == play("twin")


@pytest.mark.simulation
@pytest.mark.parametrize("moment", MOMENTS.values(), ids=list(MOMENTS))
def test_moment(moment: Callable[[int | str], None]) -> None:
    each(range(3), moment)


@pytest.mark.simulation
@pytest.mark.parametrize("name", planted.QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    verdict = hunt(bug_named(name), limit_s=60.0, seeds_max=60)
    assert verdict.found_by, verdict
