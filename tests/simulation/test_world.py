"""The simulator itself: same seed, same trace; faults do what they say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.common.errors import DiskFull
from agent.wire.codec import framing
from tests.simulation.network import LinkSettings
from tests.simulation.world import Node, World
from tests.support import REPOSITORY

pytestmark = pytest.mark.simulation_quick


class Echo:
    """Sends a numbered greeting around every 10 ms and keeps what it hears."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.heard: list[tuple[str, int]] = []
        self.unreachable: list[str] = []
        self.boot = len(node.disk.read("boots")) + 1
        node.disk.append_durably("boots", b"x")
        self.sent = 0
        self.due = node.now + 0.01

    def on_message(self, now: float, sender: str, data: bytes) -> None:
        self.heard.append((sender, framing.decode(data).header["number"]))

    def on_timer(self, now: float) -> None:
        self.sent += 1
        self.due = now + 0.01
        data = framing.encode(framing.Frame({"number": self.sent}))
        for target in self.node.world.nodes:
            if target != self.node.name:
                self.node.send_datagram(target, data)
        self.node.disk.append("log", data)

    def next_deadline(self) -> float | None:
        return self.due

    def on_unreachable(self, now: float, target: str) -> None:
        self.unreachable.append(target)

    def check_invariants(self) -> None:
        assert self.sent >= 0


def echo(world: World, name: str) -> Echo:
    host = world.nodes[name].host
    assert isinstance(host, Echo)
    return host


def build(seed: int | str, **link: float) -> World:
    world = World(seed, link=LinkSettings(**link))
    for name in ("a", "b", "c"):
        world.add(name, Echo)
    return world


def eventful(seed: int | str) -> str:
    world = build(seed, loss=0.1, duplicate=0.1, delay_mean_s=0.02)
    world.run(0.5)
    world.crash("a")
    world.network.partition(["b"], ["c"])
    world.run(0.5)
    world.restart("a")
    world.pause("b")
    world.network.heal()
    world.run(0.5)
    world.resume("b")
    world.run(0.5)
    return world.trace_hash()


def test_same_seed_same_trace() -> None:
    assert eventful(7) == eventful(7)
    assert eventful(7) != eventful(8)


def test_same_trace_in_another_process_with_another_hash_seed() -> None:
    code = "from tests.simulation.test_world import eventful; print(eventful(7))"
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONHASHSEED": "12345"},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert found.stdout.strip() == eventful(7)


def test_datagrams_are_lost_doubled_and_overtake() -> None:
    world = build(1, loss=0.2, duplicate=0.2, delay_mean_s=0.02)
    world.run(5.0)
    numbers = [number for sender, number in echo(world, "b").heard if sender == "a"]
    assert 350 < len(numbers) < 550
    assert len(set(numbers)) < 500
    assert len(numbers) > len(set(numbers))
    assert numbers != sorted(numbers)


def test_one_way_cut() -> None:
    world = build(1)
    world.network.cut("a", "b")
    world.run(1.0)
    assert not [sender for sender, _ in echo(world, "b").heard if sender == "a"]
    assert [sender for sender, _ in echo(world, "a").heard if sender == "b"]


def test_a_stream_is_ordered_and_breaks_when_the_target_dies() -> None:
    world = build(1, loss=0.5, delay_mean_s=0.05)
    before = len(echo(world, "b").heard)
    for number in range(1000, 1020):
        world.nodes["a"].send_stream("b", framing.encode(framing.Frame({"number": number})))
    world.run(2.0)
    heard = [number for _, number in echo(world, "b").heard[before:] if number >= 1000]
    assert heard == list(range(1000, 1020))
    world.crash("b")
    world.nodes["a"].send_stream("b", b"x")
    world.run(1.0)
    assert echo(world, "a").unreachable == ["b"]


def test_a_crash_loses_what_was_not_synced_and_a_restart_sees_the_rest() -> None:
    world = build(3)
    world.run(1.0)
    written = len(world.nodes["a"].disk.read("log"))
    world.crash("a")
    kept = len(world.nodes["a"].disk.read("log"))
    assert kept < written
    world.restart("a")
    assert echo(world, "a").boot == 2
    assert echo(world, "a").heard == []


def test_a_paused_node_catches_up_late() -> None:
    world = build(1)
    world.pause("b")
    world.run(1.0)
    assert echo(world, "b").heard == []
    world.resume("b")
    assert len(echo(world, "b").heard) > 150


