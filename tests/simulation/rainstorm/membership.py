"""A model of membership as the engine sees it: the agreed view, which each node learns at its own time.

The engine's schedules must be able to let nodes believe different views for a while, to accuse a healthy
node and to choose any leader; with real membership agents that would be left to chance (a few seeds have
them, see ``whole``). A node that has no power, whose engine does not run, or that is paused or cut off, for
longer than its detection time, is down in the next version of the view. If it led, another one leads in
the next term. A node that is cut off or *lagging* learns of it late and continues as before for a while.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial

from agent.common.message import Done
from agent.membership.view import DOWN, UP, NodeEntry, View
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.host import Node
from tests.simulation.machine.responder import Asked, Responder

CHECK_S = 0.05
SERVICE = "rainstorm"


class Views:
    """Decides on views and tells the nodes."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        names = list(cluster.nodes)
        self.view = View(1, 1, names[0], {name: _entry(cluster.nodes[name], UP, 1, 1) for name in names})
        # The number of starts of each machine.
        self._boots = dict.fromkeys(names, 1)
        self._was_on = dict.fromkeys(names, True)
        # Nodes that neither reach the others nor are reached by them.
        self.isolated: dict[str, bool] = {}
        self.accused_until: dict[str, float] = {}
        # The delay with which a node learns what the others know.
        self.lag_s: dict[str, float] = {}
        self.agents = {
            name: MembershipAgent(cluster, node, self.view) for name, node in cluster.nodes.items()
        }
        self._stopped = False
        self._cluster = cluster
        self._rng = rng
        self._unwell_since: dict[str, float] = {}
        self._detection_s = {name: rng.uniform(0.3, 2.0) for name in names}
        cluster.scheduler.after(CHECK_S, self._check)

    @property
    def leader(self) -> str:
        """Returns the leader of the newest view."""
        return self.view.leader

    def stop(self) -> None:
        """Decides on no further views."""
        self._stopped = True

    def _well(self, name: str, now: float) -> bool:
        node = self._cluster.nodes[name]
        agent = node.agents.get(SERVICE)
        lives = node.is_on and agent is not None and agent.is_running and not agent.process.paused
        return lives and not self.isolated.get(name) and now >= self.accused_until.get(name, 0.0)

    def _check(self) -> None:
        if self._stopped:
            return
        now, nodes = self._cluster.scheduler.now, dict(self.view.nodes)
        for name, was_on in self._was_on.items():
            is_on = self._was_on[name] = self._cluster.nodes[name].is_on
            self._boots[name] += is_on and not was_on
        version = self.view.version + 1
        for name, entry in self.view.nodes.items():
            if self._well(name, now):
                self._unwell_since.pop(name, None)
                if entry.state == DOWN or entry.boot != self._boots[name]:
                    nodes[name] = _entry(self._cluster.nodes[name], UP, self._boots[name], version)
                continue
            since = self._unwell_since.setdefault(name, now)
            known = now < self.accused_until.get(name, 0.0) or now - since >= self._detection_s[name]
            if entry.state == UP and known:
                nodes[name] = _entry(self._cluster.nodes[name], DOWN, entry.boot, version)
        leader, term = self.view.leader, self.view.term
        alive = [name for name, entry in nodes.items() if entry.state == UP]
        if leader not in alive:
            leader = self._rng.choice(alive) if alive else ""
            term += bool(leader)
        if (leader, nodes) != (self.view.leader, self.view.nodes):
            self.view = View(version, term, leader, nodes)
            self._cluster.log.note(
                f"view {version} term {term} leader {leader or 'none'} up {','.join(alive)}"
            )
        self._tell()
        self._cluster.scheduler.after(CHECK_S, self._check)

    def _tell(self) -> None:
        for name, agent in self.agents.items():
            if agent.told < self.view.version and not self.isolated.get(name):
                agent.told = self.view.version
                delay_s = self._rng.expovariate(1.0) * 0.005 + self.lag_s.get(name, 0.0)
                self._cluster.scheduler.after(delay_s, partial(agent.learn, self.view))


class MembershipAgent:
    """The membership agent of one node, for followers of its view."""

    def __init__(self, cluster: Cluster, node: Node, view: View) -> None:
        self.view = view
        # The newest version that is on its way.
        self.told = view.version
        self._node = node
        self._scheduler = cluster.scheduler
        self._watching: list[Asked] = []
        handlers: dict[str, Callable[[Asked], None]] = {
            "membership.watch": self._watch,
            "membership.attach": lambda asked: asked.answer(Done()),
            "membership.hint": lambda asked: asked.answer(Done()),
        }
        self._responder = Responder(cluster.wires, node.address, handlers)
        self._responder.listen(node.config.socket_path("membership"))

    def learn(self, view: View) -> None:
        """Takes a newer view and answers the requests that wait for it; without power, learns nothing."""
        if not self._node.is_on:
            self.told = min(self.told, self.view.version)
            return
        if view.version > self.view.version:
            self.view = view
            watching, self._watching = self._watching, []
            for asked in watching:
                self._tell(asked)

    def _watch(self, asked: Asked) -> None:
        if int(asked.fields["version"]) < self.view.version:
            self._tell(asked)
            return
        self._watching = [other for other in self._watching if other.is_alive] + [asked]
        self._scheduler.after(float(asked.fields["wait_s"]), partial(self._time_out, asked))

    def _time_out(self, asked: Asked) -> None:
        if asked in self._watching:
            self._watching.remove(asked)
            self._tell(asked)

    def _tell(self, asked: Asked) -> None:
        asked.answer({"view": self.view.as_fields()})


def _entry(node: Node, state: str, boot: int, since: int) -> NodeEntry:
    number = int(node.name.removeprefix("vm"))
    return NodeEntry(UP if state == UP else DOWN, f"{number:032x}:{boot}", since)
