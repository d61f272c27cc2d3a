"""The experiments as their users run them, with the smallest settings that still measure something."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ops.machine.processes import FOLDER_VARIABLE
from tests.support import PATIENCE_S, REPOSITORY, wait_until

pytestmark = pytest.mark.integration
TIMEOUT_S = 60


def command(name: str, out: Path, *arguments: str) -> list[str]:
    """Returns the words that start an experiment."""
    return [sys.executable, f"experiments/{name}.py", "--runs", "1", "--out", str(out), *arguments]


def run(name: str, out: Path, *arguments: str) -> list[dict[str, Any]]:
    """Runs an experiment from the root of the checkout and returns its variants."""
    done = subprocess.run(
        command(name, out, "--json", *arguments),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert list(found) == ["variants"]
    assert (out / "figure.svg").stat().st_size > 1000
    assert json.loads((out / "meta.json").read_text("utf-8"))["complete"] is True
    variants: list[dict[str, Any]] = found["variants"]
    return variants


def test_detection_time(tmp_path: Path) -> None:
    (line,) = run("detection_time", tmp_path, *"--nodes 4 --failures 1 --variants swim+suspicion".split())
    assert list(line) == ["detector", "suspicion", "failures", "runs", "p50_s", "p99_s", "false_deaths"]
    assert (line["detector"], line["suspicion"], line["failures"], line["runs"]) == ("swim", True, 1, 1)
    assert 0.1 < line["p50_s"] <= line["p99_s"] < 10.0


def test_false_positives(tmp_path: Path) -> None:
    (line,) = run(
        "false_positives", tmp_path, *"--nodes 4 --loss 5 --duration-s 6 --variants swim+suspicion".split()
    )
    assert (line["loss_percent"], line["runs"]) == (5.0, 1)
    assert line["pauses"] == line["pauses_noticed"] == 1, "a node that is silent for 5 s is found"


def test_membership_bandwidth(tmp_path: Path) -> None:
    real, simulated = run(
        "membership_bandwidth",
        tmp_path,
        *"--nodes 2 --simulated 10 --duration-s 1 --variants swim+suspicion".split(),
    )
    assert (real["kind"], real["nodes"]) == ("real", 2)
    assert 100 < real["bytes_per_s_p50"] < real["loopback_bytes_per_s_p50"] * 1.5
    assert (simulated["kind"], simulated["nodes"]) == ("simulated", 10)
    assert simulated["bytes_per_s_p50"] > 100


def test_log_query(tmp_path: Path) -> None:
    (line,) = run("log_query", tmp_path, *"--nodes 2 --megabytes 2 --patterns context".split())
    assert line["matches"] > 0
    assert 0 < line["query_s_p50"] <= line["command_s_p50"] * 2


def test_replication_time(tmp_path: Path) -> None:
    (line,) = run("replication_time", tmp_path, *"--nodes 4 --megabytes 9".split())
    assert (line["megabytes"], line["nodes"], line["runs"], line["blocks"]) == (9, 4, 1, 2)
    assert 1 <= line["blocks_moved_p50"] <= 2
    assert 0.1 < line["dead_p50_s"] < line["first_copy_p50_s"] <= line["restored_p50_s"] < 30.0
    assert line["repair_mb_per_s_p50"] > 0


@pytest.mark.parametrize("arguments", ["--nodes 3", "--nodes 17", "--megabytes 0"])
def test_replication_time_refuses_what_it_cannot_measure(tmp_path: Path, arguments: str) -> None:
    done = subprocess.run(
        command("replication_time", tmp_path, *arguments.split()),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "[USAGE]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("iptables") is None, reason="needs root and iptables")
def test_isolation_removes_its_rules_and_those_of_a_killed_run(tmp_path: Path) -> None:
    stale = "RS-EXP-4999999-0"  # no process has that number
    subprocess.run(["iptables", "-w", "5", "-N", stale], check=True)
    try:
        subprocess.run(["iptables", "-w", "5", "-I", "INPUT", "-i", "lo", "-j", stale], check=True)
        arguments = "--nodes 4 --faults cut-in --fault-s 4".split()
        (line,) = run("isolation", tmp_path, *arguments)
    finally:
        left = subprocess.run(
            ["iptables", "-w", "5", "-S"], check=True, capture_output=True, text=True
        ).stdout
        if stale in left:
            subprocess.run(["iptables", "-w", "5", "-D", "INPUT", "-i", "lo", "-j", stale], check=False)
            subprocess.run(["iptables", "-w", "5", "-X", stale], check=False)
    assert not [rule for rule in left.splitlines() if owner_is_gone(rule)]
    assert (line["fault"], line["runs"], line["never_out"], line["others_evicted"]) == ("cut-in", 1, 0, 0)
    assert 0.1 < line["out_p50_s"] < 4.0
    assert line["back_max_s"] < 20.0


def owner_is_gone(rule: str) -> bool:
    """Tells whether the experiment whose chain a rule is about has ended: others may run on this machine."""
    found = re.search(r"RS-EXP-(\d+)-", rule)
    return found is not None and not psutil.pid_exists(int(found[1]))


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A folder with a path short enough for Unix sockets below it."""
    with tempfile.TemporaryDirectory(prefix="t") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("name", "arguments", "until", "agents_min", "samples_min"),
    [
        ("detection_time", "--nodes 3 --failures 1 --runs 50 --variants swim", "[2/", 3, 4),
        ("replication_time", "--nodes 4 --megabytes 1 --runs 50", "[1/", 12, 1),
    ],
    ids=["detection_time", "replication_time"],
)
def test_an_interrupt_stops_everything_and_keeps_the_samples(
    name: str,
    arguments: str,
    until: str,
    agents_min: int,
    samples_min: int,
    tmp_path: Path,
    temporary: Path,
) -> None:
    progress = tmp_path / "progress"
    with open(progress, "wb") as output:
        program = subprocess.Popen(
            command(name, tmp_path / "out", *arguments.split()),
            cwd=REPOSITORY,
            stdout=output,
            stderr=output,
            env={**os.environ, "TMPDIR": str(temporary)},
        )
    try:
        wait_until(lambda: until in progress.read_text("utf-8"), PATIENCE_S, "samples are taken")
        agents = marked(temporary)
        assert len(agents) >= agents_min
        program.send_signal(signal.SIGINT)
        assert program.wait(PATIENCE_S) == 130
    finally:
        program.kill()
        program.wait()
    assert not [process for process in agents if process.is_running()]
    assert not list(temporary.iterdir())
    assert len((tmp_path / "out" / "data.csv").read_text("utf-8").splitlines()) >= 1 + samples_min


def marked(folder: Path) -> list[psutil.Process]:
    """Returns the processes of clusters whose folder is in ``folder``."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(FOLDER_VARIABLE, "").startswith(f"{folder}/"):
                found.append(process)
    return found


def test_a_missing_library_is_reported_with_a_remedy() -> None:
    done = subprocess.run(
        [sys.executable, "-S", "-I", "experiments/detection_time.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 1
    assert "run this with .venv/bin/python" in done.stderr
    assert "Traceback" not in done.stderr
