"""Tells the service manager how this process is: ready, what it does, that it lives, that it stops.

The protocol of sd_notify(3): one datagram of ``KEY=value`` lines to the Unix socket that NOTIFY_SOCKET names;
a leading ``@`` stands for the abstract namespace. Without that variable nothing is sent, so that the same
agents run as plain processes. The variables are taken *out* of the environment: a child that inherited them
could speak for this process, and the manager would believe it.

The word that the process lives is not sent by a timer that runs free: each loop is asked first, and one that
does not turn keeps the word back. Then the manager ends the process with SIGABRT and starts it anew.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterable, MutableMapping
from typing import Protocol

logger = logging.getLogger("agent.sdnotify")

# systemd advises half the time-out; a third leaves room for one datagram that comes late.
WORDS_PER_TIMEOUT = 3
STATUS_INTERVAL_S = 5.0
STATUS_CHARS_MAX = 200


class Loop(Protocol):
    """A thread's loop that can be asked whether it turns."""

    @property
    def name(self) -> str:
        """Returns what the loop is called in messages."""

    def turns(self, timeout_s: float) -> bool:
        """Tells whether the loop got on within ``timeout_s``."""


class Watched(Protocol):
    """A service whose loops are watched."""

    def loops(self) -> Iterable[Loop]:
        """Returns the loops without which the service is as good as dead."""

    def status(self) -> str:
        """Returns one line for the operator."""


class Notifier:
    """Sends words to the service manager; does nothing when there is none."""

    def __init__(self, address: str = "", watchdog_s: float = 0.0) -> None:
        self.watchdog_s = watchdog_s
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def __bool__(self) -> bool:
        """Tells whether anybody listens."""
        return bool(self._address)

    def send(self, **words: object) -> None:
        """Sends ``KEY=value`` for each word, in one datagram."""
        if not self._address:
            return
        text = "\n".join(f"{key}={' '.join(str(value).split())}" for key, value in words.items())
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(text.encode(), self._address)
        except OSError as error:  # a manager that does not listen must not end the agent
            logger.warning("notify_failed words=%s error=%s", "+".join(words), error)


def take(environment: MutableMapping[str, str]) -> Notifier:
    """Returns the notifier that the environment describes, and removes the variables from it."""
    address = environment.pop("NOTIFY_SOCKET", "")
    timeout_us = environment.pop("WATCHDOG_USEC", "")
    owner = environment.pop("WATCHDOG_PID", "")
    meant = timeout_us.isdigit() and owner in ("", str(os.getpid()))
    return Notifier(address, int(timeout_us) / 1e6 if meant else 0.0)


class Watchdog:
    """Sends the word that the service lives, as long as all its loops turn."""

    def __init__(self, notifier: Notifier, service: Watched) -> None:
        self._notifier = notifier
        self._service = service
        timeout_s = notifier.watchdog_s
        self._interval_s = timeout_s / WORDS_PER_TIMEOUT if timeout_s else STATUS_INTERVAL_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    def start(self) -> None:
        """Starts to watch."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops watching; the word stays away from now on."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            hung = [loop.name for loop in self._service.loops() if not loop.turns(self._interval_s)]
            if self._stopping.is_set():
                return
            if hung:
                logger.error("loop_hung loops=%s", "+".join(hung))
                self._notifier.send(STATUS=f"hung: {', '.join(hung)}")
            else:
                self._notifier.send(WATCHDOG=1, STATUS=self._service.status()[:STATUS_CHARS_MAX])
            self._stopping.wait(self._interval_s)
