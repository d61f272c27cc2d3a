"""Schedules of faults: each seed enables some kinds and draws when they strike (swarm testing).

An **ambush** waits for a moment that chance would rarely hit, such as a commit under way, and strikes then.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.simulation.network import LinkSettings
from tests.simulation.rainstorm_cluster import Cluster, small_limits
from tests.simulation.rainstorm_jobs import KINDS
from tests.simulation.rainstorm_node import Parts
from tests.simulation.rainstorm_store import StoreFaults

FAULTS_S = 6.0
HEALED_S = 120.0
AMBUSH_S = 1.5
AMBUSH_STEP_S = 0.002


@dataclass(frozen=True, slots=True)
class Result:
    """What one run was like."""

    trace: str
    simulated_s: float
    events: int
    hits: dict[str, int]
    commits: int
    kinds: tuple[str, ...]


class Faults:
    """Strikes at a cluster until it is told to heal."""

    def __init__(self, cluster: Cluster, rng: random.Random, kinds: Sequence[str] | None = None) -> None:
        self._cluster = cluster
        self._rng = rng
        self._over = False
        self._machines: dict[str, bool] = {}
        known = [name.removeprefix("_do_") for name in dir(self) if name.startswith("_do_")]
        calm = rng.random() < 0.1
        chosen = rng.sample(known, rng.randint(1, len(known))) if kinds is None else kinds
        if not chosen or (calm and kinds is None):
            return
        for _ in range(rng.randint(1, 7)):
            strike: Callable[[], None] = getattr(self, f"_do_{rng.choice(sorted(chosen))}")
            cluster.world.after(rng.uniform(0.05, FAULTS_S * 0.5), self._strike, strike)

    def heal(self) -> None:
        """Ends all faults."""
        cluster = self._cluster
        self._over = True
        cluster.world.network.heal()
        cluster.world.network.link = LinkSettings()
        cluster.store.faults = StoreFaults()
        cluster.store.cut.clear()
        cluster.views.isolated.clear()
        cluster.views.accused_until.clear()
        cluster.views.lag_s.clear()
        for name in cluster.names:
            node = cluster.world.nodes[name]
            if not node.up:
                self._restart(name)
            elif node.paused:
                cluster.world.resume(name)

    def _strike(self, strike: Callable[[], None]) -> None:
        if not self._over:
            strike()

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._cluster.world.after(delay_s, self._strike, action)

    def _up(self) -> list[str]:
        nodes = self._cluster.world.nodes
        return [name for name in self._cluster.names if nodes[name].up and not nodes[name].paused]

    def _crash(self, name: str) -> None:
        # Two nodes of three hold no majority of anything: one stays at least.
        if name not in self._up() or len(self._up()) < 2:
            return
        self._machines[name] = self._rng.random() < 0.5
        self._cluster.crash(name, machine=self._machines[name])
        self._later(self._rng.choice([0.05, 0.5, 3.0]), lambda: self._restart(name))

    def _restart(self, name: str) -> None:
        if not self._cluster.world.nodes[name].up:
            self._cluster.restart(name, machine=self._machines[name])

    def _pause(self, name: str) -> None:
        world = self._cluster.world
        if name not in self._up() or len(self._up()) < 2:
            return
        world.pause(name)

        def resume() -> None:
            if world.nodes[name].paused:
                world.resume(name)

        self._later(self._rng.choice([0.3, 1.5, 3.0]), resume)

    def _any(self) -> str:
        return self._rng.choice(self._cluster.names)

    def _ambush(self, moment: Callable[[], object], strike: Callable[[], None]) -> None:
        end = self._cluster.world.now + AMBUSH_S

        def look() -> None:
            if moment():
                strike()
            elif self._cluster.world.now < end:
                self._later(AMBUSH_STEP_S * self._rng.uniform(0.2, 1.0), look)

        look()

    # -- kinds ------------------------------------------------------------------------------------------

    def _do_kill_task(self) -> None:
        tasks = self._cluster.tasks()
        if tasks:
            self._cluster.kill_task(self._rng.choice(tasks))

    def _do_kill_task_with_ack(self) -> None:
        cluster = self._cluster

        def acked() -> list[str]:
            return [task for m in cluster.machines() if m._epoch is not None for task in m._epoch.acks]

        def strike() -> None:
            wanted = acked()
            for process in cluster.tasks():
                if process.key is not None and process.key[1] in wanted:
                    cluster.kill_task(process)
                    return

        self._ambush(acked, strike)

    def _do_crash_node(self) -> None:
        self._crash(self._any())

    def _do_crash_leader(self) -> None:
        self._crash(self._cluster.views.leader)

    def _do_crash_leader_in_commit(self) -> None:
        machines = self._cluster.machines
        self._ambush(
            lambda: any(m._pending[0] == "commit" for m in machines()),
            lambda: self._crash(self._cluster.views.leader),
        )

    def _do_crash_leader_before_publication(self) -> None:
        machines = self._cluster.machines
        self._ambush(
            lambda: any(m.state.unpublished for m in machines()),
            lambda: self._crash(self._cluster.views.leader),
        )

    def _do_crash_leader_after_deletion(self) -> None:
        hits = self._cluster.watch.hits
        before = hits["segment file deleted"]
        self._ambush(
            lambda: hits["segment file deleted"] > before,
            lambda: self._crash(self._cluster.views.leader),
        )

    def _do_crash_sink_before_publication(self) -> None:
        def homes() -> list[str]:
            found = [(m, entry) for m in self._cluster.machines() for entry in m.state.unpublished]
            return [m.state.placement[entry[1]] for m, entry in found if entry[1] in m.state.placement]

        self._ambush(homes, lambda: self._crash(homes()[0]))

    def _do_fail_in_recovery(self) -> None:
        def recovering() -> list[str]:
            phases = ("logging", "deploying")
            busy = [m for m in self._cluster.machines() if m.phase in phases and m.state.generation > 1]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(recovering, lambda: self._crash(self._rng.choice(recovering())))

    def _do_fail_in_deployment(self) -> None:
        def deploying() -> list[str]:
            busy = [m for m in self._cluster.machines() if m.phase == "deploying"]
            return [node for m in busy for node in m.state.placement.values()]

        self._ambush(deploying, lambda: self._crash(self._rng.choice(deploying())))

    def _do_pause_node(self) -> None:
        self._pause(self._any())

    def _do_pause_leader(self) -> None:
        self._pause(self._cluster.views.leader)

    def _do_isolate(self) -> None:
        name, cluster = self._any(), self._cluster
        cluster.world.network.isolate(name)
        cluster.views.isolated[name] = self._rng.random() < 0.7
        cluster.store.cut[name] = self._rng.random() < 0.7

        def mend() -> None:
            cluster.world.network.heal()
            cluster.views.isolated.pop(name, None)
            cluster.store.cut.pop(name, None)

        self._later(self._rng.choice([0.3, 1.5, 3.0]), mend)

    def _do_cut_one_way(self) -> None:
        network = self._cluster.world.network
        source, target = self._rng.sample(self._cluster.names, 2)
        network.cut(source, target)
        self._later(self._rng.choice([0.3, 1.5, 3.0]), lambda: network.mend(source, target))

    def _do_accuse(self) -> None:
        views, name = self._cluster.views, self._rng.choice([self._cluster.views.leader, self._any()])
        views.accused_until[name] = self._cluster.world.now + self._rng.choice([0.2, 1.0])
        views.lag_s[name] = self._rng.choice([0.0, 0.5, 2.0])

    def _do_cut_off_store(self) -> None:
        cut, name = self._cluster.store.cut, self._any()
        cut[name] = True
        self._later(self._rng.choice([0.3, 2.0, 4.0]), lambda: cut.update({name: False}))

    def _do_slow_store(self) -> None:
        store, rng = self._cluster.store, self._rng
        store.faults = StoreFaults(
            delay_mean_s=rng.choice([0.002, 0.02]),
            slow=rng.choice([0.0, 0.05]),
            slow_s=rng.choice([0.5, 8.0]),
        )
        self._later(rng.uniform(0.5, 3.0), lambda: setattr(store, "faults", StoreFaults()))

    def _do_unsure_store(self) -> None:
        store, rng = self._cluster.store, self._rng
        store.faults = StoreFaults(lost_answer=rng.choice([0.05, 0.3]), refused=rng.choice([0.0, 0.2]))
        self._later(rng.uniform(0.5, 3.0), lambda: setattr(store, "faults", StoreFaults()))

    def _do_bad_network(self) -> None:
        network, rng = self._cluster.world.network, self._rng
        network.link = LinkSettings(
            delay_mean_s=rng.choice([0.001, 0.02, 0.1]),
            loss=rng.choice([0.0, 0.02]),
            duplicate=rng.choice([0.0, 0.3]),
        )
        self._later(rng.uniform(0.5, 3.0), lambda: setattr(network, "link", LinkSettings()))


def run(
    seed: int | str,
    parts: Parts | None = None,
    *,
    jobs: tuple[str, ...] = KINDS,
    faults: Sequence[str] | None = None,
    end_to_end_only: bool = False,
) -> Result:
    """Runs one seed: jobs under faults, then healing, convergence and the checks of the end."""
    swarm = random.Random(f"{seed}:swarm")
    with small_limits(swarm):
        cluster = Cluster(seed, parts, kinds=jobs, end_to_end_only=end_to_end_only)
        world = cluster.world
        began = world.now
        striking = Faults(cluster, swarm, faults)
        while world.now < began + FAULTS_S and not cluster.over():
            world.run(0.05)
        striking.heal()
        world.wait_for(cluster.over, HEALED_S, "R9: all jobs are over")
        if not end_to_end_only:
            world.wait_for(lambda: not cluster.tasks(), HEALED_S, "R10: no task is left")
        cluster.watch.check_end()
    watch = cluster.watch
    return Result(
        world.trace_hash(),
        world.now - began,
        world.events,
        dict(sorted(watch.hits.items())),
        sum(job.commits for job in watch.jobs.values()),
        tuple(job.workload.kind for job in watch.jobs.values()),
    )
