"""Server and client under faults and hostile peers, and connections that are cut at every byte."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.process import Process
from tests.simulation.planted import wire as planted
from tests.simulation.power import bug_named, hunt
from tests.simulation.seeds import each, seed_ranges
from tests.simulation.wire import peers
from tests.simulation.wire import run as wire
from tests.simulation.wire.agent import WIRE
from tests.simulation.wire.callers import Caller
from tests.simulation.wire.cluster import WireCluster
from tests.support import REPOSITORY

# The greeting, a request and their prefixes fit into this many bytes.
CUTS = range(0, len(peers.HELLO) + 80)
SETTLED_S = 8.0


def play(seed: int | str) -> str:
    return wire.run(wire.schedule_of(seed)).trace


@pytest.mark.parametrize("seeds", seed_ranges(quick=5, full=40))
def test_calls_end_in_time_and_nothing_is_held(seeds: range) -> None:
    each(seeds, play)


@pytest.mark.slow
@pytest.mark.simulation_quick
def test_same_seed_same_trace_in_fresh_processes() -> None:
    program = "from tests.simulation.test_wire import play; print(play(3))"
    command = [sys.executable, "-c", program]
    found = subprocess.run(
        command,
        env={"PYTHONHASHSEED": "12345"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert found.stdout.strip() == play(3)


def cut_off(process: Process, door: peers.Door, size: int, *, silent: bool) -> None:
    """Sends the first bytes of a conversation, then closes the connection or stays silent."""
    data = peers.HELLO + peers.request(1, 1, 20)

    def visit() -> None:
        with peers.connect(door, greet=False) as sock:
            sock.sendall(data[:size])
            threads.sleep(SETTLED_S if silent else 0.0)

    process.start("visit", visit)


@pytest.mark.simulation_quick
@pytest.mark.parametrize("local", [False, True])
def test_connection_cut_at_every_byte_costs_nothing(local: bool, seed: int) -> None:
    with WireCluster(seed, 1) as cluster:
        for caller in cluster.callers:
            caller.kill()
        cluster.start()
        node = cluster.nodes["vm1"]
        path = node.config.socket_path(WIRE) if local else ""
        door = peers.Door(node.address, node.config.me.hydfs_port, path, 1.0)
        process = (node if local else cluster.machine("stranger")).process("stranger")
        for size in CUTS:
            cut_off(process, door, size, silent=size % 2 == 1)
            cluster.run_for(0.02)
        caller = Caller(cluster, cluster.machine("late"), ["vm1"], 0)
        assert cluster.call(caller.process, caller.finish, "vm1", 3.0) == "answered", "while others wait"
        cluster.run_for(SETTLED_S)
        caller.kill()
        wire.check_rest(cluster)
        wire.check_stop(cluster)


@pytest.mark.simulation_quick
def test_client_survives_a_server_that_breaks_off_at_every_byte(seed: int) -> None:
    """A false server takes the call and cuts its answer off; the call ends with an error."""
    answer = peers.ANSWERS

    with WireCluster(seed, 1) as cluster:
        for caller in cluster.callers:
            caller.kill()
        node = cluster.nodes["vm1"]
        process = node.process("false server")
        caller = Caller(cluster, node, ["vm1"], 0)
        sizes = iter(range(len(answer)))

        def serve() -> None:
            listener = network.listen_unix(node.config.socket_path(WIRE), 0o660, 10)
            while True:
                sock, _ = listener.accept()
                with contextlib.closing(sock):
                    sock.sendall(answer[: next(sizes)])
                    sock.recv(1000)

        process.start("serve", serve)
        cluster.run_for(0.1)
        outcomes = {cluster.call(caller.process, caller.finish, "vm1", 0.3) for _ in range(len(answer) // 2)}
        assert outcomes <= {"UNREACHABLE", "CONNECTION_LOST", "DEADLINE_EXCEEDED", "PROTOCOL_ERROR"}, outcomes
        cluster.check(cluster.violations)
        assert caller._local.busy == 0
        cluster.check(cluster.scheduler.rest(quiet_s=1.0))


@pytest.mark.simulation
@pytest.mark.parametrize("name", [bug.name for bug in planted.BUGS[:3]])
def test_a_planted_bug_is_found(name: str) -> None:
    verdict = hunt(bug_named(name), limit_s=60.0, seeds_max=60)
    assert verdict.found_by, verdict
