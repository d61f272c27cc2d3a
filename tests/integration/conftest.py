"""What all tests of real agents share."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(scope="session", autouse=True)
def only_process(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fails when another worker of this run drives real agents, too: they share addresses and ports."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker is None:
        return
    taken = tmp_path_factory.getbasetemp().parent / "drives-real-agents"
    try:
        taken.touch(exist_ok=False)
    except FileExistsError:
        pytest.fail(f"{worker} is the second worker that runs tests of real agents: see tests/scheduling.py")
