"""The seeds of a simulation test: a few in ``make check``, 25 in ``make test``, ``SEEDS=N`` on demand.

@pytest.mark.parametrize("seeds", seed_ranges())
def test_something(seeds: range) -> None:
    each(seeds, scenario)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import pytest

# `make simulate` runs hundreds, in CI as well; here they would only make the suite longer.
SEEDS_DEFAULT = 25


def seed_ranges(quick: int = 3, full: int = SEEDS_DEFAULT) -> list[Any]:
    """Returns the parameters of a test: the quick seeds, if any, and the others, both with their markers."""
    last = int(os.environ.get("SEEDS", full))
    rest = pytest.param(
        range(quick, max(quick, last)),
        marks=[pytest.mark.simulation, pytest.mark.timeout(1800)],
        id=f"seeds-{quick}-{last - 1}",
    )
    if not quick:
        return [rest]
    return [pytest.param(range(quick), marks=pytest.mark.simulation_quick, id=f"seeds-0-{quick - 1}"), rest]


def each(seeds: Iterable[int], scenario: Callable[[int], Any]) -> list[Any]:
    """Runs ``scenario(seed)`` for each seed and returns the results; an error names its seed."""
    results = []
    for seed in seeds:
        try:
            results.append(scenario(seed))
        except BaseException as error:
            error.add_note(f"simulation seed {seed}")
            raise
    return results
