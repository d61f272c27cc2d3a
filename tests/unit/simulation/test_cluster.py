"""The simulated cluster: agents start, crash and stop; machines lose power; a cluster at rest is checked."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from agent.common import config as configuration
from agent.common.config import NodeConfig
from agent.common.shell import disk, network, threads
from agent.wire import auth
from agent.wire.client import Address, Client
from agent.wire.messages import Ping
from agent.wire.server import Server
from tests.simulation.machine.cluster import Broken, Cluster

PORT = 7101


class Echo:
    """A small agent: a server that answers pings, and a slot that a test may take."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self.config = config
        self.on_crash = on_crash
        self.slots = threads.semaphore(1)
        self.server = Server("echo", {})

    def start(self) -> None:
        disk.write_durably(f"/{self.config.name}", b"was here")
        me = self.config.me
        self.server.listen_tls(me.address, me.hydfs_port, auth.server_context(self.config.tls))

    def stop(self, timeout_s: float) -> None:
        self.server.stop(timeout_s)


def ping(cluster: Cluster, node: str) -> str:
    peer = configuration.PeerConfig(node, cluster.nodes[node].address)
    client = Client(auth.client_context(cluster.nodes[node].config.tls))
    try:
        return client.ask(Address(peer.address, PORT, peer.name), Ping(), timeout_s=3.0).message.server
    finally:
        client.close()


@pytest.fixture
def cluster(seed: int) -> Cluster:
    """Three nodes that run."""
    made = Cluster(seed, 3, {"echo": Echo})
    made.start()
    return made


def test_agents_start_answer_and_stop_without_a_trace(cluster: Cluster) -> None:
    with cluster:
        client = cluster.client("client")
        for node in cluster.nodes:
            assert cluster.call(client, ping, cluster, node) == "echo"
        cluster.settle(1.0)
        cluster.check(cluster.findings())
        cluster.check(cluster.shut_down())


def test_machine_loses_power_and_comes_back(cluster: Cluster) -> None:
    with cluster:
        node = cluster.nodes["vm2"]
        node.power_off()
        client = cluster.client("client")
        with pytest.raises(Exception, match="vm2"):
            cluster.call(client, ping, cluster, "vm2")
        cluster.settle(1.0)
        assert node.disk.file("/vm2").durable == b"was here"
        assert cluster.call(client, ping, cluster, "vm2") == "echo"


def test_new_disk_is_set_up_again(cluster: Cluster) -> None:
    with cluster:
        node = cluster.nodes["vm2"]
        node.power_off()
        node.replace_disk()
        cluster.settle(1.0)
        assert cluster.is_ready()


def test_crashed_agent_starts_again(cluster: Cluster) -> None:
    with cluster:
        agent = cluster.nodes["vm1"].agents["echo"]
        assert isinstance(agent.service, Echo)
        agent.service.on_crash(ValueError("planned"))
        cluster.wait_until(lambda: agent.process.dead, 5.0)
        cluster.wait_until(cluster.is_ready, 5.0)
        assert cluster.crashes == [("vm1/echo", "ValueError('planned')")]


def test_missing_slot_is_a_finding(cluster: Cluster) -> None:
    with cluster:
        agent = cluster.nodes["vm1"].agents["echo"]
        assert isinstance(agent.service, Echo)
        cluster.call(agent.process, agent.service.slots.acquire)
        with pytest.raises(Broken, match="0 of 1 slots free"):
            cluster.check(cluster.findings())


def test_repeated_warning_is_a_finding(cluster: Cluster) -> None:
    with cluster:

        def complain() -> None:
            while True:
                threads.sleep(0.2)
                logging.getLogger("agent.echo").warning("it_fails_again reason=%s", "none")

        cluster.nodes["vm1"].agents["echo"].process.start("loop", complain)
        found = cluster.findings()
        assert any("it_fails_again" in line for line in found)


def dialled(cluster: Cluster, count: int) -> None:
    """Opens connections to vm1; the machine of the caller loses its power before it has said a word."""
    caller = cluster.machine("caller")

    def dial() -> None:
        address = cluster.nodes["vm1"].address
        for _ in range(count):
            network.dial_tcp(address, PORT, 3.0)

    cluster.call(caller.process("dialler"), dial)
    caller.power_off()


def test_connections_from_the_time_of_the_faults_may_end_in_the_calm(cluster: Cluster) -> None:
    """The server waits some seconds for a caller's first word; then each connection is dropped once."""
    with cluster:
        dialled(cluster, 6)
        cluster.settle(1.0)
        found = cluster.findings()
        dropped = {kind: count for kind, count in cluster.log.problems.items() if kind[0] == "vm1/echo"}
        assert list(dropped.values()) == [6]
        cluster.check(found)


def test_an_old_thread_that_repeats_itself_is_a_finding_even_when_it_ends(cluster: Cluster) -> None:
    with cluster:

        def complain() -> None:
            for _ in range(5):
                threads.sleep(1.0)
                logging.getLogger("agent.echo").warning("it_fails_again reason=%s", "none")

        cluster.nodes["vm1"].agents["echo"].process.start("loop", complain)
        assert any("it_fails_again" in line for line in cluster.findings())


def test_open_file_after_the_end_is_a_finding(cluster: Cluster) -> None:
    with cluster:
        process = cluster.nodes["vm1"].agents["echo"].process
        cluster.call(process, disk.open, "/vm1", 0)
        assert any("/vm1 open" in line for line in cluster.shut_down())


def test_same_seed_gives_the_same_trace(seed: int) -> None:
    def trace() -> str:
        with Cluster(seed, 3, {"echo": Echo}) as made:
            made.start()
            made.settle(2.0)
            return made.trace()

    assert trace() == trace()
