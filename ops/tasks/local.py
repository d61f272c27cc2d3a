"""The local cluster: all nodes as processes on this machine."""

from __future__ import annotations

from invoke.context import Context

from agent.common.errors import AlreadyRunning
from agent.common.shell import clock
from ops.local.cluster import LocalCluster, demo_layout, only_demo
from ops.output import render
from ops.output.errors import command

JSON = {"json": "print one JSON object"}


@command(
    help={
        "nodes": "number of nodes (default: as many as before, otherwise 5)",
        "fresh": "first delete the data of an earlier local cluster",
        **JSON,
    }
)
def up(context: Context, nodes: int = 0, fresh: bool = False, json: bool = False) -> None:
    """local: start a cluster on this machine and wait until it is ready"""
    begun = clock.monotonic()
    cluster = LocalCluster()
    peers = cluster.up(nodes or None, fresh=fresh)
    took_s = clock.monotonic() - begun
    if json:
        render.print_json(
            seconds=round(took_s, 2),
            inventory=str(cluster.layout.inventory_path),
            nodes={p.name: p.address for p in peers},
        )
    else:
        print(
            f"{len(peers)} nodes are up after {took_s:.1f} s: "
            + ", ".join(f"{p.name} {p.address}" for p in peers)
        )
        print(f"data and logs: {cluster.layout.folder}/vm*/")
    render.say("next: fab status   fab submit-job   fab local.down")


@command(
    help={
        "wipe": "also remove the data, keys and logs",
        "dry_run": "only show what would be stopped and removed",
        **JSON,
    }
)
def down(context: Context, wipe: bool = False, dry_run: bool = False, json: bool = False) -> None:
    """local: stop the local cluster; its data stays unless --wipe"""
    cluster = LocalCluster()
    if dry_run:
        what = f"stop {len(cluster.processes())} processes"
        if wipe:
            what += f" and remove {cluster.layout.folder} with all files in HyDFS"
        render.say_dry(what, json=json)
        return
    _stop_demo_leftovers()
    if not cluster.running() and not wipe:
        if json:
            render.print_json(ended=0, killed=0, wiped=False)
        else:
            print("the local cluster is not running: nothing to stop")
        return
    from ops.faults.injector import forget_local  # every command loads this module, but few need this import

    forget_local(cluster.layout.inventory_path)
    done = cluster.down(wipe=wipe)
    if json:
        render.print_json(**done, wiped=wipe)
        return
    parts = [f"{done['ended']} agents stopped"]
    if done["killed"]:
        parts.append(f"{done['killed']} other processes killed")
    parts.append("data removed" if wipe else f"data kept in {cluster.layout.folder}")
    print("local cluster: " + ", ".join(parts))


def _stop_demo_leftovers() -> None:
    """Stops the processes of a demo that was killed before it could clean up."""
    demo = LocalCluster(demo_layout())
    if not demo.running():
        return
    try:
        with only_demo():
            demo.down()
        render.say("stopped the processes that a killed demo left behind")
    except AlreadyRunning:
        render.say("a demo is running; it will stop its own cluster when it ends")
