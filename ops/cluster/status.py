"""Determines the status of a whole cluster: pings every agent and queries one of each kind, all in parallel.

This takes one short time-out at most, however many nodes are dead or stalled. What cannot be determined is
None, with the reason in ``problems``. If nothing in the cluster answers, that is an error.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import RainStormError, Unreachable
from agent.common.shell import clock
from agent.hydfs.client import StoreHealth
from agent.membership.client import MembersReply
from agent.rainstorm.messages.status import JobStatus
from ops.cluster.connections import SSH_CODES, Connections, nothing_answers

SERVICES = ("membership", "hydfs", "rainstorm", "logs")
# Ten nodes with four agents each, all stalled, must still fit into one time-out.
THREADS_MAX = 48
# A stalled leader is replaced after a few seconds; the status does not wait for that.
QUESTION_TIMEOUT_S = 1.0
SETTLE_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What is known about one node."""

    name: str
    address: str
    state: str
    ring_id: str
    services: dict[str, bool]
    store: StoreHealth | None = None

    @property
    def alive(self) -> bool:
        """Tells whether the view shows the node up and all its agents answer."""
        return self.state == "up" and all(self.services.values())


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What is known about the cluster."""

    cluster: str
    nodes: list[NodeStatus]
    leader: str | None = None
    term: int | None = None
    view_version: int | None = None
    majority: bool | None = None
    jobs: list[JobStatus] | None = None
    problems: list[str] = field(default_factory=list)
    all_alive: bool = False
    under_replicated: int | None = None
    repair_waiting: int | None = None
    repair_checked: bool = False

    @property
    def settled(self) -> bool:
        """Tells whether a machine may be stopped: all nodes alive, a majority, every block has its copies."""
        repaired = self.repair_checked and self.under_replicated == 0 and self.repair_waiting == 0
        return self.all_alive and self.majority is True and bool(self.leader) and repaired

    def unsettled(self) -> list[str]:
        """Returns what prevents ``settled``, in words."""
        found = [
            f"{node.name}: view {node.state}, "
            + ", ".join(f"{service} {'up' if up else 'down'}" for service, up in node.services.items())
            for node in self.nodes
            if not node.alive
        ]
        if not self.majority:
            found.append("no majority of the voters" if self.majority is False else "the majority is unknown")
        elif not self.leader:
            found.append("no leader")
        if self.under_replicated:
            found.append(f"{self.under_replicated} blocks have too few copies")
        if self.repair_waiting:
            found.append(f"{self.repair_waiting} files wait for repair")
        if self.all_alive and not self.repair_checked:
            found.append("the stores have not yet checked all copies since a node came or went")
        return found


def look(connections: Connections) -> ClusterStatus:
    """Returns the state of the cluster.

    Raises:
        Unreachable: no agent of any node answers.
    """
    names = connections.inventory.names()
    with ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="status") as pool:
        pings = {
            (name, service): pool.submit(connections.ping, name, service)
            for service in SERVICES
            for name in names
        }
        failures = {name: {each: pings[name, each].result() for each in SERVICES} for name in names}
        services = {name: {each: failures[name][each] is None for each in SERVICES} for name in names}
        problems = list(
            pool.map(lambda name: _dropping(connections, name) if services[name]["membership"] else "", names)
        )
        stores = dict(
            zip(
                names,
                pool.map(lambda name: _health(connections, name) if services[name]["hydfs"] else None, names),
                strict=True,
            )
        )
        problems += [_by_ssh(failures[name]) for name in names]
        if not any(answered for each in services.values() for answered in each.values()):
            first = SERVICES[0]
            raise nothing_answers(
                {name: each for name in names if (each := failures[name][first]) is not None},
                f"nothing in the cluster {connections.inventory.cluster!r} answers "
                f"(asked {', '.join(names)}; inventory {connections.inventory.path})",
                hint="start it: fab local.up   (or name another one with --inventory FILE)",
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
        stores,
        members.answer(deadline, problems),
        jobs.answer(deadline, problems),
        [problem for problem in problems if problem],
    )


def wait_until_settled(connections: Connections, timeout_s: float) -> ClusterStatus:
    """Returns the cluster's state as soon as it is settled, or its state after ``timeout_s``.

    Raises:
        Unreachable: no agent of any node answers until then.
    """
    deadline = Deadline(clock.monotonic(), timeout_s)
    pause = threading.Event()
    while True:
        try:
            found = look(connections)
            if found.settled or deadline.expired(clock.monotonic()):
                return found
        except Unreachable:
            if deadline.expired(clock.monotonic()):
                raise
        pause.wait(min(SETTLE_POLL_S, deadline.remaining(clock.monotonic())))


def _dropping(connections: Connections, name: str) -> str:
    """Returns the problem of a node that drops datagrams on purpose."""
    try:
        percent = connections.membership(name, timeout_s=QUESTION_TIMEOUT_S).drop()
    except RainStormError:
        return ""  # it does not answer, as the table shows
    if not percent:
        return ""
    return f"{name} drops {percent:g} % of its datagrams; stop that: fab drop --percent 0 --vm {name}"


def _by_ssh(failures: dict[str, RainStormError | None]) -> str:
    """Returns the problem of a node that SSH cannot reach."""
    found = next((each for each in failures.values() if isinstance(each, SSH_CODES)), None)
    return f"[{found.code}] {found.message}; {found.hint}" if found is not None else ""


def _health(connections: Connections, name: str) -> StoreHealth | None:
    try:
        return connections.hydfs(name).health(timeout_s=QUESTION_TIMEOUT_S)
    except RainStormError:
        return None  # unknown, so it cannot count as settled


class _Question:
    """One request that must not delay the others: its thread is abandoned if it takes too long."""

    def __init__(self, about: str, ask: Callable[[], Any]) -> None:
        self._about = about
        self._ask = ask
        self._answer: Any = None
        self._problem = ""
        self._thread = threading.Thread(target=self._run, name=f"status-{about}", daemon=True)
        self._thread.start()

    def answer(self, deadline: Deadline, problems: list[str]) -> Any:
        """Returns the answer, or None after adding a line to ``problems``."""
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
    stores: dict[str, StoreHealth | None],
    members: MembersReply | None,
    jobs: list[JobStatus] | None,
    problems: list[str],
) -> ClusterStatus:
    view = members.view if members is not None else None
    states = {name: entry.state for name, entry in view.nodes.items()} if view is not None else {}
    ring_ids = {member.name: member.ring_id for member in members.members} if members is not None else {}
    nodes = [
        NodeStatus(
            name=peer.name,
            address=peer.address,
            state=states.get(peer.name, "unknown"),
            ring_id=ring_ids.get(peer.name, ""),
            services=services[peer.name],
            store=stores[peer.name],
        )
        for peer in connections.inventory.peers
    ]
    healths = [store for store in stores.values() if store is not None]
    all_alive = all(node.alive for node in nodes)
    return ClusterStatus(
        cluster=connections.inventory.cluster,
        nodes=nodes,
        leader=view.leader if view is not None else None,
        term=view.term if view is not None else None,
        view_version=view.version if view is not None else None,
        majority=members.majority if members is not None else None,
        jobs=jobs,
        problems=problems,
        all_alive=all_alive,
        under_replicated=sum(store.under_replicated for store in healths) if healths else None,
        repair_waiting=sum(store.waiting for store in healths) if healths else None,
        # A store that uses another view has not learned of the newest change yet.
        repair_checked=len(healths) == len(nodes)
        and view is not None
        and all(store.checked and store.view_version == view.version for store in healths),
    )
