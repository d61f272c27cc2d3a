"""A model of membership: the nodes that are up, as each store agent learns of them.

The real membership agents cost ten times as much as the stores. The model has the parts that matter to a
store: the view follows the machines with a delay, a node that is cut off hears nothing, a restarted agent
begins with the configured nodes, and gossip tells on which live machines the store is down.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.common.config import NodeConfig
from agent.hydfs.service import Service
from agent.hydfs.shell.view import all_up
from agent.membership.follower import HeldView
from agent.membership.view import DOWN, UP, View
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.host import Agent, Node

SERVICE = "hydfs"
LOOK_S = 0.2
# About the time until a machine's crash is in the view.
DETECTED_S = 0.8


class ToldView(HeldView):
    """The view of one store agent."""

    def __init__(self, nodes: Sequence[str], authority: Authority) -> None:
        super().__init__(all_up(nodes))
        self._authority = authority

    def storeless(self, nodes: Sequence[str]) -> list[str]:
        """Returns those of ``nodes`` whose store is down according to gossip."""
        return [node for node in nodes if node in self._authority.storeless]


class Authority:
    """Decides on the view and tells the agents."""

    def __init__(self) -> None:
        self.view = View()
        self.storeless: set[str] = set()
        self.is_over = False
        self._cluster: Cluster | None = None
        self._changed_at: dict[str, float] = {}
        self._told: dict[Agent, int] = {}

    def build(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> Service:
        """Returns a store agent that gets its views from this authority."""
        return Service(config, on_crash, ToldView([peer.name for peer in config.peers], self))

    def begin(self, cluster: Cluster) -> None:
        """Begins to watch the machines."""
        self._cluster = cluster
        self.view = all_up(list(cluster.nodes))
        cluster.scheduler.after(LOOK_S, self._look)

    def _look(self) -> None:
        if self.is_over:
            return
        cluster = self._cluster
        assert cluster is not None
        reached = {name: self._is_reached(node) for name, node in cluster.nodes.items()}
        now, nodes = cluster.scheduler.now, dict(self.view.nodes)
        for name, up in reached.items():
            if up == (nodes[name].state == UP):
                self._changed_at.pop(name, None)
            elif now - self._changed_at.setdefault(name, now) >= DETECTED_S:
                nodes[name] = replace(nodes[name], state=UP if up else DOWN)
        if nodes != self.view.nodes and sum(reached.values()) > len(nodes) // 2:
            self.view = replace(self.view, version=self.view.version + 1, nodes=nodes)
        agents = {name: node.agents[SERVICE] for name, node in cluster.nodes.items()}
        self.storeless = {name for name, agent in agents.items() if not agent.is_ready}
        for name, agent in agents.items():
            if agent.is_ready and reached[name] and self._told.get(agent, 0) < self.view.version:
                self._tell(agent)
        cluster.scheduler.after(LOOK_S, self._look)

    def _is_reached(self, node: Node) -> bool:
        """Tells whether a machine is running and has a connection to a majority in both directions."""
        cluster = self._cluster
        assert cluster is not None
        if not node.is_on or any(process.paused for process in node.processes):
            return False
        wires, own = cluster.wires, node.address
        others = [other.address for other in cluster.nodes.values()]
        both = sum(not (wires.is_cut(own, other) or wires.is_cut(other, own)) for other in others)
        return both > len(others) // 2

    def _tell(self, agent: Agent) -> None:
        self._told[agent] = self.view.version
        assert isinstance(agent.service, Service)
        views = agent.service.views
        assert isinstance(views, ToldView)
        agent.process.start("view", views.set, self.view)
