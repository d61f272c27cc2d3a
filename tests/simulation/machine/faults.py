"""Applies the steps of a schedule to a cluster, and ends their faults.

Overlapping faults are counted: a cut ends when the last step that asked for it has ended.
"""

from __future__ import annotations

import errno
from collections import Counter
from collections.abc import Callable, Sequence

from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.disk import Fault
from tests.simulation.machine.host import Node
from tests.simulation.machine.schedule import Step
from tests.simulation.machine.wires import Quality

SYNCS, WRITES = "f*sync", "*write*"
# The time of a sync on a worn disk, or beside a busy neighbour.
SLOW_SYNC_S = 0.3
SLOW_LATENCY_S = 0.2
# A full disk has at most this much room.
ROOM_BYTES_MAX = 8192
NO_ROOM_SHARE = 0.4
CLOCK_JUMP_S = 600.0
ROLLING_PAUSE_S = 0.3
FAILING_CALLS_MAX = 3
ACCEPT_ERRORS = 3
FAILING_CALLS = (SYNCS, "fdatasync", "pwrite", "write", "open", "rename", "pread")


class Faults:
    """The faults of one run; ``others`` apply the kinds that only some subsystem has."""

    def __init__(
        self,
        cluster: Cluster,
        steps: Sequence[Step],
        others: dict[str, Callable[[Step], None]] | None = None,
    ) -> None:
        self.cluster = cluster
        self.is_over = False
        # How often each kind of fault struck.
        self.struck: Counter[str] = Counter()
        # Nodes whose disk has refused a call: an agent there may have stopped because of that.
        self.disks_hurt: set[str] = set()
        self._others = others or {}
        self._cuts: Counter[tuple[str, str]] = Counter()
        for step in steps:
            cluster.scheduler.after(step.at_s, lambda step=step: self._apply(step))  # type: ignore[misc]

    def end(self) -> None:
        """Ends all faults and cancels those that have not begun; machines that are lost stay off."""
        self.is_over = True
        self.cluster.heal()

    def later(self, step: Step, action: Callable[[], object]) -> None:
        """Calls ``action`` when the step ends, unless all faults have ended before."""

        def end() -> None:
            if not self.is_over:
                action()

        self.cluster.scheduler.after(step.duration_s, end)

    def _apply(self, step: Step) -> None:
        if self.is_over:
            return
        self.struck[step.kind] += 1
        self.cluster.log.note(f"{step}")
        (self._others.get(step.kind) or getattr(self, f"_{step.kind}"))(step)

    def _node(self, step: Step) -> Node:
        return self.cluster.nodes[step.nodes[0]]

    def _service(self, step: Step) -> str:
        names = list(self.cluster.factories)
        return names[int(step.amount * len(names))]

    # Processes and machines

    def _kill(self, step: Step) -> None:
        node, service = self._node(step), self._service(step)
        agent = node.agents.get(service)
        if agent is None or not agent.is_running:
            return
        node.kill(service)
        self.later(step, lambda: self._start(node, service))

    def _restart(self, step: Step) -> None:
        node, service = self._node(step), self._service(step)
        agent = node.agents.get(service)
        if agent is not None and agent.is_running:
            agent.stop()
            self.later(step, lambda: self._start(node, service))

    def _rolling_restart(self, step: Step) -> None:
        for number, node in enumerate(self.cluster.nodes.values()):
            for service in self.cluster.factories:
                turn = Step(step.at_s, "restart", (node.name,), ROLLING_PAUSE_S, step.amount)
                self.cluster.scheduler.after(number * 2 * ROLLING_PAUSE_S, self._turn(turn, service))

    def _turn(self, step: Step, service: str) -> Callable[[], None]:
        def stop() -> None:
            agent = self._node(step).agents.get(service)
            if not self.is_over and agent is not None and agent.is_running:
                agent.stop()
                self.later(step, lambda: self._start(self._node(step), service))

        return stop

    def _start(self, node: Node, service: str) -> None:
        """Starts an agent if its machine has power and the previous one has ended."""
        if self.is_over or not node.is_on:
            return
        if node.agents[service].is_running:
            self.cluster.scheduler.after(ROLLING_PAUSE_S, lambda: self._start_if_ended(node, service))
        else:
            node.start(service)

    def _start_if_ended(self, node: Node, service: str) -> None:
        if not node.agents[service].is_asked_to_stop:
            return  # another step has started it meanwhile
        self._start(node, service)

    def _power(self, step: Step) -> None:
        self.cut_power([self._node(step)], step)

    def _power_all(self, step: Step) -> None:
        self.cut_power(list(self.cluster.nodes.values()), step)

    def cut_power(self, nodes: Sequence[Node], step: Step) -> None:
        """Switches machines off, and on again when the step ends."""
        off = [node for node in nodes if node.is_on]
        for node in off:
            node.power_off()

        def restore() -> None:
            for node in off:
                if not node.is_on and node.name not in self.cluster.lost:
                    node.start_all()

        self.later(step, restore)

    def _pause(self, step: Step) -> None:
        node = self._node(step)
        node.pause()
        self.later(step, node.resume)

    def _jump(self, step: Step) -> None:
        node = self._node(step)
        node.set_clock(node.wall_offset_s + (2 * step.amount - 1) * CLOCK_JUMP_S)

    def _no_descriptors(self, step: Step) -> None:
        networks = [process.seam.network for process in self._node(step).processes]
        for network in networks:
            network.accept_errors.extend([errno.EMFILE] * ACCEPT_ERRORS)
        self.later(step, lambda: [network.accept_errors.clear() for network in networks])

    # Wires

    def _addresses(self, names: Sequence[str]) -> list[str]:
        return [self.cluster.nodes[name].address for name in names]

    def _others_of(self, step: Step) -> list[str]:
        return [m.address for m in self.cluster.machines.values() if m.name not in step.nodes]

    def _cut(self, step: Step) -> None:
        a, b = self._addresses(step.nodes)
        self._cut_pairs(step, [(a, b), (b, a)])

    def _cut_one_way(self, step: Step) -> None:
        a, b = self._addresses(step.nodes)
        self._cut_pairs(step, [(a, b)])

    def _isolate(self, step: Step) -> None:
        self._deafen(step)
        self._silence(step)

    def _deafen(self, step: Step) -> None:
        (own,) = self._addresses(step.nodes)
        self._cut_pairs(step, [(other, own) for other in self._others_of(step)])

    def _silence(self, step: Step) -> None:
        (own,) = self._addresses(step.nodes)
        self._cut_pairs(step, [(own, other) for other in self._others_of(step)])

    def _partition(self, step: Step) -> None:
        side = self._addresses(step.nodes)
        rest = [node.address for node in self.cluster.nodes.values() if node.address not in side]
        self._cut_pairs(step, [pair for a in side for b in rest for pair in ((a, b), (b, a))])

    def _cut_pairs(self, step: Step, pairs: Sequence[tuple[str, str]]) -> None:
        for pair in pairs:
            self._cuts[pair] += 1
            self.cluster.wires.cut(*pair, both=False)

        def mend() -> None:
            for pair in pairs:
                self._cuts[pair] -= 1
                if not self._cuts[pair]:
                    self.cluster.wires.mend(*pair)

        self.later(step, mend)

    def _slow_wires(self, step: Step) -> None:
        wires, (own,) = self.cluster.wires, self._addresses(step.nodes)
        slow = Quality(0.0, SLOW_LATENCY_S * step.amount, wires.quality.loss)
        others = self._others_of(step)
        for other in others:
            wires.set_quality(own, other, slow)
            wires.set_quality(other, own, slow)

        def mend() -> None:
            for other in others:
                wires.set_quality(own, other, wires.quality)
                wires.set_quality(other, own, wires.quality)

        self.later(step, mend)

    # Disks

    def _slow_disk(self, step: Step) -> None:
        disk = self._node(step).disk
        fault = Fault(SYNCS, delay_s=SLOW_SYNC_S * step.amount, times=1 << 30)
        disk.faults.append(fault)
        self.later(step, lambda: disk.faults.remove(fault) if fault in disk.faults else None)

    def _full_disk(self, step: Step) -> None:
        node = self._node(step)
        self.disks_hurt.add(node.name)
        disk = node.disk
        if step.amount < NO_ROOM_SHARE:  # no room, not even in the last pages of files
            fault = Fault(WRITES, "/var/lib/*", error=errno.ENOSPC, times=1 << 30)
            disk.faults.append(fault)
            self.later(step, lambda: disk.faults.remove(fault) if fault in disk.faults else None)
        else:
            disk.fill(int(step.amount * ROOM_BYTES_MAX))
            self.later(step, disk.free)

    def _failing_disk(self, step: Step) -> None:
        node = self._node(step)
        self.disks_hurt.add(node.name)
        call = FAILING_CALLS[int(step.amount * len(FAILING_CALLS))]
        times = 1 + int(step.amount * 1000) % FAILING_CALLS_MAX
        fault = Fault(call, "/var/lib/*", error=errno.EIO, times=times)
        disk = node.disk
        disk.faults.append(fault)
        self.later(step, lambda: disk.faults.remove(fault) if fault in disk.faults else None)
