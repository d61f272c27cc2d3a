"""The agent's connection to the task launcher of its node: starts and kills tasks, learns when they end.

Whatever happens to the launcher, each requested task is reported as ended exactly once. Requests made while
there is no launcher wait until there is one. The launcher runs as the user of the tasks, so a hostile task
might send messages in its place: only reports that a task has ended are believed.

One thread receives, another one sends. No lock is held during a send, so a launcher that is slow to read
delays neither requests to start or end tasks nor reports of their ends.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass

from agent.common.shell import clock, network, processes, threads
from agent.rainstorm.messages.launcher import PACKET_BYTES_MAX, KillTask, SpawnTask, decode_ended, encode

logger = logging.getLogger("agent.rainstorm.host.shell.launcherlink")

RETRY_S = 0.2
RETRY_S_MAX = 5.0
# A connection that ends sooner was refused, or the launcher cannot run: the next attempt waits longer.
LIFE_S_MIN = 1.0
CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 5.0
# A killed process is gone at once, unless it is stuck in a system call.
EXIT_TIMEOUT_S = 30.0
LAUNCHER = "agent.rainstorm.host.shell.launcher"
CAUSE_CHARACTERS_MAX = 200
LOST = "ended with the task launcher"

OnEnded = Callable[[int, str], None]


@dataclass(slots=True)
class _Start:
    """A requested task; this process closes the files, until they are handed to the sender."""

    request: bytes
    files: list[int]
    sent: bool = False

    def close_files(self) -> None:
        while self.files:
            network.close_descriptor(self.files.pop())


class LauncherLink:
    """Talks to the launcher at ``path``; with ``own`` it starts that process itself, as its child."""

    def __init__(self, path: str, own: bool, on_ended: OnEnded) -> None:
        self._path = path
        self._own = own
        self._on_ended = on_ended
        # Guards the fields below; notified when there is something to send, and when a send has ended.
        self._changed = threads.condition()
        self._sock: network.Socket | None = None
        self._sending = False
        self._child: processes.Child | None = None
        # Every requested task that has not been reported as ended.
        self._tasks: dict[int, _Start] = {}
        # The tasks whose end was requested but not yet sent: each of them is in the table above.
        self._kills: dict[int, None] = {}
        self._stopping = threads.event()
        self._thread = threads.thread("task-launcher", self._run)
        self._sender = threads.thread("task-launcher-send", self._send_all)

    def start(self) -> None:
        """Begins to connect in the background."""
        self._thread.start()
        self._sender.start()

    def spawn(self, request: SpawnTask, files: list[int]) -> None:
        """Requests a task's start; ``files`` are its control socket and log, which are closed afterwards."""
        with self._changed:
            self._tasks[request.number] = _Start(encode(request), files)
            self._changed.notify_all()

    def kill(self, number: int) -> None:
        """Ends a task and the processes that it started; does nothing when it has already ended."""
        with self._changed:
            task = self._tasks.get(number)
            if task is None:
                return
            if task.sent:
                self._kills[number] = None
                self._changed.notify_all()
                return
            del self._tasks[number]
        task.close_files()
        self._on_ended(number, "was not started: no task launcher")

    def stop(self, timeout_s: float) -> None:
        """Closes the connection, which makes the launcher end all tasks and itself."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
            if self._sock is not None:
                _shut_down(self._sock)
        for thread in (self._sender, self._thread):
            if thread.is_alive():
                thread.join(timeout_s)

    # -- the thread -----------------------------------------------------------------------------------

    def _run(self) -> None:
        delay = RETRY_S
        while not self._stopping.is_set():
            begun = clock.monotonic()
            try:
                sock = self._connect()
            except OSError as error:
                hint = "systemctl status rainstorm-tasks.socket rainstorm-tasks.service"
                logger.error("launcher_unreachable path=%s error=%s hint=%s", self._path, error, hint)
            else:
                self._serve(sock)
            self._end_child()
            delay = RETRY_S if clock.monotonic() - begun >= LIFE_S_MIN else min(2 * delay, RETRY_S_MAX)
            self._stopping.wait(delay)
        for number in list(self._tasks):
            self._report(number, LOST)

    def _serve(self, sock: network.Socket) -> None:
        with self._changed:
            self._sock = sock
            self._changed.notify_all()
        # The socket is set first: either this loop sees the request to stop, or stop() sees the socket.
        while not self._stopping.is_set() and self._receive(sock):
            pass
        with self._changed:
            self._sock = None
            _shut_down(sock)
            # If a descriptor were closed during a send, its number might already name another file.
            self._changed.wait_for(lambda: not self._sending)
            self._kills.clear()
            lost = [number for number, task in self._tasks.items() if task.sent]
        sock.close()
        if not self._stopping.is_set():
            logger.warning("launcher_lost tasks=%d", len(lost))
        # Spares have the highest numbers. They go first, so that no lost spare replaces a lost task.
        for number in sorted(lost, reverse=True):
            self._report(number, LOST)

    def _receive(self, sock: network.Socket) -> bool:
        try:
            packet = sock.recv(PACKET_BYTES_MAX)
            if not packet:
                return False
            ended = decode_ended(packet)
        except OSError:
            return False
        except ValueError as error:
            logger.error("launcher_sent_invalid_message error=%r", error)
            return False
        self._report(ended.number, ended.cause[:CAUSE_CHARACTERS_MAX])
        return True

    def _report(self, number: int, cause: str) -> None:
        with self._changed:
            task = self._tasks.pop(number, None)
            self._kills.pop(number, None)
        if task is not None:
            task.close_files()
            self._on_ended(number, cause)

    # -- the thread that sends ------------------------------------------------------------------------

    def _send_all(self) -> None:
        while (found := self._next()) is not None:
            sock, packet, files = found
            try:
                network.send_descriptors(sock, packet, files)
            except OSError as error:
                logger.warning("launcher_send_failed error=%s", error)
                _shut_down(sock)  # wakes the thread that receives, which reports the tasks
            finally:
                for descriptor in files:
                    network.close_descriptor(descriptor)
                with self._changed:
                    self._sending = False
                    self._changed.notify_all()

    def _next(self) -> tuple[network.Socket, bytes, list[int]] | None:
        """Waits for a message to send, and for a connection; returns None at the end."""
        with self._changed:
            while not self._stopping.is_set():
                if self._sock is not None and (message := self._take()) is not None:
                    self._sending = True
                    return (self._sock, *message)
                self._changed.wait()
        return None

    def _take(self) -> tuple[bytes, list[int]] | None:
        """Takes the next message, with its files; kills do not wait behind starts."""
        if self._kills:
            number = next(iter(self._kills))
            del self._kills[number]
            return encode(KillTask(number)), []
        for task in self._tasks.values():
            if not task.sent:
                task.sent = True
                files, task.files = task.files, []
                return task.request, files
        return None

    # -- the connection -------------------------------------------------------------------------------

    def _connect(self) -> network.Socket:
        if self._own:
            self._start_child()
        sock = network.dial_unix(self._path, CONNECT_TIMEOUT_S, packets=True)
        try:
            # A launcher that does not read for this long has stalled; sending nothing for long is normal.
            sock.settimeout(None)
            network.set_send_timeout(sock, SEND_TIMEOUT_S)
        except BaseException:
            sock.close()
            raise
        return sock

    def _start_child(self) -> None:
        listener = network.listen_unix(self._path, 0o600, 1, packets=True)
        try:
            number = listener.fileno()
            self._child = processes.start(
                [sys.executable, "-m", LAUNCHER, "--listen-fd", str(number)], [number]
            )
        finally:
            listener.close()

    def _end_child(self) -> None:
        """Waits for the launcher that this process started, which ends with its connection."""
        if self._child is None:
            return
        try:
            self._child.wait(SEND_TIMEOUT_S)
        except TimeoutError:
            self._child.kill()
            self._child.wait(EXIT_TIMEOUT_S)
        self._child = None
        network.remove_unix(self._path)


def _shut_down(sock: network.Socket) -> None:
    """Ends a connection and wakes the threads that wait in it."""
    with contextlib.suppress(OSError):  # it is already broken
        sock.shutdown(network.SHUT_RDWR)
