"""Tells the service manager the state of this process: ready, busy with what, alive, stopping.

The protocol of sd_notify(3): one datagram of ``KEY=value`` lines to the Unix socket that NOTIFY_SOCKET names;
a leading ``@`` stands for the abstract namespace. Without that variable nothing is sent, so that the same
agents run as plain processes. The variables are taken *out* of the environment: a child that inherited them
could speak for this process, and the manager would believe it.

The keep-alive message is not sent by a timer alone: each loop is asked first, and none is sent while a loop
makes no progress. Then the manager ends the process with SIGABRT and starts it again.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, MutableMapping
from typing import Protocol

from agent.common.shell import threads

logger = logging.getLogger("agent.sdnotify")

# systemd advises half the time-out; a third leaves room for one datagram that comes late.
MESSAGES_PER_TIMEOUT = 3
STATUS_INTERVAL_S = 5.0
STATUS_CHARS_MAX = 200


class Loop(Protocol):
    """A thread's loop that can be asked whether it makes progress."""

    @property
    def name(self) -> str:
        """Returns the loop's name in messages."""

    def makes_progress(self, timeout_s: float) -> bool:
        """Tells whether the loop made progress within ``timeout_s``."""


class Watched(Protocol):
    """A service whose loops are watched."""

    def loops(self) -> Iterable[Loop]:
        """Returns the loops without which the service does not work."""

    def status(self) -> str:
        """Returns one line for the operator."""


class Notifier:
    """Sends messages to the service manager; does nothing when there is none."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.watchdog_s = watchdog_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def __bool__(self) -> bool:
        """Tells whether there is a service manager."""
        return bool(self._address)

    def send(self, **values: object) -> None:
        """Sends ``KEY=value`` for each argument, in one datagram."""
        if not self._address:
            return
        text = "\n".join(f"{key}={' '.join(str(value).split())}" for key, value in values.items())
        try:
            # A real socket, not one of the seam: a simulated process has no service manager.
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:  # a manager that does not listen must not end the agent
            logger.warning("notify_failed keys=%s error=%s", "+".join(values), error)


def take(environment: MutableMapping[str, str]) -> Notifier:
    """Returns the notifier that the environment describes, and removes the variables from it."""
    address = environment.pop("NOTIFY_SOCKET", "")
    timeout_us = environment.pop("WATCHDOG_USEC", "")
    owner = environment.pop("WATCHDOG_PID", "")
    meant = timeout_us.isdigit() and owner in ("", str(os.getpid()))
    return Notifier(address, int(timeout_us) / 1e6 if meant else 0.0)


class Watchdog:
    """Sends the keep-alive message as long as all loops of the service make progress."""

    def __init__(self, notifier: Notifier, service: Watched) -> None:
        self._notifier = notifier
        self._service = service
        timeout_s = notifier.watchdog_s
        self._interval_s = timeout_s / MESSAGES_PER_TIMEOUT if timeout_s else STATUS_INTERVAL_S
        self._stopping = threads.event()
        self._thread = threads.thread("watchdog", self._run)

    def start(self) -> None:
        """Starts to watch."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops watching; no keep-alive message is sent from now on."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            stalled = [
                loop.name for loop in self._service.loops() if not loop.makes_progress(self._interval_s)
            ]
            if self._stopping.is_set():
                return
            if stalled:
                logger.error("loop_stalled loops=%s", "+".join(stalled))
                self._notifier.send(STATUS=f"stalled: {', '.join(stalled)}")
            else:
                self._notifier.send(WATCHDOG=1, STATUS=self._service.status()[:STATUS_CHARS_MAX])
            self._stopping.wait(self._interval_s)
