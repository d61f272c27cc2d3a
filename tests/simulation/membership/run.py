"""Runs membership and the view under a schedule of faults, heals the cluster, and examines it.

During the run ``history`` checks M1-M4, and M9: every order has an answer by its deadline. After the faults,
each within a bound: M5 all agree on a view of all, on the detector, and on which neighbours are alive; M6 the
cluster is then calm: no deaths, no new views, little traffic, nothing held that should not be, no failure
repeated again and again; M7 a node that now crashes is dead everywhere and out of the view in time, and no
other node is; M8 it comes back; M10 every voter votes, whatever happened to its disk; M11 stopped agents
leave nothing behind; M12 every waiting follower is told at once; M14 no agent crashes, except because of its
disk.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from unittest import mock

from agent.common.config import MembershipConfig
from agent.membership import attachment
from agent.membership.view import View
from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.schedule import Schedule, draw
from tests.simulation.membership import orders
from tests.simulation.membership.cluster import NEIGHBOUR, MembershipCluster
from tests.simulation.membership.faults import EXTRA, FAULTS_S, MembershipFaults
from tests.simulation.membership.watcher import Watcher

# Rules that count reporters and voters need five nodes or more; a seed of seven costs three of three.
SIZES = (3, 3, 4, 5, 5, 7)
CONVERGED_S = 30.0
# The traffic received by a node; heartbeats carry the counters of all nodes, several times a probe interval.
CALM_BYTES_PER_S = {"swim": 3000.0, "heartbeat": 6000.0}
# The time for messages that are still on their way after all agree.
SETTLED_S = 1.0
DETECTED_S = 4.0
BACK_S = 10.0
# The time until a notified follower has its answer, over the wire.
TOLD_S = 1.0
# The fastest loops try five times a second, and a few of them run in one process.
DIALS_MIN, DIALS_PER_S = 50, 25
# A voter that lost its disk waits until no vote that it forgot can count any more.
VOTES_S = 40.0
HEARTBEAT_SHARE = 0.25
STOP_SHARE = 0.25
# Most renewals say nothing new; an agent counts as hung after five times as long as this.
RENEWAL_INTERVAL_S = 1.0
# The chance that a thread is suspended at a scheduling point.
STALLS = (0.0, 0.0, 0.001)
# A stopping agent ends its threads one after the other, each within a time limit.
STOPPED_S = 30.0
# Moments that a batch of seeds must reach; otherwise the schedules do not test what they claim to.
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
    "a disk was lost",
    "a voter learnt",
    "agent stopped: DiskFailed",
    "agent stopped: DiskFull",
    "voter replaced",
    "order carried out",
    "order aborted",
    "neighbour killed",
    "neighbour hung",
    "strangers came",
    "keys rotated",
)


@dataclass(frozen=True, slots=True)
class Result:
    """The measurements of one run."""

    trace: str
    hits: Mapping[str, int]
    simulated_s: float


@dataclass(frozen=True, slots=True)
class Variant:
    """A schedule's settings besides its faults: the first detector, the number of voters, stalled threads."""

    detector: str = "swim"
    voters: int = 5
    stalls: float = 0.0

    def __str__(self) -> str:
        return f"{self.detector} {self.voters} {self.stalls:g}"

    @classmethod
    def of(cls, schedule: Schedule) -> Variant:
        """Returns the variant of a schedule."""
        if not schedule.variant:
            return cls(voters=min(5, schedule.size))
        detector, voters, stalls = schedule.variant.split()
        return cls(detector, int(voters), float(stalls))


def schedule_of(seed: int | str, only: Sequence[str] = ()) -> Schedule:
    """Returns the schedule of a seed, of ``only`` some kinds of fault when they are named."""
    schedule = draw(seed, FAULTS_S * 0.8, sizes=SIZES, kinds=only, extra=EXTRA)
    chance = random.Random(f"{seed}:variant")
    variant = Variant(
        "heartbeat" if chance.random() < HEARTBEAT_SHARE else "swim",
        chance.choice([count for count in (1, 3, 5, 5) if count <= schedule.size]),
        chance.choice(STALLS) if schedule.steps else 0.0,
    )
    return replace(schedule, variant=str(variant))


