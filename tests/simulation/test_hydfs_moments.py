"""Moments of the simulated store that chance alone meets too rarely."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.register import Read
from agent.hydfs.core.filetable import BlockEntry, from_value
from tests.simulation.hydfs_client import ClientHost
from tests.simulation.hydfs_disk import REFUSED_FOLLOWER, REFUSED_PROMISE, Bugs
from tests.simulation.hydfs_host import StoreHost
from tests.simulation.test_hydfs import NAME, NODES, History, build, check, create
from tests.simulation.voter import FILE as REGISTERS
from tests.simulation.world import World


def begin(world: World, history: History, writer: str, sequence: int, size: int = 10) -> None:
    """Begins to append a line as the client ``writer``, again until it is acknowledged."""
    client = world.nodes[writer].host
    assert isinstance(client, ClientHost)
    line = f"{writer}:{sequence}:".encode().ljust(size - 1, b".") + b"\n"
    history.invoked[(writer, sequence)] = line
    history.invoked_at[line] = world.now

    def done(code: str, fields: dict[str, Any], payload: bytes) -> None:
        if code:
            client.append(NAME, line, writer, sequence, 1.0, done)
        else:
            history.acked.append((world.now, writer, sequence, fields["offset"]))

    client.append(NAME, line, writer, sequence, 1.0, done)


def settle(world: World, history: History) -> None:
    """Waits until every line is acknowledged."""
    world.wait_for(lambda: len(history.acked) == len(history.invoked), 20.0, "all lines are acknowledged")


def refused_promise(seed: int | str, bugs: Bugs | None = None) -> World:
    """Has a replica with a full disk asked to seal a block while its coordinator cannot hear of it.

    The replica restarts, all hear each other again, and the coordinator goes on with the block. When the
    promise counts that was never written, the file table has sealed the block by then.
    """
    world, history = build(seed, bugs)
    create(world, "all")
    for sequence in range(2):
        begin(world, history, "c1", sequence)
        settle(world, history)
    client, block = world.nodes["c1"].host, _open_block(world)
    assert isinstance(client, ClientHost)
    coordinator, replica, other = block.replicas
    for name in (coordinator, other):
        world.network.cut(replica, name)
        world.network.cut(name, replica)
    disk = world.nodes[replica].disk
    disk.full, disk.slack = True, (REGISTERS,)
    answers: list[str] = []
    fields = {"name": NAME, "file_id": "f0", "number": block.number}
    client.call(replica, "seal", fields, b"", 1.0, lambda code, fields, payload: answers.append(code))
    world.wait_for(lambda: answers, 2.0, "the replica says whether it sealed the block")
    world.crash(replica)
    disk.mend()
    world.restart(replica)
    world.network.heal()
    begin(world, history, "c1", 2)
    settle(world, history)
    check(world, history)
    return world


def refused_record(seed: int | str, bugs: Bugs | None = None) -> World:
    """Gives the disk of a replica room for a short line only; a long one comes, and a short one behind it."""
    world, history = build(seed, bugs)
    create(world, "all")
    for writer in ("c1", "c2"):
        begin(world, history, writer, 0)
        settle(world, history)
    for sequence in range(1, 6):
        for writer in ("c1", "c2"):  # both clients know the open block from here on
            begin(world, history, writer, 10 * sequence)
            settle(world, history)
        world.nodes[_open_block(world).replicas[1]].disk.free_bytes = 30
        begin(world, history, "c1", 10 * sequence + 1, 60)
        world.run(0.001)
        begin(world, history, "c2", 10 * sequence + 1)
        settle(world, history)
        for name in NODES:
            world.nodes[name].disk.mend()
    check(world, history)
    return world


def late_coordinator(seed: int | str, bugs: Bugs | None = None) -> World:
    """Pauses a node that opens a block, and has the others seal the block, empty, behind its back.

    When it goes on it has appends to do; the replicas that it writes to have dropped their copies.
    """
    world, history = build(seed, bugs)
    create(world, "all")
    begin(world, history, "c1", 0)
    world.wait_for(lambda: _opened(world), 1.0, "a block is open")
    block = _opened(world)
    assert block is not None
    coordinator = block.replicas[0]
    world.pause(coordinator)
    world.run(0.01)  # the voters' answers reach it
    for name in NODES:
        world.network.cut(name, coordinator)
    world.run(0.25)
    begin(world, history, "c3", 0)  # asks the coordinator as long as the block is in the file table
    world.run(0.25)
    world.network.heal()
    opened = _opened(world)
    assert opened is None or opened.number > block.number, f"seed {seed}: block {block.number} is not sealed"
    world.resume(coordinator)
    settle(world, history)
    check(world, history)
    return world


def _opened(world: World) -> BlockEntry | None:
    """Returns the open block that a voter has heard of last."""
    found: list[BlockEntry] = []
    for name in NODES:
        host = world.nodes[name].host
        assert isinstance(host, StoreHost)
        entry = from_value(host.voter.apply(Read(NAME)).value)
        if entry is not None and entry.open_block is not None:
            found.append(entry.open_block)
    return max(found, key=lambda block: block.number, default=None)


# Where chance alone does not find a planted bug in time.
SCENARIOS = {
    "count_refused_promise": refused_promise,
    "write_behind_refused": refused_record,
    "forget_dropped": late_coordinator,
}


def _open_block(world: World) -> BlockEntry:
    client = world.nodes["c1"].host
    assert isinstance(client, ClientHost)
    block = client.entries[NAME].open_block
    assert block is not None
    return block


@pytest.mark.simulation_quick
def test_a_promise_that_a_full_disk_refused_seals_nothing() -> None:
    for seed in range(5):
        world = refused_promise(seed)
        assert world.hits[REFUSED_PROMISE], f"seed {seed}: no promise was refused"


@pytest.mark.simulation_quick
def test_a_coordinator_that_comes_late_acknowledges_nothing() -> None:
    for seed in range(5):
        late_coordinator(seed)


@pytest.mark.simulation_quick
def test_nothing_is_kept_behind_a_record_that_a_full_disk_refused() -> None:
    met = sum(refused_record(seed).hits[REFUSED_FOLLOWER] for seed in range(5))
    assert met, "no record was under way behind a refused one"


@pytest.mark.simulation_quick
@pytest.mark.parametrize("bug", list(SCENARIOS))
def test_what_breaks_a_rule_is_found(bug: str) -> None:
    for seed in range(10):
        try:
            SCENARIOS[bug](seed, Bugs(**{bug: True}))
        except AssertionError:
            return
    pytest.fail(f"{bug} was not found in 10 schedules")
