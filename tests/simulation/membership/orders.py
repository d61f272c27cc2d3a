"""Operators, each of which gives one order that must be answered by its deadline."""

from __future__ import annotations

import functools
from collections.abc import Callable

from agent.common.errors import RainStormError
from agent.common.shell import threads
from agent.membership.client import MembershipClient
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.membership.cluster import MembershipCluster

TIMEOUT_S = 5.0
# The longest order: connecting, and two changes of the register of three seconds each.
DEADLINE_S = 12.0
# The wait of a long poll.
NEWS_S = 45.0
# The key that a rotation begins to use.
KEY = "11" * 32
# The key that the other nodes install.
INSTALLED_S = 1.0
ATTEMPTS = 3

Act = Callable[[MembershipClient], object]


class Order:
    """A request of an operator, in a separate process."""

    def __init__(self, cluster: MembershipCluster, name: str, act: Act) -> None:
        self._cluster = cluster
        self._node = cluster.nodes[name]
        self._act = act
        self.process = cluster.client("operator")
        self.outcome = ""
        self.process.start("order", self._run)
        cluster.scheduler.after(NEWS_S, self._check)

    @property
    def is_over(self) -> bool:
        """Tells whether it has an answer, or no longer waits for one."""
        return bool(self.outcome) or self.process.dead

    def abort(self) -> None:
        """Kills the operator's process."""
        self._cluster.scheduler.kill(self.process)

    def _run(self) -> None:
        began = threads.monotonic()
        client = Client(auth.client_context(OPERATOR))
        target = Address(self._node.address, self._node.config.me.membership_port, self._node.name)
        try:
            self._act(MembershipClient(client, target, timeout_s=TIMEOUT_S))
            self.outcome = "carried out"
        except RainStormError as error:
            self.outcome = f"refused: {error.code}"
        finally:
            client.close()
        took_s = threads.monotonic() - began
        history = self._cluster.history
        history.hits[f"order {self.outcome}"] += 1
        history.require(took_s <= DEADLINE_S, f"M9: {self._node.name} answered an order after {took_s:.1f} s")

    def _check(self) -> None:
        self._cluster.history.require(self.is_over, f"M9: an order to {self._node.name} has no answer")


def give(cluster: MembershipCluster, name: str, act: Act) -> Order:
    """Gives an order, which may succeed or fail under the faults of the schedule."""
    return Order(cluster, name, act)


def carry_out(cluster: MembershipCluster, name: str, act: Act) -> None:
    """Gives an order to a healthy cluster, again until it is carried out.

    Raises:
        AssertionError: it is not carried out.
    """
    outcome = ""
    for _ in range(ATTEMPTS):
        order = Order(cluster, name, act)
        cluster.wait_for(functools.partial(_is_over, order), NEWS_S, "M9: an order has its answer")
        outcome = order.outcome
        if outcome == "carried out":
            return
    raise cluster.broken([f"M9: {name} does not carry out an order in a healed cluster: {outcome}"])


def _is_over(order: Order) -> bool:
    return order.is_over


def rotate(client: MembershipClient) -> None:
    """Installs a second key on a node and makes the node seal with it; nodes open with both."""
    before = client.keys("list")
    fresh = [mark for mark in client.keys("install", key=KEY) if mark not in before]
    if fresh:
        threads.sleep(INSTALLED_S)
        client.keys("use", fingerprint=fresh[0])
