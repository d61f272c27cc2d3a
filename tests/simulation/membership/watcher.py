"""A client that follows the events of one node with long polls, over TLS, from a separate machine.

The numbers of events must be consecutive, except for gaps that the node reports and for a restart of the
node; and an event must wake the followers that wait for it.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.membership.client import Events, MembershipClient
from agent.membership.messages.events import ClusterEvent, MemberChanged, UnknownEvent
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR

if TYPE_CHECKING:
    from tests.simulation.membership.cluster import MembershipCluster

# A request to a node that lost power ends by its deadline alone, two seconds later: before the last checks.
POLL_S = 1.5
RETRY_S = 0.3


class Watcher:
    """Follows the events of a node as long as the simulation lasts."""

    def __init__(self, cluster: MembershipCluster, name: str) -> None:
        self.events: list[ClusterEvent | UnknownEvent] = []
        self._history = cluster.history
        node = cluster.nodes[name]
        self._target = Address(node.address, node.config.me.membership_port, name)
        self._process = cluster.client("watcher")
        self._process.start("watch", self._watch)

    def saw(self, kind: str, name: str, since: int) -> bool:
        """Tells whether there is an event about a node after the first ``since`` ones."""
        return any(
            isinstance(event, MemberChanged) and (event.kind, event.name) == (kind, name)
            for event in self.events[since:]
        )

    def end(self) -> None:
        """Kills the client."""
        self._process.scheduler.kill(self._process)

    def _watch(self) -> None:
        last = 0
        client = MembershipClient(Client(auth.client_context(OPERATOR)), self._target)
        while True:
            with contextlib.suppress(RainStormError):
                last = self._take(client.events(last, POLL_S), last)
                continue
            threads.sleep(RETRY_S)

    def _take(self, found: Events, last: int) -> int:
        numbers = [event.sequence for event in found.events]
        if numbers:
            gap = numbers[0] != last + 1 and not found.missed
            self._history.require(
                not gap and numbers == list(range(numbers[0], numbers[-1] + 1)),
                f"M12: after event {last} of {self._target.node} came {numbers}",
            )
        self.events += found.events
        return found.last
