"""The store's cores under crashes, pauses, partitions, loss and duplicates; every schedule from a seed.

Clients append self-describing lines with retries and read the whole file; afterwards the history is checked:
H1 nothing acknowledged is lost, in any later read and on every replica, and so many copies are durable in the
moment of the answer as the file asks for (``ack`` is all or quorum, by the seed); H2 nothing twice; H3
nothing that nobody wrote; H4 of any two reads one is a prefix of the other; H5 the answered offset is the
line's place; H6 a client's lines are in its order, it reads its own, and its reads never go back; H7 what was
acknowledged before another append began stands before it.
"""

from __future__ import annotations

import itertools
import math
import os
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent.hydfs.core.block import SEALED
from agent.hydfs.core.filetable import FileEntry
from tests.simulation.hydfs_client import ClientHost
from tests.simulation.hydfs_disk import Bugs
from tests.simulation.hydfs_faults import Faults, FullDisks
from tests.simulation.hydfs_host import StoreHost
from tests.simulation.network import LinkSettings
from tests.simulation.world import World

NODES = ["n1", "n2", "n3", "n4", "n5"]
CLIENTS = ["c1", "c2", "c3"]
NAME = "log"
ACKS = ("all", "all", "quorum")
SEEDS = int(os.environ.get("SEEDS", "20"))


@dataclass
class History:
    """What the clients saw."""

    acked: list[tuple[float, str, int, int]] = field(default_factory=list)
    invoked: dict[tuple[str, int], bytes] = field(default_factory=dict)
    invoked_at: dict[bytes, float] = field(default_factory=dict)
    reads: list[tuple[float, float, str, bytes]] = field(default_factory=list)
    duplicates: int = 0


class Load:
    """One client: appends, and a read now and then."""

    def __init__(self, world: World, name: str, history: History) -> None:
        self.world = world
        self.name = name
        self.history = history
        self.rng = world.random(f"load:{name}")
        self.sequence = 0
        self.stopping = False
        self.idle = True
        world.after(0.1 + self.rng.random() * 0.1, self._next)

    @property
    def host(self) -> ClientHost:
        host = self.world.nodes[self.name].host
        assert isinstance(host, ClientHost)
        return host

    def _next(self) -> None:
        if self.stopping:
            self.idle = True
            return
        self.idle = False
        if self.rng.random() < 0.2:
            self._read()
            return
        line = f"{self.name}:{self.sequence}:".encode().ljust(self.rng.randint(10, 60), b".") + b"\n"
        self.history.invoked[(self.name, self.sequence)] = line
        self.history.invoked_at[line] = self.world.now
        self._append(line)

    def _append(self, line: bytes) -> None:
        def done(code: str, fields: dict[str, Any], payload: bytes) -> None:
            if code:
                self.world.after(0.05, self._append, line)  # the outcome is unknown: the same append again
                return
            self.history.duplicates += bool(fields["duplicate"])
            self.history.acked.append((self.world.now, self.name, self.sequence, fields["offset"]))
            self.sequence += 1
            self.world.after(self.rng.expovariate(1.0) * 0.02, self._next)

        self.host.append(NAME, line, self.name, self.sequence, 1.0, done)

    def _read(self) -> None:
        began = self.world.now

        def done(code: str, fields: dict[str, Any], payload: bytes) -> None:
            if not code:
                self.history.reads.append((began, self.world.now, self.name, payload))
            self.world.after(0.01, self._next)

        self.host.read_file(NAME, 1.0, done)


def run(seed: int | str, bugs: Bugs | None = None, duration_s: float = 6.0) -> tuple[World, History]:
    """Runs one schedule to its end, heals everything and checks the history."""
    rng = World(f"{seed}:settings").random("link")
    link = LinkSettings(loss=rng.choice([0.0, 0.01, 0.05]), duplicate=rng.choice([0.0, 0.05, 0.2]))
    world, history = build(seed, bugs, link)
    create(world, World(f"{seed}:settings").random("ack").choice(ACKS))
    loads = [Load(world, name, history) for name in CLIENTS]
    faults = Faults(world, NODES, CLIENTS)
    full_disks = FullDisks(world, NODES)
    world.run(duration_s)
    faults.stop()
    full_disks.stop()
    world.network.link = LinkSettings()
    world.run(1.5)
    for load in loads:
        load.stopping = True
    world.wait_for(lambda: all(load.idle for load in loads), 30.0, "every client has its answer")
    check(world, history)
    return world, history


def build(
    seed: int | str, bugs: Bugs | None = None, link: LinkSettings | None = None
) -> tuple[World, History]:
    """Returns a world with the stores and the clients, and a history that is empty yet."""
    world = World(seed, link=link)
    broken = bugs or Bugs()
    for name in NODES:
        world.add(name, lambda node: StoreHost(node, NODES, broken))
    for name in CLIENTS:
        world.add(name, lambda node: ClientHost(node, NODES))
    return world, History()


def create(world: World, ack: str) -> None:
    """Makes the file, again while too few voters answer in time: their answers may have been lost."""
    client = world.nodes["c1"].host
    assert isinstance(client, ClientHost)
    created: list[str] = []

    def done(code: str) -> None:
        if code:
            client.create(NAME, "f0", ack, done)
        else:
            created.append(NAME)

    done("NO_MAJORITY")
    world.wait_for(lambda: created, 30.0, "the file is created")


