"""Real agents of a small cluster as processes, with their own addresses, keys and folders.

The folder's path is short, because the path of a Unix socket may have at most 107 bytes.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from agent.common.config import TlsConfig
from agent.wire import auth
from agent.wire.authority import Authority
from agent.wire.client import Address, Client
from tests.addresses import MEMBERSHIP_PORT, own_addresses
from tests.support import PATIENCE_S, REPOSITORY, wait_until


class Agents:
    """A cluster of agent processes of one service."""

    def __init__(
        self, names: Sequence[str], *, voters: int, service: str = "membership", **settings: Any
    ) -> None:
        self.names = list(names)
        self.service = service
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_starts: dict[str, int] = {}
        self.folder = Path(tempfile.mkdtemp(prefix="rs-"))
        mine = own_addresses()
        self.addresses = dict(zip(self.names, mine, strict=False))
        self.unused_address = mine[-1]
        self.port = MEMBERSHIP_PORT
        self._settings = settings
        self._voters = self.names[:voters]
        self._make_files()
        self.client = self._new_client()

    def start(self, *names: str) -> None:
        """Starts agents and returns when they are ready."""
        chosen = names or tuple(self.names)
        for name in chosen:
            with open(self.log_path(name), "ab") as log:
                self._log_starts[name] = log.tell()
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", "agent", self.service, "--config", str(self.config_path(name))],
                    stderr=log,
                    stdout=log,
                    cwd=REPOSITORY,
                )
        for name in chosen:
            wait_until(partial(self._is_ready, name), PATIENCE_S, f"{name} is ready")

    def kill(self, name: str) -> None:
        """Kills an agent with SIGKILL."""
        process = self.processes.pop(name)
        process.kill()
        process.wait(PATIENCE_S)

    def stop(self) -> None:
        """Ends the agents that still run and removes the folder."""
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)
        self.client.close()
        shutil.rmtree(self.folder)

    def hang_up(self) -> None:
        """Closes the operator's connections; the next request opens another one."""
        self.client.close()
        self.client = self._new_client()

    def _new_client(self) -> Client:
        return Client(auth.client_context(TlsConfig(**self._tls("operator"))))

    def address(self, name: str) -> Address:
        """Returns where an agent answers requests."""
        return Address(self.addresses[name], self.port, name)

    def config_path(self, name: str) -> Path:
        """Returns the path of a node's configuration."""
        return self.folder / f"{name}.yaml"

    def log_path(self, name: str) -> Path:
        """Returns the path of an agent's log."""
        return self.folder / f"{name}.log"

    def data_dir(self, name: str) -> Path:
        """Returns the data folder of a node."""
        return self.folder / name

    def logs(self) -> str:
        """Returns the logs of all agents, for the message of a failed test."""
        started = [name for name in self.names if self.log_path(name).exists()]
        return "\n".join(f"--- {name}\n{self.log_path(name).read_text()[-4000:]}" for name in started)

    def __enter__(self) -> Agents:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            print(self.logs())
        self.stop()

    def _is_ready(self, name: str) -> bool:
        status = self.processes[name].poll()
        assert status is None, f"{name} ended with {status}:\n{self.log_path(name).read_text()}"
        said = self.log_path(name).read_bytes()[self._log_starts[name] :]
        return f"ready service={self.service} node={name}\n".encode() in said

    def _tls(self, name: str) -> dict[str, str]:
        keys = self.folder / "keys"
        return {
            "ca": str(keys / "ca.pem"),
            "certificate": str(keys / f"{name}.pem"),
            "key": str(keys / f"{name}.key"),
        }

    def _make_files(self) -> None:
        authority = Authority(self.folder / "keys")
        authority.create("test")
        gossip_key = self.folder / "gossip.key"
        descriptor = os.open(gossip_key, os.O_WRONLY | os.O_CREAT, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))
        peers = [
            {"name": name, "address": address, "membership_port": self.port}
            for name, address in self.addresses.items()
        ]
        for name in [*self.names, "operator"]:
            authority.issue(name, self.folder / "keys")
        for name in self.names:
            config = {
                "cluster": "test",
                "name": name,
                "data_dir": str(self.data_dir(name)),
                "tls": self._tls(name),
                "gossip_key": str(gossip_key),
                "peers": peers,
                "voters": self._voters,
                "introducers": self.names[:2],
                **self._settings,
            }
            self.config_path(name).write_text(json.dumps(config))
