"""The link to the task launcher: each requested task is reported as ended exactly once."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.shell import network, processes
from agent.rainstorm.host.shell import launcherlink
from agent.rainstorm.host.shell.launcherlink import LOST, LauncherLink
from agent.rainstorm.messages.launcher import SpawnTask
from tests.support import wait_until
from tests.unit.rainstorm.host.shell.fakelauncher import FakeLauncher


class Agent:
    """A link and the ends that it reported."""

    def __init__(self, path: str, own: bool = False) -> None:
        self.ended: list[tuple[int, str]] = []
        self.link = LauncherLink(path, own, lambda number, cause: self.ended.append((number, cause)))

    def spawn(self, number: int) -> None:
        """Asks for a task."""
        ours, theirs = socket.socketpair()
        ours.close()
        self.link.spawn(SpawnTask(number, "h", "s", 1), [theirs.detach(), os.open(os.devnull, os.O_RDONLY)])


@pytest.fixture
def launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeLauncher]:
    """A launcher; connections are tried again at once."""
    monkeypatch.setattr(launcherlink, "RETRY_S", 0.001)
    monkeypatch.setattr(launcherlink, "RETRY_S_MAX", 0.01)
    place = FakeLauncher(tmp_path)
    yield place
    place.close()


@pytest.fixture
def agent(launcher: FakeLauncher) -> Iterator[Agent]:
    """A link to that launcher."""
    made = Agent(launcher.path)
    yield made
    made.link.stop(5.0)


def test_a_task_that_ends_is_reported_with_its_cause(launcher: FakeLauncher, agent: Agent) -> None:
    """Whether it was killed or ended by itself; a second end of the same task is ignored."""
    agent.link.start()
    agent.spawn(1)
    agent.spawn(2)
    assert launcher.task(2).request == SpawnTask(2, "h", "s", 1)
    agent.link.kill(1)
    wait_until(lambda: agent.ended == [(1, "killed by signal 9")], 5, "the kill is reported")
    agent.link.kill(1)
    launcher.end(2, "x" * 1000)
    launcher.end(2)
    wait_until(lambda: len(agent.ended) == 2, 5, "the end is reported")
    assert agent.ended[1] == (2, "x" * 200)
    assert launcher.killed == [1]


def test_a_lost_launcher_ends_its_tasks_and_the_next_one_gets_the_new_ones(
    launcher: FakeLauncher, agent: Agent
) -> None:
    """The highest numbers first: spares have them, and must not replace a task that is lost as well."""
    agent.link.start()
    for number in (1, 2, 3):
        agent.spawn(number)
    launcher.task(3)
    launcher.drop()
    wait_until(lambda: len(agent.ended) == 3, 5, "the lost tasks are reported")
    assert agent.ended == [(3, LOST), (2, LOST), (1, LOST)]
    agent.spawn(4)
    launcher.task(4)
    assert launcher.connections == 2


def test_a_launcher_that_does_not_read_delays_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: FakeLauncher, agent: Agent
) -> None:
    """Tasks are requested, taken back and reported while a message waits for it."""
    stuck, go_on = threading.Event(), threading.Event()
    send = network.send_descriptors

    def slow(*args: Any) -> int:
        stuck.set()
        assert go_on.wait(10.0)
        return send(*args)

    agent.link.start()
    agent.spawn(1)
    agent.spawn(2)
    launcher.task(2)
    monkeypatch.setattr(network, "send_descriptors", slow)
    agent.spawn(3)
    assert stuck.wait(5.0)
    agent.spawn(4)
    agent.link.kill(4)
    assert agent.ended == [(4, "was not started: no task launcher")]
    agent.link.kill(1)
    launcher.end(2, "x")
    wait_until(lambda: agent.ended[1:] == [(2, "x")], 5, "an end is reported meanwhile")
    agent.spawn(5)
    go_on.set()
    launcher.task(5)
    wait_until(lambda: launcher.killed == [1], 5, "the kill has arrived")
    assert list(launcher.tasks) == [1, 2, 3, 5]


def test_a_connection_that_is_lost_during_a_send_is_closed_after_it(
    monkeypatch: pytest.MonkeyPatch, launcher: FakeLauncher, agent: Agent
) -> None:
    """Otherwise the descriptor might already name another file when the send begins."""
    stuck, go_on, open_then = threading.Event(), threading.Event(), list[bool]()
    send = network.send_descriptors

    def slow(sock: Any, data: Any, descriptors: Any) -> int:
        stuck.set()
        assert go_on.wait(10.0)
        open_then.append(sock.fileno() >= 0)
        return send(sock, data, descriptors)

    agent.link.start()
    agent.spawn(1)
    launcher.task(1)
    monkeypatch.setattr(network, "send_descriptors", slow)
    agent.spawn(2)
    assert stuck.wait(5.0)
    launcher.drop()
    wait_until(lambda: agent.link._sock is None, 5, "the loss is noticed")
    assert agent.ended == []
    monkeypatch.setattr(network, "send_descriptors", send)
    go_on.set()
    wait_until(lambda: agent.ended == [(2, LOST), (1, LOST)], 5, "both are reported")
    assert open_then == [True]


@pytest.mark.parametrize(
    "packet",
    [
        b"nonsense",
        b"[1]",
        b'{"ended": "x", "cause": ""}',
        b"{}",
        b"\xff",
        b'{"ended": Infinity, "cause": "x"}',
        b'{"ended": 1, "cause": "\\ud800"}',
        b"[" * 4096,
    ],
)
def test_a_packet_that_is_no_message_ends_the_connection(
    launcher: FakeLauncher, agent: Agent, packet: bytes
) -> None:
    """A hostile task may send messages in place of the launcher."""
    agent.link.start()
    agent.spawn(1)
    launcher.task(1)
    launcher.say(packet)
    wait_until(lambda: agent.ended == [(1, LOST)], 5, "the launcher counts as lost")


def test_a_task_without_a_launcher_can_be_taken_back(tmp_path: Path) -> None:
    """It was never started, and its files are closed."""
    agent = Agent(str(tmp_path / "nobody"))
    before = len(os.listdir("/proc/self/fd"))
    agent.spawn(1)
    agent.link.kill(1)
    agent.link.kill(7)
    assert agent.ended == [(1, "was not started: no task launcher")]
    assert len(os.listdir("/proc/self/fd")) == before
    agent.link.stop(1.0)


class Child:
    """A launcher process that does not end by itself."""

    pid = 7

    def __init__(self) -> None:
        self.killed = False

    def poll(self) -> int | None:
        return -9 if self.killed else None

    def wait(self, timeout_s: float) -> int:
        if not self.killed:
            raise TimeoutError
        return -9

    def kill(self) -> None:
        self.killed = True


def test_a_launcher_of_its_own_is_started_and_killed_when_it_does_not_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The agent listens, passes the socket on, and removes its path at the end."""
    monkeypatch.setattr(launcherlink, "RETRY_S", 0.001)
    started: list[list[str]] = []
    children: list[Child] = []

    def start(command: list[str], keep: list[int]) -> Child:
        assert str(keep[0]) == command[-1]
        started.append(command)
        children.append(Child())
        return children[-1]

    monkeypatch.setattr(processes, "start", start)
    agent = Agent(str(tmp_path / "run" / "tasks.sock"), own=True)
    agent.spawn(1)
    agent.link.start()
    # The listener's only copy is closed here, since no process kept it: the connection is reset.
    wait_until(lambda: children and children[0].killed, 5, "the launcher is started, lost and killed")
    agent.link.stop(5.0)
    assert started[0][1:4] == ["-m", "agent.rainstorm.host.shell.launcher", "--listen-fd"]
    assert agent.ended == [(1, LOST)]
    assert not (tmp_path / "run" / "tasks.sock").exists()
