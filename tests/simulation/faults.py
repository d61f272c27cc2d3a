"""The faults of a schedule, done to a simulated cluster, and whom they may mislead until when."""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.disk import Fault
from tests.simulation.machine.host import SYNCS, Node
from tests.simulation.machine.wires import DATAGRAMS, KINDS, STREAMS
from tests.simulation.schedule import Schedule, Step

# A slow machine gets a processor for so long at a time, and then waits the rest of its turn.
SLICE_S = 0.002
SLOW_SYNC_S = 0.3
# What a filter or a cut stops, and in which direction.
Cut = tuple[str, str, str]
STOP_TIMEOUT_S = 30.0
RETRY_S = 0.05


class Faults:
    """Applies a schedule to the nodes of a cluster.

    ``service`` is the agent that is killed and stopped; machines that lose power or are paused lose all.
    A subclass may know further kinds (``do_<kind>``), and ``may_wipe`` says whose disk may be lost.
    """

    def __init__(self, cluster: Cluster, schedule: Schedule, service: str) -> None:
        self.over = False
        self.hits: Counter[str] = Counter()
        self.touched_until: dict[str, float] = {}
        self.cut_off_until: dict[str, float] = {}
        self.cluster = cluster
        self.scheduler = cluster.scheduler
        self.schedule = schedule
        self.service = service
        self.names = schedule.names()
        self._cuts: Counter[Cut] = Counter()
        for step in schedule.steps:
            self.scheduler.after(step.at_s, self._applier(step))

    def heal(self) -> None:
        """Ends all faults and starts what does not run."""
        self.over = True
        self.cluster.wires.quality = replace(self.schedule.link, loss=0.0, duplication=0.0, reorder=0.0)
        for node in self._nodes():
            node.disk.capacity_bytes = None
            node.disk.faults.clear()
            node.resume()
        self._cuts.clear()
        self.cluster.wait_until(lambda: not any(map(self._is_stopping, self._nodes())), STOP_TIMEOUT_S)
        self.cluster.heal()

    def may_wipe(self, name: str) -> bool:
        """Tells whether a node's disk may be lost."""
        return True

    def touch(self, names: Sequence[str], step: Step, *, cut_off: bool = False) -> None:
        """Remembers that what is believed of ``names`` may be wrong until the step's end."""
        until = self.scheduler.now + step.duration_s
        for name in names:
            self.touched_until[name] = max(until, self.touched_until.get(name, 0.0))
            if cut_off:
                self.cut_off_until[name] = max(until, self.cut_off_until.get(name, 0.0))

    def apply(self, step: Step) -> None:
        """Begins a step."""
        self.hits[f"fault {step.kind}"] += 1
        self.cluster.log.note(f"{step.kind} {' '.join(step.names)} {step.duration_s:g} s")
        getattr(self, f"do_{step.kind}")(step)

    def later(self, step: Step, action: Callable[[], object]) -> None:
        """Does something at the step's end, unless all faults have ended by then."""

        def end() -> None:
            if not self.over:
                self.cluster.log.note(f"end of {step.kind} {' '.join(step.names)}")
                action()

        self.scheduler.after(step.duration_s, end)

    def node(self, name: str) -> Node:
        """Returns a node."""
        return self.cluster.nodes[name]

    def runs(self, name: str) -> bool:
        """Tells whether the agent under test runs on a node."""
        node = self.node(name)
        agent = node.agents.get(self.service)
        return node.is_on and agent is not None and agent.is_running

    def start(self, name: str) -> None:
        """Starts the agent of a node whose power is on, once it has come to the end of its last life."""
        node = self.node(name)
        if self.over or not node.is_on:
            return
        if self._is_stopping(node):
            self.scheduler.after(RETRY_S, lambda: self.start(name))
        elif not self.runs(name):
            node.start(self.service)

    def _applier(self, step: Step) -> Callable[[], None]:
        def begin() -> None:
            if not self.over:
                self.apply(step)

        return begin

    def _nodes(self) -> list[Node]:
        return [self.cluster.nodes[name] for name in self.names]

    def _is_stopping(self, node: Node) -> bool:
        agent = node.agents.get(self.service)
        return agent is not None and agent.is_running and agent.is_asked_to_stop

    def _others(self, name: str) -> list[str]:
        return [other for other in self.names if other != name]

    # -- nodes ----------------------------------------------------------------------------------------

    def do_crash(self, step: Step) -> None:
        """Kills agents; their machines answer that nobody listens."""
        self.touch(step.names, step)
        down = [name for name in step.names if self.runs(name)]
        for name in down:
            self.node(name).kill(self.service)
        self.later(step, lambda: [self.start(name) for name in down])

    def do_crash_all(self, step: Step) -> None:
        """Kills all agents at once."""
        self.touch(self.names, step, cut_off=True)
        self.do_crash(replace(step, names=tuple(self.names)))

    def do_power_off(self, step: Step) -> None:
        """Cuts the power: silence, and a disk that keeps what was synced and some of the rest."""
        self.touch(step.names, step)
        down = [name for name in step.names if self.node(name).is_on]
        for name in down:
            self.node(name).power_off()
        self.later(step, lambda: [self.power_on(name) for name in down])

    def do_power_off_all(self, step: Step) -> None:
        """Cuts the power of all at once."""
        self.touch(self.names, step, cut_off=True)
        self.do_power_off(replace(step, names=tuple(self.names)))

    def power_on(self, name: str) -> None:
        """Restores a node's power and starts its agents."""
        if not self.node(name).is_on:
            self.node(name).start_all()

    def do_stop(self, step: Step) -> None:
        """Stops an agent as an operator does, and starts it again."""
        name = step.names[0]
        self.touch([name], step)
        if self.runs(name):
            self.node(name).stop(self.service)
            self.later(step, lambda: self.start(name))

    def do_roll(self, step: Step) -> None:
        """Restarts all agents one after the other, as an upgrade does."""
        self.touch(self.names, replace(step, duration_s=step.duration_s + len(self.names)))
        for index, name in enumerate(self.names):
            one = replace(step, kind="stop", names=(name,), duration_s=min(0.3, step.duration_s))
            self.scheduler.after(index * 1.0, self._applier(one))

    def do_wipe(self, step: Step) -> None:
        """Cuts the power of a node, which comes back with an empty disk."""
        name = step.names[0]
        if not self.node(name).is_on or not self.may_wipe(name):
            return
        self.touch([name], step)
        self.hits["a disk was lost"] += 1
        self.node(name).power_off()
        self.node(name).replace_disk()
        self.later(step, lambda: self.power_on(name))

    def do_pause(self, step: Step) -> None:
        """Stops a machine's processes as SIGSTOP does."""
        name = step.names[0]
        node = self.node(name)
        if not self.runs(name) or node.agents[self.service].process.paused:
            return
        self.touch([name], step)
        node.pause()
        self.later(step, node.resume)

    def do_slow(self, step: Step) -> None:
        """Gives a machine a processor for one part of ``amount`` only."""
        name = step.names[0]
        self.touch([name], step)
        node, until = self.node(name), self.scheduler.now + step.duration_s

        def wait() -> None:
            if not self.over and self.scheduler.now < until:
                node.pause()
                self.scheduler.after(SLICE_S * (step.amount - 1), work)

        def work() -> None:
            node.resume()
            self.scheduler.after(SLICE_S, wait)

        wait()

    def do_jump(self, step: Step) -> None:
        """Sets a wall clock forward or back."""
        node = self.node(step.names[0])
        node.set_clock(node.wall_offset_s + step.amount)

    # -- wires ----------------------------------------------------------------------------------------

    def do_cut(self, step: Step) -> None:
        """Stops what one node sends to another one."""
        self.touch(step.names, step)
        self.cut(step, [(step.names[0], step.names[1])])

    def do_isolate(self, step: Step) -> None:
        """Cuts one node off."""
        self._cut_off(step, inbound=True, outbound=True)

    def do_deafen(self, step: Step) -> None:
        """Stops everything that is sent to one node."""
        self._cut_off(step, inbound=True, outbound=False)

    def do_silence(self, step: Step) -> None:
        """Stops everything that one node sends."""
        self._cut_off(step, inbound=False, outbound=True)

    def do_filter(self, step: Step) -> None:
        """Stops the datagrams to one node, but no streams."""
        self._cut_off(step, inbound=True, outbound=False, kinds=(DATAGRAMS,))

    def do_filter_streams(self, step: Step) -> None:
        """Stops the streams of one node both ways, but no datagrams."""
        self._cut_off(step, inbound=True, outbound=True, kinds=(STREAMS,))

    def _cut_off(
        self, step: Step, *, inbound: bool, outbound: bool, kinds: Sequence[str] = KINDS
    ) -> None:
        name = step.names[0]
        self.touch([name], step, cut_off=True)
        pairs = [(other, name) for other in self._others(name) if inbound]
        self.cut(step, pairs + [(name, other) for other in self._others(name) if outbound], kinds)

    def do_partition(self, step: Step) -> None:
        """Cuts the nodes into two sides."""
        self.touch(self.names, step, cut_off=True)
        rest = [name for name in self.names if name not in step.names]
        self.cut(step, [pair for a in step.names for b in rest for pair in ((a, b), (b, a))])

    def do_bridge(self, step: Step) -> None:
        """Cuts the nodes into two halves that only one node can reach both of."""
        self.touch(self.names, step, cut_off=True)
        others = self._others(step.names[0])
        one, two = others[: len(others) // 2], others[len(others) // 2 :]
        self.cut(step, [pair for a in one for b in two for pair in ((a, b), (b, a))])

    def do_ring(self, step: Step) -> None:
        """Lets each node reach only its neighbours: a majority for each, and everywhere another."""
        self.touch(self.names, step, cut_off=True)
        count = len(self.names)
        reach = (count // 2 + 1) // 2
        pairs = []
        for index, source in enumerate(self.names):
            for other, target in enumerate(self.names):
                if min((index - other) % count, (other - index) % count) > reach:
                    pairs.append((source, target))
        self.cut(step, pairs)

    def cut(self, step: Step, pairs: Sequence[tuple[str, str]], kinds: Sequence[str] = KINDS) -> None:
        """Stops what is sent from the first to the second of each pair until the step's end."""
        wires = self.cluster.wires
        for source, target in pairs:
            wires.cut(self._address(source), self._address(target), both=False, kinds=kinds)
            self._cuts.update((source, target, kind) for kind in kinds)

        def mend() -> None:
            for source, target in pairs:
                for kind in kinds:
                    self._cuts[source, target, kind] -= 1
                    if not self._cuts[source, target, kind]:
                        wires.mend(self._address(source), self._address(target), (kind,))

        self.later(step, mend)

    def do_clog(self, step: Step) -> None:
        """Holds everything from one node to another one back."""
        self.touch(step.names, step)
        source, target = map(self._address, step.names)
        self.cluster.wires.clog(source, target, step.duration_s)

    def do_clog_node(self, step: Step) -> None:
        """Holds everything to and from one node back."""
        name = step.names[0]
        self.touch([name], step, cut_off=True)
        for other in self._others(name):
            self.cluster.wires.clog(self._address(name), self._address(other), step.duration_s)
            self.cluster.wires.clog(self._address(other), self._address(name), step.duration_s)

    def do_bad_link(self, step: Step) -> None:
        """Loses and overtakes more datagrams."""
        wires = self.cluster.wires
        wires.quality = replace(wires.quality, loss=step.amount, reorder=step.amount / 2)

        def mend() -> None:
            wires.quality = self.schedule.link

        self.later(step, mend)

    def _address(self, name: str) -> str:
        return self.node(name).address

    # -- disks ----------------------------------------------------------------------------------------

    def do_disk_full(self, step: Step) -> None:
        """Leaves a disk without room."""
        disk = self.node(step.names[0]).disk
        self.touch(step.names, step)
        disk.capacity_bytes = 0

        def free() -> None:
            disk.capacity_bytes = None

        self.later(step, free)

    def do_sync_fails(self, step: Step) -> None:
        """Makes the next sync of a disk fail."""
        self.touch(step.names, step)
        disk = self.node(step.names[0]).disk
        for call in SYNCS:
            disk.faults.append(Fault(call, error=errno.EIO))

    def do_slow_disk(self, step: Step) -> None:
        """Makes each sync of a disk take long."""
        self.touch(step.names, step)
        disk = self.node(step.names[0]).disk
        slow = [Fault(call, delay_s=SLOW_SYNC_S, times=-1) for call in SYNCS]
        disk.faults += slow

        def mend() -> None:
            disk.faults = [fault for fault in disk.faults if not any(fault is each for each in slow)]

        self.later(step, mend)
