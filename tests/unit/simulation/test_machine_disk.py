"""A shell with threads on the simulated machine: each call of the disk is a scheduling point."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.common.shell import disk, threads
from agent.hydfs.core.block import BlockKey, PromiseEntry, Record, RecordEntry, chain
from agent.hydfs.shell.journal import Journal
from agent.hydfs.shell.store import Store
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.process import Process
from tests.simulation.machine.scheduler import Scheduler

ROOT = Path("/data/hydfs")
KEYS: list[BlockKey] = [("id1", 0), ("id2", 3)]
SEEDS = 30


class Machine:
    """A machine that can lose its power and be started again."""

    def __init__(self, seed: int) -> None:
        self.scheduler = Scheduler(seed, stall_chance=0.02)
        self.disk = MachineDisk(random.Random(f"disk/{seed}"), wall=lambda: self.scheduler.now)
        self.disk.on_call = lambda _: self.scheduler.point()

    def boot(self) -> Process:
        process = self.scheduler.process("store")
        view = self.disk.process("store")
        process.equip(disk=view)
        process.on_kill.append(view.kill)
        return process

    def cut_power(self, process: Process) -> None:
        self.scheduler.kill(process)
        self.disk.crash()


def opened() -> Store:
    store = Store(ROOT, reserve_bytes=0, on_crash=fail, segment_bytes=3000)
    store.start()
    return store


def fail(error: BaseException) -> None:
    raise AssertionError(f"the store crashed: {error!r}")


def appender(store: Store, key: BlockKey, acknowledged: dict[BlockKey, int]) -> None:
    """Appends records to a block, one after the other."""
    offset, crc = 0, 0
    for number in range(12):
        data = b"%03d" % number * (100 if number % 5 else 23_000)
        crc = chain(data, crc)
        answer: threads.Future[str] = threads.future()
        entry = RecordEntry(key, "f", "s", Record(offset, len(data), crc, "w", offset, 1), None)
        store.submit(entry, data, answer.set_result)
        assert answer.result(30.0) == ""
        offset += len(data)
        acknowledged[key] = offset


def first_life(acknowledged: dict[BlockKey, int]) -> None:
    store = opened()
    writers = [threads.start(f"writer-{key[0]}", appender, store, key, acknowledged) for key in KEYS]
    for writer in writers:
        writer.join()
    store.write(PromiseEntry(KEYS[0], "f"))
    store.stop()


def lost(acknowledged: dict[BlockKey, int]) -> list[str]:
    """Returns the acknowledged records that the store on this disk has lost."""
    store = opened()
    found = []
    for key, length in acknowledged.items():
        meta = store.index.get(key)
        if meta is None or meta.length < length:
            found.append(f"{key} has {meta and meta.length} bytes of {length}")
        elif store.crc_of(key, meta.length) != meta.crc:
            found.append(f"{key} does not match its checksum")
    store.stop()
    return found


def run(seed: int) -> tuple[list[str], int]:
    """Cuts the power at a moment that the seed chooses; returns the losses and the schedule's fingerprint."""
    machine = Machine(seed)
    acknowledged: dict[BlockKey, int] = {}
    with machine.scheduler as scheduler:
        process = machine.boot()
        process.start("main", first_life, acknowledged)
        steps = random.Random(seed).randrange(20, 550)
        scheduler.run(lambda: scheduler.steps >= steps or not process.threads)
        machine.cut_power(process)
        found = scheduler.call(machine.boot(), lost, dict(acknowledged))
        return found + scheduler.rest(), scheduler.fingerprint


def test_what_a_store_with_threads_acknowledged_survives_power_cuts(seed: int) -> None:
    assert [found for each in range(SEEDS) if (found := run(seed + each)[0])] == []


def test_one_seed_is_one_schedule(seed: int) -> None:
    assert run(seed) == run(seed)


def test_answers_before_the_sync_are_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "fdatasync", lambda descriptor: None)
    assert any(run(seed + each)[0] for each in range(4 * SEEDS))


def test_a_slow_sync_takes_virtual_time_and_covers_what_was_written_before_it() -> None:
    machine = Machine(1)
    order: list[str] = []

    def sync(path: str, done: Callable[[], None]) -> None:
        journal = Journal(Path(path))
        journal.recover(lambda body: None)
        journal.append([b"\x93\xa7dropped\xa1a\x01"])
        journal.close()
        done()

    with machine.scheduler as scheduler:
        process = machine.boot()
        machine.disk.faults = [Fault("fdatasync", "/slow/*", delay_s=2.0)]
        before = scheduler.now
        process.start("slow", sync, "/slow", lambda: order.append("slow"))
        process.start("quick", sync, "/quick", lambda: order.append("quick"))
        scheduler.run()
        assert order == ["quick", "slow"]
        assert 2.0 <= scheduler.now - before < 3.0
        assert scheduler.rest() == []
