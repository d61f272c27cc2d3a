"""The agent's connection to the task launcher of its node: starts and kills tasks, learns when they end.

Whatever happens to the launcher, each requested task is reported as ended exactly once. Requests made while
there is no launcher wait until there is one. The launcher runs as the user of the tasks, so a hostile task
might send messages in its place: they are believed only as far as a task has ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.common.shell import clock, network, processes, threads

logger = logging.getLogger("agent.rainstorm.host.shell.launcherlink")

RETRY_S = 0.2
RETRY_S_MAX = 5.0
# A connection that ends sooner was refused, or the launcher cannot run: the next try waits longer.
LIFE_S_MIN = 1.0
CONNECT_TIMEOUT_S = 5.0
SEND_TIMEOUT_S = 5.0
# A killed process is gone at once, unless the kernel is stuck in the middle of a system call of it.
EXIT_TIMEOUT_S = 30.0
LAUNCHER = "agent.rainstorm.host.shell.launcher"
PACKET_BYTES_MAX = 4096
CAUSE_CHARACTERS_MAX = 200
LOST = "ended with the task launcher"

OnEnded = Callable[[int, str], None]


@dataclass(slots=True)
class _Start:
    """A requested task; the files are this process's to close until they were sent."""

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
        self._lock = threads.lock()
        self._sock: network.Socket | None = None
        self._child: processes.Child | None = None
        # Every requested task that has not been reported as ended.
        self._tasks: dict[int, _Start] = {}
        self._stopping = threads.event()
        self._thread = threads.thread("task-launcher", self._run)

    def start(self) -> None:
        """Begins to connect in the background."""
        self._thread.start()

    def spawn(self, number: int, parameters: Mapping[str, Any], files: list[int]) -> None:
        """Has a task started; ``files`` are its control socket and its log, which are closed afterwards."""
        request = json.dumps({"spawn": number, **parameters}).encode()
        with self._lock:
            self._tasks[number] = task = _Start(request, files)
            self._send_start(task)

    def kill(self, number: int) -> None:
        """Ends a task and the processes that it started; nothing when it has ended already."""
        with self._lock:
            task = self._tasks.get(number)
            if task is None:
                return
            if task.sent:
                self._send(json.dumps({"kill": number}).encode(), [])
                return
        self._report(number, "was not started: no task launcher")

    def stop(self, timeout_s: float) -> None:
        """Closes the connection, at which the launcher ends all tasks and itself."""
        self._stopping.set()
        with self._lock:
            self._break()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

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
        with self._lock:
            self._sock = sock
            for task in self._tasks.values():
                self._send_start(task)
        # The socket is set first: either this loop sees the request to stop, or stop() sees the socket.
        while not self._stopping.is_set() and self._receive(sock):
            pass
        with self._lock:
            self._sock = None
            lost = [number for number, task in self._tasks.items() if task.sent]
        sock.close()
        if not self._stopping.is_set():
            logger.warning("launcher_lost tasks=%d", len(lost))
        # Spares have the highest numbers: once the first lost task is known, no lost spare can replace it.
        for number in sorted(lost, reverse=True):
            self._report(number, LOST)

    def _receive(self, sock: network.Socket) -> bool:
        try:
            packet = sock.recv(PACKET_BYTES_MAX)
            if not packet:
                return False
            message = json.loads(packet)
            self._report(int(message["ended"]), str(message["cause"])[:CAUSE_CHARACTERS_MAX])
        except OSError:
            return False
        except (ValueError, TypeError, KeyError) as error:
            logger.error("launcher_sent_invalid_message error=%r", error)
            return False
        return True

    def _report(self, number: int, cause: str) -> None:
        with self._lock:
            task = self._tasks.pop(number, None)
        if task is not None:
            task.close_files()
            self._on_ended(number, cause)

    # -- the connection -------------------------------------------------------------------------------

    def _send_start(self, task: _Start) -> None:
        if self._sock is not None and not task.sent:
            task.sent = True
            self._send(task.request, task.files)
            task.close_files()

    def _send(self, packet: bytes, files: list[int]) -> None:
        if self._sock is None:
            return  # the thread that noticed the loss reports the tasks
        try:
            network.send_descriptors(self._sock, packet, files)
        except OSError as error:
            logger.warning("launcher_send_failed error=%s", error)
            self._break()

    def _break(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(OSError):  # it is broken already
                self._sock.shutdown(network.SHUT_RDWR)  # wakes the thread

    def _connect(self) -> network.Socket:
        if self._own:
            self._start_child()
        sock = network.dial_unix(self._path, CONNECT_TIMEOUT_S, packets=True)
        try:
            # A launcher that does not read for this long hangs; one that sends nothing for long is normal.
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
        """Waits for a launcher of our own, which ends with its connection."""
        if self._child is None:
            return
        try:
            self._child.wait(SEND_TIMEOUT_S)
        except TimeoutError:
            self._child.kill()
            self._child.wait(EXIT_TIMEOUT_S)
        self._child = None
        network.remove_unix(self._path)
