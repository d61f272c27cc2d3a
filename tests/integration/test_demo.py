"""The demo proves its result, disturbs no running cluster, and leaves nothing behind when interrupted."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.machine import processes
from tests.integration.cluster import Sandbox
from tests.support import wait_until

pytestmark = pytest.mark.integration

ROWS = 50_000
DEMO = [sys.executable, "-m", "ops.demo.run", "--rows", str(ROWS)]
# An interrupt is the same with fewer agents.
SMALL_DEMO = [*DEMO, "--nodes", "3"]
DEMO_TIMEOUT_S = 100


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A place for a demo; whatever was started there is stopped."""
    place = Sandbox(tmp_path)
    yield place
    place.cluster.down()
    processes.kill_all(lambda: processes.marked(place.folder / "demo"))


def _said(sandbox: Sandbox) -> str:
    path = sandbox.folder / "output"
    return path.read_text("utf-8", "replace") if path.exists() else ""


@pytest.mark.parametrize("flags", [[], ["--kill-leader"]], ids=["node", "leader"])
def test_the_result_is_right_although_a_task_and_a_node_are_killed(
    sandbox: Sandbox, flags: list[str]
) -> None:
    with sandbox.start([*DEMO, *flags]) as demo:
        assert demo.wait(DEMO_TIMEOUT_S) == 0, _said(sandbox)
    report = json.loads((sandbox.folder / "demo-report.json").read_text())
    assert report["equal"] is True
    assert report["lines"] == ROWS
    assert 0 < report["task_recovery_s"] < 10
    assert 0 < report["node_recovery_s"] < 20
    assert report["healthy_lines_per_s"] > 0
    assert report["agent_rss_mb_max"] > 0
    assert report["task_rss_mb_max"] > 0
    assert ("(the leader)" in report["killed_node"]) is bool(flags)
    assert processes.marked(sandbox.folder / "demo") == []
    assert "EQUAL" in _said(sandbox)


@pytest.mark.parametrize(
    "moment", ["starting", "up after", "healthy run", "the same job at", "SIGKILL to task"]
)
def test_an_interrupted_demo_leaves_nothing_running(sandbox: Sandbox, moment: str) -> None:
    with sandbox.start(SMALL_DEMO) as demo:
        wait_until(
            lambda: moment in _said(sandbox) or demo.poll() is not None, 60, f"the demo says {moment!r}"
        )
        demo.send_signal(signal.SIGINT)
        demo.send_signal(signal.SIGINT)
        assert demo.wait(20) == 130, _said(sandbox)
    assert processes.marked(sandbox.folder / "demo") == []
    assert "Traceback" not in _said(sandbox)
    assert not (sandbox.folder / "demo-report.json").exists()


def test_a_terminated_demo_leaves_nothing_running(sandbox: Sandbox) -> None:
    with sandbox.start(SMALL_DEMO) as demo:
        wait_until(lambda: processes.marked(sandbox.folder / "demo"), 30, "a first agent")
        demo.terminate()
        assert demo.wait(20) == 130, _said(sandbox)
    assert processes.marked(sandbox.folder / "demo") == []


def test_the_demo_does_not_disturb_a_running_cluster(sandbox: Sandbox) -> None:
    sandbox.cluster.up(1)
    before = {each.pid for each in sandbox.cluster.processes()}
    with sandbox.start(DEMO) as demo:
        assert demo.wait(20) == 1
    assert "[ALREADY_RUNNING]" in _said(sandbox)
    assert "fab local.down" in _said(sandbox)
    assert before <= {each.pid for each in sandbox.cluster.processes()}


def test_what_a_killed_demo_leaves_is_stopped_by_local_down(sandbox: Sandbox) -> None:
    folder = sandbox.folder / "demo"
    with sandbox.start(SMALL_DEMO) as demo:
        wait_until(lambda: len(processes.marked(folder)) >= 12, 30, "all agents of the demo")
        assert "a demo is running" in sandbox.fab("local.down").err
        assert processes.marked(folder)
        demo.kill()
        demo.wait(5)
    assert processes.marked(folder)
    ended = sandbox.fab("local.down")
    assert (ended.status, "killed demo" in ended.err) == (0, True)
    assert processes.marked(folder) == []
