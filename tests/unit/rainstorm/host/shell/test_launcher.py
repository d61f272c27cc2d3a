"""The task launcher in this process: it starts tasks, reports their ends, and kills their children."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import resource
import select
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from agent.rainstorm.host.shell import launcher as module
from agent.rainstorm.host.shell.launcher import Launcher, limit_tasks, main, python, wait_for_agent
from agent.rainstorm.messages.launcher import KillTask, SpawnTask, TaskEnded, decode_ended, encode
from tests.support import wait_until

# Stands in for a task: it says that it is alive, starts a child, and runs the text that the test writes to
# its control socket.
TASK = """
import os, socket, subprocess, sys
control = socket.socket(fileno=os.dup(0))
child = subprocess.Popen(["sleep", "600"])
control.send(f"{os.getpid()} {child.pid} {sorted(sys.argv[1:])}".encode())
exec(control.recv(1000))
"""


class Agent:
    """The agent's end, and the launcher in a thread."""

    def __init__(self) -> None:
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10.0)
        self.theirs = theirs
        self.thread = threading.Thread(target=Launcher(theirs).run, daemon=True)
        self.thread.start()

    def spawn(self, number: int) -> socket.socket:
        """Asks for a task and returns the other end of its control socket."""
        ours, theirs = socket.socketpair()
        log = os.open(os.devnull, os.O_WRONLY)
        request = encode(SpawnTask(number, "h", "s", 1))
        socket.send_fds(self.sock, [request], [theirs.fileno(), log])
        theirs.close()
        os.close(log)
        ours.settimeout(20.0)
        return ours

    def ended(self) -> TaskEnded:
        """Returns the next report."""
        return decode_ended(self.sock.recv(4096))

    def close(self) -> None:
        """Ends the launcher as its agent does."""
        self.sock.close()
        self.thread.join(10.0)
        assert not self.thread.is_alive()
        self.theirs.close()


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Agent]:
    """An agent whose tasks run the program above."""
    program = tmp_path / "agent" / "rainstorm" / "task" / "shell"
    program.mkdir(parents=True)
    for package in [program, *program.parents[:3]]:
        (package / "__init__.py").touch()
    (program / "task.py").write_text(TASK)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    monkeypatch.chdir(tmp_path)
    made = Agent()
    yield made
    made.close()


def test_a_task_that_ends_is_reported_and_what_it_left_is_killed(agent: Agent) -> None:
    """With its exit status."""
    with agent.spawn(1) as control:
        pid, child, arguments = control.recv(1000).decode().split(" ", 2)
        assert arguments == "['--host', '--hydfs', '--memory', '1', 'h', 's']"
        control.send(b"sys.exit(3)")
        assert agent.ended() == TaskEnded(1, "exited with status 3")
    assert not psutil.pid_exists(int(pid))
    wait_until(lambda: _gone(int(child)), 10, "its child is killed")


def test_a_task_is_killed_on_request(agent: Agent) -> None:
    """With the processes that it started; a second request changes nothing."""
    with agent.spawn(1) as control:
        _, child, _ = control.recv(1000).decode().split(" ", 2)
        agent.sock.send(encode(KillTask(1)))
        assert agent.ended() == TaskEnded(1, "killed by signal 9")
        agent.sock.send(encode(KillTask(1)))
    wait_until(lambda: _gone(int(child)), 10, "its child is killed")


def test_all_tasks_end_with_their_agent(agent: Agent) -> None:
    """The number of tasks does not matter."""
    controls = [agent.spawn(number) for number in (1, 2)]
    pids = [int(control.recv(1000).split(b" ")[0]) for control in controls]
    agent.sock.shutdown(socket.SHUT_RDWR)
    agent.thread.join(10.0)
    assert not any(psutil.pid_exists(pid) for pid in pids)
    for control in controls:
        control.close()


def test_a_task_has_its_own_files_and_nothing_of_the_service(agent: Agent) -> None:
    """It has standard input, output and error; the program above copies its control socket.

    This process may have been started with open files that all of its children get.
    """
    inherited = {number for number in _open_files() if os.get_inheritable(number)}
    with agent.spawn(1) as control:
        control.recv(1000)
        control.send(
            b"folder = '/proc/self/fd/'\n"
            b"numbers = [int(name) for name in os.listdir(folder) if os.path.exists(folder + name)]\n"
            b"control.send(repr((numbers, 'NOTIFY_SOCKET' in os.environ)).encode())\n"
        )
        numbers, is_told = ast.literal_eval(control.recv(1000).decode())
    assert set(numbers) - inherited <= {0, 1, 2, 3}
    assert not is_told


