"""Cause faults on purpose: kill tasks, crash nodes, break their network, fill disks, set clocks."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from invoke.context import Context

from agent.common.errors import NotFound, UsageError
from ops.cluster import inventory
from ops.cluster.connections import connected
from ops.output import render
from ops.output.errors import command

if TYPE_CHECKING:
    from ops.faults.injector import Injector
    from ops.faults.plan import Fault

VM = {"vm": "the node: 3, vm3 or vm03"}
VMS = {"vm": "only packets of these nodes: 3 or 1,2 (default: all)"}
PLAIN = {"json": "print one JSON object", "inventory": "inventory file of the cluster"}
COMMON = {"dry_run": "only show what would be done", **PLAIN}
_find = inventory.find


@command(
    help={
        "vm": "the node: 3, vm3 or vm03",
        "task": "the task, as in fab list-tasks (default: the first one on the node)",
        "pid": "the task's process id, instead",
        "job": "only tasks of this job",
        "dry_run": "only show which task would be killed",
        **PLAIN,
    }
)
def kill_task(
    context: Context,
    vm: str = "",
    task: str = "",
    pid: int = 0,
    job: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: SIGKILL one task of a running job"""
    if not (vm or task or pid):
        raise UsageError(
            "no task was named: give a node, a task or a process id", hint="fab kill-task --vm 3"
        )
    found_inventory = _find(inventory)
    node = found_inventory.node(vm).name if vm else ""
    with connected(found_inventory) as connections:
        client = connections.rainstorm()
        matching = [
            each
            for each in client.tasks()
            if (not node or each.node == node)
            and (not task or each.task == task)
            and (not pid or each.pid == pid)
            and (not job or each.job.startswith(job))
        ]
        if not matching:
            wanted = ", ".join(
                f"{key} {value}" for key, value in (("node", node), ("task", task), ("pid", pid)) if value
            )
            raise NotFound(
                f"there is no running task with {wanted}", hint="see which tasks run: fab list-tasks"
            )
        chosen = matching[0]
        what = f"task {chosen.task} of {chosen.job} on {chosen.node} (pid {chosen.pid})"
        if dry_run:
            render.say_dry(f"kill {what}", json=json)
            return
        killed = client.kill_task(node=chosen.node, task=chosen.task, pid=chosen.pid)
    if json:
        render.print_json(job=chosen.job, task=killed.task, node=killed.node, pid=killed.pid)
        return
    print(f"killed task {killed.task} of {chosen.job} on {killed.node} (pid {killed.pid})")
    render.say(f"watch it recover: fab job {chosen.job}")


@command(help={**VM, **COMMON})
def crash(context: Context, vm: str, dry_run: bool = False, json: bool = False, inventory: str = "") -> None:
    """faults: crash a node: kill all its processes, as in a power failure"""
    with _injecting(inventory) as injector:
        node = injector.inventory.node(vm).name
        if dry_run:
            _say_done(json, f"would crash {node}", node=node)
            return
        done = injector.crash(node)
    _say_done(json, f"{node}: {done}", node=node)
    render.say(f"start it again: fab fault.start --vm {vm}")


@command(help={**VM, **PLAIN})
def start(context: Context, vm: str, json: bool = False, inventory: str = "") -> None:
    """faults: start a crashed node again"""
    with _injecting(inventory) as injector:
        node = injector.inventory.node(vm).name
        done = injector.start(node)
    _say_done(json, f"{node} is {done}", node=node)


@command(help={**VM, **COMMON})
def pause(context: Context, vm: str, dry_run: bool = False, json: bool = False, inventory: str = "") -> None:
    """faults: pause a whole node"""
    with _injecting(inventory) as injector:
        node = injector.inventory.node(vm).name
        if dry_run:
            _say_done(json, f"would pause {node}", node=node)
            return
        done = injector.pause(node)
    _say_done(json, f"{node}: {done}", node=node)
    render.say(f"resume it: fab fault.resume --vm {vm}")


@command(help={**VM, **PLAIN})
def resume(context: Context, vm: str, json: bool = False, inventory: str = "") -> None:
    """faults: resume a paused node"""
    with _injecting(inventory) as injector:
        node = injector.inventory.node(vm).name
        done = injector.resume(node)
    _say_done(json, f"{node}: {done}", node=node)


