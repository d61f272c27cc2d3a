"""Fixtures and plugins of the whole suite: the leak check, the seed, the settings of hypothesis.

Every random source in a test is seeded by the ``seed`` fixture. Each run chooses a new seed and prints it in
the header and beside each failure; ``RAINSTORM_SEED=NUMBER`` sets it.
"""

from __future__ import annotations

import gc
import os
import random
from collections.abc import Generator
from typing import Any

import hypothesis
import pytest

pytest_plugins = ["tests.leaks"]


_SEED = pytest.StashKey[int]()

# Load on the machine makes single examples slow: there is a time limit for the test, not for an example.
hypothesis.settings.register_profile("rainstorm", deadline=None, print_blob=True)
# `make check` looks at fewer examples of each property (--hypothesis-profile=quick), `make test` at all.
hypothesis.settings.register_profile("quick", hypothesis.settings.get_profile("rainstorm"), max_examples=20)
hypothesis.settings.load_profile("rainstorm")


def pytest_configure(config: pytest.Config) -> None:
    """Chooses the seed of this run."""
    given = os.environ.get("RAINSTORM_SEED")
    if given is not None and not given.isdecimal():
        raise pytest.UsageError(f"RAINSTORM_SEED must be a whole number, found {given!r}")
    chosen = int(given) if given is not None else random.SystemRandom().randrange(1 << 32)
    # Worker processes of one run share the seed that its header names.
    config.stash[_SEED] = getattr(config, "workerinput", {}).get("seed", chosen)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Hands the seed of this run to a worker process."""
    node.workerinput["seed"] = node.config.stash[_SEED]


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Chooses the tests that share a worker process, and the order of the run."""
    from tests.scheduling import ByRoom

    return ByRoom(config, log)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Keeps what was loaded for the whole run out of every later collection of garbage."""
    gc.collect()
    gc.freeze()


def pytest_report_header(config: pytest.Config) -> str:
    """Prints the seed above the tests."""
    return f"seed: {config.stash[_SEED]} (repeat with RAINSTORM_SEED={config.stash[_SEED]})"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Prints the seed beside each failure."""
    report = yield
    if report.failed:
        report.sections.append(("seed", f"repeat with RAINSTORM_SEED={item.config.stash[_SEED]}"))
    return report


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of this run, for the test's own ``random.Random``."""
    return request.config.stash[_SEED]