def run(schedule: Schedule, *, faults_s: float = FAULTS_S) -> Result:
    """Runs one schedule to its end; its faults end after ``faults_s``.

    Raises:
        AssertionError: a check failed; the message begins with its number.
    """
    variant = Variant.of(schedule)
    with (
        mock.patch.object(attachment, "RENEWAL_INTERVAL_S", RENEWAL_INTERVAL_S),
        MembershipCluster(
            schedule.seed,
            schedule.size,
            variant.voters,
            config=MembershipConfig(detector=variant.detector),
            link=schedule.quality,
            stalls=variant.stalls,
            neighbours=True,
        ) as cluster,
    ):
        cluster.form()
        watcher = Watcher(cluster, cluster.names[-1])
        faults = MembershipFaults(cluster, schedule.steps)
        cluster.run_for(faults_s)
        heal(cluster, faults)
        cluster.wait_for(
            lambda: cluster.agree_on(cluster.names), CONVERGED_S, "M5: all agree on a view of all"
        )
        cluster.wait_for(lambda: _agree_on_details(cluster), CONVERGED_S, "M5: settings, keys and neighbours")
        if variant.voters > 1:
            cluster.wait_for(lambda: _vote(cluster), VOTES_S, "M10: every voter votes")
            cluster.history.hits["a voter learnt"] += len(faults.learners())
        check_calm(cluster)
        examine(cluster, cluster.random.choice(cluster.names[:-1]), watcher)
        cluster.check(retries(cluster))
        if cluster.random.random() < STOP_SHARE:
            watcher.end()
            cluster.is_calm = True
            cluster.check([f"M11: {finding}" for finding in cluster.shut_down()])
        cluster.check(cluster.history.violations)
        cluster.check(unexpected_crashes(cluster))
        count_moments(cluster)
        return Result(cluster.trace(), dict(cluster.history.hits), cluster.scheduler.now)


def heal(cluster: MembershipCluster, faults: MembershipFaults) -> None:
    """Ends the faults; the operator lets nodes that left join again, and completes the rotation of keys."""
    faults.end()
    cluster.wait_for(lambda: not _stopping(cluster), STOPPED_S, "M11: all agents stop when asked to")
    for node in cluster.nodes.values():
        node.start_all()
    cluster.wait_for(cluster.is_ready, CONVERGED_S, "M5: every agent is ready")
    for name in cluster.names:
        if cluster.monitor_of(name).leaving:
            orders.carry_out(cluster, name, lambda client: client.join())
        if faults.rotated:
            orders.carry_out(cluster, name, lambda client: client.keys("install", key=orders.KEY))
    if faults.rotated:
        cluster.history.hits["keys rotated"] += 1


def _stopping(cluster: MembershipCluster) -> bool:
    agents = [agent for node in cluster.nodes.values() for agent in node.agents.values()]
    return any(agent.is_running and agent.is_asked_to_stop for agent in agents)


def _agree_on_details(cluster: MembershipCluster) -> bool:
    monitors = [cluster.monitor_of(name) for name in cluster.names]
    if len({monitor.settings for monitor in monitors}) > 1:
        return False
    if any(not member.lives(NEIGHBOUR) for monitor in monitors for member in list(monitor.table)):
        return False
    return _followers_know(cluster, cluster.names)


def _followers_know(cluster: MembershipCluster, names: Sequence[str]) -> bool:
    newest = max(cluster.history.views)
    return all(cluster.neighbour(name).follower.current().version == newest for name in names)


def _vote(cluster: MembershipCluster) -> bool:
    view = cluster.view(cluster.names[0])
    voters = (view.voters if view is not None else ()) or cluster.names[: cluster.voters]
    for name in voters:
        voter = cluster.service(name)._voter
        if voter is None or not voter.votes:
            return False
    return True


