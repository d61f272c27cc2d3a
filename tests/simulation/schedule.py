"""A schedule of faults as plain data: drawn from a seed, applied to a world, shrunk, and kept as a test.

Each seed enables its own subset of the kinds and draws its own rates; one in ten is free of faults (swarm
testing: Groce et al., ISSTA 2012). Everything chance decides about the faults is in the schedule, so a
shorter schedule is another run that makes sense, and ``repr`` of one is Python that replays it.

A step has a duration: what it began ends by itself. ``Faults.heal`` ends everything at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tests.simulation.network import LinkSettings
from tests.simulation.world import World

CALM_SHARE = 0.1
STEPS_MAX = 10
DURATIONS_S = (0.05, 0.3, 1.0, 2.0, 4.0, 6.0)


@dataclass(frozen=True)
class Step:
    """One fault: when it begins (after the start of the faults), what, whom, for how long, how much."""

    at_s: float
    kind: str
    names: tuple[str, ...] = ()
    duration_s: float = 0.0
    amount: float = 0.0


@dataclass(frozen=True)
class Schedule:
    """All that a run depends on."""

    seed: int | str
    nodes: int = 5
    voters: int = 5
    link: LinkSettings = field(default_factory=LinkSettings)
    steps: tuple[Step, ...] = ()
    variant: str = ""

    def names(self) -> list[str]:
        """Returns the names of the nodes."""
        return [f"n{index + 1}" for index in range(self.nodes)]

    def on_good_wires(self) -> Schedule:
        """Returns the same schedule on links that lose nothing."""
        return replace(self, link=LinkSettings())

    def __str__(self) -> str:
        """Returns Python that makes the schedule, a step a line."""
        steps = "".join(f"        {step!r},\n" for step in self.steps)
        link = "" if self.link == LinkSettings() else f"    link={self.link!r},\n"
        head = f"    seed={self.seed!r},\n    nodes={self.nodes},\n    voters={self.voters},\n"
        head += f"    variant={self.variant!r},\n" if self.variant else ""
        return f"Schedule(\n{head}{link}    steps=(\n{steps}    ),\n)"


# Every kind of fault, and how many nodes its steps name: a number, or "some" for one side of a partition.
KINDS: dict[str, int | str] = {
    "crash": 1,
    "crash_all": 0,
    "wipe": 1,
    "pause": 1,
    "slow": 1,
    "jump": 1,
    "cut": 2,
    "isolate": 1,
    "deafen": 1,
    "silence": 1,
    "filter": 1,
    "partition": "some",
    "bridge": 1,
    "ring": 0,
    "clog": 2,
    "clog_node": 1,
    "bad_link": 0,
    "disk_full": 1,
    "sync_fails": 1,
}
AMOUNTS: dict[str, tuple[float, ...]] = {
    "slow": (2.0, 10.0, 50.0),
    "jump": (-288.0, -1.0, 3.0, 288.0),
    "bad_link": (0.05, 0.1, 0.2),
}


def draw(
    seed: int | str,
    duration_s: float,
    *,
    sizes: Sequence[int] = (3, 4, 5, 5, 7),
    kinds: Sequence[str] = tuple(KINDS),
    extra: dict[str, int] | None = None,
) -> Schedule:
    """Returns the schedule of a seed; ``extra`` names kinds that the subsystem applies itself."""
    rng = random.Random(f"{seed}:swarm")
    counts = {**{kind: KINDS[kind] for kind in kinds}, **(extra or {})}
    nodes = rng.choice(sizes)
    voters = rng.choice([size for size in (1, 3, 5, 5) if size <= nodes])
    schedule = Schedule(seed, nodes, voters)
    if rng.random() < CALM_SHARE:
        return schedule
    link = LinkSettings(
        delay_mean_s=rng.choice([0.0005, 0.0005, 0.005, 0.02]),
        loss=rng.choice([0.0, 0.0, 0.02, 0.1]),
        duplicate=rng.choice([0.0, 0.0, 0.1]),
        reorder=rng.choice([0.0, 0.0, 0.05]),
    )
    enabled = rng.sample(list(counts), rng.randint(1, len(counts)))
    steps = []
    for _ in range(rng.randint(1, STEPS_MAX)):
        kind = rng.choice(enabled)
        count = counts[kind]
        size = rng.randint(1, nodes - 1) if isinstance(count, str) else count
        steps.append(
            Step(
                round(rng.uniform(0.0, duration_s), 3),
                kind,
                tuple(rng.sample(schedule.names(), size)),
                rng.choice(DURATIONS_S),
                rng.choice(AMOUNTS.get(kind, (0.0,))),
            )
        )
    return replace(schedule, link=link, steps=tuple(sorted(steps, key=lambda step: step.at_s)))


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
            network.link = self._schedule.link

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
