"""The demo's verdict cannot be correct by accident."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from ops.demo import report as demo_report
from ops.demo.report import DemoReport

REPORT = DemoReport(
    equal=True,
    lines=1000,
    healthy_lines_per_s=1234567.8912,
    task_recovery_s=0.3456,
    node_recovery_s=None,
    total_s=33.3,
    agent_rss_mb_max=61.0,
    task_rss_mb_max=150.0,
    agent_rss_worst="rainstorm of vm2",
    task_rss_worst="pid 7 on vm1",
    killed_task="task 0.1",
    killed_node="vm3",
    nodes=5,
    seed=1,
    job_s=12.0,
    start_s=3.0,
)


def test_the_file_has_the_promised_names(tmp_path: Path) -> None:
    demo_report.write(REPORT, tmp_path / "report.json")
    read = json.loads((tmp_path / "report.json").read_text())
    promised = "equal lines healthy_lines_per_s task_recovery_s node_recovery_s total_s agent_rss_mb_max"
    assert {*promised.split(), "task_rss_mb_max"} <= set(read)
    assert read["healthy_lines_per_s"] == 1234567.891
    assert read["node_recovery_s"] is None


def test_differences_are_shown_however_small(capsys: pytest.CaptureFixture[str]) -> None:
    expected = Counter({f"key{i},{1000 - i}": 1 for i in range(50)})
    found = expected.copy()
    del found["key49,951"]
    found["key49,950"] = 1
    demo_report.print_comparison(expected, found)
    out = capsys.readouterr().out
    assert "key49" in out
    assert "!" in out
    assert "and 41 more equal rows" in out


def test_equal_results_show_the_largest(capsys: pytest.CaptureFixture[str]) -> None:
    expected = Counter({'"Railroad, Crossing",7': 1, "Stop,3": 1})
    demo_report.print_comparison(expected, expected)
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["Railroad,", "Crossing", "7", "7", "-"]


@pytest.mark.parametrize(
    "odd", [Counter({"Stop,3": 2}), Counter({"Stop": 1}), Counter({"Stop,3": 1, "Stop,4": 1})]
)
def test_a_repeated_or_odd_record_never_looks_equal(
    odd: Counter[str], capsys: pytest.CaptureFixture[str]
) -> None:
    demo_report.print_comparison(Counter({"Stop,3": 1}), odd)
    assert "!" in capsys.readouterr().out


def test_the_verdict_is_said_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    demo_report.print_report(REPORT)
    assert "EQUAL: the result for 1,000 rows" in capsys.readouterr().out
    demo_report.print_report(replace(REPORT, equal=False))
    assert "DIFFERENT" in capsys.readouterr().out
