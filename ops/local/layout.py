"""The files of a local cluster: one folder per node, the authority, the operator's keys, the inventory.

    .local/ca/            the cluster's own certificate authority
    .local/operator/      the operator's certificate, used by fab
    .local/gossip.key     the key ring of the gossip datagrams
    .local/cluster.json   size of the cluster and its agents' process ids with their start times
    .local/vm1/node.yml   the configuration that the four agents of the node read
    .local/vm1/tls, logs, run and the agents' data

Creating them again keeps existing files: certificates and keys are issued once, and data folders are not
touched.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import secrets
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.common.config import NodeConfig, PeerConfig, TlsConfig
from agent.common.errors import ConfigError, Conflict
from ops.cluster import inventory

CLUSTER = "local"
NODES_MAX = 64
INTRODUCERS = 3
# sockaddr_un has room for 108 bytes including the final zero; the longest path is
# <folder>/vm64/run/membership.sock.
SOCKET_PATH_BYTES_MAX = 107


def voter_count(nodes: int) -> int:
    """Returns how many voters a cluster of this size has: 5 from five nodes on, 3 from three, otherwise 1."""
    return 5 if nodes >= 5 else 3 if nodes >= 3 else 1


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of the files of one local cluster."""

    folder: Path
    inventory_path: Path
    first_address: str = "127.0.0.1"
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def state_path(self) -> Path:
        """Returns the path of the state file."""
        return self.folder / "cluster.json"

    def node_folder(self, node: str) -> Path:
        """Returns the data folder of a node."""
        return self.folder / node

    def config_path(self, node: str) -> Path:
        """Returns the path of a node's configuration."""
        return self.folder / node / "node.yml"

    def log_path(self, node: str, service: str) -> Path:
        """Returns the path of an agent's log."""
        return self.folder / node / "logs" / f"{service}.log"

    def operator_tls(self) -> TlsConfig:
        """Returns the operator's TLS files."""
        return TlsConfig(
            ca=str(self.folder / "ca" / "ca.pem"),
            certificate=str(self.folder / "operator" / "operator.pem"),
            key=str(self.folder / "operator" / "operator.key"),
        )

    def peers(self, nodes: int) -> tuple[PeerConfig, ...]:
        """Returns the nodes vm1 ... vmN on consecutive loopback addresses."""
        try:
            first = ipaddress.IPv4Address(self.first_address)
        except ValueError:
            raise ConfigError(
                f"{self.first_address!r} is not an IPv4 address", hint="a loopback address such as 127.0.0.1"
            ) from None
        return tuple(PeerConfig(name=f"vm{i + 1}", address=str(first + i)) for i in range(nodes))

    def read_state(self) -> dict[str, Any]:
        """Returns the recorded state; empty if there is none, or only half of it after a crash."""
        try:
            state = json.loads(self.state_path.read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return state if isinstance(state, dict) else {}

    def write_state(self, state: dict[str, Any]) -> None:
        """Replaces the recorded state atomically."""
        fresh = self.state_path.with_suffix(".new")
        fresh.write_text(json.dumps({"schema_version": 1, **state}, indent=2) + "\n", "utf-8")
        fresh.replace(self.state_path)

    def check(self, nodes: int, *, keeps_data: bool) -> None:
        """Rejects an impossible size before anything changes.

        Raises:
            ConfigError: the number is out of range or the folder's path is too long for Unix sockets.
            Conflict: the folder contains the data of a cluster with other voters.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise ConfigError(
                f"a local cluster has 1 to {NODES_MAX} nodes, not {nodes}", hint="fab local.up --nodes 5"
            )
        longest = len(str(self.folder / f"vm{nodes}" / "run" / "membership.sock").encode())
        if longest > SOCKET_PATH_BYTES_MAX:
            raise ConfigError(
                f"{self.folder} is too long: a Unix socket in it would have a path of {longest} bytes "
                f"(limit {SOCKET_PATH_BYTES_MAX})",
                hint="move the checkout to a folder with a shorter path",
            )
        before = int(self.read_state().get("nodes", 0))
        if keeps_data and before and (nodes < before or voter_count(nodes) != voter_count(before)):
            raise Conflict(
                f"{self.folder} contains the data of a cluster of {before} nodes with {voter_count(before)} "
                f"voters, which a cluster of {nodes} nodes cannot use",
                hint=f"fab local.up --nodes {before}   (or --fresh to delete the data)",
            )

    def prepare(self, nodes: int) -> None:
        """Creates every file that the agents and the operator need and that does not exist yet."""
        # Imported here, so that commands that need only the layout do not load the X.509 library.
        from agent.wire.authority import Authority, write_private

        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        peers = self.peers(nodes)
        names = [peer.name for peer in peers]
        authority = Authority(self.folder / "ca")
        authority.create(CLUSTER)
        if not (self.folder / "operator" / "operator.pem").exists():
            authority.issue("operator", self.folder / "operator")
        key_path = self.folder / "gossip.key"
        if not key_path.exists():
            write_private(key_path, secrets.token_hex(32).encode() + b"\n")
        for name in names:
            if not (self.node_folder(name) / "tls" / f"{name}.pem").exists():
                authority.issue(name, self.node_folder(name) / "tls")
            self._write_config(name, peers, names, key_path)
        inventory.dump(
            self.inventory_path,
            CLUSTER,
            peers,
            self.operator_tls(),
            self.folder,
            names[: voter_count(nodes)],
        )

    def wipe(self) -> None:
        """Removes the nodes' data, the keys and the recorded state; other files in the folder stay."""
        for path in self.folder.glob("vm*"):
            shutil.rmtree(path, ignore_errors=True)
        for name in ("ca", "operator"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        for path in (self.folder / "gossip.key", self.state_path, self.inventory_path):
            path.unlink(missing_ok=True)

    def _write_config(
        self, name: str, peers: Sequence[PeerConfig], names: Sequence[str], key_path: Path
    ) -> None:
        folder = self.node_folder(name)
        tls = folder / "tls"
        config = NodeConfig(
            cluster=CLUSTER,
            name=name,
            data_dir=str(folder),
            tls=TlsConfig(
                ca=str(self.folder / "ca" / "ca.pem"),
                certificate=str(tls / f"{name}.pem"),
                key=str(tls / f"{name}.key"),
            ),
            gossip_key=str(key_path),
            peers=tuple(peers),
            voters=tuple(names[: voter_count(len(names))]),
            introducers=tuple(names[:INTRODUCERS]),
        )
        plain = dataclasses.asdict(config)
        for section, values in self.overrides.items():
            plain[section] = {**plain[section], **values} if isinstance(values, dict) else values
        self.config_path(name).write_text(json.dumps(plain, indent=2) + "\n", "utf-8")
