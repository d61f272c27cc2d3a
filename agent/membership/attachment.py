"""The local connection by which another agent of this node tells the membership agent that it is alive.

A thread sends renewals over one connection that stays open. When the process dies, the kernel closes that
connection, which the membership agent notices at once; when the process stalls, the renewals stop. Each
renewal names the peers whose authenticated requests this agent has just answered: any traffic is a sign of
life.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError
from agent.common.shell import clock, threads
from agent.membership.messages.agents import HEARD_MAX, Attach
from agent.wire.client import Client

logger = logging.getLogger("agent.membership.attachment")

RENEWAL_INTERVAL_S = 0.5
RETRY_S = 0.2
# With a shorter time-out, a late answer on a busy machine would look like a crash.
RENEWAL_TIMEOUT_S = 5.0
JOIN_S = 0.2


class Attachment:
    """Keeps one service attached to its node's membership agent."""

    def __init__(
        self, socket_path: str, service: str, heard_at: Callable[[], Mapping[str, float]] | None = None
    ) -> None:
        self._socket_path = socket_path
        self._service = service
        self._heard_at = heard_at
        self._client = Client(None)
        self._stopping = threads.event()
        self._thread = threads.thread(f"{service}-attachment", self._run)

    def start(self) -> None:
        """Starts to attach; while the membership agent is down, the thread retries."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Closes the connection: from now on the service counts as gone."""
        self._stopping.set()
        deadline = Deadline(clock.monotonic(), timeout_s)
        self._client.close()  # a late answer must not delay the end
        while self._thread.is_alive() and deadline.remaining(clock.monotonic()) > 0:
            self._thread.join(JOIN_S)
            self._client.close()  # a request may have begun just after the first close

    def _run(self) -> None:
        attached = True
        try:
            while not self._stopping.is_set():
                request = Attach(self._service, self._fresh())
                try:
                    self._client.ask(self._socket_path, request, timeout_s=RENEWAL_TIMEOUT_S)
                except RainStormError as error:
                    if attached and not self._stopping.is_set():
                        logger.info("detached service=%s error=%s", self._service, error)
                    attached = False
                    self._stopping.wait(RETRY_S)
                    continue
                attached = True
                self._stopping.wait(RENEWAL_INTERVAL_S)
        finally:
            self._client.close()

    def _fresh(self) -> tuple[tuple[str, float], ...]:
        if self._heard_at is None:
            return ()
        now = clock.monotonic()
        found = [
            (name, round(max(0.0, now - at), 3))
            for name, at in list(self._heard_at().items())
            if now - at <= 2 * RENEWAL_INTERVAL_S
        ]
        return tuple(found[:HEARD_MAX])
