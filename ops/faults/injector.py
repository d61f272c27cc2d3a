"""Applies faults and heals them; a fault is recorded before it is applied to any machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.common.errors import Partial, RainStormError, Unavailable, UsageError
from ops.cluster import inventory
from ops.cluster.inventory import Inventory
from ops.faults import plan
from ops.faults.loopback import LocalMachines
from ops.faults.machines import LabMachines, Machines, SshMachines
from ops.faults.plan import Fault
from ops.faults.records import FAULTS_MAX, Journal
from ops.machine import processes


class Injector:
    """The faults of one cluster."""

    def __init__(self, found: Inventory) -> None:
        self.inventory = found
        self.machines: Machines = machines_of(found)
        self.journal = Journal(self.machines.folder)

    def choose(self, wanted: str) -> tuple[str, ...]:
        """Returns the nodes that an operator names as ``1,2,vm3``; all nodes if it is empty.

        Raises:
            NotFound: no such node.
        """
        names = self.inventory.names()
        if not wanted:
            return tuple(names)
        chosen = {self.inventory.node(each.strip()).name for each in wanted.split(",") if each.strip()}
        return tuple(name for name in names if name in chosen)

    def preview(self, kind: str, nodes: Sequence[str], parameters: Mapping[str, Any]) -> dict[str, str]:
        """Returns the scripts that would apply a fault."""
        self._check(kind, nodes, parameters)
        return self.machines.scripts(Fault(0, kind, tuple(nodes), parameters))

    def inject(self, kind: str, nodes: Sequence[str], parameters: Mapping[str, Any]) -> Fault:
        """Applies a fault to the network, a disk or a clock.

        Raises:
            UsageError: the fault is impossible; nothing has changed.
            Partial: it was applied to some machines only.
        """
        self._check(kind, nodes, parameters)
        with self.journal.locked():
            if len(self.journal.read()) >= FAULTS_MAX:
                raise Unavailable(f"there are already {FAULTS_MAX} faults in force", hint="fab fault.heal")
            fault = self.journal.add(kind, nodes, parameters)
            failed = self.machines.apply(fault)
            touched = set(self.machines.scripts(fault))
            if failed and set(failed) == touched:
                self._forget(fault)
                raise next(iter(failed.values()))
        if failed:
            raise Partial(
                f"the {kind} is not in force everywhere: "
                + "; ".join(each.message for each in failed.values()),
                hint="undo it: fab fault.heal",
            )
        return fault

    def crash(self, node: str) -> str:
        """Cuts the power of a node; returns what was done."""
        return self._take_down("crash", node)

    def pause(self, node: str) -> str:
        """Pauses a node; returns what was done."""
        return self._take_down("pause", node)

    def start(self, node: str) -> str:
        """Starts a crashed node and applies the faults in force to it; returns what was done."""
        with self.journal.locked():
            done = self.machines.start(node)
            self._over("crash", node)
            for fault in self.journal.read():
                if fault.kind in plan.NETWORK_KINDS and node in self.machines.scripts(fault):
                    failed = self.machines.apply(fault, only=[node])
                    if failed:
                        raise failed[node]
        return done

    def resume(self, node: str) -> str:
        """Resumes a paused node; returns what was done."""
        with self.journal.locked():
            done = self.machines.resume(node)
            self._over("pause", node)
        return done

    def in_force(self) -> list[Fault]:
        """Returns the faults in force."""
        return [
            fault
            for fault in self.journal.read()
            if fault.kind not in ("crash", "pause") or self.machines.stands(fault)
        ]

    def heal(self) -> dict[str, str]:
        """Undoes everything on all machines; returns what was undone, by machine.

        Raises:
            Partial: something could not be undone; its record is kept.
        """
        with self.journal.locked():
            done, failed = self.machines.heal()
            left = [
                fault for fault in self.journal.read() if set(fault.nodes) & set(failed) or "here" in failed
            ]
            self.journal.replace(left)
        if failed:
            raise Partial(
                "not everything could be healed: " + "; ".join(each.message for each in failed.values()),
                hint="try again when the machines can be reached: fab fault.heal",
            )
        return {node: words for node, words in done.items() if words}

    def _check(self, kind: str, nodes: Sequence[str], parameters: Mapping[str, Any]) -> None:
        everybody = len(nodes) == len(self.inventory.peers)
        if kind == "partition" and everybody:
            raise UsageError(
                "a partition needs at least one node on the other side", hint="name fewer nodes: --vms"
            )
        bounds = {"percent": (0, 100), "ms": (0, 10_000), "mbit": (0, 10_000)}
        for name, (low, high) in bounds.items():
            if name in parameters and not low < float(parameters[name]) <= high:
                raise UsageError(
                    f"--{name} {parameters[name]:g} is out of range",
                    hint=f"use a number above {low}, at most {high}",
                )
        if len(self.inventory.peers) < 2 and kind in plan.NETWORK_KINDS:
            raise UsageError("a cluster of one node has no network between nodes", hint="fab status")
        self.machines.check(kind, nodes)

    def _take_down(self, kind: str, node: str) -> str:
        self.machines.check(kind, [node])
        with self.journal.locked():
            fault = self.journal.add(kind, [node], {})
            try:
                return self.machines.crash(node) if kind == "crash" else self.machines.pause(node)
            except RainStormError:
                self._forget(fault)
                raise

    def _forget(self, fault: Fault) -> None:
        self.journal.replace([each for each in self.journal.read() if each.number != fault.number])

    def _over(self, kind: str, node: str) -> None:
        self.journal.replace(
            [each for each in self.journal.read() if each.kind != kind or node not in each.nodes]
        )


def machines_of(inventory: Inventory) -> Machines:
    """Returns the machines of a cluster."""
    if inventory.local_folder is not None:
        return LocalMachines(inventory)
    return LabMachines(inventory) if inventory.lab else SshMachines(inventory)


def forget_local(path: Path) -> None:
    """Ends the faults of a local cluster that is about to stop; ``path`` is its inventory."""
    if not path.exists():
        return
    found = LocalMachines(inventory.load(path))
    journal = Journal(found.folder)
    if journal.path.exists():
        with journal.locked():
            found.heal_rules()
            journal.remove()


def find(given: str) -> Inventory:
    """Returns the inventory of the cluster to use; all its nodes may be down."""
    if given or os.environ.get(inventory.INVENTORY_VARIABLE):
        return inventory.find(given)
    local, lab = inventory.LOCAL_INVENTORY, inventory.LAB_INVENTORY
    if local.exists() and processes.marked(inventory.LOCAL_FOLDER):
        return inventory.load(local)
    for path in (lab, local):
        if path.exists():
            return inventory.load(path)
    return inventory.find()


@contextlib.contextmanager
def injecting(given: str) -> Iterator[Injector]:
    """Yields the injector of a cluster and closes its connections afterwards."""
    injector = Injector(find(given))
    try:
        yield injector
    finally:
        injector.machines.close()
