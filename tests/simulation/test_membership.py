"""Membership in the simulator: crashes, partitions, one-way cuts, loss, pauses, restarts, and all of them
mixed.

Always checked (by ``Cluster.learned``): one view for each version, one leader for each term, terms never go
back.
"""

from __future__ import annotations

import random
import statistics

import pytest

from agent.common.config import MembershipConfig
from agent.membership.core import events
from agent.membership.settings import DetectorKind, Settings
from tests.simulation.membership_host import Cluster
from tests.simulation.network import LinkSettings
from tests.simulation.seeds import each, seed_ranges

# From the crash to the view of every survivor, without any "refused" answer from the dead machine: the
# formula in agent/common/config.py gives 1.1 s then; the worst case adds one pass of the round-robin.
DETECTION_MEDIAN_S = 1.3
DETECTION_MAX_S = 2.0


def without(names: list[str], *lost: str) -> list[str]:
    return [name for name in names if name not in lost]


def kill_one(seed: int) -> float:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    world.run(world.random("faults").uniform(0.5, 3.0))
    victim = world.random("faults").choice(cluster.names)
    rest = without(cluster.names, victim)
    world.crash(victim)
    began = world.now
    world.wait_for(lambda: cluster.believed_dead(victim, rest), DETECTION_MAX_S, f"{victim} is believed dead")
    world.wait_for(lambda: cluster.agree_on(rest), DETECTION_MAX_S, f"{victim} is out of the view")
    took = world.now - began
    assert {sighting.member.name for sighting in cluster.deaths(rest)} == {victim}
    assert took <= DETECTION_MAX_S
    return took


@pytest.mark.parametrize("seeds", seed_ranges(quick=5, full=20))
def test_a_crash_is_in_the_view_in_time(seeds: range) -> None:
    times = each(seeds, kill_one)
    if times:
        print(f"crash to view: median {statistics.median(times):.2f} s, max {max(times):.2f} s")
        assert statistics.median(times) <= DETECTION_MEDIAN_S


@pytest.mark.simulation_quick
def test_the_same_seed_gives_the_same_trace() -> None:
    def trace(seed: int) -> str:
        cluster = Cluster(seed, link=LinkSettings(loss=0.05, duplicate=0.05))
        cluster.form()
        cluster.world.crash("n2")
        cluster.world.run(5.0)
        return cluster.world.trace_hash()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def kill_leader(seed: int) -> None:
    cluster = Cluster(seed)
    cluster.form()
    before = cluster.host("n5").core.proposer.view
    assert before is not None
    assert before.leader == "n1"
    cluster.world.crash("n1")
    rest = without(cluster.names, "n1")
    cluster.world.wait_for(lambda: cluster.agree_on(rest), 4.0, "n1 is out of the view")
    after = cluster.host("n5").core.proposer.view
    assert after is not None
    assert (after.leader, after.term) == ("n2", before.term + 1)
    cluster.world.restart("n1")
    cluster.world.wait_for(lambda: cluster.agree_on(cluster.names), 4.0, "n1 is back")
    final = cluster.host("n1").core.proposer.view
    assert final is not None
    assert (final.leader, final.term) == ("n2", after.term), "a leader that is up stays"
    assert final.nodes["n1"].node_id.endswith(":2")


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_dead_leader_is_replaced_under_a_higher_term(seeds: range) -> None:
    each(seeds, kill_leader)


def restart_quickly(seed: int) -> None:
    cluster = Cluster(seed)
    cluster.form()
    before = cluster.host("n5").core.proposer.view
    assert before is not None
    cluster.world.crash("n1")
    cluster.world.run(0.05)
    cluster.world.restart("n1")
    cluster.world.wait_for(
        lambda: all(
            (view := cluster.host(name).core.proposer.view) is not None
            and view.nodes["n1"].node_id.endswith(":2")
            for name in cluster.names
        ),
        4.0,
        "the new life of n1 is in the view",
    )
    cluster.world.wait_for(lambda: cluster.agree_on(cluster.names), 4.0, "all are up")
    after = cluster.host("n5").core.proposer.view
    assert after is not None
    assert after.term > before.term, "the life that held the term is over"


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_restart_faster_than_detection_is_a_new_life(seeds: range) -> None:
    each(seeds, restart_quickly)


def partition_and_heal(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    names = list(cluster.names)
    world.random("faults").shuffle(names)
    minority, majority = sorted(names[:2]), sorted(names[2:])
    world.network.partition(minority, majority)
    standing = cluster.host(minority[0]).core.proposer.view
    world.wait_for(lambda: cluster.agree_on(majority, majority), 8.0, "the majority goes on")
    world.run(world.random("faults").uniform(3.0, 30.0))
    for name in minority:
        assert not cluster.host(name).core.majority, f"{name} does not see that it is cut off"
        assert cluster.host(name).core.proposer.view == standing, "the minority's view stands still"
    world.network.heal()
    took = world.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "both sides are one again")
    world.run(5.0)
    assert cluster.agree_on(cluster.names)
    assert cluster.ever_down() == set(minority), "a node of the majority was evicted"
    assert took <= 10.0


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_partition_heals_into_one_view(seeds: range) -> None:
    each(seeds, partition_and_heal)


