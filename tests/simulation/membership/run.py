"""Membership and the view under a schedule of faults, then healed, then examined.

While it runs ``history`` checks M1-M4, and M9: every order has an answer by its deadline. After the faults,
each within a bound: M5 all agree on a view of all, on the detector, and on which neighbours live; M6 it is
calm then: no deaths, no new views, little traffic, nothing held that should not be, no failure repeated
again and again; M7 a node that now crashes is dead everywhere and out of the view in time, and nobody else
is; M8 it comes back; M10 every voter votes, whatever became of its disk; M11 agents that are stopped leave
nothing behind.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from agent.common.config import MembershipConfig
from agent.common.errors import RainStormError
from agent.membership.client import MembershipClient
from agent.membership.view import View
from agent.wire import auth
from agent.wire.client import Address, Client
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.membership.cluster import MEMBERSHIP, NEIGHBOUR, MembershipCluster
from tests.simulation.membership.faults import EXTRA, FAULTS_S, KEY, MembershipFaults
from tests.simulation.schedule import KINDS, Schedule, draw

CONVERGED_S = 30.0
# Received by a node; heartbeats carry everybody's counters, several times a probe interval.
CALM_BYTES_PER_S = {"swim": 3000.0, "heartbeat": 6000.0}
# What is still to be said after all agree; a hung neighbour's word expires.
SETTLED_S = 6.0
DETECTED_S = 4.0
BACK_S = 10.0
# A voter that lost its disk waits until no vote that it forgot can count any more.
VOTES_S = 40.0
HEARTBEAT_SHARE = 0.25
STOP_SHARE = 0.25
# Moments that a batch of seeds must reach, or the schedules do not test what they say.
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
    """What one run was like."""

    trace: str
    hits: Mapping[str, int]
    simulated_s: float


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
    config = MembershipConfig(detector=schedule.variant or "swim")
    with MembershipCluster(
        schedule.seed,
        schedule.nodes,
        schedule.voters,
        config=config,
        link=schedule.link,
        stalls=schedule.stalls,
        neighbours=True,
    ) as cluster:
        cluster.form()
        faults = MembershipFaults(cluster, schedule)
        cluster.run_for(FAULTS_S)
        heal(cluster, faults)
        cluster.wait_for(
            lambda: cluster.agree_on(cluster.names), CONVERGED_S, "M5: all agree on a view of all"
        )
        cluster.wait_for(lambda: _agree_on_details(cluster), CONVERGED_S, "M5: settings, keys and neighbours")
        if schedule.voters > 1:
            cluster.wait_for(lambda: _vote(cluster), VOTES_S, "M10: every voter votes")
        check_calm(cluster)
        examine(cluster, cluster.random.choice(cluster.names))
        if cluster.random.random() < STOP_SHARE:
            cluster.check([f"M11: {finding}" for finding in cluster.shut_down()])
        cluster.check(cluster.history.violations)
        count_moments(cluster)
        return Result(cluster.trace(), dict(cluster.history.hits), cluster.scheduler.now)


def heal(cluster: MembershipCluster, faults: MembershipFaults) -> None:
    """Ends the faults; the operator sees to nodes that left and to keys that are half rotated."""
    faults.heal()
    cluster.wait_for(cluster.is_ready, CONVERGED_S, "M5: every agent is ready")
    for name in cluster.names:
        if cluster.monitor_of(name).leaving:
            _order(cluster, name, lambda client: client.join())
        if faults.rotated:
            _order(cluster, name, lambda client: client.keys("install", key=KEY))
    if faults.rotated:
        cluster.history.hits["keys rotated"] += 1


def _order(cluster: MembershipCluster, name: str, act: Callable[[MembershipClient], object]) -> None:
    node = cluster.nodes[name]
    process = cluster.client("operator")

    def make() -> None:
        client = Client(auth.client_context(OPERATOR))
        try:
            act(MembershipClient(client, Address(node.address, node.config.me.membership_port, name)))
        finally:
            client.close()

    for attempt in range(3):
        try:
            cluster.call(process, make)
            return
        except RainStormError as error:
            cluster.log.note(f"order {attempt} to {name}: {error}")
    raise cluster.broken([f"M9: {name} does not carry out an order in a healed cluster"])


def _agree_on_details(cluster: MembershipCluster) -> bool:
    monitors = [cluster.monitor_of(name) for name in cluster.names]
    if len({monitor.settings for monitor in monitors}) > 1:
        return False
    if any(not member.lives(NEIGHBOUR) for monitor in monitors for member in list(monitor.table)):
        return False
    newest = max(cluster.history.views)
    return all(cluster.neighbour(name).follower.current().version == newest for name in cluster.names)


def _vote(cluster: MembershipCluster) -> bool:
    view = cluster.view(cluster.names[0])
    voters = (view.voters if view is not None else ()) or cluster.names[: len(cluster.history._voters)]
    for name in voters:
        voter = cluster.service(name)._voter
        if voter is None or not voter.votes:
            return False
    return True


def check_calm(cluster: MembershipCluster) -> None:
    """M6: nothing more happens in a healed cluster."""
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


def examine(cluster: MembershipCluster, victim: str) -> None:
    """M7 and M8: a crash is found in time, and the node comes back."""
    rest = [name for name in cluster.names if name != victim]
    touched = cluster.history.is_touched
    cluster.history.is_touched = lambda name: name == victim or touched(name)
    cluster.kill(victim)
    cluster.wait_for(lambda: cluster.believed_dead(victim, rest), DETECTED_S, "M7: the crash is known to all")
    if _majority_is_left(cluster, rest):
        cluster.wait_for(
            lambda: cluster.agree_on(rest, rest), DETECTED_S, "M7: the crashed node is out of the view"
        )
    cluster.restart(victim)
    cluster.wait_for(lambda: cluster.agree_on(cluster.names), BACK_S, "M8: the crashed node is back")


def _majority_is_left(cluster: MembershipCluster, rest: Sequence[str]) -> bool:
    view = cluster.view(rest[0]) or View()
    voters = view.voters or tuple(cluster.history._voters)
    groups = [voters, *([view.voters_before] if view.voters_before else [])]
    return all(sum(voter in rest for voter in group) > len(group) // 2 for group in groups)


def count_moments(cluster: MembershipCluster) -> None:
    """Counts what shows only in the end."""
    hits = cluster.history.hits
    for _, problem in cluster.crashes:
        for error in ("DiskFailed", "DiskFull"):
            if error in problem:
                hits[f"agent stopped: {error}"] += 1
