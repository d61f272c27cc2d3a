"""Faults on the nodes of the local cluster: kills or stops processes, drops packets on loopback."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from agent.common.errors import RainStormError
from ops.cluster.inventory import Inventory
from ops.faults import plan
from ops.faults.machines import Machines
from ops.faults.plan import Fault
from ops.lab import host
from ops.lab.errors import Unsupported
from ops.local.cluster import LocalCluster
from ops.local.layout import Layout


class LocalMachines(Machines):
    """The nodes of the local cluster: processes on one machine's loopback addresses."""

    def __init__(self, inventory: Inventory) -> None:
        super().__init__(inventory)
        assert inventory.local_folder is not None
        self._folder = inventory.local_folder
        self._cluster = LocalCluster(
            Layout(self._folder, inventory.path, next(iter(self.addresses.values())))
        )
        tag = hashlib.sha256(str(self._folder.resolve()).encode()).hexdigest()[:6]
        # The chains of two local clusters on this machine must differ; a chain's name has at most 28
        # characters.
        self.prefix = f"RAINSTORM-L{tag}"

    @property
    def folder(self) -> Path:
        """Returns the path of the records of faults."""
        return self._folder

    def check(self, kind: str, nodes: Sequence[str]) -> None:
        """Rejects faults that loopback addresses do not support."""
        if kind in ("delay", "bandwidth", "disk-full", "clock"):
            raise Unsupported(
                f"the nodes of the local cluster share one machine, so {kind} cannot affect only one of them",
                hint="use the lab: fab lab.up --vms 5",
            )
        if kind in plan.NETWORK_KINDS:
            host.require_root("a network fault", f"fault.{kind} ...")

    def scripts(self, fault: Fault) -> dict[str, str]:
        """Returns the script that applies a fault on this machine."""
        return {"here": plan.loopback_script(fault, self.addresses, self.prefix)}

    def apply(self, fault: Fault, only: Sequence[str] = ()) -> dict[str, RainStormError]:
        """Applies a fault; returns what failed."""
        try:
            host.run(["/bin/sh", "-c", self.scripts(fault)["here"]])
        except RainStormError as error:
            return {"here": error}
        return {}

    def crash(self, node: str) -> str:
        """Kills every process of a node."""
        return f"{self._cluster.crash(node)} processes killed"

    def start(self, node: str) -> str:
        """Starts a node."""
        self._cluster.start(node)
        return "up again"

    def pause(self, node: str) -> str:
        """Stops every process of a node."""
        return f"{self._cluster.pause(node)} processes paused"

    def resume(self, node: str) -> str:
        """Resumes the processes of a node."""
        return f"{self._cluster.resume(node)} processes resumed"

    def stands(self, fault: Fault) -> bool:
        """Tells whether a crash or pause is still in force."""
        found = self._cluster.processes(fault.nodes[0])
        if fault.kind == "crash":
            return not found
        return any(each.process.status() == "stopped" for each in found)

    def heal(self) -> tuple[dict[str, str], dict[str, RainStormError]]:
        """Removes the rules, resumes paused nodes, and starts crashed ones if the cluster is running."""
        done: dict[str, str] = {}
        failed: dict[str, RainStormError] = {}
        try:
            words = self.heal_rules()
            if words:
                done["here"] = words
            if self._cluster.running():
                for node in self.addresses:
                    if not self._cluster.processes(node):
                        done[node] = self.start(node)
                    elif self.stands(Fault(0, "pause", (node,))):
                        done[node] = self.resume(node)
        except RainStormError as error:
            failed["here"] = error
        return done, failed

    def close(self) -> None:
        """Does nothing: there are no connections."""

    def heal_rules(self) -> str:
        """Removes this cluster's iptables rules; returns which ones there were."""
        try:
            return host.run(
                ["/bin/sh", "-c", f"failed=0\n{plan.heal_rules_script(self.prefix)}\nexit $failed"]
            ).strip()
        except RainStormError:
            host.require_root("healing network faults", "fault.heal")
            raise
