"""The leak check turns a leaking test red, names what is left, and leaves a clean test green."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import psutil
import pytest

from tests.leaks import RUN_TOKEN_VARIABLE, LeakCheck
from tests.support import REPOSITORY, wait_until

LEAKS = {
    "thread": (
        "import threading\n"
        "def test_it():\n"
        "    threading.Thread(target=threading.Event().wait, args=(30,), name='lost', daemon=True).start()\n",
        "thread: 'lost'",
    ),
    "process": (
        "import subprocess\nkept = []\ndef test_it():\n    kept.append(subprocess.Popen(['sleep', '30']))\n",
        "sleep 30",
    ),
    "orphan": (
        "import subprocess\n"
        "def test_it():\n"
        "    subprocess.run('setsid sleep 31 >/dev/null 2>&1 &', shell=True, check=True)\n",
        "sleep 31",
    ),
    "socket": (
        "import socket\nkept = []\ndef test_it():\n    kept.append(socket.create_server(('127.0.0.1', 0)))\n",
        "listens on ('127.0.0.1'",
    ),
    "datagram": (
        "import socket\n"
        "kept = []\n"
        "def test_it():\n"
        "    kept.append(socket.socket(type=socket.SOCK_DGRAM))\n"
        "    kept[0].bind(('127.0.0.1', 0))\n",
        "listens on ('127.0.0.1'",
    ),
    "file": (
        "kept = []\ndef test_it(tmp_path):\n    kept.append(open(tmp_path / 'left-open.txt', 'w'))\n",
        "left-open.txt",
    ),
    "pipes": (
        "import os\nkept = []\ndef test_it():\n    kept.extend(os.pipe() for _ in range(5))\n",
        "descriptor: fd",
    ),
    "folder": ("import tempfile\ndef test_it():\n    tempfile.mkdtemp(prefix='forgotten-')\n", "forgotten-"),
    "module_fixture": (
        "import pytest, threading\n"
        "@pytest.fixture(scope='module')\n"
        "def thing():\n"
        "    threading.Thread(target=threading.Event().wait, args=(30,), name='lost', daemon=True).start()\n"
        "def test_it(thing):\n"
        "    pass\n",
        "thread: 'lost'",
    ),
}

CLUSTER = """
import os, pytest, subprocess, tests.leaks

children = []

