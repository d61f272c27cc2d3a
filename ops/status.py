"""One look at a whole cluster: every agent is pinged and one of each kind is asked, all at once.

The look costs one short time-out at worst, however many nodes are dead or hung. What cannot be learnt is None
with the reason in ``problems``; a cluster of which nothing answers is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.common import clock
from agent.common.deadline import Deadline
from agent.common.errors import RainStormError, Unreachable
from ops.connections import Connections

SERVICES = ("membership", "hydfs", "rainstorm")
# Ten nodes with three agents each, all hung, must still fit into one time-out.
THREADS_MAX = 48
# A leader that hangs is replaced after a few seconds; a look does not wait for that.
QUESTION_TIMEOUT_S = 1.0


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
        problems = list(
            pool.map(lambda name: _dropping(connections, name) if services[name]["membership"] else "", names)
        )
        if not any(answered for each in services.values() for answered in each.values()):
            raise Unreachable(
                f"nothing of the cluster {connections.inventory.cluster!r} answers "
                f"(asked {', '.join(names)}; inventory {connections.inventory.path})",
                hint="start it: fab local.up   (or name another one: --inventory FILE)",
            )
    for service in SERVICES:
        for name in names:
            if services[name][service]:
                connections.prefer(name, [service])
                break
    members = _Question("members", lambda: connections.membership().members())
    jobs = _Question("jobs", lambda: connections.rainstorm().jobs())
    deadline = Deadline(clock.monotonic(), QUESTION_TIMEOUT_S)
    return _combine(
        connections,
        services,
        members.answer(deadline, problems) or {},
        jobs.answer(deadline, problems),
        [problem for problem in problems if problem],
    )


def _dropping(connections: Connections, name: str) -> str:
    """Returns what there is to say about a node that throws datagrams away on purpose."""
    try:
        percent = connections.membership(name, timeout_s=QUESTION_TIMEOUT_S).drop()
    except RainStormError:
        return ""  # it does not answer, which the table shows
    if not percent:
        return ""
    return f"{name} throws away {percent:g} % of its datagrams; stop it: fab drop --percent 0 --vm {name}"


class _Question:
    """One request that must not hold up the others: its thread is left behind when it takes too long."""

    def __init__(self, about: str, ask: Callable[[], Any]) -> None:
        self._about = about
        self._ask = ask
        self._answer: Any = None
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name=f"status-{about}", daemon=True)
        self._thread.start()

    def answer(self, deadline: Deadline, problems: list[str]) -> Any:
        """Returns the answer, or None with a line added to ``problems``."""
        self._thread.join(deadline.remaining(clock.monotonic()))
        if self._thread.is_alive():
            problems.append(f"{self._about}: no answer within {QUESTION_TIMEOUT_S:g} s")
            return None
        if self._problem:
            problems.append(self._problem)
        return self._answer

    def _run(self) -> None:
        try:
            self._answer = self._ask()
        except RainStormError as error:
            self._problem = f"{self._about}: [{error.code}] {error.message}"


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
