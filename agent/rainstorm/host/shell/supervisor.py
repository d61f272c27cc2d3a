"""Task processes of one node: spares started ahead, assignment, messages, and instant notice of an end.

A process takes a quarter of a second to start because of its imports, so some wait ready. A task keeps
its process from generation to generation; a process is never used for a second task. The kernel closes a
process's socket when it ends, however it ends, so its reader thread knows within a millisecond. The
processes are children of the task launcher (``launcher.py``), not of this process. They run the users' code,
so a message is believed only about the sender's own task.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, NotFound, ProtocolError, RainStormError
from agent.common.shell import clock, network, threads
from agent.common.shell.worker import Worker
from agent.rainstorm.host.shell.launcherlink import LOST, LauncherLink
from agent.rainstorm.host.shell.tasklog import TaskLog
from agent.rainstorm.messages import control
from agent.rainstorm.messages.launcher import SpawnTask
from agent.wire.codec.framing import Buffer, Frame
from agent.wire.connection import Connection

logger = logging.getLogger("agent.rainstorm.host.shell.supervisor")

HELLO_TIMEOUT_S = 30.0
SEND_TIMEOUT_S = 10.0
# A generation needs three commands and an epoch one; a task with this many unread has stopped reading.
COMMANDS_MAX = 100
REFILL_DELAY_S = 2.0
# The launcher reports an exit a millisecond after the task's socket closes.
EXIT_TIMEOUT_S = 10.0

Key = tuple[str, str]
# Gets the key and process id of a task, its message, and the payload; InvalidMessage refuses the message.
OnMessage = Callable[[Key, int, control.TaskMessage, Buffer], None]
OnExit = Callable[[Key, int, str], None]


class TaskProcess:
    """One task process, known to the launcher by its number, and the thread that hears it."""

    def __init__(self, number: int, sock: network.Socket, owner: TaskSupervisor) -> None:
        self.number = number
        # The process id, as the process reports it; 0 until then.
        self.pid = 0
        self.connection = Connection(sock, f"task process {number}")
        self.key: Key | None = None
        self.generation = 0
        self.ready = threads.event()
        self.ended = threads.event()
        self._owner = owner
        # Commands wait here until the process has said hello. A separate thread sends them, so that a task
        # that does not read delays nothing else.
        self._commands: Worker[control.Command] = Worker(
            f"task-{number}-commands", self._deliver, COMMANDS_MAX, on_error=lambda error: True
        )
        # Set when the launcher has reported the end, for the reason in ``_cause``.
        self.exited = threads.event()
        self._cause = LOST
        # Why this side ended the process, if it did.
        self._fault = ""
        self.thread = threads.thread(f"task-{number}", self._listen)

    def send(self, command: control.Command) -> None:
        """Queues a command; it is sent once the process has said hello."""
        if not self._commands.try_submit(command) and not self.ended.is_set():
            self._give_up(f"did not take {self._commands.waiting} commands")

    def kill(self) -> None:
        """Ends the process at once."""
        self._owner.link.kill(self.number)

    def note_exit(self, cause: str) -> None:
        """Notes that the launcher has reported the end of the process."""
        self._cause = cause
        self.exited.set()
        # Its last messages can still be read. A child that kept a copy of the socket cannot use it any more.
        # If the process is alive after all, it sees that its agent has closed the connection.
        with contextlib.suppress(OSError):
            self.connection.sock.shutdown(network.SHUT_RDWR)

    def _deliver(self, command: control.Command) -> None:
        deadline = Deadline(clock.monotonic(), SEND_TIMEOUT_S)
        try:
            self.connection.send(control.TO_TASK.encode(command), b"", deadline)
        except ConnectionLost:
            self._commands.clear()  # the process has ended; the thread that listens reports it
        except RainStormError as error:
            # A task that does not read its commands for this long will not read the next ones either.
            self._give_up(f"did not take its commands: {error}")

    def _give_up(self, fault: str) -> None:
        logger.warning("task_unresponsive number=%d pid=%d fault=%s", self.number, self.pid, fault)
        self._fault = fault
        self._commands.clear()
        self.kill()

    def _listen(self) -> None:
        try:
            self._receive_hello()
            while True:
                frame = self._receive(None)
                message = control.FROM_TASK.decode(frame.header)
                if self.key is not None:
                    self._owner.on_message(self.key, self.pid, message, frame.payload)
        except ProtocolError as error:
            line = "task_sent_invalid_message number=%d pid=%d error=%s"
            logger.error(line, self.number, self.pid, error)
            self._owner.refused += 1
            self._fault = f"sent an invalid message: {error}"
        except RainStormError as error:
            # The usual reason is that the process has ended.
            logger.debug("task_connection_closed number=%d pid=%d error=%s", self.number, self.pid, error)
        self.kill()
        self.exited.wait(EXIT_TIMEOUT_S)
        self.connection.close()
        self._commands.stop(drain=False, timeout_s=EXIT_TIMEOUT_S)
        self.ended.set()
        self._owner.ended(self, self._fault or self._cause)

    def _receive_hello(self) -> None:
        frame = self._receive(Deadline(clock.monotonic(), HELLO_TIMEOUT_S))
        self.pid = control.FIRST_OF_TASK.decode(frame.header).pid
        self.ready.set()
        self._commands.start()

    def _receive(self, deadline: Deadline | None) -> Frame:
        frame = self.connection.receive(deadline)
        if frame.descriptor is not None:
            # User code must not fill the agent's table of open files.
            network.close_descriptor(frame.descriptor)
        return frame


class TaskSupervisor:
    """Starts, assigns and ends the task processes of a node."""

    def __init__(
        self,
        host: str,
        hydfs_socket: str,
        log_path: Path,
        launcher_path: str,
        own_launcher: bool,
        spares: int,
        memory_bytes: int,
        on_message: OnMessage,
        on_exit: OnExit,
    ) -> None:
        self.on_message = on_message
        # The number of processes that have sent something that is not a message.
        self.refused = 0
        self._on_exit = on_exit
        self._parameters = (host, hydfs_socket, memory_bytes)
        self._log = TaskLog(log_path)
        self._wanted = spares
        self._lock = threads.lock()
        self._spares: deque[TaskProcess] = deque()
        self._tasks: dict[Key, TaskProcess] = {}
        self._all: dict[int, TaskProcess] = {}
        self._numbers = itertools.count(1)
        self.link = LauncherLink(launcher_path, own_launcher, self._note_exit)
        self._refill = threads.event()
        self._stopping = threads.event()
        self._thread = threads.thread("task-spares", self._keep_spares)

    def start(self) -> None:
        """Begins to start spares in the background."""
        self._log.start()
        self.link.start()
        self._thread.start()

    def assign(self, key: Key, generation: int, in_place: bool, command: control.Assign) -> None:
        """Assigns a task to a process: with ``in_place`` to the one that has it, otherwise to a fresh one."""
        failure = ""
        with self._lock:
            process = self._tasks.get(key)
            if process is not None and (not in_place or process.ended.is_set()):
                del self._tasks[key]
                process.kill()
                process = None
            if process is None:
                command = replace(command, in_place=False)
                try:
                    process = self._take_spare() or self._spawn()
                except OSError as error:  # no descriptor or no memory is left
                    failure = f"cannot be started: {error}"
                else:
                    process.key = key
                    self._tasks[key] = process
                    self._refill.set()
            if process is not None:
                process.generation = generation
        if process is None:
            self._on_exit(key, generation, failure)
        else:
            process.send(command)

    def tell(self, key: Key, command: control.Command) -> None:
        """Sends a command to a task's process, if there is one."""
        with self._lock:
            process = self._tasks.get(key)
        if process is not None:
            process.send(command)

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
            NotFound: none fits.
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
            self._all.pop(process.number, None)
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
        self.link.stop(deadline.remaining(clock.monotonic()))
        for process in processes:
            process.thread.join(deadline.remaining(clock.monotonic()))
        self._log.stop(deadline.remaining(clock.monotonic()))

    def _take_spare(self) -> TaskProcess | None:
        while self._spares:
            process = self._spares.popleft()
            if not process.exited.is_set():
                return process
        return None

    def _keep_spares(self) -> None:
        while not self._stopping.is_set():
            self._fill()
            self._refill.wait()
            self._refill.clear()
            # New spares are for the next failure: they must not compete with a job that is starting.
            self._stopping.wait(REFILL_DELAY_S)

    def _fill(self) -> None:
        # One at a time: a node that started all its spares at once would starve its own agents.
        while not self._stopping.is_set():
            with self._lock:
                if len(self._spares) >= self._wanted:
                    return
                try:
                    process = self._spawn()
                except OSError as error:
                    logger.error("spare_failed error=%s", error)
                    return  # it is tried again when the next task begins or ends
                self._spares.append(process)
            while not (process.ready.wait(0.1) or process.ended.is_set() or self._stopping.is_set()):
                pass
            if process.ended.is_set():
                logger.error("spare_failed number=%d log=%s", process.number, self._log.path)
                if self._stopping.wait(1.0):
                    return

    def _spawn(self) -> TaskProcess:
        log = self._log.writer()
        try:
            ours, theirs = network.pair()
        except OSError:
            network.close_descriptor(log)
            raise
        process = TaskProcess(next(self._numbers), ours, self)
        self._all[process.number] = process
        process.thread.start()
        self.link.spawn(SpawnTask(process.number, *self._parameters), [theirs.detach(), log])
        return process

    def _note_exit(self, number: int, cause: str) -> None:
        process = self._all.get(number)
        if process is not None:
            process.note_exit(cause)
