"""The demo's exit status follows its verdict."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.common.errors import Unavailable
from ops.cluster import inventory
from ops.demo import run as demo
from ops.demo.report import DemoReport
from tests.unit.ops.demo.test_report import REPORT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The demo's folder; the signal handlers that the demo sets are restored."""
    monkeypatch.setattr(inventory, "LOCAL_FOLDER", tmp_path)
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    yield tmp_path
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def _run(monkeypatch: pytest.MonkeyPatch, report: DemoReport) -> int:
    monkeypatch.setattr(demo.Demo, "run", lambda self: report)
    return demo._run(demo.Options(nodes=5, rows=1000, seed=1, kill_leader=False))


@pytest.mark.parametrize(("equal", "status"), [(True, 0), (False, 1)])
def test_only_an_equal_result_is_success(
    folder: Path, monkeypatch: pytest.MonkeyPatch, equal: bool, status: int
) -> None:
    assert _run(monkeypatch, replace(REPORT, equal=equal, node_recovery_s=0.5)) == status
    written = json.loads((folder / "demo-report.json").read_text())
    assert written["equal"] is equal
    assert written["total_s"] < 10  # measured here, not taken from the report


def test_a_recovery_that_was_not_observed_is_a_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="recovery was not observed"):
        _run(monkeypatch, replace(REPORT, equal=True, node_recovery_s=None))


def test_an_old_report_does_not_survive_a_failed_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "demo-report.json").write_text("{}")

    def fail(self: demo.Demo) -> DemoReport:
        raise Unavailable("a step failed")

    monkeypatch.setattr(demo.Demo, "run", fail)
    with pytest.raises(Unavailable):
        demo._run(demo.Options(nodes=5, rows=1000, seed=1, kill_leader=False))
    assert not (folder / "demo-report.json").exists()
