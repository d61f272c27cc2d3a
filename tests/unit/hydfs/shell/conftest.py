"""The fixtures of the tests of the store's shells."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.hydfs.shell.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """Returns a store on a real disk."""

    def fail(error: BaseException) -> None:
        raise AssertionError(f"the store crashed: {error!r}")

    made = Store(tmp_path / "store", reserve_bytes=0, on_crash=fail)
    made.start()
    yield made
    made.stop()
