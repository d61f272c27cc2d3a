"""Membership agents of a small cluster as threads of the test: real sockets, real files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from agent.common.config import MembershipConfig, NodeConfig, PeerConfig, TlsConfig
from agent.membership.client import MembershipClient
from agent.membership.service import Service
from agent.wire import auth
from agent.wire.authority import Authority
from agent.wire.client import Address, Client
from tests.addresses import MEMBERSHIP_PORT, own_addresses
from tests.support import wait_until

FORM_TIMEOUT_S = 20.0


class Group:
    """The agents, by name, and clients with the certificates of an operator and of each node."""

    def __init__(self, folder: Path, names: Sequence[str], *, voters: int = 1) -> None:
        self.folder = folder
        self.names = list(names)
        self.crashes: list[BaseException] = []
        self.services: dict[str, Service] = {}
        self.addresses = dict(zip(self.names, own_addresses(), strict=False))
        self.port = MEMBERSHIP_PORT
        self._voters = tuple(names[:voters])
        self._authority = Authority(folder / "pki")
        self._authority.create("test")
        (folder / "gossip.key").write_text(os.urandom(32).hex())
        self.client = Client(auth.client_context(self.tls("operator")))

    def tls(self, name: str) -> TlsConfig:
        """Returns the certificate of a node or of the operator; issues it if there is none."""
        folder = self.folder / "pki"
        if not (folder / f"{name}.pem").exists():
            self._authority.issue(name, folder)
        return TlsConfig(*[str(folder / part) for part in ("ca.pem", f"{name}.pem", f"{name}.key")])

    def config(self, name: str) -> NodeConfig:
        """Returns the configuration of a node."""
        return NodeConfig(
            cluster="test",
            name=name,
            data_dir=str(self.folder / name),
            tls=self.tls(name),
            gossip_key=str(self.folder / "gossip.key"),
            peers=tuple([PeerConfig(each, self.addresses[each], self.port) for each in self.names]),
            voters=self._voters,
            introducers=self._voters,
            membership=MembershipConfig(),
        )

    def start(self, *names: str) -> None:
        """Starts agents and returns when all of the group have them in their views."""
        for name in names or self.names:
            self.services[name] = Service(self.config(name), self.crashes.append)
            self.services[name].start()
        wait_until(self.is_formed, FORM_TIMEOUT_S, "the group forms")

    def is_formed(self) -> bool:
        """Tells whether all running agents know the same view, in which exactly these agents are up."""
        views = [service.view for service in self.services.values()]
        return all(view == views[0] and view.up_names() == sorted(self.services) for view in views)

    def stop(self, *names: str) -> None:
        """Ends the named agents, or all of them and the client if none is named."""
        for name in names or list(self.services):
            self.services.pop(name).stop()
        if not names:
            self.client.close()

    def address(self, name: str) -> Address:
        """Returns where an agent answers over TLS."""
        return Address(self.addresses[name], self.port, name)

    def ask(self, name: str, *, by: Client | None = None) -> MembershipClient:
        """Returns a client of an agent, with the operator's certificate unless another one is given."""
        return MembershipClient(by or self.client, self.address(name))