def test_a_slow_node_handles_messages_late_and_in_order() -> None:
    world = build(1)
    world.slow("b", 50.0)
    world.run(1.0)
    quick, slow = echo(world, "c"), echo(world, "b")
    assert 0 < len(slow.heard) < 0.6 * len(quick.heard), "20 ms a message: at most fifty a second"
    world.slow("b", 1.0)
    world.run(5.0)
    assert len(slow.heard) > 1000


def test_the_wall_clock_jumps_and_the_monotonic_one_does_not() -> None:
    world = build(1)
    node, other = world.nodes["a"], world.nodes["b"]
    before = node.now
    world.jump("a", -288.0)
    assert node.now == before
    assert node.wall_time == other.wall_time - 288.0


def test_a_clog_holds_everything_back_and_then_lets_it_go_in_order() -> None:
    world = build(1)
    world.network.clog("a", "b", 1.0)
    for number in (1001, 1002, 1003):
        world.nodes["a"].send_stream("b", framing.encode(framing.Frame({"number": number})))
    world.run(0.9)
    assert not [sender for sender, _ in echo(world, "b").heard if sender == "a"]
    world.run(0.5)
    heard = [number for sender, number in echo(world, "b").heard if sender == "a"]
    assert [number for number in heard if number > 1000] == [1001, 1002, 1003]
    assert len(heard) > 100


def test_reordered_datagrams_are_overtaken_by_many() -> None:
    world = build(1, reorder=0.1, delay_mean_s=0.0001)
    world.run(3.0)
    numbers = [number for sender, number in echo(world, "b").heard if sender == "a"]
    late = sum(1 for index, number in enumerate(numbers) if number < max(numbers[: index + 1]))
    assert late > 10


def test_partial_partitions() -> None:
    world = World(1)
    names = [f"n{index}" for index in range(5)]
    for name in names:
        world.add(name, Echo)
    world.network.bridge(names, "n2")
    assert not world.network.is_cut("n2", "n0")
    assert not world.network.is_cut("n4", "n2")
    assert world.network.is_cut("n0", "n4")
    assert not world.network.is_cut("n0", "n1")
    world.network.heal()
    world.network.majorities_ring(names)
    seen = [[other for other in names if not world.network.is_cut(name, other)] for name in names]
    assert all(len(group) == 3 for group in seen)
    assert len({tuple(group) for group in seen}) == 5


def test_a_filter_stops_datagrams_but_not_streams() -> None:
    world = build(1)
    world.network.filter("a", "b")
    world.nodes["a"].send_stream("b", framing.encode(framing.Frame({"number": 1001})))
    world.run(1.0)
    assert [number for sender, number in echo(world, "b").heard if sender == "a"] == [1001]


def test_a_failed_sync_drops_what_was_not_durable_and_stops_the_agent() -> None:
    world = build(1)
    disk = world.nodes["a"].disk
    disk.append_durably("state", b"kept")
    disk.append("state", b"lost")
    disk.fail_next_sync()
    failed: list[bool] = []
    disk.sync("state", lambda: failed.append(False), lambda: failed.append(True))
    world.run(1.0)
    assert failed == [True]
    assert disk.read("state") == b"kept"
    disk.fail_next_sync()
    disk.sync("state", lambda: failed.append(False))
    world.run(1.0)
    assert failed == [True]
    assert not world.nodes["a"].up
    assert world.hits["agent stopped: DiskFailed"] == 1


def test_a_full_disk_refuses() -> None:
    world = build(1)
    disk = world.nodes["a"].disk
    disk.full = True
    with pytest.raises(DiskFull):
        disk.append("state", b"0123456789")
    assert len(disk.read("state")) < 10
    disk.mend()
    disk.append_durably("other", b"fits")
    assert disk.read("other") == b"fits"


def test_a_flipped_bit_and_a_torn_end_of_zeros() -> None:
    world = build(1)
    disk = world.nodes["a"].disk
    assert disk.flip_bit("nothing") == -1
    disk.append_durably("state", bytes(100))
    at = disk.flip_bit("state")
    data = disk.read("state")
    assert data[at].bit_count() == 1
    assert sum(data) == data[at]
    disk.tears_to_zeros = True
    sizes = set()
    for _ in range(30):
        disk.append("torn", b"\x01" * 50)
        disk.crash()
        tail = disk.read("torn")
        sizes.add(len(tail))
        assert tail == b"\x01" * tail.count(1) + bytes(tail.count(0)), "zeros only behind what was written"
        disk.delete("torn")
    assert len(sizes) > 5
