"""The gate of coverage: lines are added up by room and kind, and a room below its floor is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.gates import coverage


def summary(lines: int, covered: int) -> dict[str, Any]:
    """Returns a file's entry of a report: the number of its lines, and of those that ran; no branches."""
    return {
        "summary": {
            "num_statements": lines,
            "covered_lines": covered,
            "num_branches": 10,
            "covered_branches": 10,
        }
    }


FILES = {
    "agent/hydfs/core/placement.py": summary(100, 96),
    "agent/hydfs/core/block.py": summary(100, 94),
    "agent/hydfs/shell/store.py": summary(100, 50),
    "agent/hydfs/client.py": summary(100, 100),
    "agent/hydfs/messages.py": summary(90, 90),
}


def test_a_folder_that_holds_both_kinds_is_two_rooms() -> None:
    """A client beside messages counts as a shell, the messages as a core."""
    found = {room.label: round(room.percent, 1) for room in coverage.rooms(FILES)}
    assert found == {
        "agent/hydfs (core)": 100.0,
        "agent/hydfs (shell)": 100.0,
        "agent/hydfs/core (core)": 95.5,
        "agent/hydfs/shell (shell)": 54.5,
    }


def test_a_room_below_its_floor_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The table names it, and the exit status says so."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"files": FILES}), "utf-8")
    assert coverage.main([str(report)]) == 1
    assert "below 85 %" in capsys.readouterr().out


def test_floors_are_raised_with_what_was_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A floor that is well below the measured coverage fails: it could be higher."""
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"files": FILES}), "utf-8")
    monkeypatch.setattr(coverage, "FLOORS", {"agent/hydfs/shell (shell)": 53.0})
    assert coverage.main([str(report)]) == 0
    monkeypatch.setattr(coverage, "FLOORS", {"agent/hydfs/shell (shell)": 40.0})
    assert coverage.main([str(report)]) == 1
    assert "raise its floor" in capsys.readouterr().out
    monkeypatch.setattr(coverage, "FLOORS", {"agent/hydfs/shell (shell)": 53.0, "agent/gone (core)": 1.0})
    assert coverage.main([str(report)]) == 1
    assert "no such rooms" in capsys.readouterr().out
