"""The process of a task: its limits, its control socket, and that it ends with its agent."""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import threading
from typing import Any

import pytest

from agent.common.shell import logs
from agent.rainstorm.messages.control import FIRST_OF_TASK
from agent.rainstorm.task.shell import task
from agent.wire.connection import Connection


def test_the_process_limits_itself_and_ends_with_its_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """It limits its memory, does not outlive its launcher, and runs its loop."""
    limits: list[Any] = []
    ours, theirs = socket.socketpair()
    monkeypatch.setattr(resource, "setrlimit", lambda *limit: limits.append(limit))
    monkeypatch.setattr(task, "take_control", lambda: theirs)
    monkeypatch.setattr(logs, "configure", lambda level: None)

    class Kernel:
        def __init__(self, name: None) -> None:
            self.prctl = lambda *call: limits.append(call)

    monkeypatch.setattr(ctypes, "CDLL", Kernel)
    words = ["--host", "127.0.0.1", "--hydfs", "no.sock", "--memory", "12345"]
    thread = threading.Thread(target=task.main, args=(words,), daemon=True)
    thread.start()
    agent = Connection(ours, "task")
    assert FIRST_OF_TASK.decode(agent.receive(None).header).pid == os.getpid()
    agent.close()
    thread.join(5.0)
    assert not thread.is_alive()
    assert limits == [(resource.RLIMIT_DATA, (12345, 12345)), (task.PR_SET_PDEATHSIG, 9)]


def test_the_control_socket_is_no_longer_the_standard_input() -> None:
    """User code must not read its agent's commands as its input."""
    ours, theirs = socket.socketpair()
    saved = os.dup(0)
    try:
        os.dup2(theirs.fileno(), 0)
        theirs.close()
        control = task.take_control()
        ours.send(b"x")
        assert control.recv(1) == b"x"
        assert os.readlink("/proc/self/fd/0") == os.devnull
        control.close()
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        ours.close()
