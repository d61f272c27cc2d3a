"""Membership and view under a schedule of faults, then healed, then examined.

Checked all the time (safety):

- M1 one view for each version, one leader for each term, terms never go back;
- M2 nobody is believed dead or evicted whom no fault touched, except in the table of a node that was itself
  cut off;
- M3 nobody else raises a node's incarnation or boot: no record is newer than the node it speaks of;
- M4 lives never go back: the boots in the view, and what one life of an observer believes, only grow.

After the faults (liveness, each within a bound): M5 all agree on a view of all; M6 it is calm then: no
deaths, no new views, little traffic; M7 a node that now crashes is dead everywhere and out of the view in
time, and nobody else is; M8 it comes back.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from agent.common.config import MembershipConfig
from agent.membership.core import events
from agent.membership.core import view as views
from agent.membership.member import Member, State
from agent.membership.settings import DetectorKind
from agent.membership.view import DOWN, UP, NodeEntry, View
from tests.simulation.membership_host import Cluster, MembershipHost, Sighting
from tests.simulation.schedule import KINDS, Faults, Schedule, Step, draw

FAULTS_S = 12.0
# Verdicts, refutations and views in flight may outlive the fault that caused them by this much.
GRACE_S = 12.0
CONVERGED_S = 30.0
CALM_S = 3.0
# Received by a node; heartbeats carry everybody's counters, several times a probe interval.
CALM_BYTES_PER_S = {"swim": 3000.0, "heartbeat": 6000.0}
DETECTED_S = 4.0
BACK_S = 10.0
# Kinds of fault that only membership knows: a wrong hint, a port that answers "refused", an orderly leave.
# The last ones wait for a moment that chance would rarely hit.
EXTRA = {
    "hint": 2,
    "refuse": 2,
    "leave": 1,
    "switch": 1,
    "crash_busy": 1,
    "pause_busy": 1,
    "pause_suspecting": 1,
}
HEARTBEAT_SHARE = 0.25
AMBUSH_S, AMBUSH_STEP_S = 3.0, 0.001
# Moments that a batch of seeds must reach, or the swarm does not test what it says.
MOMENTS = (
    "tables swapped",
    "suspected",
    "refuted",
    "dead",
    "left",
    "later life seen",
    "evicted",
    "admitted again",
    "new life in the view",
    "leader changed",
    "no majority",
    "leader crashed",
    "crash with a register operation in flight",
    "pause with a register operation in flight",
    "pause with a suspicion under way",
    "cut off with a register operation in flight",
    "boot adopted",
    "agent stopped: DiskFailed",
    "agent stopped: DiskFull",
)


@dataclass(frozen=True, slots=True)
class Result:
    """What one run was like."""

    trace: str
    hits: Mapping[str, int]
    simulated_s: float


class SwarmCluster(Cluster):
    """A cluster that checks M2-M4 whenever a node believes something new."""

    def __init__(self, schedule: Schedule) -> None:
        self.faults: Faults | None = None
        self.exam = ""
        self._own: dict[str, tuple[int, int]] = {}
        self._believed: dict[tuple[str, int, str], int] = {}
        config = MembershipConfig(detector=schedule.variant or "swim")
        super().__init__(schedule.seed, schedule.nodes, schedule.voters, config=config, link=schedule.link)
        self.world.on_crash = self._note_own

    def saw(self, sighting: Sighting) -> None:
        """Checks and counts a change of state that a node saw."""
        super().saw(sighting)
        member, observer = sighting.member, sighting.observer
        self._note_own(member.name)
        own = self._own.get(member.name, (0, 0))
        assert (member.boot, member.incarnation) <= own, f"M3: {observer} believes {member}, it is at {own}"
        key = (observer, self.world.nodes[observer].generation, member.name)
        assert member.boot >= self._believed.get(key, 0), f"M4: {observer} went back to {member}"
        self._believed[key] = member.boot
        self._count(member)
        if member.state is State.DEAD:
            excused = self._is_touched(member.name) or self._is_cut_off(observer)
            assert excused, f"M2: {observer} holds {member.name} for dead, whom no fault touched"

    def learned(self, view: View | None) -> None:
        """Checks and counts a view that a node learned."""
        fresh = view is not None and view.version not in self.views
        super().learned(view)
        if view is None or not fresh:
            return
        before = self.views.get(view.version - 1)
        for name, entry in view.nodes.items():
            self._note_own(name)
            assert entry.boot <= self._own.get(name, (0, 0))[0], f"M3: the view has a life {entry} of {name}"
            known = before.nodes.get(name) if before is not None else None
            if known is not None and entry.boot < known.boot:
                raise AssertionError(f"M4: the view went back to an earlier life of {name}: {known}, {entry}")
            self._count_entry(known, entry)
            if entry.state == DOWN and (known is None or known.state == UP):
                excused = self._is_touched(name) or self._rules_alone() or self._is_small(before)
                assert excused, f"M2: {name} was evicted, whom no fault touched"
        if before is not None and view.leader != before.leader and before.leader:
            self.world.hit("leader changed")

    def _note_own(self, name: str) -> None:
        node = self.world.nodes.get(name)
        host = node.host if node is not None else None
        if isinstance(host, MembershipHost):
            me = host.core.monitor.me
            self._own[name] = max(self._own.get(name, (0, 0)), (me.boot, me.incarnation))

    def _is_touched(self, name: str) -> bool:
        if name == self.exam:
            return True
        until = self.faults.touched_until.get(name) if self.faults is not None else None
        return until is not None and self.world.now <= until + GRACE_S

    def _is_cut_off(self, name: str) -> bool:
        until = self.faults.cut_off_until.get(name) if self.faults is not None else None
        return until is not None and self.world.now <= until + GRACE_S

    def _is_small(self, view: View | None) -> bool:
        """Tells whether one node that hears nobody can evict others: below five one reporter is enough."""
        few = view is not None and len(view.up_names()) < views.REPORTERS_FROM_NODES
        return few and any(self._is_cut_off(name) for name in self.names)

    def _rules_alone(self) -> bool:
        """Tells whether the only voter is cut off: what it believes is the view, for want of another one."""
        return len(self.voters) == 1 and self._is_cut_off(self.voters[0])

    def _count(self, member: Member) -> None:
        match member.state:
            case State.SUSPECT:
                self.world.hit("suspected")
            case State.DEAD:
                self.world.hit("dead")
            case State.LEFT:
                self.world.hit("left")
            case State.ALIVE if member.incarnation > 0:
                self.world.hit("refuted")
            case State.ALIVE if member.boot > 1:
                self.world.hit("later life seen")

    def _count_entry(self, known: NodeEntry | None, entry: NodeEntry) -> None:
        if known is None:
            return
        if (known.state, entry.state) == (UP, DOWN):
            self.world.hit("evicted")
        elif (known.state, entry.state) == (DOWN, UP):
            self.world.hit("admitted again")
        elif known.node_id != entry.node_id:
            self.world.hit("new life in the view")


class MembershipFaults(Faults):
    """Faults that count what they strike."""

    def __init__(self, cluster: SwarmCluster, schedule: Schedule) -> None:
        super().__init__(cluster.world, schedule, durable=cluster.voters, other=self._strike)
        self._cluster = cluster

    def _apply(self, step: Step) -> None:
        if not self.over:
            self._count(step)
        super()._apply(step)

    def _count(self, step: Step) -> None:
        cluster, world = self._cluster, self._cluster.world
        hosts = [cluster.host(name) for name in step.names if world.nodes[name].up]
        busy = any(host.register_busy for host in hosts)
        if step.kind in ("isolate", "deafen", "silence", "partition") and busy:
            world.hit("cut off with a register operation in flight")
        if step.kind == "crash" and hosts:
            view = hosts[0].core.proposer.view
            if view is not None and view.leader == step.names[0]:
                world.hit("leader crashed")
        running = [cluster.host(name) for name in cluster.running()]
        if any(not host.core.majority for host in running):
            world.hit("no majority")

    def _strike(self, step: Step) -> None:
        cluster, name = self._cluster, step.names[0]
        node = cluster.world.nodes[name]
        if not node.up:
            return
        host = cluster.host(name)
        match step.kind:
            case "switch":
                kind = host.core.monitor.settings.detector
                other = DetectorKind.SWIM if kind is DetectorKind.HEARTBEAT else DetectorKind.HEARTBEAT
                node.call(lambda: host.post(events.SwitchRequested(other, True)))
            case "crash_busy" | "pause_busy" | "pause_suspecting":
                self._ambush(step, cluster.world.now + AMBUSH_S)
            case "hint":
                node.call(lambda: host.post(events.HintReceived(step.names[1])))
            case "refuse":
                node.call(lambda: host.post(events.ContactRefused(step.names[1])))
            case "leave":
                self.touch([name], step)
                node.call(lambda: host.post(events.LeaveRequested()))
                cluster.world.after(0.2, self._end_life, name, node.generation, step)

    def _ambush(self, step: Step, until: float) -> None:
        world, name = self._cluster.world, step.names[0]
        node = world.nodes[name]
        if self.over or not node.up or node.paused or world.now > until:
            return
        host = self._cluster.host(name)
        suspecting = step.kind == "pause_suspecting"
        if not (host.core.monitor.roster.suspicions if suspecting else host.register_busy):
            world.after(AMBUSH_STEP_S, self._ambush, step, until)
        elif step.kind == "crash_busy":
            world.hit("crash with a register operation in flight")
            self._do_crash(step)
        else:
            world.hit(
                f"pause with a {'suspicion under way' if suspecting else 'register operation in flight'}"
            )
            self._do_pause(step)

    def _end_life(self, name: str, generation: int, step: Step) -> None:
        node = self._cluster.world.nodes[name]
        if not self.over and node.up and node.generation == generation:
            self._do_crash(Step(step.at_s, "crash", (name,), step.duration_s))


def schedule_of(seed: int | str, only: Sequence[str] = ()) -> Schedule:
    """Returns the schedule of a seed, of ``only`` some kinds of fault when they are named."""
    kinds = [kind for kind in KINDS if not only or kind in only]
    extra = {kind: count for kind, count in EXTRA.items() if not only or kind in only}
    schedule = draw(seed, FAULTS_S * 0.8, kinds=kinds, extra=extra)
    if random.Random(f"{seed}:variant").random() < HEARTBEAT_SHARE:
        return replace(schedule, variant="heartbeat")
    return schedule


def run(schedule: Schedule) -> Result:
    """Runs one schedule to its end.

    Raises:
        AssertionError: a check failed; the message begins with its number.
    """
    cluster = SwarmCluster(schedule)
    world = cluster.world
    cluster.form()
    cluster.faults = faults = MembershipFaults(cluster, schedule)
    world.run(FAULTS_S)
    # A node that left stays away until somebody starts it again: the operator does, here.
    faults.heal()
    for name in cluster.names:
        if cluster.host(name).core.monitor.leaving:
            world.crash(name)
            world.restart(name)
    world.wait_for(lambda: cluster.agree_on(cluster.names), CONVERGED_S, "M5: all agree on a view of all")
    check_calm(cluster)
    examine(cluster, world.random("exam").choice(cluster.names))
    return Result(world.trace_hash(), dict(world.hits), world.now)


def check_calm(cluster: SwarmCluster) -> None:
    """M6: nothing more happens in a healed cluster."""
    world = cluster.world
    world.run(2.0)  # what is still to be said
    newest, deaths, sent = (
        max(cluster.views),
        len(cluster.deaths(cluster.names)),
        world.network.delivered_bytes,
    )
    world.run(CALM_S)
    assert max(cluster.views) == newest, "M6: the view changes without a cause"
    assert len(cluster.deaths(cluster.names)) == deaths, "M6: somebody dies without a cause"
    rate = (world.network.delivered_bytes - sent) / CALM_S / len(cluster.names)
    detector = cluster.host(cluster.names[0]).core.monitor.settings.detector.label
    assert rate <= CALM_BYTES_PER_S[detector], f"M6: {rate:.0f} B/s a node in a calm cluster"


def examine(cluster: SwarmCluster, victim: str) -> None:
    """M7 and M8: a crash is found in time, and the node comes back."""
    world = cluster.world
    rest = [name for name in cluster.names if name != victim]
    cluster.exam = victim
    world.crash(victim)
    world.wait_for(lambda: cluster.believed_dead(victim, rest), DETECTED_S, "M7: the crash is known to all")
    voters_left = sum(voter in rest for voter in cluster.voters)
    if voters_left > len(cluster.voters) // 2:
        world.wait_for(lambda: cluster.agree_on(rest), DETECTED_S, "M7: the crashed node is out of the view")
    world.restart(victim)
    world.wait_for(lambda: cluster.agree_on(cluster.names), BACK_S, "M8: the crashed node is back")
