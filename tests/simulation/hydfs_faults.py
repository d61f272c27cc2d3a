"""What happens to the nodes and links of a simulated store: crashes, pauses, cuts, full disks."""

from __future__ import annotations

from collections.abc import Sequence

from tests.simulation.hydfs_client import WENT_ON
from tests.simulation.hydfs_disk import REFUSED_PROMISE
from tests.simulation.voter import FILE as REGISTERS
from tests.simulation.world import World

# Bytes above the reserve: room for a small record or none.
LOW_BYTES_MAX = 60
MOMENTS = (WENT_ON, REFUSED_PROMISE)


class Faults:
    """Breaks nodes and links at random times; never more than two nodes at once."""

    def __init__(self, world: World, nodes: Sequence[str], clients: Sequence[str]) -> None:
        self.world = world
        self.nodes, self.clients = list(nodes), list(clients)
        self.rng = world.random("faults")
        self.kinds = [kind for kind in ("crash", "pause", "cut", "isolate") if self.rng.random() < 0.7]
        self.active = True
        world.after(0.3, self._next)

    def _next(self) -> None:
        if not self.active:
            return
        self.world.after(self.rng.uniform(0.05, 0.6), self._next)
        if self.kinds:
            self._break(self.rng.choice(self.kinds), self.rng.choice(self.nodes), self.rng.uniform(0.02, 1.0))

    def _break(self, kind: str, name: str, duration_s: float) -> None:
        world, node = self.world, self.world.nodes[name]
        hurt = sum(1 for other in self.nodes if not world.nodes[other].up or world.nodes[other].paused)
        if kind == "crash" and node.up and hurt < 2:
            world.crash(name)
            world.after(duration_s, start, world, name)
        elif kind == "pause" and node.up and not node.paused and hurt < 2:
            world.pause(name)
            world.after(duration_s, self._resume, name, node.generation)
        elif kind == "cut":
            other = self.rng.choice([other for other in self.nodes + self.clients if other != name])
            world.network.cut(name, other)
            world.after(duration_s, world.network.mend, name, other)
        elif kind == "isolate":
            world.network.isolate(name, inbound=self.rng.random() < 0.7)
            world.after(duration_s, world.network.heal)

    def _resume(self, name: str, generation: int) -> None:
        node = self.world.nodes[name]
        if node.paused and node.generation == generation:
            self.world.resume(name)

    def stop(self) -> None:
        self.active = False
        self.world.network.heal()
        for name in self.nodes:
            if self.world.nodes[name].paused:
                self.world.resume(name)


class FullDisks:
    """Fills disks and gives them room again; a seed draws whether, how often and for how long.

    A disk is near its reserve, or without any room: then the register log has some in its last page, or not
    even that, and the voter refuses.
    """

    def __init__(self, world: World, nodes: Sequence[str]) -> None:
        self.world = world
        self.nodes = list(nodes)
        self.rng = world.random("full disks")
        self.active = self.rng.random() < 0.6
        self.pause_mean_s = self.rng.choice([0.2, 0.6, 1.5])
        self.full_until: dict[str, float] = {}
        self._later()

    def _later(self) -> None:
        self.world.after(0.3 + self.rng.expovariate(1.0) * self.pause_mean_s, self._fill)

    def _fill(self) -> None:
        if not self.active:
            return
        self._later()
        name, kind = self.rng.choice(self.nodes), self.rng.choice(["low", "low", "slack", "full"])
        disk = self.world.nodes[name].disk
        self.world.trace("disk", name, kind)
        self.world.hit(f"fault disk {kind}")
        if kind == "low":
            disk.free_bytes = self.rng.randint(0, LOW_BYTES_MAX)
        else:
            disk.full, disk.slack = True, (REGISTERS,) if kind == "slack" else ()
        duration_s = self.rng.uniform(0.02, 1.0)
        self.full_until[name] = max(self.world.now + duration_s, self.full_until.get(name, 0.0))
        self.world.after(duration_s, self._free, name)

    def _free(self, name: str) -> None:
        if self.world.now >= self.full_until[name]:
            self.world.nodes[name].disk.mend()
            start(self.world, name)

    def stop(self) -> None:
        """Gives every disk room."""
        self.active = False
        for name in self.full_until:
            self.full_until[name] = 0.0
            self._free(name)


def start(world: World, name: str) -> None:
    """Starts a node unless it is up: it may have stopped of itself, and been started, meanwhile."""
    if not world.nodes[name].up:
        world.restart(name)
