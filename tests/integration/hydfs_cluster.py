"""Real store agents (and optionally membership agents) of a small cluster as processes on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from agent.hydfs.client import FileStat, HydfsClient
from agent.wire.client import Address, Target
from tests.addresses import HYDFS_PORT
from tests.integration.agents import Agents
from tests.support import PATIENCE_S, REPOSITORY, wait_until


class HydfsCluster(Agents):
    """``Agents`` of the store; each node's membership agent runs beside it when ``membership`` is true."""

    def __init__(self, nodes: int = 5, *, membership: bool = False, **settings: Any) -> None:
        names = [f"vm{index + 1}" for index in range(nodes)]
        self.membership: dict[str, subprocess.Popen[bytes]] = {}
        self._with_membership = membership
        super().__init__(names, voters=nodes, service="hydfs", **settings)

    def __enter__(self) -> HydfsCluster:
        return self

    def start(self, *names: str) -> None:
        """Starts the agents and returns when they are ready."""
        if self._with_membership:
            # A store that finds no membership agent retries only after a moment.
            chosen = names or tuple(self.names)
            for name in chosen:
                self._start_membership(name)
            for name in chosen:
                wait_until(self._membership_socket(name).exists, PATIENCE_S, f"membership of {name} listens")
        super().start(*names)

    def kill(self, name: str) -> None:
        """Kills all agents of a node with SIGKILL."""
        if self._with_membership:
            process = self.membership.pop(name)
            process.kill()
            process.wait(PATIENCE_S)
        super().kill(name)

    def stop(self) -> None:
        """Ends the agents that still run."""
        for process in self.membership.values():
            process.kill()
            process.wait(PATIENCE_S)
        super().stop()

    def hydfs(self, name: str, *, local: bool = False, socket: str = "hydfs") -> HydfsClient:
        """Returns a client of a node's agent, over TLS or over a Unix socket of the node."""
        path = str(self.data_dir(name) / "run" / f"{socket}.sock")
        target: Target = path if local else Address(self.addresses[name], self.store_port, name)
        return HydfsClient(self.client, target)

    def check_copies(self, stat: FileStat, data: bytes) -> None:
        """Checks that every replica in the table has exactly the block's bytes on its disk."""
        for block in stat.blocks:
            wanted = data[block.offset : block.offset + block.length]
            for node in block.replicas:
                path = self.data_dir(node) / "hydfs" / "blocks" / f"{stat.file_id}.{block.number}"
                assert path.read_bytes()[: block.length] == wanted, f"block {block.number} on {node}"

    def _start_membership(self, name: str) -> None:
        self._membership_socket(name).unlink(missing_ok=True)
        with open(self.folder / f"{name}-membership.log", "ab") as log:
            self.membership[name] = subprocess.Popen(
                [sys.executable, "-m", "agent", "membership", "--config", str(self.config_path(name))],
                stderr=log,
                stdout=log,
                cwd=REPOSITORY,
            )

    def _membership_socket(self, name: str) -> Path:
        return self.data_dir(name) / "run" / "membership.sock"

    def _make_files(self) -> None:
        super()._make_files()
        self.store_port = HYDFS_PORT
        for name in self.names:
            config = json.loads(self.config_path(name).read_text())
            for peer in config["peers"]:
                peer["hydfs_port"] = self.store_port
            self.config_path(name).write_text(json.dumps(config))