def check(world: World, history: History) -> None:
    """Raises AssertionError when the history breaks a promise."""
    where = f"seed {world.seed}"
    final = final_read(world, history)
    lines = final.splitlines(keepends=True)
    places: dict[bytes, list[int]] = {}
    for line, end in zip(lines, itertools.accumulate(map(len, lines)), strict=True):
        places.setdefault(line, []).append(end - len(line))
    for _, writer, sequence, offset in history.acked:
        found = places.get(history.invoked[(writer, sequence)], [])
        assert len(found) == 1, f"{where}: {writer}:{sequence} is there {len(found)} times"
        assert offset < 0 or found == [offset], f"{where}: {writer}:{sequence} is elsewhere"
    known = {line: key for key, line in history.invoked.items()}
    for writer in CLIENTS:
        order = [known[line][1] for line in lines if known[line][0] == writer]
        assert order == sorted(order), f"{where}: the lines of {writer} are out of order: {order}"
    check_real_time(where, history, places)
    last: dict[str, bytes] = {}
    for began, ended, reader, data in history.reads:
        assert final.startswith(data), f"{where}: a read at {ended:.3f} is no prefix of the file"
        assert len(data) >= len(last.get(reader, b"")), f"{where}: {reader} read less than before"
        last[reader] = data
        for acked_at, writer, sequence, _ in history.acked:
            if acked_at < began:
                line = history.invoked[(writer, sequence)]
                whole = places[line][0] + len(line) <= len(data)  # the read is a prefix of the file
                assert whole, f"{where}: a read from {began:.3f} on misses {writer}:{sequence}"
    check_replicas(world, final)


def check_real_time(where: str, history: History, places: dict[bytes, list[int]]) -> None:
    """H7: an append that began after another one was answered stands behind it."""
    answers = [
        (at, places[history.invoked[writer, sequence]][0]) for at, writer, sequence, _ in history.acked
    ]
    begun = sorted((history.invoked_at[line], found[0]) for line, found in places.items())
    furthest, answered = -1, iter(sorted(answers))
    at, place = next(answered, (math.inf, -1))
    for began, own in begun:
        while at < began:
            furthest = max(furthest, place)
            at, place = next(answered, (math.inf, -1))
        assert own > furthest, f"{where}: H7: the line at {own}, begun at {began:.3f}, is before older ones"


def final_read(world: World, history: History) -> bytes:
    """Reads the file after everything healed."""
    found: list[tuple[str, bytes]] = []
    host = world.nodes["c1"].host
    assert isinstance(host, ClientHost)
    host.read_file(NAME, 20.0, lambda code, fields, data: found.append((code, data)))
    world.wait_for(lambda: found, 30.0, "the final read")
    assert found[0][0] == "", f"seed {world.seed}: the final read fails with {found[0][0]}"
    return found[0][1]


def check_replicas(world: World, final: bytes) -> None:
    """Three equal copies of each sealed block, after the repair had its time."""
    entries: list[FileEntry] = []
    client = world.nodes["c1"].host
    assert isinstance(client, ClientHost)

    def whole() -> bool:
        client.read(NAME, lambda entry, error: entries.append(entry) if entry is not None else None)
        if not entries:
            return False
        return all(len(block.replicas) >= 3 for block in entries[-1].blocks if block.state == SEALED)

    for _ in range(60):
        if whole():
            break
        world.run(0.5)
    assert whole(), f"seed {world.seed}: copies are missing: {entries[-1].blocks if entries else None}"
    start = 0
    for block in entries[-1].blocks:
        if block.state != SEALED:
            continue
        wanted = final[start : start + block.length]
        start += block.length
        for name in block.replicas:
            host = world.nodes[name].host
            assert isinstance(host, StoreHost)
            held = bytes(host.data.get(("f0", block.number), b""))
            assert held == wanted, f"seed {world.seed}: block {block.number} on {name} differs"


@pytest.mark.simulation
@pytest.mark.parametrize("seed", range(SEEDS))
def test_appends_survive_faults(seed: int) -> None:
    _, history = run(seed)
    assert history.acked, f"seed {seed}: nothing was ever acknowledged"


@pytest.mark.simulation_quick
def test_a_few_schedules_with_progress() -> None:
    acked = duplicates = 0
    for seed in ("quick-1", "quick-2", "quick-3"):
        _, history = run(seed, duration_s=3.0)
        acked += len(history.acked)
        duplicates += history.duplicates
    assert acked > 100


@pytest.mark.simulation_quick
def test_same_seed_same_history() -> None:
    assert run("twin", duration_s=2.0)[0].trace_hash() == run("twin", duration_s=2.0)[0].trace_hash()


@pytest.mark.simulation
@pytest.mark.parametrize(
    "bugs",
    [
        Bugs(forget_promise=True),
        Bugs(ack_early=True),
        Bugs(forget_writers=True),
        Bugs(ack_before_sync=True),
    ],
    ids=["forget_promise", "ack_early", "forget_writers", "ack_before_sync"],
)
def test_broken_rules_are_found(bugs: Bugs) -> None:
    """The power of the checks: each planted bug is found within 40 schedules."""
    for seed in range(40):
        try:
            run(f"bug-{seed}", bugs)
        except AssertionError:
            return
    pytest.fail(f"{bugs} was not found in 40 schedules")
