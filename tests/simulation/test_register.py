"""The real voters and proposers under schedules of faults."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.simulation.planted import register as planted
from tests.simulation.power import bug_named, hunt
from tests.simulation.register import world
from tests.simulation.seeds import each, seed_ranges
from tests.support import REPOSITORY


def play(seed: int | str) -> str:
    return world.run(world.schedule_of(seed)).cluster.trace()


@pytest.mark.parametrize("seeds", seed_ranges())
def test_history_is_linearizable_under_faults(seeds: range) -> None:
    each(seeds, play)


@pytest.mark.simulation
def test_same_seed_same_trace_in_fresh_processes() -> None:
    program = "from tests.simulation.test_register import play; print(play('twin'))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=60)
    assert found.stdout.strip() == play("twin")


@pytest.mark.simulation
@pytest.mark.parametrize("name", planted.QUICK)
def test_a_planted_bug_is_found(name: str) -> None:
    verdict = hunt(bug_named(name), limit_s=60.0, seeds_max=30)
    assert verdict.found_by, verdict
