"""The exchange of tables over TCP: the thread that asks, and the endpoints (rules: ``core.dissemination``).

Each exchange has its own connection, which is closed afterwards: partners are chosen at random, and kept
connections would in time join every node to every other node, with a thread for each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.common.errors import RainStormError
from agent.common.message import Done
from agent.common.shell.worker import Worker
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.dissemination import exchange
from agent.membership.core.events import Event, TableReceived
from agent.membership.messages.agents import CompareReply, CompareTables, SwapRecords
from agent.wire.client import Client, Target
from agent.wire.endpoint import Answer, Call, Endpoint, by_kind, endpoint

logger = logging.getLogger("agent.membership.shell.exchange")

# The two requests take two round trips; an exchange with a slower partner waits for the next time.
TIMEOUT_S = 1.0
# The core asks at most once a second; further waiting requests would be stale by their turn.
WAITING_MAX = 4


class AntiEntropy:
    """Compares this node's table with those of others."""

    def __init__(
        self,
        make_client: Callable[[], Client],
        target: Callable[[str], Target],
        roster: Callable[[], Roster],
        post: Callable[[Event], object],
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
        """Queues a comparison of tables with a node; drops it when too many requests wait."""
        self._worker.try_submit(name)

    def endpoints(self) -> dict[str, Endpoint]:
        """Returns the endpoints of the exchange of tables."""
        return by_kind(endpoint(CompareTables, self._compare), endpoint(SwapRecords, self._swap))

    def _exchange_with(self, name: str) -> None:
        client = self._make_client()
        try:
            self._exchange(client, name)
        except RainStormError as error:
            # The detectors find out whether it is alive; the next exchange comes soon.
            logger.debug("exchange_failed partner=%s error=%s", name, error)
        finally:
            client.close()

    def _fail(self, error: Exception) -> bool:
        self._on_crash(error)
        return False

    def _exchange(self, client: Client, name: str) -> None:
        roster, target = self._roster(), self._target(name)
        theirs = client.ask(target, CompareTables(roster.table.digest), timeout_s=TIMEOUT_S).message.digests
        self.compared += 1
        if theirs is None:
            return
        parts = exchange.differing(exchange.digests(roster.table), theirs)
        mine = exchange.pack(exchange.records(roster, parts, name))
        found = client.ask(target, SwapRecords(tuple(parts)), mine, timeout_s=TIMEOUT_S)
        self.swapped += 1
        self._post(TableReceived(name, exchange.unpack(found.payload)))

    def _compare(self, request: CompareTables, call: Call) -> CompareReply:
        table = self._roster().table
        return CompareReply(None if request.digest == table.digest else exchange.digests(table))

    def _swap(self, request: SwapRecords, call: Call) -> Answer[Done]:
        received = exchange.unpack(call.payload)
        mine = exchange.records(self._roster(), request.parts, call.peer)
        self._post(TableReceived(call.peer, received))
        return Answer(Done(), exchange.pack(mine))