def check_calm(cluster: MembershipCluster) -> None:
    """M6: a healed cluster comes to rest."""
    cluster.run_for(SETTLED_S)
    history, began = cluster.history, cluster.scheduler.now
    newest, deaths, sent = max(history.views), len(history.sightings), _sent_bytes(cluster)
    cluster.check([f"M6: {finding}" for finding in cluster.findings()])
    cluster.check(history.violations)
    seconds = cluster.scheduler.now - began
    found = []
    if max(history.views) != newest:
        found.append("M6: the view changes without a cause")
    if len(history.sightings) != deaths:
        found.append(f"M6: a member changes without a cause: {history.sightings[-1]}")
    detector = cluster.monitor_of(cluster.names[0]).settings.detector.label
    rate = (_sent_bytes(cluster) - sent) / seconds / len(cluster.names)
    if rate > CALM_BYTES_PER_S[detector]:
        found.append(f"M6: {rate:.0f} B/s a node in a calm cluster")
    for name in cluster.names:
        told = cluster.neighbour(name).told
        if told != sorted(set(told)):
            found.append(f"M6: the follower of {name} told of views {told}")
    cluster.check(found)


def _sent_bytes(cluster: MembershipCluster) -> int:
    return sum(cluster.service(name).transport.sent_bytes for name in cluster.names)


def examine(cluster: MembershipCluster, victim: str, watcher: Watcher) -> None:
    """M7, M8 and M12: a crash is found in time, waiting followers are told, and the node comes back."""
    known = len(watcher.events)
    rest = [name for name in cluster.names if name != victim]
    touched = cluster.history.is_touched
    cluster.history.is_touched = lambda name: name == victim or touched(name)
    cluster.kill(victim)
    cluster.wait_for(lambda: cluster.believed_dead(victim, rest), DETECTED_S, "M7: the crash is known to all")
    if _majority_is_left(cluster, rest):
        cluster.wait_for(
            lambda: cluster.agree_on(rest, rest), DETECTED_S, "M7: the crashed node is out of the view"
        )
        cluster.wait_for(lambda: _followers_know(cluster, rest), TOLD_S, "M12: the followers know the view")
    cluster.wait_for(
        lambda: watcher.saw("dead", victim, known), TOLD_S, "M12: followers of events hear of the death"
    )
    cluster.restart(victim)
    cluster.wait_for(lambda: cluster.agree_on(cluster.names), BACK_S, "M8: the crashed node is back")


def retries(cluster: MembershipCluster) -> list[str]:
    """M6: returns a line for each process that tried to connect again and again without waiting."""
    found = []
    for process in cluster.scheduler.processes:
        network = process.seam.network
        failed = network.dials_failed if isinstance(network, SimNetwork) else 0
        if failed > DIALS_MIN + DIALS_PER_S * (cluster.scheduler.now - process.began_at):
            found.append(f"M6: {process} failed {failed} times to connect: it does not wait")
    return found


def unexpected_crashes(cluster: MembershipCluster) -> list[str]:
    """M14: returns a line for each agent that ended by itself, unless its disk was the reason."""
    excused = ("DiskFailed", "DiskFull", "Input/output error", "No space left")
    return [
        f"M14: {agent} crashed: {problem}"
        for agent, problem in cluster.crashes
        if not any(word in problem for word in excused)
    ]


def _majority_is_left(cluster: MembershipCluster, rest: Sequence[str]) -> bool:
    view = cluster.view(rest[0]) or View()
    voters = view.voters or tuple(cluster.names[: cluster.voters])
    groups = [voters, *([view.voters_before] if view.voters_before else [])]
    return all(sum(voter in rest for voter in group) > len(group) // 2 for group in groups)


def count_moments(cluster: MembershipCluster) -> None:
    """Counts the moments that show only at the end."""
    hits = cluster.history.hits
    hits["tables swapped"] += sum(cluster.service(name)._anti_entropy.swapped for name in cluster.names)
    for _, problem in cluster.crashes:
        for error in ("DiskFailed", "DiskFull"):
            if error in problem:
                hits[f"agent stopped: {error}"] += 1
