"""The operator's connections to a cluster: mutual TLS with the operator's certificate, to whichever node
answers, directly or through SSH (``ops.cluster.route``).

Any node serves any request, so a command needs one live agent of the right kind. ``gateway`` pings the nodes
in the order of the inventory, starting the next ping when one fails or takes more than a moment, and uses the
first node that answers. So any number of dead or stalled nodes cost a command one short time-out in all.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from agent.common.config import PeerConfig
from agent.common.errors import (
    HostKeyChanged,
    HostKeyUnknown,
    NotRunning,
    RainStormError,
    SshRefused,
    SshUnreachable,
    Unreachable,
    UsageError,
)
from agent.hydfs.client import HydfsClient
from agent.logs.client import LogsClient
from agent.membership.client import MembershipClient
from agent.rainstorm.client import RainstormClient
from agent.wire.auth import client_context
from agent.wire.client import Address, Client, dial_from, dial_tcp
from agent.wire.messages import Ping
from ops.cluster.inventory import Inventory
from ops.cluster.route import Route
from ops.cluster.ssh import Ssh

PING_THREADS_MAX = 32
# A live agent nearby answers within a few milliseconds; opening an SSH session takes some hundred.
STAGGER_S = {"direct": 0.1, "auto": 0.5, "ssh": 0.5}
PATIENT_PING_S = 3.0
SSH_CODES = (SshRefused, SshUnreachable, HostKeyUnknown, HostKeyChanged)
LOCAL_OPERATOR_ADDRESS = "127.255.255.254"


class Connections:
    """One operator's connections to one cluster; close it after use."""

    def __init__(self, inventory: Inventory) -> None:
        """Prepares to connect.

        Raises:
            NotRunning: the cluster was never deployed from here.
        """
        if not inventory.deployed:
            raise NotRunning(
                f"the cluster {inventory.cluster!r} was never deployed from here: "
                f"there is no {inventory.tls.certificate}",
                hint=f"ansible-playbook deploy.yml -i {inventory.path}"
                if inventory.logins
                else "fab local.up --nodes 5",
            )
        self.inventory = inventory
        # In a local cluster the source address identifies a node, so the operator uses one that no node has.
        direct = dial_from(LOCAL_OPERATOR_ADDRESS) if inventory.local_folder else dial_tcp
        self._route = Route(inventory.via, inventory.logins, direct)
        self.client = Client(
            client_context(inventory.tls),
            dial=self._route.dial,
            connect_timeout_s=self._route.connect_timeout_s,
        )
        self._gateways: dict[str, str] = {}
        self._pools: list[ThreadPoolExecutor] = []

    @property
    def ssh(self) -> Ssh:
        """Returns the SSH sessions to the machines.

        Raises:
            UsageError: the cluster is local, so there is nothing to log in to.
        """
        if not self.inventory.logins:
            raise UsageError(
                f"the cluster {self.inventory.cluster!r} runs on this machine and has no SSH",
                hint="name the inventory of a deployed cluster: --inventory FILE",
            )
        return self._route.ssh

    def close(self) -> None:
        """Closes all connections."""
        self.client.close()
        self._route.close()
        for pool in self._pools:
            pool.shutdown()

    def address(self, node: str, service: str) -> Address:
        """Returns where an agent listens."""
        peer = self.inventory.node(node)
        return Address(peer.address, port(peer, service), peer.name)

    def answers(self, node: str, service: str) -> bool:
        """Tells whether an agent answers a ping right now."""
        return self.ping(node, service) is None

    def ping(self, node: str, service: str, timeout_s: float = 0.0) -> RainStormError | None:
        """Returns why an agent does not answer a ping now (or within ``timeout_s``), or None if it does."""
        address = self.address(node, service)
        try:
            self._route.open(address)
            self.client.ask(address, Ping(), timeout_s=timeout_s or self._route.ping_timeout_s)
        except RainStormError as error:
            return error
        except OSError as error:
            return Unreachable(f"cannot connect to {address}: {error}")
        return None

    def gateway(self, service: str) -> str:
        """Returns the name of a node whose agent answers; the choice is kept for this object's life.

        Raises:
            Unreachable: no node answers.
            SshRefused, SshUnreachable, HostKeyUnknown, HostKeyChanged: SSH fails for all of them.
        """
        if service not in self._gateways:
            failures: dict[str, RainStormError] = {}
            node = self._first_answering(service, failures)
            if not node and not all(isinstance(each, SSH_CODES) for each in failures.values()):
                # A second, more patient attempt before an overloaded cluster is called unreachable.
                node = self._first_answering(service, failures, PATIENT_PING_S)
            if not node:
                raise nothing_answers(
                    failures,
                    f"no {service} agent of the cluster {self.inventory.cluster!r} answers "
                    f"(asked {', '.join(self.inventory.names())}; inventory {self.inventory.path})",
                    hint="is it up? fab status   (start a local one: fab local.up)",
                )
            self._gateways[service] = node
        return self._gateways[service]

    def _first_answering(
        self, service: str, failures: dict[str, RainStormError], timeout_s: float = 0.0
    ) -> str:
        """Returns the node that answers first, or '' if none does; fills ``failures``."""
        names = self.inventory.names()
        pool = ThreadPoolExecutor(min(len(names), PING_THREADS_MAX), thread_name_prefix=f"ping-{service}")
        self._pools.append(pool)
        pings: dict[Future[RainStormError | None], str] = {}
        waiting = list(names)
        try:
            while waiting or pings:
                if waiting:
                    name = waiting.pop(0)
                    pings[pool.submit(self.ping, name, service, timeout_s)] = name
                done, _ = wait(
                    pings, STAGGER_S[self.inventory.via] if waiting else None, return_when=FIRST_COMPLETED
                )
                for ping in sorted(done, key=lambda each: names.index(pings[each])):
                    failure, name = ping.result(), pings.pop(ping)
                    if failure is None:
                        return name
                    failures[name] = failure
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
        return ""

    def prefer(self, node: str, services: Sequence[str] = ("membership", "hydfs", "rainstorm")) -> None:
        """Makes ``node`` the gateway for some services."""
        for service in services:
            self._gateways[service] = node

    def membership(self, node: str = "", *, timeout_s: float = 5.0) -> MembershipClient:
        """Returns a client of the membership agent of ``node``, or of any node that answers."""
        address = self.address(node or self.gateway("membership"), "membership")
        return MembershipClient(self.client, address, timeout_s=timeout_s)

    def hydfs(self, node: str = "") -> HydfsClient:
        """Returns a client of the store agent of ``node``, or of any node that answers."""
        return HydfsClient(self.client, self.address(node or self.gateway("hydfs"), "hydfs"))

    def logs(self, node: str) -> LogsClient:
        """Returns a client of the logs agent of ``node``."""
        return LogsClient(self.client, self.address(node, "logs"))

    def rainstorm(self) -> RainstormClient:
        """Returns a client of the stream engine that first asks a node that answers, then the others."""
        first = self.gateway("rainstorm")
        names = [first, *(name for name in self.inventory.names() if name != first)]
        return RainstormClient(self.client, [self.address(name, "rainstorm") for name in names])


def port(peer: PeerConfig, service: str) -> int:
    """Returns the port of a service of a node."""
    return int(getattr(peer, f"{service}_port"))


def nothing_answers(failures: Mapping[str, RainStormError], message: str, *, hint: str) -> RainStormError:
    """Returns the error for a cluster in which nothing answers: that of SSH, if SSH is the reason."""
    by_ssh = [error for error in failures.values() if isinstance(error, SSH_CODES)]
    if not by_ssh or len(by_ssh) < len(failures):
        return Unreachable(message, hint=hint)
    first, others = by_ssh[0], len(failures) - 1
    more = f"; SSH also fails for {others} more of {len(failures)} nodes" if others else ""
    return type(first)(f"{first.message}{more}", hint=first.hint)


@contextlib.contextmanager
def connected(inventory: Inventory) -> Iterator[Connections]:
    """Yields connections to a cluster and closes them afterwards."""
    connections = Connections(inventory)
    try:
        yield connections
    finally:
        connections.close()
