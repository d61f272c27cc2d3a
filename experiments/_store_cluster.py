"""The cluster whose stores are measured, with all agents of its nodes: one made for the experiment on this
machine, or the one that an inventory names.

The experiment talks to one node, the gateway, which it never makes fail. On a named cluster nodes fail and
come back as with ``fab fault.crash`` and ``fab fault.start``, whether it is local, a lab or real VMs.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Protocol

from agent.common.errors import Corrupt, DeadlineExceeded, RainStormError
from agent.common.shell import clock
from agent.hydfs.client import FileStat, HydfsClient
from experiments import _cluster
from ops.cluster import inventory
from ops.cluster.connections import Connections
from ops.cluster.inventory import Inventory
from ops.cluster.status import wait_until_settled
from ops.faults.injector import injecting
from ops.local.cluster import LocalCluster
from ops.local.layout import Layout

# A request that takes longer counts as a failed poll, so that it cannot stall the measurement.
LOOK_TIMEOUT_S = 2.0
# The agents start within seconds, and a store checks its copies at least every half minute.
SETTLED_TIMEOUT_S = 120.0
ADDRESS_SLOT = 2
# Collected logs would be files of the store: their repair would delay that of the measured file.
SETTINGS = {"logs": {"collect": False}}


class Machines(Protocol):
    """The means to make a node fail."""

    def crash(self, node: str, /) -> object:
        """Kills all processes of a node."""

    def start(self, node: str, /) -> object:
        """Starts a node that was killed."""


@contextlib.contextmanager
def own_cluster(nodes: int) -> Iterator[StoreCluster]:
    """Yields a local cluster in a temporary folder; nothing of it is left afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="rs-exp-"))
    address = _cluster.own_address(ADDRESS_SLOT)
    layout = Layout(folder / "cluster", folder / "inventory", address, SETTINGS)
    local = LocalCluster(layout)
    try:
        local.up(nodes)
        with StoreCluster(inventory.load(layout.inventory_path), local) as cluster:
            yield cluster
    finally:
        try:
            local.down()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def named_cluster(path: str) -> Iterator[StoreCluster]:
    """Yields the cluster that an inventory names; it keeps running.

    Raises:
        ConfigError: the inventory cannot be used.
    """
    with injecting(path) as injector, StoreCluster(injector.inventory, injector) as cluster:
        yield cluster


@dataclass(frozen=True, slots=True)
class Crash:
    """A node that is being killed: the start of the command, and its duration."""

    began: float
    seconds: Future[float]


class StoreCluster:
    """Puts files into a cluster, kills a node, and asks for the view, the file and the cluster's state."""

    def __init__(self, found: Inventory, machines: Machines) -> None:
        self._inventory = found
        self._connections = Connections(found)
        self._machines = machines
        self.gateway = ""

    def __enter__(self) -> StoreCluster:
        try:
            self.gateway = self._connections.gateway("hydfs")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; the cluster keeps running."""
        self._connections.close()

    @property
    def label(self) -> str:
        """Returns the name of the cluster."""
        return self._inventory.cluster

    @property
    def names(self) -> list[str]:
        """Returns the names of all nodes."""
        return self._inventory.names()

    def store(self, node: str = "") -> HydfsClient:
        """Returns a client of the store agent of a node, or of the gateway if none is named."""
        return self._connections.hydfs(node or self.gateway)

    def up(self) -> frozenset[str]:
        """Returns the nodes that are up in the gateway's view."""
        membership = self._connections.membership(self.gateway, timeout_s=LOOK_TIMEOUT_S)
        return frozenset(membership.view().up_names())

    def stat(self, name: str) -> FileStat:
        """Returns the file's entry in the file table."""
        return self.store().stat(name, timeout_s=LOOK_TIMEOUT_S)

    @contextlib.contextmanager
    def file(self, name: str, source: BinaryIO) -> Iterator[FileStat]:
        """Stores a file, yields its entry in the file table, and deletes it at the end, unless its data
        turned out to be wrong.
        """
        stat = self.store().put(name, source)
        try:
            yield stat
        except Corrupt:
            raise  # the file is the evidence
        except BaseException:
            with contextlib.suppress(RainStormError):  # the first failure is the one to report
                self.store().delete(name)
            raise
        self.store().delete(name)

    @contextlib.contextmanager
    def crashed(self, node: str) -> Iterator[Crash]:
        """Kills all processes of a node while the caller watches; starts the node again at the end."""
        with ThreadPoolExecutor(1, thread_name_prefix="crash") as pool:
            crash = Crash(clock.monotonic(), pool.submit(_timed, self._machines.crash, node))
            try:
                yield crash
            finally:
                wait([crash.seconds])
                if crash.seconds.exception() is None:
                    self._machines.start(node)

    def wait_settled(self) -> float:
        """Returns how long it took until ``fab verify`` would succeed.

        Raises:
            DeadlineExceeded: it would still fail after ``SETTLED_TIMEOUT_S``.
        """
        began = clock.monotonic()
        found = wait_until_settled(self._connections, SETTLED_TIMEOUT_S)
        if not found.settled:
            raise DeadlineExceeded(
                f"after {SETTLED_TIMEOUT_S:g} s the cluster {found.cluster} is not settled: "
                + "; ".join(found.unsettled()),
                hint=f"fab status --inventory {self._inventory.path}",
            )
        return clock.monotonic() - began


def _timed(action: Callable[[str], object], node: str) -> float:
    began = clock.monotonic()
    action(node)
    return clock.monotonic() - began