def cut_one_way(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    victim = world.random("faults").choice(cluster.names)
    inbound = seed % 2 == 0
    rest = without(cluster.names, victim)
    world.network.isolate(victim, inbound=inbound, outbound=not inbound)
    world.wait_for(lambda: cluster.agree_on(rest, rest), 15.0, f"{victim} is out of the view")
    world.run(20.0)
    assert cluster.agree_on(rest, rest)
    assert cluster.ever_down() == {victim}
    assert {sighting.member.name for sighting in cluster.deaths(rest)} == {victim}
    world.network.heal()
    world.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, f"{victim} is back")


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_one_way_cut_removes_that_node_and_nobody_else(seeds: range) -> None:
    each(seeds, cut_one_way)


def lose_most_of_one(seed: int) -> None:
    cluster = Cluster(seed, 10)
    world = cluster.world
    cluster.form()
    world.run(2.0)
    victim = world.random("faults").choice(cluster.names)
    rest = without(cluster.names, victim)
    began = world.now
    for other in rest:
        if seed % 3 != 1:
            world.network.links[other, victim] = LinkSettings(loss=0.8)
        if seed % 3 != 2:
            world.network.links[victim, other] = LinkSettings(loss=0.8)
    in_views = 0
    world.wait_for(lambda: all(victim not in cluster.up(o) for o in rest), 15.0, f"{victim} is out")
    for _ in range(200):
        world.run(0.1)
        in_views += any(victim in cluster.up(name) for name in rest)
    assert in_views <= 60, f"{victim} comes and goes"
    assert cluster.ever_down() == {victim}
    assert {sighting.member.name for sighting in cluster.deaths(rest, began)} == {victim}
    world.network.links.clear()
    world.wait_for(lambda: cluster.agree_on(cluster.names), 5.0, f"{victim} is well again")


@pytest.mark.parametrize("seeds", seed_ranges(full=6))
def test_a_node_that_loses_most_datagrams_is_out_and_stays_out(seeds: range) -> None:
    each(seeds, lose_most_of_one)


def deafen_one(seed: int) -> None:
    cluster = Cluster(seed, 7)
    world = cluster.world
    cluster.form()
    formed = max(cluster.views)
    # The requests of others are a sign of their life; a node that does not vote gets none.
    victim = world.random("faults").choice(cluster.names[5:] if seed % 2 == 0 else cluster.names)
    rest = without(cluster.names, victim)
    cluster.host(victim).deaf = True
    world.run(40.0)
    assert cluster.ever_down() <= {victim}, "a node that hears nobody evicted others"
    assert max(cluster.views) <= formed + 3, "a node that hears nobody comes and goes"
    assert {s.member.name for s in cluster.deaths(rest)} <= {victim}
    cluster.host(victim).deaf = False
    world.wait_for(lambda: cluster.agree_on(cluster.names), 15.0, f"{victim} is well again")


@pytest.mark.parametrize("seeds", seed_ranges(full=10))
def test_a_node_that_hears_no_datagrams_evicts_nobody(seeds: range) -> None:
    each(seeds, deafen_one)


# From the crash of one to five of ten machines until all others hold them all for dead.
VARIANTS = [("swim", True, 2.0), ("swim", False, 1.2), ("heartbeat", True, 2.2), ("heartbeat", False, 1.4)]


def kill_under(seed: int, detector: str, suspicion: bool) -> float:
    cluster = Cluster(seed, 10, config=MembershipConfig(detector=detector, suspicion=suspicion))
    world = cluster.world
    cluster.form()
    world.run(world.random("faults").uniform(1.0, 3.0))
    count = 1 + seed % 5
    victims = world.random("faults").sample(cluster.names, count)
    while sum(victim in cluster.voters for victim in victims) > 2:
        victims = world.random("faults").sample(cluster.names, count)
    rest = without(cluster.names, *victims)
    for victim in victims:
        world.crash(victim)
    began = world.now
    world.wait_for(
        lambda: all(cluster.believed_dead(victim, rest) for victim in victims), 4.0, "all are believed dead"
    )
    took = world.now - began
    world.wait_for(lambda: cluster.agree_on(rest), 6.0, "all are out of the view")
    assert {sighting.member.name for sighting in cluster.deaths(rest)} == set(victims)
    return took


@pytest.mark.parametrize(("detector", "suspicion", "limit_s"), VARIANTS)
@pytest.mark.parametrize("seeds", seed_ranges(quick=2, full=10))
def test_every_variant_finds_up_to_five_dead_in_time(
    seeds: range, detector: str, suspicion: bool, limit_s: float
) -> None:
    times = each(seeds, lambda seed: kill_under(seed, detector, suspicion))
    if times:
        found = f"median {statistics.median(times):.2f} s, max {max(times):.2f} s"
        print(f"{detector} suspicion={suspicion}: {found}")
        assert max(times) <= limit_s


