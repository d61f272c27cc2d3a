"""A stand-in for the membership agents: the agreed view, which each node learns at its own time.

A node that is dead, paused or cut off for longer than its detection time is down in the next version of the
view; when it led, another one leads in the next term. A node that is cut off, paused or *lagging* learns of
it late and goes on as before for a while.
"""

from __future__ import annotations

from collections.abc import Callable

from agent.rainstorm.leader.core.leader import NodeLife, ViewChanged
from tests.simulation.world import World

CHECK_S = 0.05
RETRY_S = 0.1


class Views:
    """Decides on views and tells the nodes."""

    def __init__(self, world: World, tell: Callable[[str, ViewChanged], None]) -> None:
        self.version = 1
        self.term = 1
        self.leader = next(iter(world.nodes))
        self.states = dict.fromkeys(world.nodes, "up")
        self.boots = dict.fromkeys(world.nodes, 1)
        self.isolated: dict[str, bool] = {}
        self.accused_until: dict[str, float] = {}
        self.lag_s: dict[str, float] = {}
        self._world = world
        self._tell = tell
        self._rng = world.random("views")
        self._unwell_since: dict[str, float] = {}
        self._detection_s = {name: self._rng.uniform(0.3, 2.0) for name in world.nodes}
        self._announced = dict(self.boots)
        self._announce()
        world.after(CHECK_S, self._check)

    def view(self) -> ViewChanged:
        """Returns the present view."""
        nodes = {
            name: NodeLife(f"{name}:{self._announced[name]}", state == "up")
            for name, state in self.states.items()
        }
        return ViewChanged(self.version, self.term, self.leader, nodes)

    def _well(self, name: str) -> bool:
        node = self._world.nodes[name]
        accused = self._world.now < self.accused_until.get(name, 0.0)
        return node.up and not node.paused and not self.isolated.get(name) and not accused

    def _check(self) -> None:
        now = self._world.now
        changed = False
        for name in self.states:
            if self._well(name):
                self._unwell_since.pop(name, None)
                if self.states[name] == "down" or self._announced[name] != self.boots[name]:
                    self.states[name], self._announced[name] = "up", self.boots[name]
                    changed = True
                continue
            since = self._unwell_since.setdefault(name, now)
            accused = now < self.accused_until.get(name, 0.0)
            if self.states[name] == "up" and (accused or now - since >= self._detection_s[name]):
                self.states[name] = "down"
                changed = True
        alive = [name for name, state in self.states.items() if state == "up"]
        if self.states[self.leader] == "down" and alive:
            self.leader = self._rng.choice(alive)
            self.term += 1
            changed = True
        if changed:
            self.version += 1
            self._announce()
        self._world.after(CHECK_S, self._check)

    def _announce(self) -> None:
        view = self.view()
        self._world.trace("view", self.version, self.term, self.leader, *self.states.values())
        for name in self.states:
            self._deliver(name, view)

    def _deliver(self, name: str, view: ViewChanged) -> None:
        delay_s = self._rng.expovariate(1.0) * 0.005 + self.lag_s.get(name, 0.0)
        self._world.after(delay_s, self._arrive, name, view)

    def _arrive(self, name: str, view: ViewChanged) -> None:
        node = self._world.nodes[name]
        if view.version < self.version:
            return  # a newer one is on its way
        if not node.up or self.isolated.get(name):
            self._world.after(RETRY_S, self._arrive, name, view)
            return
        node.call(lambda: self._tell(name, view))
