"""The fixtures that all unit tests of the engine share."""

from __future__ import annotations

import pytest

from agent.rainstorm.task.sources import splitreader
from tests.unit.rainstorm.cluster import Cluster


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    # Inputs of a few bytes must take several reads, so that events can come between them.
    monkeypatch.setattr(splitreader, "READ_BYTES_MIN", 1)


@pytest.fixture
def cluster() -> Cluster:
    """Three nodes, led by n1."""
    made = Cluster()
    made.lead()
    return made
