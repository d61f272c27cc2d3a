"""Single agents of single nodes: kill, start, restart."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from invoke.context import Context

from ops.cluster import inventory
from ops.faults.agents import Agents, check_service, check_signal
from ops.output import render
from ops.output.errors import command

HELP = {
    "vm": "the node: 3, vm3 or vm03",
    "service": "membership, hydfs, rainstorm or logs",
    "dry_run": "only show what would be done",
    "json": "print one JSON object",
    "inventory": "inventory file of the cluster",
}
_find = inventory.find


@command(help={**HELP, "signal": "KILL, TERM, INT, HUP, ABRT, STOP or CONT"})
def kill_agent(
    context: Context,
    vm: str,
    service: str = "",
    signal: str = "KILL",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: SIGKILL one agent of a node"""
    number = check_signal(signal)
    node = _do(
        "kill",
        lambda agents, node, service: agents.kill(node, service, number),
        (vm, service, inventory),
        json,
        f"send {number.name} to" if dry_run else "",
    )
    if not dry_run:
        render.say(
            f"see what is up: fab members   start it again: fab start-agent --vm {node} --service {service}"
        )


@command(help=HELP)
def start_agent(
    context: Context,
    vm: str,
    service: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """agents: start one agent of a node and wait until it is ready"""
    _do("start", Agents.start, (vm, service, inventory), json, "start" if dry_run else "")


@command(help=HELP)
def restart_agent(
    context: Context,
    vm: str,
    service: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """agents: stop one agent of a node in an orderly way and start it again"""
    _do("restart", Agents.restart, (vm, service, inventory), json, "restart" if dry_run else "")


def _do(
    action: str,
    act: Callable[[Agents, str, str], str],
    given: tuple[str, str, str],
    json: bool,
    would: str,
) -> str:
    vm, service, path = given
    check_service(service)
    found = _find(path)
    node = found.node(vm).name
    if would:
        done = f"would {would} {service} of {node}"
    else:
        with contextlib.closing(Agents(found)) as agents:
            done = act(agents, node, service)
    if json:
        render.print_json(action=action, node=node, service=service, done=done, dry_run=bool(would))
    else:
        print(done)
    return node
