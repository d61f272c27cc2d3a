"""Store agents of a small cluster in the test's own process: real sockets, real disks, a settable view."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.common.config import HydfsConfig, NodeConfig, PeerConfig, TlsConfig
from agent.hydfs.client import HydfsClient
from agent.hydfs.service import Service
from agent.hydfs.shell.view import all_up
from agent.membership.follower import HeldView
from agent.membership.view import DOWN, UP
from agent.wire import auth
from agent.wire.authority import Authority
from agent.wire.client import Address, Client
from tests.addresses import HYDFS_PORT, own_addresses
from tests.support import PATIENCE_S, wait_until


class SettableView(HeldView):
    """A view that the test sets, with the stores that gossip says are down on nodes that are up."""

    def __init__(self, nodes: Sequence[str]) -> None:
        super().__init__(all_up(nodes))
        self.down: set[str] = set()

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` whose store is down."""
        return [node for node in nodes if node in self.down]


class Stores:
    """``count`` store agents, n1, n2, ...; all vote. ``settings`` go into their configuration."""

    def __init__(self, folder: Path, count: int = 3, **settings: Any) -> None:
        self.names = [f"n{index + 1}" for index in range(count)]
        self.addresses = dict(zip(self.names, own_addresses(), strict=False))
        self.port = HYDFS_PORT
        self.folder = folder
        self.crashes: list[BaseException] = []
        self.services: dict[str, Service] = {}
        self.views = {name: SettableView(self.names) for name in self.names}
        # The path of a Unix socket may have at most 107 bytes.
        self._sockets = Path(tempfile.mkdtemp(prefix="rs-"))
        self._settings = {"block_size_bytes": 64 * 1024, "reserve_bytes": 0, "ack_timeout_s": 3.0, **settings}
        authority = Authority(folder / "keys")
        authority.create("test")
        for name in [*self.names, "operator"]:
            authority.issue(name, folder / "keys")
        self.client = Client(auth.client_context(self._tls("operator")))
        self._local = Client(None)

    def start(self, *names: str) -> None:
        """Starts agents."""
        for name in names or self.names:
            service = Service(self.config(name), self.crashes.append, self.views[name])
            self.services[name] = service
            service.start()

    def settle(self) -> None:
        """Waits until no agent takes its disk for a new one any more: until then repair seals open blocks."""
        wait_until(
            lambda: all(self.hydfs(name).health().checked for name in self.services),
            PATIENCE_S,
            "all disks are settled",
        )

    def stop(self, *names: str) -> None:
        """Stops agents."""
        for name in names or list(self.services):
            self.services.pop(name).stop()

    def up(self, *names: str) -> None:
        """Gives all agents a newer view in which exactly these nodes are up."""
        for view in self.views.values():
            known = view.current()
            nodes = {
                name: replace(node, state=UP if name in names else DOWN) for name, node in known.nodes.items()
            }
            view.set(replace(known, version=known.version + 1, nodes=nodes))

    def hydfs(self, name: str = "n1") -> HydfsClient:
        """Returns an operator's client of an agent."""
        return HydfsClient(self.client, Address(self.addresses[name], self.port, name))

    def local(self, name: str = "n1") -> HydfsClient:
        """Returns a client of an agent on its own machine."""
        return HydfsClient(self._local, self.config(name).socket_path("hydfs"))

    def config(self, name: str) -> NodeConfig:
        """Returns the configuration of a node."""
        peers = tuple(
            PeerConfig(name=each, address=address, membership_port=0, hydfs_port=self.port)
            for each, address in self.addresses.items()
        )
        return NodeConfig(
            cluster="test",
            name=name,
            data_dir=str(self.folder / name),
            tls=self._tls(name),
            gossip_key="",
            peers=peers,
            voters=tuple(self.names),
            introducers=(),
            run_dir=str(self._sockets / name),
            hydfs=HydfsConfig(**self._settings),
        )

    def __enter__(self) -> Stores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.client.close()
        self._local.close()
        shutil.rmtree(self._sockets)
        assert not self.crashes

    def _tls(self, name: str) -> TlsConfig:
        keys = self.folder / "keys"
        return TlsConfig(str(keys / "ca.pem"), str(keys / f"{name}.pem"), str(keys / f"{name}.key"))
