"""Processes that simulated processes start, and their output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from agent.common.shell import network, processes, threads
from tests.simulation.machine.children import SimChild
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.process import Process


@pytest.fixture
def cluster(seed: int) -> Cluster:
    """One machine without agents."""
    return Cluster(seed, 1, {})


def starter(cluster: Cluster, program: Callable[[SimChild, Sequence[str], list[Any]], None]) -> Process:
    """Returns a process of a machine whose commands start ``program``."""
    cluster.nodes["vm1"].program = program
    return cluster.client("starter", on="vm1")


def test_a_program_gets_its_command_and_what_it_inherits(cluster: Cluster) -> None:
    """Its exit status is reported once, and killing it afterwards does nothing."""
    started: list[tuple[SimChild, Sequence[str], list[Any]]] = []

    def start() -> tuple[int | None, int, int | None]:
        one, other = network.pair()
        child = processes.start(["program", "argument"], [other.fileno()])
        before = child.poll()
        with pytest.raises(TimeoutError):
            child.wait(0.1)
        threads.start("end", started[0][0].exited, 3)
        status = child.wait(1.0)
        child.kill()
        started[0][0].exited(0)
        one.close()
        other.close()
        return before, status, child.poll()

    with cluster:
        process = starter(cluster, lambda *start: started.append(start))
        assert cluster.call(process, start) == (None, 3, 3)
        [(_, command, inherited)] = started
        assert list(command) == ["program", "argument"]
        assert len(inherited) == 1


def test_killing_a_child_is_left_to_its_program(cluster: Cluster) -> None:
    """The program also ends whatever it has started."""

    def begin(child: SimChild, command: Sequence[str], inherited: list[Any]) -> None:
        child.on_kill = lambda: child.exited(-9)

    def start() -> int:
        child = processes.start(["program"])
        child.kill()
        return child.wait(1.0)

    with cluster:
        assert cluster.call(starter(cluster, begin), start) == -9


def test_nobody_has_said_what_a_command_starts(cluster: Cluster) -> None:
    """A simulation must not start real programs."""
    with cluster, pytest.raises(AssertionError, match="no program is registered"):
        cluster.call(cluster.client("starter", on="vm1"), processes.start, ["program"])


def test_output_ends_with_its_last_writer(cluster: Cluster) -> None:
    """A reader waits until then; the output of later writers is discarded."""

    def use() -> tuple[bool, bytes]:
        pipe = processes.output_pipe()
        writer = pipe.writer()
        read = threads.future()
        threads.start("reader", lambda: read.set_result(pipe.read(100)))
        pipe.end()
        threads.sleep(0.1)
        waits = not read.done()
        network.close_descriptor(writer)
        found = read.result(1.0)
        network.close_descriptor(pipe.writer())
        pipe.close()
        return waits, found

    with cluster:
        process = cluster.client("agent", on="vm1")
        assert cluster.call(process, use) == (True, b"")
        assert process.seam.network.open_sockets() == []


def test_each_process_has_an_id_of_its_own(cluster: Cluster) -> None:
    """Ids are unique, like the kernel's."""
    with cluster:
        pids = [cluster.call(cluster.client(name, on="vm1"), processes.own_pid) for name in ("a", "b")]
        assert len(dict.fromkeys(pids)) == 2
