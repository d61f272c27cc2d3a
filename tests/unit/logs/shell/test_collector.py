"""The threads of collection while something is away: HyDFS, room in the spool, the spool itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.config import LogsConfig
from agent.hydfs.client import HydfsClient
from agent.logs.shell import collector as collecting
from agent.logs.shell.collector import Collection
from agent.wire.client import Client
from tests.support import wait_until

SPOOL_BYTES = 100_000
KNOBS = LogsConfig(
    collect_delay_s=0.0, collect_interval_s=0.02, spool_bytes=SPOOL_BYTES, journal_units=(), system_files=()
)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes collections whose HyDFS does not answer."""
    monkeypatch.setattr(collecting, "SPOOL_RETRY_S", 0.05)
    client = Client(None)
    made: list[Collection] = []
    crashes: list[BaseException] = []

    def make() -> Collection:
        hydfs = HydfsClient(client, str(tmp_path / "no.sock"))
        found = Collection(
            "vm1",
            tmp_path / "logs",
            tmp_path / "spool",
            KNOBS,
            hydfs,
            record_bytes_max=4000,
            on_crash=crashes.append,
        )
        made.append(found)
        found.start()
        return found

    (tmp_path / "logs").mkdir()
    yield make
    for each in made:
        each.stop(5.0)
    client.close()
    assert not crashes


def test_without_hydfs_the_spool_fills_and_then_the_files_wait(away: Any, tmp_path: Path) -> None:
    data = b"".join(b"2026-11-20T10:00:00Z line %06d\n" % number for number in range(10_000))
    (tmp_path / "logs" / "a.log").write_bytes(data)
    first = away()
    wait_until(lambda: first.status().spool_full, 10, "the spool is full")
    found = first.status()
    assert SPOOL_BYTES - 10_000 < found.waiting_bytes <= SPOOL_BYTES + 10_000
    assert found.waiting_bytes + found.unread_bytes >= len(data)
    assert found.lost_bytes == 0
    wait_until(lambda: "UNREACHABLE" in first.status().trouble, 10, "the trouble is named")
    first.stop(5.0)
    # After a restart the same records wait, and nothing is read twice.
    again = away()
    wait_until(lambda: again.status().spool_full, 10, "the spool is full again")
    assert again.status().waiting_records == found.waiting_records
    assert again.status().unread_bytes == found.unread_bytes


def test_a_spool_that_cannot_be_opened_is_tried_again(away: Any, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way\n")
    (tmp_path / "logs" / "a.log").write_text("2026-11-20T10:00:00Z one line\n")
    found = away()
    wait_until(lambda: "cannot be opened" in found.status().trouble, 10, "the trouble is named")
    assert found.makes_progress(5.0)
    (tmp_path / "spool").unlink()
    wait_until(lambda: found.status().waiting_records == 1, 10, "the line is in the spool")