@command(help={"vms": "the nodes on one side: 1,2,3", **COMMON})
def partition(
    context: Context, vms: str, dry_run: bool = False, json: bool = False, inventory: str = ""
) -> None:
    """faults: cut some nodes off from all others"""
    _inject("partition", vms, {}, dry_run, json, inventory)


@command(help={**VM, "direction": "in: it receives nothing; out: nothing that it sends arrives", **COMMON})
def one_way(
    context: Context,
    vm: str,
    direction: str = "in",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: cut a node off in one direction only"""
    if direction not in ("in", "out"):
        raise UsageError(f"--direction must be in or out, not {direction!r}", hint="fab fault.one-way --help")
    _inject("one-way", vm, {"direction": direction}, dry_run, json, inventory)


@command(help={"percent": "share of the packets that are lost", **VMS, **COMMON})
def loss(
    context: Context,
    percent: float = 5.0,
    vm: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: drop random packets between nodes"""
    _inject("loss", vm, {"percent": percent}, dry_run, json, inventory)


@command(help={"ms": "additional delay of each packet, in each direction", **VMS, **COMMON})
def delay(
    context: Context,
    ms: float = 50.0,
    vm: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: delay packets between nodes"""
    _inject("delay", vm, {"ms": ms}, dry_run, json, inventory)


@command(help={"mbit": "megabits per second that a node can send", **VMS, **COMMON})
def bandwidth(
    context: Context,
    mbit: float = 100.0,
    vm: str = "",
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: limit what nodes can send"""
    _inject("bandwidth", vm, {"mbit": mbit}, dry_run, json, inventory)


@command(help={**VM, **COMMON})
def disk_full(
    context: Context, vm: str, dry_run: bool = False, json: bool = False, inventory: str = ""
) -> None:
    """faults: fill the data disk of a node to the last byte"""
    _inject("disk-full", vm, {}, dry_run, json, inventory)


@command(help={**VM, "seconds": "how far forward; backward if negative", **COMMON})
def clock(
    context: Context,
    vm: str,
    seconds: float = 60.0,
    dry_run: bool = False,
    json: bool = False,
    inventory: str = "",
) -> None:
    """faults: set a wrong clock on a node (real VMs only)"""
    _inject("clock", vm, {"seconds": seconds}, dry_run, json, inventory)


@command(name="list", help=PLAIN)
def list_(context: Context, json: bool = False, inventory: str = "") -> None:
    """faults: list the faults in force"""
    with _injecting(inventory) as injector:
        found = injector.in_force()
    if json:
        render.print_json(
            faults=[{"id": fault.id, "words": fault.words(), **_plain(fault)} for fault in found]
        )
        return
    if not found:
        render.say("no fault is in force")
        return
    render.print_table(
        ("id", "kind", "since", "what"), [[f.id, f.kind, render.utc(f.since), f.words()] for f in found]
    )
    render.say("undo all of them: fab fault.heal")


@command(help=PLAIN)
def heal(context: Context, json: bool = False, inventory: str = "") -> None:
    """faults: undo every fault on every node"""
    with _injecting(inventory) as injector:
        done = injector.heal()
    if json:
        render.print_json(healed=done)
        return
    for node, words in done.items():
        print(f"{node}: {words}")
    if not done:
        print("no fault was found to undo")


def _inject(
    kind: str, vms: str, parameters: dict[str, Any], dry_run: bool, json: bool, inventory: str
) -> None:
    with _injecting(inventory) as injector:
        nodes = injector.choose(vms)
        if dry_run:
            scripts = injector.preview(kind, nodes, parameters)
            if json:
                render.print_json(dry_run=True, scripts=scripts)
                return
            for node, script in scripts.items():
                print(f"# {node}\n{script}")
            return
        fault = injector.inject(kind, nodes, parameters)
    _say_done(json, f"{fault.id}: {fault.words()}", **_plain(fault))
    render.say("undo it: fab fault.heal")


def _injecting(inventory: str) -> contextlib.AbstractContextManager[Injector]:
    # Imported here, because every fab command loads this module but few cause faults.
    from ops.faults.injector import injecting

    return injecting(inventory)


def _plain(fault: Fault) -> dict[str, Any]:
    return {"kind": fault.kind, "nodes": list(fault.nodes), "parameters": dict(fault.parameters)}


def _say_done(json: bool, words: str, **values: Any) -> None:
    if json:
        render.print_json(done=words, **values)
    else:
        print(words)
