"""Marked processes are found, even without their parents, and no other process is affected."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ops.machine import processes
from tests.support import REPOSITORY, wait_until

# Starts a grandchild in its own session, prints its pid, and waits.
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(f"child {child.pid}", flush=True)  # one write: a reader sees all of it or nothing
time.sleep(600)
"""
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(600)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A cluster's folder; whatever was started for it is stopped after the test."""
    yield tmp_path
    processes.kill_all(lambda: processes.marked(tmp_path))
    for child in psutil.Process().children():
        child.wait(5)


def _start(folder: Path, program: str, node: str = "vm1", says: str = "") -> psutil.Process:
    log = folder / f"{node}.log"
    process = processes.start([sys.executable, "-c", program], folder, node, log, REPOSITORY)
    if says:
        wait_until(lambda: says in log.read_text(), 10, f"{says!r} in {log}")
    return process


def test_orphans_in_other_sessions_are_found_and_killed(folder: Path) -> None:
    parent = _start(folder, PARENT, says="child")
    orphan = int((folder / "vm1.log").read_text().split()[1])
    parent.kill()
    parent.wait(5)
    assert [each.pid for each in processes.marked(folder)] == [orphan]
    assert processes.kill_all(lambda: processes.marked(folder)) == 1
    assert not psutil.pid_exists(orphan) or psutil.Process(orphan).status() == psutil.STATUS_ZOMBIE


def test_nodes_and_clusters_are_told_apart(folder: Path) -> None:
    first = _start(folder, "import time; time.sleep(600)", "vm1")
    second = _start(folder, "import time; time.sleep(600)", "vm11")
    assert [each.pid for each in processes.marked(folder, "vm1")] == [first.pid]
    assert [each.node for each in processes.marked(folder, "vm11")] == ["vm11"]
    assert processes.marked(folder.parent) == []
    processes.kill_all(lambda: processes.marked(folder, "vm1"))
    assert [each.pid for each in processes.marked(folder)] == [second.pid]


def test_a_process_without_the_mark_is_not_ours(folder: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", f"import time; time.sleep(600)  # {folder}"]) as stranger:
        try:
            assert processes.marked(folder) == []
        finally:
            stranger.kill()


def test_a_recycled_process_id_is_not_signalled(folder: Path) -> None:
    ended = _start(folder, "pass")
    ended.wait(5)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as stranger:
        try:
            # The record of the ended process now has the id of another process.
            remembered = psutil.Process(stranger.pid)
            started_at = remembered.create_time() - 100.0
            vars(remembered).update(_create_time=started_at, _ident=(stranger.pid, started_at))
            sent = processes.signal_all([processes.MarkedProcess(remembered, "vm1")], signal.SIGKILL)
            assert sent == 0
            assert stranger.poll() is None
        finally:
            stranger.kill()


def test_what_ignores_sigterm_is_killed_and_counted(folder: Path) -> None:
    _start(folder, STUBBORN, says="deaf")
    _start(folder, "import time; time.sleep(600)", "vm2")
    ended, killed = processes.terminate_all(lambda: processes.marked(folder), lambda each: True, 2.0)
    assert (ended, killed) == (1, 1)
    assert processes.marked(folder) == []


def test_a_paused_process_can_be_asked_to_end(folder: Path) -> None:
    process = _start(folder, "import time; print('up', flush=True); time.sleep(600)", says="up")
    process.suspend()
    assert processes.terminate_all(lambda: processes.marked(folder), lambda each: True, 5.0) == (1, 0)


def test_the_child_has_a_session_of_its_own_and_fresh_signals(folder: Path) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        program = "import os, signal; print(os.getsid(0) == os.getpid(), signal.getsignal(signal.SIGINT))"
        process = _start(folder, program)
    finally:
        signal.signal(signal.SIGINT, before)
    assert process.wait(5) == 0
    assert (folder / "vm1.log").read_text().startswith("True <built-in function default_int_handler>")
    assert os.getsid(0) != process.pid
