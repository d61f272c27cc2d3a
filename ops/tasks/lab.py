"""The lab: real VMs on this machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from invoke.context import Context

from agent.common.shell import clock
from ops.cluster.inventory import REPOSITORY
from ops.lab import host
from ops.output import render
from ops.output.errors import command

if TYPE_CHECKING:
    from ops.lab.lab import Lab

JSON = {"json": "print one JSON object"}


@command(help={"vms": "number of VMs", **JSON})
def up(context: Context, vms: int = 10, json: bool = False) -> None:
    """lab: create and boot VMs on this machine (needs root)"""
    begun = clock.monotonic()
    lab = _lab()
    plan = lab.up(vms)
    took_s = clock.monotonic() - begun
    path = os.path.relpath(lab.inventory_path)
    if json:
        addresses = {vm: plan.address(vm) for vm in plan.names()}
        render.print_json(lab=lab.name, seconds=round(took_s, 2), inventory=path, vms=addresses)
    else:
        first, last = plan.names()[0], plan.names()[-1]
        print(
            f"{vms} VMs answer SSH after {took_s:.1f} s: {first} {plan.address(first)}"
            + (f" to {last} {plan.address(last)}" if vms > 1 else "")
        )
        print(f"inventory: {path}")
    render.say(f"next: ansible-playbook deploy.yml -i {path}   fab lab.shell --vm 1   fab lab.down")


@command(
    help={"purge": "also remove the cached base image", "dry_run": "only show what would be removed", **JSON}
)
def down(context: Context, purge: bool = False, dry_run: bool = False, json: bool = False) -> None:
    """lab: remove the VMs with all their data"""
    lab = _lab()
    if dry_run:
        names = ", ".join(machine.name for machine in lab.status())
        render.say_dry(f"remove {names} of the lab {lab.name!r}, all data and the cluster's keys", json=json)
        return
    done = lab.down(purge=purge)
    if json:
        render.print_json(lab=lab.name, removed=done)
        return
    if any(done.values()):
        print(f"lab {lab.name}: removed " + ", ".join(f"{number} {what}" for what, number in done.items()))
    else:
        print(f"the lab {lab.name!r} is not up: nothing to remove")
    if not purge:
        render.say("the base image stays; to remove it too: fab lab.down --purge")


@command(help=JSON)
def status(context: Context, json: bool = False) -> None:
    """lab: show the VMs, their addresses and their use of resources"""
    host.require_root("the lab", "lab.status")
    lab = _lab()
    machines = lab.status()
    if json:
        render.print_json(lab=lab.name, inventory=str(lab.inventory_path), vms=machines)
        return
    rows = [[m.name, m.address, m.state, m.processes, render.size(m.memory_bytes)] for m in machines]
    render.print_table(("vm", "address", "state", "processes", "memory"), rows)
    render.say(f"inventory: {os.path.relpath(lab.inventory_path, REPOSITORY)}")


@command(help={"vm": "the VM: 3 or vm3"})
def shell(context: Context, vm: str) -> None:
    """lab: open a shell on a VM, over SSH"""
    host.require_root("the lab's SSH key", f"lab.shell --vm {vm}")
    lab = _lab()
    arguments = lab.ssh_command(lab.machine(vm).vm, tty=os.isatty(0))
    os.execvp(arguments[0], arguments)


def _lab() -> Lab:
    # Imported here, because every fab command loads this module but few need a lab.
    from ops.lab.lab import Lab

    return Lab()
