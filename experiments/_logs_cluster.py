"""A cluster of logs agents only, on loopback addresses and in its own temporary folder.

The other agents of a node are left out: a search does not need them, and a quiet machine gives better
measurements.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import psutil

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded
from agent.common.shell import clock
from experiments import _cluster
from ops.cluster import inventory
from ops.cluster.connections import connected
from ops.cluster.inventory import Inventory
from ops.local.layout import Layout
from ops.machine import processes

READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 3.0
POLL_INTERVAL_S = 0.05
ADDRESS_SLOT = 3
# Nothing is collected, because there is no HyDFS, and collecting would disturb the measurement.
SETTINGS = {"logs": {"collect": False}}


class LogsCluster:
    """Starts N logs agents and removes them at the end."""

    def __init__(self, nodes: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="rs-exp-"))
        address = _cluster.own_address(ADDRESS_SLOT)
        self._layout = Layout(self._folder, self._folder / "inventory", address, SETTINGS)
        self._nodes = nodes
        self._agents: list[psutil.Process] = []
        self.names = [peer.name for peer in self._layout.peers(nodes)]

    def __enter__(self) -> LogsCluster:
        try:
            self._layout.prepare(self._nodes)
            for name in self.names:
                config = str(self._layout.config_path(name))
                command = [sys.executable, "-m", "agent", "logs", "--config", config]
                log = self._layout.log_path(name, "logs")
                self._agents.append(processes.start(command, self._folder, name, log, inventory.REPOSITORY))
            self._wait_ready()
        except BaseException:  # even an interrupt must leave nothing running
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops every process and removes the folder."""
        try:
            processes.terminate_all(lambda: processes.marked(self._folder), lambda each: True, STOP_TIMEOUT_S)
        finally:
            for process in self._agents:
                with contextlib.suppress(psutil.Error):
                    process.wait(timeout=0)  # collect the exit status
            shutil.rmtree(self._folder, ignore_errors=True)

    def inventory(self) -> Inventory:
        """Returns the inventory of the cluster."""
        return inventory.load(self._layout.inventory_path)

    def log_folder(self, name: str) -> Path:
        """Returns the folder of a node's logs."""
        return self._layout.node_folder(name) / "logs"

    def _wait_ready(self) -> None:
        deadline = Deadline(clock.monotonic(), READY_TIMEOUT_S)
        with connected(self.inventory()) as connections:
            for name in self.names:
                while not connections.answers(name, "logs"):
                    if deadline.expired(clock.monotonic()):
                        raise DeadlineExceeded(
                            f"the logs agent of {name} is not ready after {READY_TIMEOUT_S:g} s"
                        )
                    _cluster.pause(POLL_INTERVAL_S)
