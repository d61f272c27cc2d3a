"""The exchange of tables over TCP: a thread that asks, and the handlers that answer (rules: ``exchange``).

Each exchange has a connection of its own, closed after it: partners are chosen at random, and kept
connections would in time join every node to every other one, with a thread for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from agent.common.errors import RainStormError, UsageError
from agent.common.shell.worker import Worker
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.dissemination import exchange
from agent.membership.core.events import TableReceived
from agent.wire.client import Client, Target
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.membership.shell.exchange")

COMPARE, SWAP = "membership.compare", "membership.swap"
# Both requests together are two round trips; a partner that is slower than this is left for the next time.
TIMEOUT_S = 1.0
# The core asks once a second at most; more than these waiting would be stale when their turn comes.
WAITING_MAX = 4


class AntiEntropy:
    """Compares this node's table with those of others."""

    def __init__(
        self,
        make_client: Callable[[], Client],
        target: Callable[[str], Target],
        roster: Callable[[], Roster],
        post: Callable[[Any], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        self.compared = 0
        self.swapped = 0
        self._make_client = make_client
        self._target = target
        self._roster = roster
        self._post = post
        self._on_crash = on_crash
        self._worker: Worker[str] = Worker(
            "membership-exchange", self._exchange_with, WAITING_MAX, on_error=self._fail
        )

    def start(self) -> None:
        """Starts the thread that asks."""
        self._worker.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the thread."""
        self._worker.stop(drain=False, timeout_s=timeout_s)

    def ask(self, name: str) -> None:
        """Compares tables with a node soon, or not at all when much is waiting."""
        self._worker.try_submit(name)

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers by request type."""
        return {COMPARE: self._compare, SWAP: self._swap}

    def _exchange_with(self, name: str) -> None:
        client = self._make_client()
        try:
            self._exchange(client, name)
        except RainStormError as error:
            # The detectors find out whether it lives; the next time is near.
            logger.debug("exchange_failed partner=%s error=%s", name, error)
        finally:
            client.close()

    def _fail(self, error: Exception) -> bool:
        self._on_crash(error)
        return False

    def _exchange(self, client: Client, name: str) -> None:
        roster, target = self._roster(), self._target(name)
        answer = client.call(target, COMPARE, {"digest": roster.table.digest}, timeout_s=TIMEOUT_S)
        self.compared += 1
        theirs = answer.fields.get("digests")
        if theirs is None:
            return
        parts = exchange.differing(exchange.digests(roster.table), theirs)
        mine = exchange.pack(exchange.records(roster, parts, name))
        found = client.call(target, SWAP, {"parts": parts}, mine, timeout_s=TIMEOUT_S)
        self.swapped += 1
        self._post(TableReceived(name, exchange.unpack(found.payload)))

    def _compare(self, request: Request) -> Reply:
        table = self._roster().table
        same = request.fields.get("digest") == table.digest
        return Reply({} if same else {"digests": exchange.digests(table)})

    def _swap(self, request: Request) -> Reply:
        parts = request.fields.get("parts")
        if not isinstance(parts, list) or not all(isinstance(part, int) for part in parts):
            raise UsageError("parts of a table are numbers", hint="run the same release on every node")
        received = exchange.unpack(request.payload)
        mine = exchange.records(self._roster(), parts, request.peer)
        self._post(TableReceived(request.peer, received))
        return Reply(payload=exchange.pack(mine))
