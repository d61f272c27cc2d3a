"""The faults of membership's schedules: those of every cluster, and those that only membership has.

Membership's own faults are a wrong hint, a port that answers "refused" for a live node, an orderly leave, a
switch of detectors, a rotation of gossip keys, a replaced voter, a lost disk, a stalled neighbour, strangers,
packet filters, and overlapping partitions. Some wait for a moment that chance would rarely hit (``_ambush``).

The nodes that a fault touches are remembered, because only these may be believed dead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from agent.membership.client import MembershipClient
from agent.membership.settings import DetectorKind
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.schedule import Step
from tests.simulation.machine.wires import DATAGRAMS, STREAMS
from tests.simulation.membership import orders, strangers
from tests.simulation.membership.cluster import MEMBERSHIP, NEIGHBOUR, MembershipCluster

# Kinds of fault in addition to those of every cluster, and the number of nodes that each names.
EXTRA: dict[str, int | str] = {
    "starve": 1,
    "filter": 1,
    "filter_streams": 1,
    "bridge": 1,
    "ring": 0,
    "clog": 2,
    "clog_node": 1,
    "bad_wires": 0,
    "wipe": 1,
    "hint": 2,
    "refuse": 2,
    "leave": 1,
    "depart": 1,
    "switch": 1,
    "rotate": 1,
    "replace_voter": 2,
    "abort_order": 1,
    "hang": 1,
    "visit": 1,
    "kill_busy": 1,
    "pause_busy": 1,
    "isolate_busy": 1,
    "pause_suspecting": 1,
}
# A fault touches the nodes that it names, except for these kinds, which touch all nodes.
TOUCH_ALL = ("power_all", "rolling_restart", "partition", "bridge", "ring", "rotate")
# These kinds must not make any node believe that another one is dead.
TOUCH_NONE = ("hint", "refuse", "visit", "jump", "switch", "abort_order", "replace_voter", "hang")
# A node that these kinds touch hears too little to judge others.
CUT_OFF = (
    *("power_all", "isolate", "deafen", "silence", "slow_wires", "partition", "bridge", "ring", "rotate"),
    *("filter", "filter_streams", "clog_node"),
)
# Beliefs and decisions that a fault caused may outlive it by this much.
GRACE_S = 12.0
# How long the faults of a schedule last: a few times what it takes to suspect, evict and admit a node again.
FAULTS_S = 5.0
AMBUSH_S, AMBUSH_STEP_S = 3.0, 0.001
LEFT_S = 0.2
ABORT_S_MAX = 0.02
# A starved machine gets a processor for this long at a time, and then waits up to fifty times as long.
SLICE_S = 0.002
STARVED_MAX = 50
# The share of disk faults that strike a running agent, and how soon the agent is restarted for the others.
RUNS_ON, RESTARTED_S = 0.3, 0.05


class MembershipFaults(Faults):
    """Faults that remember which nodes they touch, and count the moments that they hit."""

    def __init__(self, cluster: MembershipCluster, steps: Sequence[Step]) -> None:
        self.members = cluster
        self.hits = cluster.history.hits
        self.names = cluster.names
        # Whether a second gossip key is in use; in the end every node must have it.
        self.rotated = False
        self._touched_until: dict[str, float] = {}
        self._cut_off_until: dict[str, float] = {}
        self._wiped: set[str] = set()
        cluster.history.is_touched = lambda name: self._within(self._touched_until, name)
        cluster.history.is_cut_off = lambda name: self._within(self._cut_off_until, name)
        super().__init__(cluster, steps)

    def touch(self, names: Sequence[str], seconds: float, *, cut_off: bool = False) -> None:
        """Remembers that beliefs about ``names``, and beliefs that they hold, may be wrong for a time."""
        until = self.cluster.scheduler.now + seconds
        for name in names:
            self._touched_until[name] = max(until, self._touched_until.get(name, 0.0))
            if cut_off:
                self._cut_off_until[name] = max(until, self._cut_off_until.get(name, 0.0))

    def learners(self) -> set[str]:
        """Returns the voters that must learn before they can vote: new ones, and those with a new disk."""
        return set(self._wiped)

    def _within(self, until: dict[str, float], name: str) -> bool:
        return name in until and self.cluster.scheduler.now <= until[name] + GRACE_S

    def _apply(self, step: Step) -> None:
        if not self.is_over:
            everyone, nobody = step.kind in TOUCH_ALL, step.kind in TOUCH_NONE
            names = self.names if everyone else () if nobody else step.nodes
            # Restarting all takes a moment for each; different keys separate nodes until an operator acts.
            seconds = step.duration_s + (FAULTS_S if step.kind in ("rolling_restart", "rotate") else 0.0)
            self.touch(names, seconds, cut_off=step.kind in CUT_OFF)
            self._count(step)
        super()._apply(step)

    def _count(self, step: Step) -> None:
        cluster = self.members
        self.hits[f"fault {step.kind}"] += 1
        running = cluster.running()
        busy = any(cluster.service(name).core._busy for name in step.nodes if name in running)
        if step.kind in ("isolate", "deafen", "silence", "partition") and busy:
            self.hits["cut off with a register operation in flight"] += 1
        if step.kind in ("kill", "power") and step.nodes[0] in running:
            view = cluster.view(step.nodes[0])
            if view is not None and view.leader == step.nodes[0]:
                self.hits["leader crashed"] += 1
        if step.kind == "kill" and self._service(step) == NEIGHBOUR:
            self.hits["neighbour killed"] += 1
        if any(not cluster.service(name).core.majority for name in running):
            self.hits["no majority"] += 1

    # Machines

    def _starve(self, step: Step) -> None:
        """Gives a machine only a small share of a processor."""
        node = self._node(step)
        until = self.cluster.scheduler.now + step.duration_s

        def wait() -> None:
            if not self.is_over and self.cluster.scheduler.now < until:
                node.pause()
                self.cluster.scheduler.after(SLICE_S * (1 + step.amount * STARVED_MAX), work)

        def work() -> None:
            node.resume()
            self.cluster.scheduler.after(SLICE_S, wait)

        wait()

    def _wipe(self, step: Step) -> None:
        """Cuts the power of a node, which comes back with an empty disk.

        Only a minority of the voters may lose their disks: the register does not tolerate more.
        """
        node = self._node(step)
        wiped = self._wiped | {node.name}
        if not node.is_on or len(wiped) > (self.members.voters - 1) // 2:
            return
        self._wiped = wiped
        self.hits["a disk was lost"] += 1
        self.cut_power([node], step)
        node.replace_disk()

    def _full_disk(self, step: Step) -> None:
        """Leaves a disk without room, mostly while its agent restarts."""
        super()._full_disk(step)
        self._begin_anew(step)

    def _failing_disk(self, step: Step) -> None:
        """Makes a disk fail some calls, mostly while its agent restarts."""
        super()._failing_disk(step)
        self._begin_anew(step)

    def _begin_anew(self, step: Step) -> None:
        node = self._node(step)
        agent = node.agents.get(MEMBERSHIP)
        if step.amount > RUNS_ON and agent is not None and agent.is_running:
            node.kill(MEMBERSHIP)
            self.cluster.scheduler.after(RESTARTED_S, lambda: self._start(node, MEMBERSHIP))

    # Wires

    def _filter(self, step: Step) -> None:
        """Stops the datagrams to one node, but no streams."""
        (own,) = self._addresses(step.nodes)
        self._cut_kind(step, [(other, own) for other in self._others_of(step)], DATAGRAMS)

    def _filter_streams(self, step: Step) -> None:
        """Stops the streams of one node, but no datagrams."""
        (own,) = self._addresses(step.nodes)
        others = self._others_of(step)
        self._cut_kind(step, [pair for other in others for pair in ((own, other), (other, own))], STREAMS)

    def _cut_kind(self, step: Step, pairs: Sequence[tuple[str, str]], kind: str) -> None:
        for pair in pairs:
            self.cluster.wires.cut(*pair, both=False, kinds=(kind,))

        def mend() -> None:
            for pair in pairs:
                if not self._cuts[pair]:
                    self.cluster.wires.mend(*pair, (kind,))

        self.later(step, mend)

    def _bridge(self, step: Step) -> None:
        """Cuts the nodes into two halves; only one node can reach both."""
        others = self._addresses([name for name in self.names if name not in step.nodes])
        one, two = others[: len(others) // 2], others[len(others) // 2 :]
        self._cut_pairs(step, [pair for a in one for b in two for pair in ((a, b), (b, a))])

    def _ring(self, step: Step) -> None:
        """Lets each node reach only its neighbours: each has a majority, and each has a different one."""
        everyone = self._addresses(self.names)
        count = len(everyone)
        reach = (count // 2 + 1) // 2
        pairs = [
            (source, target)
            for index, source in enumerate(everyone)
            for other, target in enumerate(everyone)
            if min((index - other) % count, (other - index) % count) > reach
        ]
        self._cut_pairs(step, pairs)

    def _clog(self, step: Step) -> None:
        """Holds back all traffic from one node to another one."""
        source, target = self._addresses(step.nodes)
        self.cluster.wires.clog(source, target, step.duration_s)

    def _clog_node(self, step: Step) -> None:
        """Holds back all traffic to and from one node."""
        (own,) = self._addresses(step.nodes)
        for other in self._others_of(step):
            self.cluster.wires.clog(own, other, step.duration_s)
            self.cluster.wires.clog(other, own, step.duration_s)

    def _bad_wires(self, step: Step) -> None:
        """Loses up to a fifth of the datagrams and reorders others."""
        wires = self.cluster.wires
        before = wires.quality
        wires.quality = replace(before, loss=0.2 * step.amount, reorder=0.1 * step.amount)

        def mend() -> None:
            wires.quality = before

        self.later(step, mend)

    # Hints and refusals

    def _hint(self, step: Step) -> None:
        """Makes an agent of a node report that it lost contact with another node."""
        name, other = step.nodes
        self._order(name, lambda client: client.hint(other))

    def _refuse(self, step: Step) -> None:
        """Answers a node's datagrams to another one as if no process listened there."""
        source, target = (self.cluster.nodes[name] for name in step.nodes)
        port = self.cluster.wires.ports.get((source.address, source.config.me.membership_port))
        if port is not None:
            port.refused((target.address, target.config.me.membership_port))

    # Orders

    def _order(self, name: str, act: Callable[[MembershipClient], object]) -> orders.Order:
        return orders.give(self.members, name, act)

    def _leave(self, step: Step) -> None:
        """Makes a node leave the cluster, and kills its agent a little later."""
        node = self._node(step)
        self._order(node.name, lambda client: client.leave())
        agent = node.agents.get(MEMBERSHIP)

        def end() -> None:
            if not self.is_over and agent is not None and agent.is_running:
                node.kill(MEMBERSHIP)
                self.later(step, lambda: self._start(node, MEMBERSHIP))

        self.cluster.scheduler.after(LEFT_S, end)

    def _depart(self, step: Step) -> None:
        """Makes a node leave the cluster and join it again, without a restart."""
        (name,) = step.nodes
        self._order(name, lambda client: client.leave())
        self.later(step, lambda: self._order(name, lambda client: client.join()))

    def _switch(self, step: Step) -> None:
        """Switches the whole cluster to the other detector."""
        (name,) = step.nodes
        monitor = self.members.monitor(name)
        heartbeat = monitor is not None and monitor.settings.detector is DetectorKind.HEARTBEAT
        other = DetectorKind.SWIM if heartbeat else DetectorKind.HEARTBEAT
        self._order(name, lambda client: client.switch(other.label, True))

    def _rotate(self, step: Step) -> None:
        """Gives every node that answers a second gossip key and makes it seal with that key.

        A node that does not answer cannot hear those that did, until the operator repairs its keys.
        """
        self.rotated = True
        for name in self.names:
            self._order(name, orders.rotate)

    def _replace_voter(self, step: Step) -> None:
        """Replaces a voter by a node that does not vote, unless a voter has lost its disk."""
        name, new = step.nodes
        voters = self.names[: self.members.voters]
        if new not in voters and not self._wiped:
            old = voters[self.names.index(name) % len(voters)]
            self._wiped.add(new)  # it learns before it votes
            self._order(name, lambda client: self._replace(client, old, new))

    def _replace(self, client: MembershipClient, old: str, new: str) -> None:
        client.replace_voter(old, new)
        self.hits["voter replaced"] += 1

    def _abort_order(self, step: Step) -> None:
        """Kills an operator that waits for a view."""
        (name,) = step.nodes
        order = self._order(name, lambda client: client.watch(1 << 40, 30.0))
        self.cluster.scheduler.after(step.amount * ABORT_S_MAX, order.abort)
        self.hits["order aborted"] += 1

    # Neighbours and strangers

    def _hang(self, step: Step) -> None:
        """Stops the attached agent: its connection stays open, but it sends nothing."""
        agent = self._node(step).agents.get(NEIGHBOUR)
        if agent is None or not agent.is_running or agent.process.paused:
            return
        process = agent.process
        self.hits["neighbour hung"] += 1
        self.cluster.scheduler.pause(process)

        def resume() -> None:
            if not process.dead and process.paused:
                self.cluster.scheduler.resume(process)

        self.later(step, resume)

    def _visit(self, step: Step) -> None:
        """Lets a machine that does not belong to the cluster talk to a node."""
        process = self.cluster.client("stranger")
        node = self._node(step)
        others = [name for name in self.names if name != node.name]
        door = strangers.Door(
            node.name,
            node.address,
            node.config.me.membership_port,
            self.cluster.machines["stranger"].address,
            others[int(step.amount * len(others))],
            step.duration_s,
        )
        for visit in strangers.VISITS:
            process.start("visit", strangers.run, visit, door)
        self.hits["strangers came"] += 1

    # Ambushes

    def _kill_busy(self, step: Step) -> None:
        """Kills an agent while it uses the register."""
        self._ambush(step, self.cluster.scheduler.now + AMBUSH_S)

    def _pause_busy(self, step: Step) -> None:
        """Pauses a machine while its agent uses the register."""
        self._ambush(step, self.cluster.scheduler.now + AMBUSH_S)

    def _isolate_busy(self, step: Step) -> None:
        """Cuts a machine off while its agent uses the register."""
        self._ambush(step, self.cluster.scheduler.now + AMBUSH_S)

    def _pause_suspecting(self, step: Step) -> None:
        """Pauses a machine while its agent suspects a member."""
        self._ambush(step, self.cluster.scheduler.now + AMBUSH_S)

    def _ambush(self, step: Step, until: float) -> None:
        (name,) = step.nodes
        node, scheduler = self._node(step), self.cluster.scheduler
        if self.is_over or scheduler.now > until or name not in self.members.running():
            return
        if node.agents[MEMBERSHIP].process.paused:
            return
        core = self.members.service(name).core
        suspecting = step.kind == "pause_suspecting"
        if not (core.monitor.roster.suspicions if suspecting else core._busy):
            scheduler.after(AMBUSH_STEP_S, lambda: self._ambush(step, until))
            return
        self.touch([name], step.duration_s, cut_off=step.kind == "isolate_busy")
        if step.kind == "isolate_busy":
            self.hits["cut off with a register operation in flight"] += 1
            self._isolate(step)
        elif step.kind == "kill_busy":
            self.hits["crash with a register operation in flight"] += 1
            node.kill(MEMBERSHIP)
            self.later(step, lambda: self._start(node, MEMBERSHIP))
        else:
            what = "suspicion under way" if suspecting else "register operation in flight"
            self.hits[f"pause with a {what}"] += 1
            self._pause(step)
