"""The programs of ``examples/`` run as their docstrings say, against a real cluster."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cluster import FAB_TIMEOUT_S, Ended, Sandbox, shared
from tests.support import REPOSITORY, wait_until

pytestmark = pytest.mark.integration

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster of three nodes for all tests."""
    with shared(request, tmp_path_factory.mktemp("examples"), 3) as place:
        assert place.fab("verify", "--wait", "20").status == 0
        yield place


def run(place: Sandbox, name: str, *arguments: str) -> Ended:
    """Runs an example to its end."""
    done = subprocess.run(
        [sys.executable, f"examples/{name}.py", *arguments],
        capture_output=True,
        cwd=REPOSITORY,
        env=place.environment,
        timeout=FAB_TIMEOUT_S,
        check=False,
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_each_example_is_short_and_is_run_here() -> None:
    tests = Path(__file__).read_text("utf-8")
    for example in EXAMPLES:
        assert len(example.read_text("utf-8").splitlines()) < 60
        assert f'"{example.stem}"' in tests or f"examples/{example.name}" in tests


def test_a_file_is_stored_read_and_deleted(running: Sandbox) -> None:
    ended = run(running, "store_file", "--inventory", str(running.cluster.layout.inventory_path))
    assert (ended.status, ended.err) == (0, "")
    for line in ("[ALREADY_EXISTS]", "read back: equal", "block 0: 8890 bytes on vm", "b'0\\nline '"):
        assert line in ended.out
    assert running.fab("list", "--prefix", "examples/store-").out.count("examples/store-") == 0


def test_appended_records_are_followed_and_none_comes_twice(running: Sandbox) -> None:
    appended = run(running, "append_records", "--name", "examples/followed.txt", "--count", "2")
    assert (appended.status, appended.err) == (0, "")
    assert appended.out.count("repeated: again.duplicate=True") == 2
    assert "[CONFLICT]" in appended.out
    name = ["--name", "examples/followed.txt"]
    tail = running.start([sys.executable, "examples/tail_file.py", *name, "--lines", "4"])
    try:
        wait_until(lambda: output(running).count("record 2 of") == 1, 20, "the first lines are printed")
        assert run(running, "append_records", *name, "--count", "2").status == 0
        assert tail.wait(20) == 0
    finally:
        tail.kill()
        tail.wait(10)
    lines = output(running).splitlines()
    assert [line.split(" of ")[0] for line in lines] == 2 * ["record 1", "record 2"]
    assert len(set(lines)) == 4  # of two writers


def test_a_job_runs_and_its_result_is_printed(running: Sandbox) -> None:
    before = running.fab_json("list", "--prefix", "examples/")["files"]
    ended = run(running, "run_job")
    assert (ended.status, ended.err) == (0, "")
    assert {"api,250", "web,500"} <= set(ended.out.splitlines())
    assert running.fab_json("list", "--prefix", "examples/")["files"] == before


def test_a_change_of_the_view_is_printed(running: Sandbox) -> None:
    now = run(running, "watch_members", "--views", "1")
    assert (now.status, now.err, now.out.count("version ")) == (0, "", 1)
    watch = running.start([sys.executable, "examples/watch_members.py"])
    try:
        wait_until(lambda: "vm1 up, vm2 up, vm3 up" in output(running), 20, "the view is printed")
        assert running.fab("leave", "--vm", "3").status == 0
        wait_until(lambda: "vm1 up, vm2 up, vm3 down" in output(running), 20, "the departure is printed")
        assert running.fab("join", "--vm", "3").status == 0
        wait_until(lambda: output(running).endswith("vm3 up\n"), 20, "the return is printed")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(20) == 130
    finally:
        watch.kill()
        watch.wait(10)
    assert "Traceback" not in output(running)


def test_an_error_is_three_lines_and_its_exit_status(running: Sandbox) -> None:
    ended = run(running, "tail_file", "--name", "examples/nowhere.txt")
    assert ended.status == 1
    assert ended.err.startswith("tail_file failed [NOT_FOUND]: ")
    assert len(ended.err.splitlines()) == 3
    missing = run(running, "watch_members", "--inventory", str(running.folder / "nothing"))
    assert missing.status == 2
    assert "[CONFIG_INVALID]" in missing.err


def output(place: Sandbox) -> str:
    """Returns what the program has printed that runs in the sandbox."""
    return (place.folder / "output").read_text("utf-8")
