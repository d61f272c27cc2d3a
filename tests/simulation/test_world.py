"""The simulator itself: same seed, same trace; faults do what they say."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.wire import framing
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
