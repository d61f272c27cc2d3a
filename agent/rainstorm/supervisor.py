"""Task processes of one node: spares started ahead, assignment, messages, and noticing at once when one ends.

A process costs a quarter of a second to start because of its imports, so that some wait ready. A task keeps
its process from generation to generation; a process is never used for a second task. The kernel closes a
process's socket when it ends, however it ends, so that its reader thread knows within a millisecond.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.common import clock
from agent.common.deadline import Deadline
from agent.common.errors import NotFound, RainStormError
from agent.wire.connection import Connection
from agent.wire.framing import Frame

logger = logging.getLogger("agent.rainstorm.supervisor")

HELLO_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 10.0
REFILL_DELAY_S = 2.0
# Arrow's own threads gain nothing where every task has its own process.
TASK_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "ARROW_IO_THREADS": "1", "PYTHONUNBUFFERED": "1"}
DROPPED_ENVIRONMENT = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")

Key = tuple[str, str]
OnMessage = Callable[[Key, int, Frame], None]
OnExit = Callable[[Key, int, str], None]


class TaskProcess:
    """One task process and the thread that hears it."""

    def __init__(
        self, process: subprocess.Popen[bytes], control: socket.socket, owner: TaskSupervisor
    ) -> None:
        self.process = process
        self.connection = Connection(control, f"task process {process.pid}")
        self.key: Key | None = None
        self.generation = 0
        self.ready = threading.Event()
        self.ended = threading.Event()
        self._owner = owner
        self._lock = threading.Lock()
        self._waiting: deque[Mapping[str, Any]] = deque()
        self.thread = threading.Thread(target=self._listen, name=f"task-{process.pid}", daemon=True)
        self.thread.start()

    @property
    def pid(self) -> int:
        """Returns the process id."""
        return self.process.pid

    def send(self, message: Mapping[str, Any]) -> None:
        """Sends a message; before the process has said hello it is kept for later."""
        with self._lock:
            if not self.ready.is_set():
                self._waiting.append(message)
                return
            self._send(message)

    def kill(self) -> None:
        """Ends the process at once."""
        if self.process.poll() is None:
            self.process.kill()

    def _send(self, message: Mapping[str, Any]) -> None:
        try:
            self.connection.send(dict(message), b"", Deadline(clock.monotonic(), SEND_TIMEOUT_S))
        except RainStormError as error:
            # A task that does not read its commands for this long is as good as dead.
            logger.warning("task_unresponsive pid=%d error=%s", self.pid, error)
            self.kill()

    def _listen(self) -> None:
        try:
            self.connection.receive(Deadline(clock.monotonic(), HELLO_TIMEOUT_S))
            with self._lock:
                self.ready.set()
                while self._waiting:
                    self._send(self._waiting.popleft())
            while True:
                frame = self.connection.receive(None)
                if self.key is not None:
                    self._owner.on_message(self.key, self.pid, frame)
        except RainStormError:
            pass  # the process has ended, or is about to be
        self.kill()
        status = self.process.wait()
        self.connection.close()
        self.ended.set()
        cause = f"killed by signal {-status}" if status < 0 else f"exited with status {status}"
        self._owner.ended(self, cause)


class TaskSupervisor:
    """Starts, assigns and ends the task processes of a node."""

    def __init__(
        self,
        host: str,
        hydfs_socket: str,
        log_path: Path,
        spares: int,
        memory_bytes: int,
        on_message: OnMessage,
        on_exit: OnExit,
    ) -> None:
        self.on_message = on_message
        self._on_exit = on_exit
        self._host = host
        self._hydfs_socket = hydfs_socket
        self._log_path = log_path
        self._memory_bytes = memory_bytes
        self._wanted = spares
        self._lock = threading.Lock()
        self._spares: deque[TaskProcess] = deque()
        self._tasks: dict[Key, TaskProcess] = {}
        self._all: dict[int, TaskProcess] = {}
        self._refill = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_spares, name="task-spares", daemon=True)

    def start(self) -> None:
        """Begins to start spares in the background."""
        self._thread.start()

    def assign(self, key: Key, generation: int, in_place: bool, message: Mapping[str, Any]) -> None:
        """Has a process run a task: the one that has it when ``in_place``, else a fresh one."""
        with self._lock:
            process = self._tasks.get(key)
            if process is not None and (not in_place or process.ended.is_set()):
                process.kill()
                process = None
            if process is None:
                message = {**message, "in_place": False}
                process = self._spares.popleft() if self._spares else self._spawn()
                process.key = key
                self._tasks[key] = process
                self._refill.set()
            process.generation = generation
        process.send(message)

    def tell(self, key: Key, message: Mapping[str, Any]) -> None:
        """Sends a message to a task's process, if there is one."""
        with self._lock:
            process = self._tasks.get(key)
        if process is not None:
            process.send(message)

    def kill(self, key: Key) -> None:
        """Ends the process of a task without a report."""
        with self._lock:
            process = self._tasks.pop(key, None)
        if process is not None:
            process.key = None
            process.kill()

    def find(self, task: str | None, pid: int | None) -> tuple[Key, TaskProcess]:
        """Returns the first task process that fits.

        Raises:
            NotFound: none does.
        """
        with self._lock:
            for key, process in sorted(self._tasks.items()):
                if (task is None or key[1] == task) and (pid is None or process.pid == pid):
                    return key, process
        wanted = f"task {task}" if task else f"process {pid}" if pid else "any task"
        raise NotFound(f"{wanted} does not run here", hint="see what runs where: fab list-tasks")

    def running(self) -> dict[Key, int]:
        """Returns the process ids of all assigned tasks."""
        with self._lock:
            return {key: process.pid for key, process in self._tasks.items()}

    def ended(self, process: TaskProcess, cause: str) -> None:
        """Notes that a process is gone; reports it when it had a task."""
        with self._lock:
            self._all.pop(process.pid, None)
            key, generation = process.key, process.generation
            if key is not None and self._tasks.get(key) is process:
                del self._tasks[key]
            elif process in self._spares:
                self._spares.remove(process)
                key = None
            else:
                key = None
        self._refill.set()
        if key is not None and not self._stopping.is_set():
            self._on_exit(key, generation, cause)

    def stop(self, timeout_s: float) -> None:
        """Ends all task processes and waits for them."""
        self._stopping.set()
        self._refill.set()
        deadline = Deadline(clock.monotonic(), timeout_s)
        if self._thread.is_alive():
            self._thread.join(deadline.remaining(clock.monotonic()))
        with self._lock:
            processes = list(self._all.values())
        for process in processes:
            process.kill()
        for process in processes:
            process.thread.join(deadline.remaining(clock.monotonic()))

    def _keep_spares(self) -> None:
        while not self._stopping.is_set():
            self._fill()
            self._refill.wait()
            self._refill.clear()
            # New spares are for the next failure: they must not take the processor from a job that begins.
            self._stopping.wait(REFILL_DELAY_S)

    def _fill(self) -> None:
        # One at a time: a node that starts all its spares at once would starve its own agents.
        while not self._stopping.is_set():
            with self._lock:
                if len(self._spares) >= self._wanted:
                    return
                process = self._spawn()
                self._spares.append(process)
            while not (process.ready.wait(0.1) or process.ended.is_set() or self._stopping.is_set()):
                pass
            if process.ended.is_set():
                logger.error("spare_failed pid=%d log=%s", process.pid, self._log_path)
                if self._stopping.wait(1.0):
                    return

    def _spawn(self) -> TaskProcess:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in DROPPED_ENVIRONMENT}
        command = [sys.executable, "-m", "agent.rainstorm.task", "--control-fd", str(theirs.fileno())]
        command += ["--host", self._host, "--hydfs", self._hydfs_socket, "--memory", str(self._memory_bytes)]
        with self._log_path.open("ab") as log:
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environment, **TASK_ENVIRONMENT},
                start_new_session=True,
            )
        theirs.close()
        handle = TaskProcess(process, ours, self)
        self._all[process.pid] = handle
        return handle