def settings_of(cluster: Cluster) -> set[Settings]:
    return {cluster.host(name).core.monitor.settings for name in cluster.running()}


def switch_all(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    absent = cluster.names[seed % 5]
    world.crash(absent)
    rest = without(cluster.names, absent)
    for detector, suspicion in [(DetectorKind.HEARTBEAT, True), (DetectorKind.SWIM, False)]:
        cluster.host(rest[seed % 4]).post(events.SwitchRequested(detector, suspicion))
        world.wait_for(lambda: len(settings_of(cluster)) == 1, 2.0, "all nodes follow")
        (found,) = settings_of(cluster)
        assert (found.detector, found.suspicion) == (detector, suspicion)
        world.run(5.0)
    world.restart(absent)
    world.wait_for(lambda: cluster.agree_on(cluster.names), 8.0, "the absent one is back")
    settings = cluster.host(absent).core.monitor.settings
    assert (settings.version, settings.detector, settings.suspicion) == (2, DetectorKind.SWIM, False)
    assert {sighting.member.name for sighting in cluster.deaths(rest)} <= {absent}


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_switch_reaches_all_and_those_who_join_later_without_a_false_death(seeds: range) -> None:
    each(seeds, switch_all)


def lose_datagrams(seed: int) -> None:
    cluster = Cluster(seed, link=LinkSettings(loss=0.2, duplicate=0.1, delay_mean_s=0.005))
    cluster.form()
    cluster.world.run(60.0)
    assert cluster.deaths(cluster.names) == []
    assert cluster.ever_down() == set()


@pytest.mark.parametrize("seeds", seed_ranges(quick=1, full=6))
def test_twenty_percent_loss_kills_nobody(seeds: range) -> None:
    each(seeds, lose_datagrams)


def pause_again_and_again(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    rest = without(cluster.names, "n3")
    for _ in range(3):
        world.pause("n3")
        world.run(5.0)
        world.resume("n3")
        world.run(5.0)
    world.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "all are up")
    assert {sighting.member.name for sighting in cluster.deaths(cluster.names)} <= {"n3"}
    assert cluster.ever_down() <= {"n3"}
    assert cluster.deaths(rest), "five seconds of silence are noticed"


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_a_node_that_is_paused_blames_nobody(seeds: range) -> None:
    each(seeds, pause_again_and_again)


def restart_all(seed: int) -> None:
    cluster = Cluster(seed)
    world = cluster.world
    cluster.form()
    for name in cluster.names:
        world.crash(name)
    world.run(1.0)
    gone = "n4"
    for name in without(cluster.names, gone):
        world.restart(name)
        world.run(world.random("faults").uniform(0, 0.3))
    rest = without(cluster.names, gone)
    world.wait_for(lambda: cluster.agree_on(rest, rest), 15.0, "the view forgets who never came back")
    view = cluster.host("n1").core.proposer.view
    assert view is not None
    assert all(view.nodes[name].node_id.endswith(":2") for name in rest)
    world.restart(gone)
    world.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "the last one is back")


@pytest.mark.parametrize("seeds", seed_ranges(full=15))
def test_the_whole_cluster_restarts(seeds: range) -> None:
    each(seeds, restart_all)


def chaos(seed: int) -> None:
    faults = random.Random(f"{seed}:swarm")
    link = LinkSettings(
        loss=faults.choice([0.0, 0.0, 0.05, 0.2]),
        duplicate=faults.choice([0.0, 0.1]),
        delay_mean_s=faults.choice([0.0005, 0.005, 0.02]),
    )
    size = faults.choice([3, 4, 5, 7])
    cluster = Cluster(seed, size, min(size, faults.choice([1, 3, 5])), link=link)
    world = cluster.world
    for _ in range(12):
        name = faults.choice(cluster.names)
        node = world.nodes[name]
        match faults.choice(["crash", "cut", "partition", "pause", "heal", "rest"]):
            case "crash" if node.up:
                world.crash(name)
            case "crash":
                world.restart(name)
            case "cut":
                world.network.cut(name, faults.choice(cluster.names))
            case "partition":
                chosen = faults.sample(cluster.names, faults.randint(1, len(cluster.names) - 1))
                world.network.partition(chosen, without(cluster.names, *chosen))
            case "pause" if node.up and not node.paused:
                world.pause(name)
            case "pause" if node.up:
                world.resume(name)
            case "heal":
                world.network.heal()
            case _:
                pass
        world.run(faults.expovariate(1 / 2.0))
    world.network.heal()
    for name in cluster.names:
        node = world.nodes[name]
        if not node.up:
            world.restart(name)
        elif node.paused:
            world.resume(name)
    world.network.link = LinkSettings()
    world.wait_for(lambda: cluster.agree_on(cluster.names), 30.0, "all is well again")


@pytest.mark.parametrize("seeds", seed_ranges(quick=10, full=60))
def test_any_schedule_of_faults_ends_in_one_view(seeds: range) -> None:
    each(seeds, chaos)
