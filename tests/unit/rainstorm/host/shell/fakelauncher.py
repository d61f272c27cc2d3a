"""A task launcher in a thread. It starts no processes: the test plays them at the ends of their sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

from agent.common.deadline import Deadline
from agent.common.shell import clock
from agent.rainstorm.messages.control import FIRST_OF_TASK, FROM_TASK, Hello, TaskMessage
from agent.rainstorm.messages.launcher import SpawnTask, TaskEnded, decode_request, encode
from agent.wire.codec.framing import Frame
from agent.wire.connection import Connection
from tests.support import wait_until


class FakeTask:
    """The process's end of a control socket."""

    def __init__(self, request: SpawnTask, sock: socket.socket) -> None:
        self.request = request
        self.sock = sock
        self.connection = Connection(sock, "agent")

    def hello(self, pid: int) -> None:
        """Says hello."""
        self.send_header(FIRST_OF_TASK.encode(Hello(pid, 1)))

    def send(self, message: TaskMessage, payload: bytes = b"") -> None:
        """Sends a message."""
        self.send_header(FROM_TASK.encode(message), payload)

    def send_header(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Sends any fields that a process might send."""
        self.connection.send(header, payload, Deadline(clock.monotonic(), 5.0))

    def receive(self) -> Frame:
        """Returns the next command."""
        return self.connection.receive(Deadline(clock.monotonic(), 5.0))


class FakeLauncher:
    """Listens as the launcher does; ``answers`` tells whether a kill is carried out."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "launcher.sock")
        self.answers = True
        self.tasks: dict[int, FakeTask] = {}
        self.killed: list[int] = []
        self.connections = 0
        self.agent: socket.socket | None = None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(self.path)
        self._listener.listen(4)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def task(self, number: int) -> FakeTask:
        """Returns a task once it was requested."""
        wait_until(lambda: number in self.tasks, 5, f"task {number} is requested")
        return self.tasks[number]

    def say(self, message: bytes) -> None:
        """Sends a packet to the agent."""
        wait_until(lambda: self.agent is not None, 5, "the agent is connected")
        assert self.agent is not None
        self.agent.send(message)

    def end(self, number: int, cause: str = "exited with status 0") -> None:
        """Reports that a task has ended."""
        self.say(encode(TaskEnded(number, cause)))

    def drop(self) -> None:
        """Closes the agent's connection."""
        wait_until(lambda: self.agent is not None, 5, "the agent is connected")
        assert self.agent is not None
        self.agent.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Ends everything."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        if self.agent is not None:
            with contextlib.suppress(OSError):
                self.agent.shutdown(socket.SHUT_RDWR)
        self._thread.join(5.0)
        for task in self.tasks.values():
            task.connection.close()

    def _run(self) -> None:
        while True:
            try:
                agent, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self.agent = agent
            with agent, contextlib.suppress(OSError):
                while self._serve(agent):
                    pass
            self.agent = None

    def _serve(self, agent: socket.socket) -> bool:
        data, files, _, _ = socket.recv_fds(agent, 4096, 2)
        if not data:
            return False
        request = decode_request(data)
        number = request.number
        if isinstance(request, SpawnTask):
            os.close(files[1])
            self.tasks[number] = FakeTask(request, socket.socket(fileno=files[0]))
            return True
        self.killed.append(number)
        if self.answers:
            self.tasks[number].connection.close()
            agent.send(encode(TaskEnded(number, "killed by signal 9")))
        return True
