"""One look at a whole cluster: every agent is pinged and one of each kind is asked, all at once.

The look costs one short time-out at worst, however many nodes are dead or hung. What cannot be learnt is None
with the reason in ``problems``; a cluster of which nothing answers is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.common.errors import RainStormError, Unreachable
from ops.connections import Connections

SERVICES = ("membership", "hydfs", "rainstorm")
# Ten nodes with three agents each, all hung, must still fit into one time-out.
THREADS_MAX = 48


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What is known of one node."""

    name: str
    address: str
    state: str
    ring_id: str
    services: dict[str, bool]


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What is known of the cluster."""

    cluster: str
    nodes: list[NodeStatus]
    leader: str | None = None
    term: int | None = None
    view_version: int | None = None
    majority: bool | None = None
    jobs: list[dict[str, Any]] | None = None
    problems: list[str] = field(default_factory=list)


def look(connections: Connections) -> ClusterStatus:
    """Returns the state of the cluster.

    Raises:
        Unreachable: no agent of any node answers.
    """
    names = connections.inventory.names()
    with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="status") as pool:
        pings = {
            (name, service): pool.submit(connections.answers, name, service)
            for service in SERVICES
            for name in names
        }
        services = {name: {service: pings[name, service].result() for service in SERVICES} for name in names}
        if not any(answered for each in services.values() for answered in each.values()):
            raise Unreachable(
                f"nothing of the cluster {connections.inventory.cluster!r} answers "
                f"(asked {', '.join(names)}; inventory {connections.inventory.path})",
                hint="start it: fab local.up   (or name another one: --inventory FILE)",
            )
        problems: list[str] = []
        members_later = pool.submit(_ask, lambda: connections.membership().members(), problems)
        jobs_later = pool.submit(_ask, lambda: connections.rainstorm().jobs(), problems)
        members, jobs = members_later.result(), jobs_later.result()
    return _combine(connections, services, members or {}, jobs, problems)


def _ask(question: Callable[[], Any], problems: list[str]) -> Any:
    try:
        return question()
    except RainStormError as error:
        problems.append(f"[{error.code}] {error.message}")
        return None


def _combine(
    connections: Connections,
    services: dict[str, dict[str, bool]],
    members: dict[str, Any],
    jobs: list[dict[str, Any]] | None,
    problems: list[str],
) -> ClusterStatus:
    view = members.get("view") or {}
    known = {str(member["name"]): member for member in members.get("members", [])}
    nodes = [
        NodeStatus(
            name=peer.name,
            address=peer.address,
            state=str(view.get("nodes", {}).get(peer.name, {}).get("state", "unknown")),
            ring_id=str(known.get(peer.name, {}).get("ring_id", "")),
            services=services[peer.name],
        )
        for peer in connections.inventory.peers
    ]
    return ClusterStatus(
        cluster=connections.inventory.cluster,
        nodes=nodes,
        leader=view.get("leader"),
        term=view.get("term"),
        view_version=view.get("version"),
        majority=members.get("majority"),
        jobs=jobs,
        problems=problems,
    )
