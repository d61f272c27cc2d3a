"""Tasks under a separate user: what they can reach, and when each process ends.

``Machine`` has the role of systemd on a real machine: it holds the listening socket and starts launchers.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.rainstorm.host.shell.launcherlink import LOST, LauncherLink
from agent.rainstorm.host.shell.supervisor import TaskSupervisor
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.messages.control import Assign
from agent.rainstorm.messages.launcher import KillTask, SpawnTask, TaskEnded, decode_request, encode
from agent.wire.codec.framing import encode_header
from agent.wire.connection import Connection
from agent.wire.server import Server
from tests.support import PATIENCE_S, REPOSITORY, wait_until

pytestmark = pytest.mark.integration

TASK_USER = "nobody"
KEY = ("job-1", "0.0")
# Runs in every task before anything else, with all the rights that user code has there.
USER_CODE = """
import json, os, resource, socket, subprocess, sys

def attempt(action):
    try:
        action()
        return "allowed"
    except OSError as error:
        return type(error).__name__

def connect(kind, path):
    with socket.socket(socket.AF_UNIX, kind) as sock:
        sock.connect(path)

if "agent.rainstorm.task.shell.task" in sys.orig_argv:
    folder = os.environ["TEST_FOLDER"]
    found = {
        "pid": os.getpid(),
        "uid": os.getuid(),
        "groups": os.getgroups(),
        "session": os.getsid(0),
        "environment": sorted(os.environ),
        "files": [n for n in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{n}")],
        "key": attempt(lambda: open(f"{folder}/key.pem").read()),
        "memory of the agent": attempt(lambda: open(f"/proc/{os.environ['TEST_AGENT']}/environ").read()),
        "launcher": attempt(lambda: connect(socket.SOCK_SEQPACKET, f"{folder}/tasks.sock")),
        "agent": attempt(lambda: connect(socket.SOCK_STREAM, f"{folder}/agent.sock")),
        "store": attempt(lambda: connect(socket.SOCK_STREAM, f"{folder}/task/hydfs.sock")),
        "take the store's place": attempt(lambda: os.unlink(f"{folder}/task/hydfs.sock")),
        "open files": resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        "core": resource.getrlimit(resource.RLIMIT_CORE)[1],
        "oom": int(open("/proc/self/oom_score_adj").read()),
        "child": subprocess.Popen(["sleep", "600"]).pid,
    }
    sys.stderr.write("found " + json.dumps(found) + "\\n")
"""


@functools.cache
def python_for(user: str) -> tuple[str, str]:
    """Returns a Python that ``user`` can run, and the place of our packages."""
    packages = next(path for path in sys.path if path.endswith("site-packages"))
    for candidate in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run(
                [candidate, "-c", "import agent.rainstorm.task.shell.task"],
                user=user,
                group=pwd.getpwnam(user).pw_gid,
                extra_groups=[],
                env={"PYTHONPATH": f"{REPOSITORY}:{packages}"},
                cwd="/",
                capture_output=True,
                check=True,
            )
            return candidate, packages
    pytest.skip(f"no Python here that user {user} can run with the project's packages")


def assignment(generation: int) -> Assign:
    """Returns an assignment that the task refuses: only the processes matter here, not their work."""
    header = SourceHeader(("a",), 0, 0, (), 1, "id")
    return Assign(*KEY, generation, {}, header, False, b"", 0, False, (), False, {}, (0, 0))


class Machine:
    """A folder with the sockets and keys of an agent, its supervisor, and the launchers of the task user."""

    def __init__(self, own_launcher: bool) -> None:
        # Not in the tests' own temporary folder, which no other user may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="rs-", dir="/tmp"))
        self.own_launcher = own_launcher
        self.exits: list[tuple[tuple[str, str], int, str]] = []
        self.launchers: list[subprocess.Popen[bytes]] = []
        self._log = (self.folder / "launcher.log").open("ab")
        self._listener: socket.socket | None = None
        self.supervisor = TaskSupervisor(
            "127.0.0.1",
            str(self.folder / "task" / "hydfs.sock"),
            self.folder / "tasks.log",
            str(self.folder / "tasks.sock"),
            own_launcher,
            0,
            1 << 30,
            lambda key, pid, word, payload: None,
            lambda key, generation, cause: self.exits.append((key, generation, cause)),
        )

    def listen(self) -> None:
        """Makes the socket that systemd would hold."""
        os.chmod(self.folder, 0o711)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(self.folder / "tasks.sock"))
        os.chmod(self.folder / "tasks.sock", 0o600)
        self._listener.listen(4)

    def launch(self, agent_user: str = "root") -> subprocess.Popen[bytes]:
        """Starts a launcher as the task user; does nothing when the agent starts it itself."""
        assert self._listener is not None
        python, packages = python_for(TASK_USER)
        (self.folder / "code").mkdir(exist_ok=True)
        (self.folder / "code" / "sitecustomize.py").write_text(USER_CODE)
        number = self._listener.fileno()
        command = [python, "-m", "agent.rainstorm.host.shell.launcher", "--listen-fd", str(number)]
        launcher = subprocess.Popen(
            [*command, "--agent-user", agent_user],
            user=TASK_USER,
            group=pwd.getpwnam(TASK_USER).pw_gid,
            extra_groups=[],
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
            cwd="/",
            env={
                **{name: value for name, value in os.environ.items() if name.startswith("RAINSTORM")},
                "PYTHONPATH": f"{self.folder / 'code'}:{REPOSITORY}:{packages}",
                "TEST_FOLDER": str(self.folder),
                "TEST_AGENT": str(os.getpid()),
                "NOTIFY_SOCKET": "/run/systemd/notify",
                "WATCHDOG_USEC": "1000000",
                "LISTEN_FDS": "1",
            },
        )
        self.launchers.append(launcher)
        return launcher

    def found(self, task: psutil.Process | None = None) -> list[dict[str, Any]]:
        """Returns the findings of the user code of each task, or of one."""
        log = self.folder / "tasks.log"
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
        found = [json.loads(line.partition("found ")[2]) for line in lines if "found " in line]
        return [each for each in found if task is None or each["pid"] == task.pid]

    def children(self, task: psutil.Process) -> list[int]:
        """Returns the living child processes of a task's user code; the agent's launcher runs none."""
        return [found["child"] for found in self.found(task) if psutil.pid_exists(found["child"])]

    def task(self, generation: int) -> psutil.Process:
        """Assigns the task to a process and returns the process."""
        self.supervisor.assign(KEY, generation, False, assignment(generation))
        wait_until(lambda: self.supervisor.running().get(KEY), PATIENCE_S, "the task has a process")
        task = psutil.Process(self.supervisor.running()[KEY])
        if not self.own_launcher:
            wait_until(lambda: self.found(task), PATIENCE_S, "the findings of its user code are in the log")
        return task

    def close(self) -> None:
        """Ends everything."""
        self.supervisor.stop(10.0)
        for launcher in self.launchers:
            launcher.wait(10.0)
        for found in self.found():  # systemd would do it: they are in the launcher's control group
            with contextlib.suppress(ProcessLookupError):
                os.kill(found["child"], signal.SIGKILL)
        if self._listener is not None:
            self._listener.close()
        self._log.close()
        shutil.rmtree(self.folder)


@pytest.fixture(params=["child", "unit"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    """An agent with its launcher: its own child, or another user's process."""
    if request.param == "unit" and os.getuid() != 0:
        pytest.skip("only root can start the launcher as another user")
    place = Machine(request.param == "child")
    try:
        yield place
    finally:
        place.close()


def _gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_tasks_end_on_request_and_with_their_launcher_and_start_again(machine: Machine) -> None:
    """Even a stuck task ends; each end of an assigned task is reported once, with its cause."""
    if not machine.own_launcher:
        machine.listen()
        machine.launch()
    machine.supervisor.start()
    task = machine.task(1)
    machine.supervisor.find(KEY[1], None)[1].kill()
    wait_until(lambda: machine.exits, PATIENCE_S, "the end is reported")
    assert machine.exits == [(KEY, 1, "killed by signal 9")]
    assert _gone(task)
    wait_until(lambda: not machine.children(task), PATIENCE_S, "its child processes end with it")

    task = machine.task(2)
    task.send_signal(signal.SIGSTOP)
    launcher = task.parent()
    assert launcher is not None
    assert machine.own_launcher or launcher.pid == machine.launchers[0].pid
    launcher.kill()
    wait_until(lambda: len(machine.exits) == 2, PATIENCE_S, "the end of the stuck task is reported")
    assert machine.exits[1] == (KEY, 2, LOST)
    wait_until(lambda: _gone(task), PATIENCE_S, "it is gone although it was stuck")
    if not machine.own_launcher:
        machine.launch()
    task = machine.task(3)
    task.send_signal(signal.SIGSTOP)
    launcher = task.parent()
    machine.supervisor.stop(10.0)
    assert launcher is not None
    wait_until(lambda: _gone(task) and _gone(launcher), PATIENCE_S, "task and launcher end with the agent")
    wait_until(lambda: not machine.children(task), PATIENCE_S, "so do the task's child processes")
    assert len(machine.exits) == 2


@pytest.mark.parametrize("machine", ["unit"], indirect=True)
def test_user_code_has_no_rights_of_the_agent(machine: Machine) -> None:
    """It has another user, no key, no socket but the store's for tasks, no systemd variables, and limits."""
    user = pwd.getpwnam(TASK_USER)
    machine.listen()
    (machine.folder / "key.pem").touch(0o600)
    (machine.folder / "task").mkdir()
    os.chown(machine.folder / "task", 0, user.pw_gid)
    os.chmod(machine.folder / "task", 0o2750)
    store, agent = Server("hydfs-task", {}), Server("rainstorm", {})
    try:
        store.listen_unix(str(machine.folder / "task" / "hydfs.sock"))
        agent.listen_unix(str(machine.folder / "agent.sock"))
        launcher = machine.launch()
        machine.supervisor.start()
        task = machine.task(1)
        (found,) = machine.found(task)
        assert (found["uid"], found["groups"], found["session"]) == (user.pw_uid, [], task.pid)
        assert sorted(found["files"]) == ["0", "1", "2"]
        for wish in ("key", "memory of the agent", "launcher", "agent", "take the store's place"):
            assert found[wish] == "PermissionError", wish
        assert found["store"] == "allowed"
        assert {"TEST_FOLDER", "OMP_NUM_THREADS"} <= set(found["environment"])
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS"} & set(found["environment"])
        assert (found["core"], found["oom"]) == (0, 500)
        assert found["open files"] <= 4096
        assert psutil.Process(launcher.pid).memory_info().rss < 17e6
    finally:
        store.stop()
        agent.stop()


@pytest.mark.parametrize("machine", ["unit"], indirect=True)
def test_the_launcher_serves_its_agents_user_only(machine: Machine) -> None:
    machine.listen()
    launcher = machine.launch(agent_user="daemon")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
        stranger.settimeout(10.0)
        stranger.connect(str(machine.folder / "tasks.sock"))
        assert stranger.recv(100) == b""
    assert launcher.poll() is None
    launcher.terminate()
    assert "connection_refused" in (machine.folder / "launcher.log").read_text()
    assert machine.launch(agent_user="no-such-user").wait(10.0) == 67


def test_a_hostile_task_harms_neither_its_agent_nor_other_tasks(tmp_path: Path) -> None:
    """It sends invalid messages and open files on its socket, and imitates the launcher."""
    path = tempfile.mkdtemp(prefix="rs-")
    exits: list[str] = []
    supervisor = TaskSupervisor(
        "127.0.0.1",
        "",
        tmp_path / "log",
        f"{path}/l",
        False,
        0,
        1,
        lambda key, pid, word, payload: None,
        lambda *e: exits.append(e[2]),
    )
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{path}/l")
            listener.listen(1)
            supervisor.start()
            supervisor.assign(KEY, 1, False, assignment(1))
            first, _ = listener.accept()
            with first:
                _, files, _, _ = socket.recv_fds(first, 4096, 2)
                os.close(files[1])
                task = socket.socket(fileno=files[0])
                control = Connection(task, "agent")
                before = len(os.listdir("/proc/self/fd"))
                control.sock.sendall(encode_header({"t": "hello", "pid": 17}, 0))
                wait_until(lambda: supervisor.running() == {KEY: 17}, PATIENCE_S, "the hello is received")
                for _ in range(50):
                    socket.send_fds(
                        task, [encode_header({"t": "epoch-wanted", "generation": 1, "done": False}, 0)], [0]
                    )
                first.send(encode(TaskEnded(77, "a task that never was")))
                control.sock.sendall(encode_header({"t": "x"}, 0))
                assert decode_request(first.recv(100)) == KillTask(1)
                assert len(os.listdir("/proc/self/fd")) <= before
                assert not exits
                first.send(b"nonsense")
                assert first.recv(100) == b""
                control.close()
            wait_until(lambda: exits, PATIENCE_S, "the end of the task with the invalid message is reported")
            assert exits[0].startswith("sent an invalid message")
            assert supervisor.refused == 1
            supervisor.stop(5.0)
    finally:
        supervisor.stop(5.0)
        shutil.rmtree(path)


def test_what_is_asked_for_without_a_launcher_waits_for_one(tmp_path: Path) -> None:
    path = tempfile.mkdtemp(prefix="rs-")
    ended: list[tuple[int, str]] = []
    link = LauncherLink(f"{path}/l", False, lambda number, cause: ended.append((number, cause)))
    try:
        link.start()
        for number in (1, 2):
            link.spawn(SpawnTask(number, "h", "s", 1), [os.open(os.devnull, os.O_RDONLY) for _ in range(2)])
        link.kill(1)
        assert ended == [(1, "was not started: no task launcher")]
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(f"{path}/l")
            listener.listen(1)
            sock, _ = listener.accept()
            with sock:
                data, files, _, _ = socket.recv_fds(sock, 4096, 2)
                for descriptor in files:
                    os.close(descriptor)
                assert decode_request(data) == SpawnTask(2, "h", "s", 1)
                link.stop(5.0)
        assert ended[1:] == [(2, LOST)]
    finally:
        link.stop(5.0)
        shutil.rmtree(path)
