"""The faults of a schedule in a world of cores, for the register that still runs there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.network import LinkSettings
from tests.simulation.schedule import Schedule, Step
from tests.simulation.machine.wires import Quality
from tests.simulation.world import World

# Those of the kinds in ``schedule`` that a world of cores knows.
KINDS = (
    "crash",
    "crash_all",
    "wipe",
    "pause",
    "slow",
    "jump",
    "cut",
    "isolate",
    "deafen",
    "silence",
    "filter",
    "partition",
    "bridge",
    "ring",
    "clog",
    "clog_node",
    "bad_link",
    "disk_full",
    "sync_fails",
)


def settings(link: Quality) -> LinkSettings:
    """Returns what a link of this quality is in a world of cores."""
    mean_s = (link.latency_s_max - link.latency_s_min) / 2
    return LinkSettings(link.latency_s_min, mean_s, link.loss, link.duplication, link.reorder)


class Faults:
    """Applies a schedule to a world and remembers whom its steps touch, and until when.

    ``wiped`` says which files a node that loses its disk loses; a step that nobody here knows is handed to
    ``other``.
    """

    def __init__(
        self,
        world: World,
        schedule: Schedule,
        *,
        durable: Sequence[str] = (),
        other: Callable[[Step], None] | None = None,
    ) -> None:
        self.over = False
        self.touched_until: dict[str, float] = {}
        self.cut_off_until: dict[str, float] = {}
        self._world = world
        self._schedule = schedule
        self._names = schedule.names()
        self._durable = frozenset(durable)
        self._other = other
        self._cuts: dict[tuple[str, str], int] = {}
        for step in schedule.steps:
            world.after(step.at_s, self._apply, step)

    def heal(self) -> None:
        """Ends all faults and starts what is down."""
        world = self._world
        self.over = True
        world.network.heal()
        world.network.link = LinkSettings()
        for name in self._names:
            node = world.nodes[name]
            node.disk.mend()
            world.slow(name, 1.0)
            if not node.up:
                world.restart(name)
            elif node.paused:
                world.resume(name)

    def _apply(self, step: Step) -> None:
        if self.over:
            return
        self._world.hit(f"fault {step.kind}")
        method = getattr(self, f"_do_{step.kind}", None)
        if method is None:
            assert self._other is not None, f"nobody applies {step}"
            self._other(step)
        else:
            method(step)

    def touch(self, names: Sequence[str], step: Step, *, cut_off: bool = False) -> None:
        """Remembers that what is believed of ``names`` may be wrong until the step's end."""
        until = self._world.now + step.duration_s
        for name in names:
            self.touched_until[name] = max(until, self.touched_until.get(name, 0.0))
            if cut_off:
                self.cut_off_until[name] = max(until, self.cut_off_until.get(name, 0.0))

    def _later(self, step: Step, action: Callable[[], None]) -> None:
        def end() -> None:
            if not self.over:
                action()

        self._world.after(step.duration_s, end)

    # Nodes

    def _do_crash(self, step: Step) -> None:
        self.touch(step.names, step)
        self._crash(step)

    def _do_crash_all(self, step: Step) -> None:
        self.touch(self._names, step, cut_off=True)
        self._crash(replace(step, names=tuple(self._names)))

    def _do_wipe(self, step: Step) -> None:
        if step.names[0] in self._durable:
            return  # a voter that forgets its promises is more than the register promises to bear
        self.touch(step.names, step)
        self._crash(step)
        disk = self._world.nodes[step.names[0]].disk
        for file in disk.names():
            disk.delete(file)

    def _crash(self, step: Step) -> None:
        world = self._world
        down = [name for name in step.names if world.nodes[name].up]
        for name in down:
            world.crash(name)

        def restart() -> None:
            for name in down:
                if not world.nodes[name].up:
                    world.restart(name)

        self._later(step, restart)

    def _do_pause(self, step: Step) -> None:
        world, name = self._world, step.names[0]
        node = world.nodes[name]
        if not node.up or node.paused:
            return
        self.touch([name], step)
        world.pause(name)
        generation = node.generation

        def resume() -> None:
            if node.paused and node.generation == generation:
                world.resume(name)

        self._later(step, resume)

    def _do_slow(self, step: Step) -> None:
        name = step.names[0]
        self.touch([name], step)
        self._world.slow(name, step.amount)
        self._later(step, lambda: self._world.slow(name, 1.0))

    def _do_jump(self, step: Step) -> None:
        self._world.jump(step.names[0], step.amount)

    # Links

    def _do_cut(self, step: Step) -> None:
        self.touch(step.names, step)
        self._cut(step, [(step.names[0], step.names[1])])

    def _do_isolate(self, step: Step) -> None:
        self._cut_off(step, inbound=True, outbound=True)

    def _do_deafen(self, step: Step) -> None:
        self._cut_off(step, inbound=True, outbound=False)

    def _do_silence(self, step: Step) -> None:
        self._cut_off(step, inbound=False, outbound=True)

    def _cut_off(self, step: Step, *, inbound: bool, outbound: bool) -> None:
        name = step.names[0]
        self.touch([name], step, cut_off=True)
        others = [other for other in self._names if other != name]
        pairs = [(other, name) for other in others if inbound]
        self._cut(step, pairs + [(name, other) for other in others if outbound])

    def _do_filter(self, step: Step) -> None:
        name = step.names[0]
        self.touch([name], step, cut_off=True)
        others = [other for other in self._names if other != name]
        for other in others:
            self._world.network.filter(other, name)

        def open_up() -> None:
            for other in others:
                self._world.network.filter(other, name, on=False)

        self._later(step, open_up)

    def _do_partition(self, step: Step) -> None:
        self.touch(self._names, step, cut_off=True)
        rest = [name for name in self._names if name not in step.names]
        self._cut(step, [pair for a in step.names for b in rest for pair in ((a, b), (b, a))])

    def _do_bridge(self, step: Step) -> None:
        self.touch(self._names, step, cut_off=True)
        before = self._world.network.cuts()
        self._world.network.bridge(self._names, step.names[0])
        self._adopt(step, before)

    def _do_ring(self, step: Step) -> None:
        self.touch(self._names, step, cut_off=True)
        before = self._world.network.cuts()
        self._world.network.majorities_ring(self._names)
        self._adopt(step, before)

    def _adopt(self, step: Step, before: frozenset[tuple[str, str]]) -> None:
        self._cut(step, sorted(self._world.network.cuts() - before))

    def _cut(self, step: Step, pairs: Sequence[tuple[str, str]]) -> None:
        for pair in pairs:
            self._cuts[pair] = self._cuts.get(pair, 0) + 1
            self._world.network.cut(*pair)

        def mend() -> None:
            for pair in pairs:
                self._cuts[pair] -= 1
                if not self._cuts[pair]:
                    self._world.network.mend(*pair)

        self._later(step, mend)

    def _do_clog(self, step: Step) -> None:
        self.touch(step.names, step)
        self._world.network.clog(step.names[0], step.names[1], step.duration_s)

    def _do_clog_node(self, step: Step) -> None:
        name = step.names[0]
        self.touch([name], step, cut_off=True)
        for other in self._names:
            if other != name:
                self._world.network.clog(name, other, step.duration_s)
                self._world.network.clog(other, name, step.duration_s)

    def _do_bad_link(self, step: Step) -> None:
        network = self._world.network
        network.link = replace(network.link, loss=step.amount, reorder=step.amount / 2)

        def mend() -> None:
            network.link = settings(self._schedule.link)

        self._later(step, mend)

    # Disks

    def _do_disk_full(self, step: Step) -> None:
        name = step.names[0]
        disk = self._world.nodes[name].disk
        disk.full = True
        self.touch([name], step)

        def free() -> None:
            disk.full = False
            if not self._world.nodes[name].up:
                self._world.restart(name)

        self._later(step, free)

    def _do_sync_fails(self, step: Step) -> None:
        name = step.names[0]
        node = self._world.nodes[name]
        node.disk.fail_next_sync()
        self.touch([name], step)
        self._later(step, lambda: self._world.restart(name) if not node.up else None)