def test_a_task_that_cannot_be_started_is_reported(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The launcher lives on."""
    monkeypatch.setattr(module, "python", lambda: "/no/python")
    with agent.spawn(1):
        assert agent.ended() == TaskEnded(1, "cannot be started: No such file or directory")


def test_an_agent_that_breaks_off_is_noticed(agent: Agent, capfd: pytest.CaptureFixture[str]) -> None:
    """Its report can no longer be sent."""
    with agent.spawn(1) as control:
        control.recv(1000)
        control.send(b"import time; os.kill(os.getppid(), 0)")
        agent.ended()
    agent.sock.shutdown(socket.SHUT_RD)
    with contextlib.suppress(OSError), agent.spawn(2) as control:
        control.recv(1000)
        control.send(b"sys.exit(0)")
        agent.thread.join(10.0)
    assert not agent.thread.is_alive()
    assert "task launcher: agent_lost" in capfd.readouterr().err


@pytest.mark.parametrize(
    "packet", [b"nonsense", b"{}", b'{"kill": -1}', b'{"spawn": 1}', encode(SpawnTask(1, "h", "s", 1))]
)
def test_a_packet_that_is_no_request_ends_the_launcher(
    agent: Agent, capfd: pytest.CaptureFixture[str], packet: bytes
) -> None:
    """With its tasks: the agent connects again, and asks for new ones. The last one comes without files."""
    with agent.spawn(2) as control:
        pid = int(control.recv(1000).split(b" ")[0])
        agent.sock.send(packet)
        agent.thread.join(10.0)
        assert not agent.thread.is_alive()
        assert not psutil.pid_exists(pid)
    assert "task launcher: agent_sent_invalid_message" in capfd.readouterr().err


def _open_files() -> list[int]:
    folder = Path("/proc/self/fd")
    return [int(name) for name in os.listdir(folder) if (folder / name).exists()]


def _gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_only_the_agents_user_is_served(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Other users are named in the log and turned away."""
    path = str(tmp_path / "l")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen(2)
        found: list[socket.socket] = []

        def wait() -> None:
            with contextlib.suppress(OSError):
                found.append(wait_for_agent(listener, os.getuid() + 1))

        thread = threading.Thread(target=wait, daemon=True)
        thread.start()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as stranger:
            stranger.connect(path)
            wait_until(lambda: found or select.select([stranger], [], [], 0)[0], 5.0, "it is answered")
            served = len(found)
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5.0)
        for sock in found:
            sock.close()
    assert served == 0
    assert "connection_refused" in capfd.readouterr().err


def test_the_limits_of_tasks_are_set_before_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Open files, no dumps of memory, and the first to go when memory runs out."""
    limits: list[Any] = []
    score = io.StringIO("0\n")
    monkeypatch.setattr(score, "close", lambda: None)
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (10, resource.RLIM_INFINITY))
    monkeypatch.setattr(module, "open", lambda *args, **options: score, raising=False)
    limit_tasks()
    assert limits == [
        (resource.RLIMIT_NOFILE, (module.OPEN_FILES_MAX, module.OPEN_FILES_MAX)),
        (resource.RLIMIT_CORE, (0, 0)),
    ]
    assert score.getvalue().startswith(str(module.OOM_SCORE_ADJ))


def test_the_program_serves_one_agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Its exit status distinguishes an unknown user."""
    monkeypatch.setattr(module, "limit_tasks", lambda: None)
    monkeypatch.setattr(sys, "argv", ["launcher", "--listen-fd", "9", "--agent-user", "no-such-user"])
    assert main() == module.EX_NOUSER
    path = str(tmp_path / "l")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(path)
    listener.listen(1)
    monkeypatch.setattr(sys, "argv", ["launcher", "--listen-fd", str(listener.detach())])
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(main()), daemon=True)
    thread.start()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as agent:
        agent.connect(path)
    thread.join(5.0)
    assert statuses == [0]


def test_python_is_named_without_links() -> None:
    """A release that is replaced must not change under a launcher that runs."""
    assert os.path.dirname(python()) == os.path.realpath(os.path.dirname(sys.executable))
