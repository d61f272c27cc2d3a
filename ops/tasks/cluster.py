"""The cluster as a whole at one glance."""

from __future__ import annotations

from typing import Any

from invoke.context import Context

from ops import inventory, render
from ops.connections import connected
from ops.errors import command
from ops.progress import ENDED, line
from ops.status import SERVICES, ClusterStatus, look

HELP = {"inventory": "inventory file of the cluster", "json": "print one JSON object"}
_find = inventory.find


@command(help=HELP)
def status(context: Context, json: bool = False, inventory: str = "") -> None:
    """cluster: nodes, agents, leader, view, majority, jobs"""
    with connected(_find(inventory)) as connections:
        found = look(connections)
    if json:
        render.print_json(status=found)
    else:
        _print_status(found)
    for problem in found.problems:
        render.say(problem)


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
    if found.jobs is None:
        print("jobs: unknown")
    else:
        states: dict[str, int] = {}
        for job in found.jobs:
            states[str(job["state"])] = states.get(str(job["state"]), 0) + 1
        print("jobs: " + (", ".join(f"{n} {state}" for state, n in sorted(states.items())) or "none"))
        for job in found.jobs:
            if job["state"] not in ENDED:
                print(f"  {job['job']}  {job['name']}  {line(job)}")


def _known(value: Any) -> Any:
    return "-" if value is None else value
