"""Messages to the service manager, over a real socket; a stalled core stops the keep-alive messages."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.shell import sdnotify
from agent.common.shell.runner import CoreRunner
from agent.hydfs.shell.node import Engine


class Manager:
    """The receiving end, in the role of systemd."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)

    def messages_other_than(self, messages: list[str]) -> list[str]:
        """Returns the next messages that are not ``messages``; those at most ten times."""
        return next((heard for _ in range(10) if (heard := self.messages(5.0)) != messages), messages)

    def messages(self, timeout_s: float) -> list[str]:
        """Returns the lines of the next datagram; [] when none comes."""
        self.socket.settimeout(timeout_s)
        try:
            return self.socket.recv(4096).decode().splitlines()
        except TimeoutError:
            return []


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    found = Manager(tmp_path / "notify")
    yield found
    found.socket.close()


class Gate:
    """A core whose handler waits while the gate is shut."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Event()
        self.open.set()

    def handle(self, now: float, event: object) -> list[object]:
        self.entered.set()
        self.open.wait(20.0)
        return []

    def next_deadline(self) -> float | None:
        return None

    def check_invariants(self) -> None:
        pass


class OneLoop:
    """A service of one loop."""

    def __init__(self, loop: sdnotify.Loop) -> None:
        self.loop = loop

    def loops(self) -> list[sdnotify.Loop]:
        return [self.loop]

    def status(self) -> str:
        return "3 live,\nview 7"


def test_a_stalled_core_stops_the_keep_alive_messages_until_it_goes_on(manager: Manager) -> None:
    core = Gate()
    runner = CoreRunner("gate-core", core, lambda effect: None, on_crash=lambda error: None)
    watchdog = sdnotify.Watchdog(sdnotify.Notifier(manager.path, watchdog_s=0.3), OneLoop(runner))
    runner.start()
    watchdog.start()
    try:
        lives, stalled = ["WATCHDOG=1", "STATUS=3 live, view 7"], ["STATUS=stalled: gate-core"]
        assert manager.messages_other_than(stalled) == lives  # a busy machine may hold it up first
        core.open.clear()
        runner.post("anything")
        assert core.entered.wait(5.0)
        assert manager.messages_other_than(lives) == stalled
        assert all(manager.messages(5.0) == stalled for _ in range(2))
        core.open.set()
        assert manager.messages_other_than(stalled) == lives
    finally:
        core.open.set()
        watchdog.stop()
        runner.stop()


def test_a_full_inbox_that_moves_is_not_stalled() -> None:
    core = Gate()
    runner = CoreRunner("busy-core", core, lambda effect: None, on_crash=lambda error: None, inbox_max=1)
    runner.start()
    core.open.clear()
    runner.post("in the handler")
    assert core.entered.wait(5.0)
    runner.post("in the inbox")
    try:
        assert not runner.makes_progress(0.05)
        core.open.set()
        assert runner.makes_progress(5.0)
    finally:
        core.open.set()
        runner.stop()


def test_a_thread_that_stalls_in_the_core_of_the_store_is_noticed() -> None:
    core = Gate()
    engine = Engine(core, lambda effect: None, lambda error: None)
    assert engine.makes_progress(5.0)
    core.open.clear()
    stuck = threading.Thread(target=engine.post, args=("anything",), name="stuck")
    stuck.start()
    try:
        assert core.entered.wait(5.0)
        assert not engine.makes_progress(0.05)
    finally:
        core.open.set()
        stuck.join(5.0)
    assert engine.makes_progress(5.0)


def test_the_variables_are_taken_out_of_the_environment() -> None:
    environment = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "20000000", "PATH": "/bin"}
    notifier = sdnotify.take({**environment, "WATCHDOG_PID": str(os.getpid())})
    assert (bool(notifier), notifier.watchdog_s) == (True, 20.0)
    theirs = {**environment, "WATCHDOG_PID": "1"}
    assert sdnotify.take(theirs).watchdog_s == 0.0
    assert theirs == {"PATH": "/bin"}
    assert not sdnotify.take({})


def test_messages_reach_the_abstract_namespace_and_a_missing_manager_does_no_harm(tmp_path: Path) -> None:
    address = f"@rainstorm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{address[1:]}")
        listener.settimeout(5.0)
        sdnotify.Notifier(address).send(READY=1)
        assert listener.recv(100) == b"READY=1"
    sdnotify.Notifier(address).send(READY=1)
    sdnotify.Notifier(str(tmp_path / "nobody")).send(READY=1)
    sdnotify.Notifier().send(READY=1)


def test_an_agent_says_nothing_when_its_configuration_is_wrong(manager: Manager, tmp_path: Path) -> None:
    """Exit status 78 keeps the manager from starting it again; READY would be wrong."""
    ended = subprocess.run(
        [sys.executable, "-m", "agent", "membership", "--config", str(tmp_path / "none.yml")],
        env={**os.environ, "NOTIFY_SOCKET": manager.path},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 78
    assert manager.messages(0.05) == []
