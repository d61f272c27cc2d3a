"""Schedules of faults: drawn from a seed, printed as Python, applied to a cluster until all faults end."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.faults import Faults
from tests.simulation.machine.schedule import KINDS, Schedule, Step, draw
from tests.simulation.machine.wires import Quality
from tests.simulation.shrink import Shrinker
from tests.unit.simulation.test_cluster import Echo, ping


def test_text_of_a_schedule_is_python_that_makes_it() -> None:
    names = {"Schedule": Schedule, "Step": Step, "Quality": Quality}
    for seed in range(20):
        schedule = draw(seed, 4.0)
        assert eval(str(schedule), names) == schedule


def test_some_seeds_are_free_of_faults_and_no_two_are_alike() -> None:
    schedules = [draw(seed, 4.0) for seed in range(300)]
    calm = [schedule for schedule in schedules if not schedule.steps]
    assert 15 <= len(calm) <= 60
    assert len({replace(schedule, seed=0) for schedule in schedules if schedule.steps}) > 230


def test_kinds_that_exclude_each_other_have_one_step() -> None:
    for seed in range(50):
        steps = draw(seed, 4.0, kinds=("kill", "power"), once=("kill", "power")).steps
        assert len(steps) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_fault_ends(kind: str, seed: int) -> None:
    """Its effect ends with the step, or with the end of all faults at the latest."""
    count = KINDS[kind]
    nodes = ("vm1", "vm2")[: 1 if isinstance(count, str) else count]
    for end_early in (False, True):
        with Cluster(seed, 3, {"echo": Echo}) as cluster:
            cluster.start()
            faults = Faults(cluster, [Step(0.1, kind, nodes, 0.5, 0.7)])
            cluster.scheduler.run_for(0.3 if end_early else 3.0)
            assert faults.struck[kind] == 1
            faults.end()
            cluster.settle(3.0)
            client = cluster.client("client")
            for name in cluster.nodes:
                assert cluster.call(client, ping, cluster, name) == "echo"
            cluster.check(cluster.findings())
            cluster.check(cluster.shut_down())


@pytest.mark.parametrize("error", [AssertionError("H1: lost"), RuntimeError("a step went wrong")])
def test_failing_schedule_shrinks_to_what_it_needs(error: Exception) -> None:
    def run(schedule: Schedule) -> None:
        if {"kill", "cut"} <= {step.kind for step in schedule.steps}:
            raise error

    noise = [Step(float(at), "jump", ("vm1",), 0.3, 0.5) for at in range(5)]
    steps = (*noise, Step(1.5, "kill", ("vm2",)), Step(2.5, "cut", ("vm1", "vm2")))
    short = Shrinker(run).shrink(Schedule("x", steps=tuple(sorted(steps, key=lambda step: step.at_s))))
    assert [step.kind for step in short.steps] == ["kill", "cut"]
