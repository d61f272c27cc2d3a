"""Membership in the simulator: crashes, partitions, one-way cuts, loss, pauses, restarts, switches.

The agents are the real ones, on simulated machines. Always checked (by ``History``): one view for each
version, one leader for each term, terms never go back, lives never go back.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from agent.common.config import MembershipConfig
from agent.membership.settings import DetectorKind, Settings
from agent.membership.view import View
from tests.simulation.machine.wires import DATAGRAMS, Quality
from tests.simulation.membership import orders
from tests.simulation.membership.cluster import MembershipCluster
from tests.simulation.seeds import each, seed_ranges

# The time from the crash to the view of every survivor, without any "refused" answer from the dead machine.
# The formula in agent/common/config.py then gives 1.1 s; the worst case adds one pass of the round-robin.
DETECTION_MEDIAN_S = 1.3
DETECTION_MAX_S = 2.0


def without(names: list[str], *lost: str) -> list[str]:
    return [name for name in names if name not in lost]


@contextmanager
def formed(seed: int, nodes: int = 5, **settings: object) -> Iterator[MembershipCluster]:
    """Yields a cluster that has formed."""
    with MembershipCluster(seed, nodes, min(5, nodes), **settings) as cluster:  # type: ignore[arg-type]
        cluster.form()
        yield cluster


def known_view(cluster: MembershipCluster, name: str) -> View:
    view = cluster.view(name)
    assert view is not None
    return view


def victims_of(cluster: MembershipCluster) -> set[str]:
    """Returns the nodes that any other node believed dead."""
    return {sighting.member.name for sighting in cluster.history.deaths(cluster.names)}


def kill_one(seed: int) -> float:
    with formed(seed) as cluster:
        cluster.run_for(cluster.random.uniform(0.5, 3.0))
        victim = cluster.random.choice(cluster.names)
        rest = without(cluster.names, victim)
        cluster.kill(victim)
        took = cluster.wait_for(
            lambda: cluster.believed_dead(victim, rest), DETECTION_MAX_S, f"{victim} is believed dead"
        )
        took += cluster.wait_for(
            lambda: cluster.agree_on(rest, rest), DETECTION_MAX_S, f"{victim} is out of the view"
        )
        assert victims_of(cluster) == {victim}
        assert took <= DETECTION_MAX_S
        return took


@pytest.mark.parametrize("seeds", seed_ranges(quick=2, full=20))
def test_a_crash_is_in_the_view_in_time(seeds: range) -> None:
    times = each(seeds, kill_one)
    if times:
        print(f"crash to view: median {statistics.median(times):.2f} s, max {max(times):.2f} s")
        assert statistics.median(times) <= DETECTION_MEDIAN_S


@pytest.mark.simulation_quick
def test_the_same_seed_gives_the_same_trace() -> None:
    def trace(seed: int) -> str:
        with formed(seed, 3, link=Quality(loss=0.05, duplication=0.05)) as cluster:
            cluster.kill("vm2")
            cluster.run_for(5.0)
            return cluster.trace()

    assert trace(1) == trace(1)
    assert trace(1) != trace(2)


def kill_leader(seed: int) -> None:
    with formed(seed) as cluster:
        before = known_view(cluster, "vm5")
        assert before.leader == "vm1"
        cluster.kill("vm1")
        rest = without(cluster.names, "vm1")
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 4.0, "vm1 is out of the view")
        after = known_view(cluster, "vm5")
        assert (after.leader, after.term) == ("vm2", before.term + 1)
        cluster.restart("vm1")
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 4.0, "vm1 is back")
        final = known_view(cluster, "vm1")
        assert (final.leader, final.term) == ("vm2", after.term), "a leader that is up stays"
        assert final.nodes["vm1"].boot == 2


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_dead_leader_is_replaced_under_a_higher_term(seeds: range) -> None:
    each(seeds, kill_leader)


def restart_quickly(seed: int) -> None:
    with formed(seed) as cluster:
        before = known_view(cluster, "vm5")
        cluster.kill("vm1")
        cluster.run_for(0.05)
        cluster.restart("vm1")
        cluster.wait_for(
            lambda: all(
                (view := cluster.view(name)) is not None and view.nodes["vm1"].boot == 2
                for name in cluster.running()
            ),
            4.0,
            "the new life of vm1 is in the view",
        )
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 4.0, "all are up")
        assert known_view(cluster, "vm5").term > before.term, "the life that held the term has ended"


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_restart_faster_than_detection_is_a_new_life(seeds: range) -> None:
    each(seeds, restart_quickly)


def partition_and_heal(seed: int) -> None:
    with formed(seed) as cluster:
        names = list(cluster.names)
        cluster.random.shuffle(names)
        minority, majority = sorted(names[:2]), sorted(names[2:])
        cluster.partition(minority, majority)
        standing = cluster.view(minority[0])
        cluster.wait_for(lambda: cluster.agree_on(majority, majority), 8.0, "the majority goes on")
        cluster.run_for(cluster.random.uniform(3.0, 30.0))
        for name in minority:
            assert not cluster.service(name).core.majority, f"{name} does not see that it is cut off"
            assert cluster.view(name) == standing, "the minority's view does not change"
        cluster.wires.heal()
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "both sides have merged")
        cluster.run_for(5.0)
        assert cluster.agree_on(cluster.names)
        assert cluster.history.ever_down() == set(minority), "a node of the majority was evicted"


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_partition_heals_into_one_view(seeds: range) -> None:
    each(seeds, partition_and_heal)


def cut_one_way(seed: int) -> None:
    with formed(seed) as cluster:
        victim = cluster.random.choice(cluster.names)
        inbound = seed % 2 == 0
        rest = without(cluster.names, victim)
        cluster.isolate(victim, inbound=inbound, outbound=not inbound)
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 15.0, f"{victim} is out of the view")
        cluster.run_for(20.0)
        assert cluster.agree_on(rest, rest)
        assert cluster.history.ever_down() == {victim}
        assert {sighting.member.name for sighting in cluster.history.deaths(rest)} == {victim}
        cluster.wires.heal()
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, f"{victim} is back")


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_one_way_cut_removes_that_node_and_nobody_else(seeds: range) -> None:
    each(seeds, cut_one_way)


def lose_most_of_one(seed: int) -> None:
    with formed(seed, 10) as cluster:
        cluster.run_for(2.0)
        victim = cluster.random.choice(cluster.names)
        rest = without(cluster.names, victim)
        began = cluster.scheduler.now
        here = cluster.nodes[victim].address
        for other in rest:
            there = cluster.nodes[other].address
            if seed % 3 != 1:
                cluster.wires.set_quality(there, here, Quality(loss=0.8))
            if seed % 3 != 2:
                cluster.wires.set_quality(here, there, Quality(loss=0.8))
        cluster.wait_for(
            lambda: all(victim not in cluster.up(name) for name in rest), 15.0, f"{victim} is out"
        )
        in_views = 0
        for _ in range(200):
            cluster.run_for(0.1)
            in_views += any(victim in cluster.up(name) for name in rest)
        assert in_views <= 60, f"{victim} flaps"
        assert cluster.history.ever_down() == {victim}
        assert {sighting.member.name for sighting in cluster.history.deaths(rest, began)} == {victim}
        cluster.wires.forget_qualities()
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 5.0, f"{victim} is alive again")


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=3))
def test_a_node_that_loses_most_datagrams_is_out_and_stays_out(seeds: range) -> None:
    each(seeds, lose_most_of_one)


def deafen_one(seed: int) -> None:
    with formed(seed, 7) as cluster:
        before = max(cluster.history.views)
        # The requests of others are signs of life; a node that does not vote gets none.
        victim = cluster.random.choice(cluster.names[5:] if seed % 2 == 0 else cluster.names)
        rest = without(cluster.names, victim)
        for other in rest:
            source, target = cluster.nodes[other].address, cluster.nodes[victim].address
            cluster.wires.cut(source, target, both=False, kinds=(DATAGRAMS,))
        cluster.run_for(40.0)
        assert cluster.history.ever_down() <= {victim}, "a deaf node evicted others"
        assert max(cluster.history.views) <= before + 3, "a deaf node flaps"
        assert {sighting.member.name for sighting in cluster.history.deaths(rest)} <= {victim}
        cluster.wires.heal()
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 15.0, f"{victim} is alive again")


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=4))
def test_a_node_that_hears_no_datagrams_evicts_nobody(seeds: range) -> None:
    each(seeds, deafen_one)


# From the crash of one to five of ten machines until all others believe all of them dead.
VARIANTS = [("swim", True, 2.0), ("swim", False, 1.2), ("heartbeat", True, 2.2), ("heartbeat", False, 1.4)]


def kill_under(seed: int, detector: str, suspicion: bool) -> float:
    with formed(seed, 10, config=MembershipConfig(detector=detector, suspicion=suspicion)) as cluster:
        cluster.run_for(cluster.random.uniform(1.0, 3.0))
        count = 1 + seed % 5
        victims = cluster.random.sample(cluster.names, count)
        while sum(victim in cluster.names[:5] for victim in victims) > 2:
            victims = cluster.random.sample(cluster.names, count)
        rest = without(cluster.names, *victims)
        for victim in victims:
            cluster.kill(victim)
        took = cluster.wait_for(
            lambda: all(cluster.believed_dead(victim, rest) for victim in victims), 4.0, "all are dead"
        )
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 6.0, "all are out of the view")
        assert victims_of(cluster) == set(victims)
        return took


@pytest.mark.parametrize(("detector", "suspicion", "limit_s"), VARIANTS)
@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_every_variant_finds_up_to_five_dead_in_time(
    seeds: range, detector: str, suspicion: bool, limit_s: float
) -> None:
    times = each(seeds, lambda seed: kill_under(seed, detector, suspicion))
    if times:
        found = f"median {statistics.median(times):.2f} s, max {max(times):.2f} s"
        print(f"{detector} suspicion={suspicion}: {found}")
        assert max(times) <= limit_s


def settings_of(cluster: MembershipCluster) -> set[Settings]:
    return {cluster.monitor_of(name).settings for name in cluster.running()}


def switch_all(seed: int) -> None:
    with formed(seed) as cluster:
        absent = cluster.names[seed % 5]
        cluster.kill(absent)
        rest = without(cluster.names, absent)
        for detector, suspicion in [(DetectorKind.HEARTBEAT, True), (DetectorKind.SWIM, False)]:
            orders.carry_out(
                cluster,
                rest[seed % 4],
                lambda client, detector=detector, suspicion=suspicion: client.switch(  # type: ignore[misc]
                    detector.label, suspicion
                ),
            )
            cluster.wait_for(lambda: len(settings_of(cluster)) == 1, 2.0, "all nodes follow")
            (found,) = settings_of(cluster)
            assert (found.detector, found.suspicion) == (detector, suspicion)
            cluster.run_for(5.0)
        cluster.restart(absent)
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 8.0, "the absent one is back")
        settings = cluster.monitor_of(absent).settings
        assert (settings.version, settings.detector, settings.suspicion) == (2, DetectorKind.SWIM, False)
        assert {sighting.member.name for sighting in cluster.history.deaths(rest)} <= {absent}


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_switch_reaches_all_and_those_who_join_later_without_a_false_death(seeds: range) -> None:
    each(seeds, switch_all)


def lose_datagrams(seed: int) -> None:
    with formed(seed, link=Quality(0.0002, 0.01, loss=0.2, duplication=0.1)) as cluster:
        cluster.run_for(60.0)
        assert cluster.history.deaths(cluster.names) == []
        assert cluster.history.ever_down() == set()


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=3))
def test_twenty_percent_loss_kills_nobody(seeds: range) -> None:
    each(seeds, lose_datagrams)


def pause_again_and_again(seed: int) -> None:
    with formed(seed) as cluster:
        rest = without(cluster.names, "vm3")
        for _ in range(3):
            cluster.nodes["vm3"].pause()
            cluster.run_for(5.0)
            cluster.nodes["vm3"].resume()
            cluster.run_for(5.0)
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "all are up")
        assert victims_of(cluster) <= {"vm3"}
        assert cluster.history.ever_down() <= {"vm3"}
        assert cluster.history.deaths(rest), "five seconds of silence are detected"


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_a_node_that_is_paused_blames_nobody(seeds: range) -> None:
    each(seeds, pause_again_and_again)


def restart_all(seed: int) -> None:
    with formed(seed) as cluster:
        for name in cluster.names:
            cluster.kill(name)
        cluster.run_for(1.0)
        gone = "vm4"
        rest = without(cluster.names, gone)
        for name in rest:
            cluster.restart(name)
            cluster.run_for(cluster.random.uniform(0, 0.3))
        cluster.wait_for(
            lambda: cluster.running() == rest and cluster.agree_on(rest), 15.0, "the lost node is out"
        )
        view = known_view(cluster, "vm1")
        assert all(view.nodes[name].boot == 2 for name in rest)
        cluster.restart(gone)
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, "the last one is back")


@pytest.mark.parametrize("seeds", seed_ranges(quick=0, full=6))
def test_the_whole_cluster_restarts(seeds: range) -> None:
    each(seeds, restart_all)


def lose_a_voters_disk(seed: int) -> None:
    with formed(seed) as cluster:
        lost = cluster.names[seed % 5]
        rest = without(cluster.names, lost)
        cluster.kill(lost)
        cluster.nodes[lost].replace_disk()
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 4.0, f"{lost} is out of the view")
        cluster.restart(lost)
        cluster.wait_for(lambda: cluster.agree_on(cluster.names), 10.0, f"{lost} is back with another disk")
        voter = cluster.service(lost)._voter
        assert voter is not None
        assert not voter.votes, "it votes before it can know what it forgot"
        cluster.wait_for(lambda: voter.votes, 40.0, f"{lost} votes")
        for name in without(cluster.names, lost)[:2]:
            cluster.kill(name)
        left = without(cluster.names, *without(cluster.names, lost)[:2])
        cluster.wait_for(lambda: cluster.agree_on(left, left), 8.0, "three voters decide, one of them new")


@pytest.mark.parametrize("seeds", seed_ranges(quick=1, full=5))
def test_a_voter_that_lost_its_disk_learns_before_it_votes(seeds: range) -> None:
    each(seeds, lose_a_voters_disk)


def replace_a_voter(seed: int) -> None:
    with formed(seed, 6) as cluster:
        old = cluster.names[seed % 5]
        cluster.kill(old)
        rest = without(cluster.names, old)
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 4.0, f"{old} is out of the view")
        orders.carry_out(cluster, rest[0], lambda client: client.replace_voter(old, "vm6"))
        cluster.wait_for(lambda: cluster.agree_on(rest, rest), 2.0, "all know the voters")
        voters = set(known_view(cluster, rest[0]).voters)
        assert voters == {*cluster.names[:5], "vm6"} - {old}
        for name in without(rest, "vm6")[:2]:
            cluster.kill(name)
        left = without(rest, *without(rest, "vm6")[:2])
        cluster.wait_for(lambda: cluster.agree_on(left, left), 8.0, "the new voter counts")


@pytest.mark.parametrize("seeds", seed_ranges(quick=1, full=5))
def test_a_lost_voter_is_replaced(seeds: range) -> None:
    each(seeds, replace_a_voter)


def watch_neighbours(seed: int) -> None:
    with formed(seed, neighbours=True) as cluster:
        victim = cluster.names[seed % 5]

        def known(lives: bool) -> bool:
            found = [cluster.believes(name, victim) for name in cluster.names]
            return all(member is not None and member.lives("hydfs") == lives for member in found)

        cluster.wait_for(lambda: known(True), 3.0, "all know of the service")
        cluster.nodes[victim].kill("hydfs")
        took = cluster.wait_for(lambda: known(False), 3.0, "all know that it is dead")
        assert took < 0.5, "the kernel closes its connection at once"
        cluster.nodes[victim].start("hydfs")
        cluster.wait_for(lambda: known(True), 3.0, "all know that it is back")
        process = cluster.nodes[victim].agents["hydfs"].process
        cluster.scheduler.pause(process)
        cluster.wait_for(lambda: known(False), 8.0, "its attachment expires while it stalls")
        cluster.scheduler.resume(process)
        cluster.wait_for(lambda: known(True), 3.0, "it goes on")
        cluster.check(cluster.findings())
        cluster.check(cluster.shut_down())


@pytest.mark.parametrize("seeds", seed_ranges(quick=1, full=5))
def test_a_dead_or_hung_service_is_known_everywhere(seeds: range) -> None:
    each(seeds, watch_neighbours)