@pytest.fixture(scope="module")
def cluster(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    tests.leaks.adopt(request, folder)
    def start():
        environment = {**os.environ, "RAINSTORM_LOCAL_FOLDER": str(folder)}
        children.append(subprocess.Popen(["sleep", "30"], env=environment))
        return children[-1]
    yield start
    for child in children[1:]:
        child.kill()
        child.wait()

def test_first(cluster):
    cluster()

def test_second(cluster):
    cluster()
"""

CLEAN = """
import pytest, socket, subprocess, tempfile, threading

@pytest.fixture(scope="module")
def server():
    done = threading.Event()
    thread = threading.Thread(target=done.wait, name="kept")
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as listener, subprocess.Popen(["sleep", "30"]) as process:
        yield listener
        process.kill()
    done.set()
    thread.join()

def test_first(server):
    with tempfile.TemporaryDirectory():
        pass

def test_second(server, tmp_path):
    (tmp_path / "stays.txt").write_text("fine")
    subprocess.run(["true"], check=True)

def test_third():
    # A thread that ends soon by itself is waited for.
    threading.Timer(0.2, lambda: None).start()
"""


def run_pytest(folder: Path, files: dict[str, str], **environment: str) -> dict[str, str]:
    """Runs separate test files under the suite's plugins.

    Returns:
        For each test (``file.test``) the report about its failure or error, '' if it passed.
    """
    for name, source in files.items():
        (folder / f"{name}.py").write_text(source)
    # fmt: off
    command = [
        sys.executable, "-m", "pytest", "-c", str(REPOSITORY / "pyproject.toml"), "--rootdir", str(folder),
        "-p", "tests.conftest", "-p", "no:cacheprovider", "-o", "leak_grace_s=0.3", "-o", "junit_logging=all",
        "--basetemp", str(folder / "base"), "--junitxml", str(folder / "report.xml"),
        *(str(folder / f"{name}.py") for name in files),
    ]
    # fmt: on
    env = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    run = subprocess.run(
        command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    (folder / "stdout").write_text(run.stdout)
    results: dict[str, str] = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        failures = [problem for problem in case if problem.tag in ("failure", "error")]
        name = f"{case.get('classname')}.{case.get('name')}"
        text = " ".join(f"{problem.get('message')} {problem.text}" for problem in failures)
        results[name] = results.get(name, "") + text
    return results


@pytest.fixture(scope="module")
def leak_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The results of one run over a leaking file of each kind, each followed by a clean test."""
    files = {f"test_{kind}": source + "def test_next():\n    pass\n" for kind, (source, _) in LEAKS.items()}
    return run_pytest(tmp_path_factory.mktemp("leaks"), files)


@pytest.mark.parametrize("kind", LEAKS)
def test_leak_is_red_and_named(kind: str, leak_results: dict[str, str]) -> None:
    """A test that leaves a thing behind fails, and the report names that thing."""
    _, words = LEAKS[kind]
    culprit = "test_next" if kind == "module_fixture" else "test_it"
    assert "the test leaves something behind" in leak_results[f"test_{kind}.{culprit}"]
    assert words in leak_results[f"test_{kind}.{culprit}"]


@pytest.mark.parametrize("kind", [kind for kind in LEAKS if kind != "module_fixture"])
def test_only_the_culprit_is_red(kind: str, leak_results: dict[str, str]) -> None:
    """The test after a leaking one is not blamed."""
    assert leak_results[f"test_{kind}.test_next"] == ""


def test_clean_tests_stay_green(tmp_path: Path) -> None:
    """Tests that tidy up pass, even with a server shared by a whole module."""
    assert run_pytest(tmp_path, {"test_clean": CLEAN}) == {
        "test_clean.test_first": "",
        "test_clean.test_second": "",
        "test_clean.test_third": "",
    }


def test_an_adopted_cluster_starts_processes_until_it_is_finalised(tmp_path: Path) -> None:
    """Anything that its fixture then leaves is found: here the first of two processes of different tests."""
    results = run_pytest(tmp_path, {"test_cluster": CLUSTER, "test_other": "def test_next():\n    pass\n"})
    found = results.pop("test_cluster.test_second")
    assert len(set(re.findall(r"pid \d+ \(\w+\): sleep 30", found))) == 1, found
    assert results == {"test_cluster.test_first": "", "test_other.test_next": ""}


def test_leaked_process_is_ended(tmp_path: Path) -> None:
    """A leaked orphan does not outlive the run; the seed stands beside the failure."""
    pid_file = tmp_path / "pid"
    source = (
        "import subprocess\n"
        "def test_it(seed):\n"
        f"    command = 'setsid sleep 32 >/dev/null 2>&1 & echo $! > {pid_file}'\n"
        "    subprocess.run(command, shell=True, check=True)\n"
        "    assert seed != 77\n"
    )
    results = run_pytest(tmp_path, {"test_orphan": source}, RAINSTORM_SEED="77")
    assert "sleep 32" in results["test_orphan.test_it"]
    assert "assert 77 != 77" in results["test_orphan.test_it"]
    output = (tmp_path / "stdout").read_text()
    assert "seed: 77" in output
    assert "repeat with RAINSTORM_SEED=77" in output.split("FAILURES")[1]
    pid = int(pid_file.read_text())
    wait_until(lambda: not psutil.pid_exists(pid), timeout_s=5, what="the leaked process is gone")


def test_a_process_that_changes_to_another_program_is_no_stranger(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a moment it has no environment; it was taken for a stranger as long as it lived."""
    check = LeakCheck(0.1)
    command = "setsid sleep 33 >/dev/null 2>&1 & echo $!"
    environment = {**os.environ, RUN_TOKEN_VARIABLE: f"{os.environ[RUN_TOKEN_VARIABLE]}:{check.token}"}
    printed = subprocess.run(command, shell=True, check=True, capture_output=True, env=environment).stdout
    process = psutil.Process(int(printed))
    try:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", lambda path: b"")
            assert process in check.processes()
        assert process in check.processes()
        assert os.getppid() not in [each.pid for each in check.processes()]
    finally:
        process.kill()
        check.folder.rmdir()
        wait_until(lambda: not process.is_running(), timeout_s=5, what="it is gone")
