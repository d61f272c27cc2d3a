"""The cluster as a whole: its status, and whether it is healthy."""

from __future__ import annotations

from typing import Any

from invoke.context import Context

from agent.common.errors import Partial
from ops.cluster import inventory
from ops.cluster.connections import connected
from ops.cluster.status import SERVICES, ClusterStatus, look, wait_until_settled
from ops.output import render
from ops.output import watch as watching
from ops.output.errors import command
from ops.output.progress import line

HELP = {"inventory": "inventory file of the cluster", "json": "print one JSON object"}
_find = inventory.find


@command(
    help={**HELP, "watch": "refresh repeatedly, in place (with --json: one object per line); Ctrl-C stops"}
)
def status(context: Context, watch: bool = False, json: bool = False, inventory: str = "") -> None:
    """cluster: nodes, agents, leader, view, majority, jobs"""
    with connected(_find(inventory)) as connections:

        def report() -> None:
            found = look(connections)
            if json:
                show = render.print_json_line if watch else render.print_json
                show(settled=found.settled, status=found)
            else:
                _print_status(found)
            for problem in found.problems:
                render.say(problem)

        if watch:
            watching.watch(report, plain=json)
        else:
            report()


@command(
    help={
        **HELP,
        "wait": "wait up to this many seconds until everything is healthy (0: check once)",
        "only": "check only these nodes, as in vm1,vm2 (default: all nodes of the inventory)",
    }
)
def verify(
    context: Context, wait: float = 0.0, only: str = "", json: bool = False, inventory: str = ""
) -> None:
    """cluster: succeed only if all nodes are alive and every block has its copies"""
    cluster = _find(inventory)
    with connected(cluster.only(only.split(",")) if only else cluster) as connections:
        found = wait_until_settled(connections, wait)
    if json:
        render.print_json(settled=found.settled, unsettled=found.unsettled(), status=found)
    if not found.settled:
        raise Partial(
            f"the cluster {found.cluster} is not settled: {'; '.join(found.unsettled())}",
            hint="see why: fab status   (or wait for it: fab verify --wait 60)",
        )
    if not json:
        print(f"cluster {found.cluster}: all {len(found.nodes)} nodes alive, every block has its copies")


def _print_status(found: ClusterStatus) -> None:
    majority = {True: "yes", False: "no", None: "unknown"}[found.majority]
    print(
        f"cluster {found.cluster}   leader {found.leader or '-'}   term {_known(found.term)}   "
        f"view {_known(found.view_version)}   majority {majority}"
    )
    rows = [
        [
            node.name,
            node.address,
            node.state,
            *("up" if node.services[service] else "down" for service in SERVICES),
            node.ring_id,
        ]
        for node in found.nodes
    ]
    render.print_table(("node", "address", "view", *SERVICES, "ring id"), rows)
    print(_copies(found))
    if found.jobs is None:
        print("jobs: unknown")
    else:
        states: dict[str, int] = {}
        for job in found.jobs:
            states[job.state] = states.get(job.state, 0) + 1
        print("jobs: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"))
        for job in found.jobs:
            if not job.has_ended:
                print(f"  {job.job}  {job.name}  {line(job)}")


def _copies(found: ClusterStatus) -> str:
    if found.under_replicated is None:
        return "blocks: unknown"
    stores = [node.store for node in found.nodes if node.store is not None]
    copies = (
        f"{found.under_replicated:,} under-replicated" if found.under_replicated else "none under-replicated"
    )
    waiting = f", {found.repair_waiting:,} files wait for repair" if found.repair_waiting else ""
    checking = "" if found.repair_checked else " (being checked)"
    kept = render.size(sum(store.stored_bytes for store in stores))
    return f"blocks: {sum(store.blocks for store in stores):,} copies, {kept}, {copies}{waiting}{checking}"


def _known(value: Any) -> Any:
    return "-" if value is None else value
