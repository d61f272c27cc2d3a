"""Break things on purpose: tasks anywhere, whole nodes of the local cluster."""

from __future__ import annotations

from invoke.context import Context

from agent.common.errors import NotFound, UsageError
from ops import inventory, render
from ops.connections import connected
from ops.errors import command
from ops.local import LocalCluster

VM = {"vm": "the node: 3, vm3 or vm03"}
_find = inventory.find


@command(
    help={
        "vm": "the node: 3, vm3 or vm03",
        "task": "the task, as in fab list-tasks (default: the first one on the node)",
        "pid": "or its process id",
        "job": "only tasks of this job",
        "dry_run": "only say which task would be killed",
        "inventory": "inventory file of the cluster",
    }
)
def kill_task(
    context: Context,
    vm: str = "",
    task: str = "",
    pid: int = 0,
    job: str = "",
    dry_run: bool = False,
    inventory: str = "",
) -> None:
    """faults: SIGKILL one task of a running job"""
    if not (vm or task or pid):
        raise UsageError("which task? name a node, a task or a process", hint="fab kill-task --vm 3")
    found_inventory = _find(inventory)
    node = found_inventory.node(vm).name if vm else ""
    with connected(found_inventory) as connections:
        client = connections.rainstorm()
        matching = [
            each
            for each in client.tasks()
            if (not node or each["node"] == node)
            and (not task or each["task"] == task)
            and (not pid or each["pid"] == pid)
            and (not job or str(each["job"]).startswith(job))
        ]
        if not matching:
            wanted = ", ".join(
                f"{key} {value}" for key, value in (("node", node), ("task", task), ("pid", pid)) if value
            )
            raise NotFound(f"no running task with {wanted}", hint="see what runs: fab list-tasks")
        chosen = matching[0]
        what = f"task {chosen['task']} of {chosen['job']} on {chosen['node']} (pid {chosen['pid']})"
        if dry_run:
            print(f"would kill {what}")
            return
        killed = client.kill_task(node=chosen["node"], task=chosen["task"], pid=chosen["pid"])
    print(f"killed task {killed['task']} of {chosen['job']} on {killed['node']} (pid {killed['pid']})")
    render.say(f"watch it recover: fab job {chosen['job']}")


@command(help=VM)
def crash(context: Context, vm: str) -> None:
    """faults: SIGKILL a whole node of the local cluster"""
    cluster, node = _local(vm)
    print(f"{node}: {cluster.crash(node)} processes killed")
    render.say(f"start it again: fab fault.start --vm {vm}")


@command(help=VM)
def start(context: Context, vm: str) -> None:
    """faults: start a crashed node again"""
    cluster, node = _local(vm)
    cluster.start(node)
    print(f"{node} is up again")


@command(help=VM)
def pause(context: Context, vm: str) -> None:
    """faults: hang a whole node of the local cluster"""
    cluster, node = _local(vm)
    print(f"{node}: {cluster.pause(node)} processes paused")
    render.say(f"let it go on: fab fault.resume --vm {vm}")


@command(help=VM)
def resume(context: Context, vm: str) -> None:
    """faults: let a paused node go on"""
    cluster, node = _local(vm)
    print(f"{node}: {cluster.resume(node)} processes resumed")


def _local(vm: str) -> tuple[LocalCluster, str]:
    cluster = LocalCluster()
    path = cluster.layout.inventory_path
    if not path.exists():
        raise NotFound("there is no local cluster", hint="fab local.up --nodes 5")
    return cluster, inventory.load(path).node(vm).name
