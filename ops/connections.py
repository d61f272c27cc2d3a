"""The operator's connections to a cluster: mutual TLS with the operator's certificate, to whichever node
answers.

Any node serves any request, so a command needs one living agent of the right kind. ``gateway`` pings all
nodes at once and takes the first in the order of the inventory among those that answer, so that dead or hung
nodes together cost one short time-out and not the command.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from agent.common.config import PeerConfig
from agent.common.errors import RainStormError, Unreachable
from agent.hydfs.client import HydfsClient
from agent.logs.client import LogsClient
from agent.membership.client import MembershipClient
from agent.rainstorm.client import RainstormClient
from agent.wire.auth import client_context
from agent.wire.client import Address, Client
from ops.inventory import Inventory

PING_TIMEOUT_S = 0.5
PING_THREADS_MAX = 32


class Connections:
    """One operator's way into one cluster; close it after use."""

    def __init__(self, inventory: Inventory) -> None:
        self.inventory = inventory
        self.client = Client(client_context(inventory.tls))
        self._gateways: dict[str, str] = {}

    def close(self) -> None:
        """Closes all connections."""
        self.client.close()

    def address(self, node: str, service: str) -> Address:
        """Returns where an agent listens."""
        peer = self.inventory.node(node)
        return Address(peer.address, port(peer, service), peer.name)

    def answers(self, node: str, service: str) -> bool:
        """Tells whether an agent answers a ping right now."""
        try:
            self.client.call(self.address(node, service), "ping", timeout_s=PING_TIMEOUT_S)
        except RainStormError:
            return False
        return True

    def gateway(self, service: str) -> str:
        """Returns the name of a node whose agent answers; the choice is kept for this object's life.

        Raises:
            Unreachable: no node answers.
        """
        if service not in self._gateways:
            names = self.inventory.names()
            with ThreadPoolExecutor(min(len(names), PING_THREADS_MAX), thread_name_prefix="ping") as pool:
                answers = list(pool.map(lambda name: self.answers(name, service), names))
            answering = [name for name, answered in zip(names, answers, strict=True) if answered]
            if not answering:
                raise Unreachable(
                    f"no {service} agent of the cluster {self.inventory.cluster!r} answers "
                    f"(asked {', '.join(names)}; inventory {self.inventory.path})",
                    hint="is it up? fab status   (start a local one: fab local.up)",
                )
            self._gateways[service] = answering[0]
        return self._gateways[service]

    def prefer(self, node: str, services: Sequence[str] = ("membership", "hydfs", "rainstorm")) -> None:
        """Makes ``node`` the gateway for some services."""
        for service in services:
            self._gateways[service] = node

    def membership(self, node: str = "", *, timeout_s: float = 5.0) -> MembershipClient:
        """Returns a client of the membership agent of ``node``, or of any that answers."""
        address = self.address(node or self.gateway("membership"), "membership")
        return MembershipClient(self.client, address, timeout_s=timeout_s)

    def hydfs(self, node: str = "") -> HydfsClient:
        """Returns a client of the store agent of ``node``, or of any that answers."""
        return HydfsClient(self.client, self.address(node or self.gateway("hydfs"), "hydfs"))

    def logs(self, node: str) -> LogsClient:
        """Returns a client of the logs agent of ``node``."""
        return LogsClient(self.client, self.address(node, "logs"))

    def rainstorm(self) -> RainstormClient:
        """Returns a client of the stream engine that asks a node that answers first, then the others."""
        first = self.gateway("rainstorm")
        names = [first, *(name for name in self.inventory.names() if name != first)]
        return RainstormClient(self.client, [self.address(name, "rainstorm") for name in names])


def port(peer: PeerConfig, service: str) -> int:
    """Returns the port of a service of a node."""
    return int(getattr(peer, f"{service}_port"))


@contextlib.contextmanager
def connected(inventory: Inventory) -> Iterator[Connections]:
    """Yields connections to a cluster and closes them afterwards."""
    connections = Connections(inventory)
    try:
        yield connections
    finally:
        connections.close()
