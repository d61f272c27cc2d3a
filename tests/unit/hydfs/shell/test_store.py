"""The store on a simulated disk: power cuts at every call, full and failing disks, and its orderly end."""

from __future__ import annotations

import copy
import errno
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.common.errors import (
    Corrupt,
    DiskFailed,
    DiskFull,
    NotFound,
    RainStormError,
    RecordTooLarge,
    Unavailable,
)
from agent.common.shell import disk, seam
from agent.hydfs.core.block import (
    SEALED,
    BlockKey,
    DroppedEntry,
    PromiseEntry,
    Record,
    RecordEntry,
    SealedEntry,
)
from agent.hydfs.core.block import chain as chained
from agent.hydfs.shell import journal
from agent.hydfs.shell.blockfile import BlockFiles
from agent.hydfs.shell.store import INLINE_BYTES_MAX, Store
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import Recorder
from tests.support import wait_until

ROOT = Path("/data/hydfs")
FIRST, SECOND, THIRD = ("id1", 0), ("id2", 0), ("id3", 4)


@dataclass
class Acknowledged:
    """Everything that the store has acknowledged: bytes by block, sealed blocks, dropped ones."""

    data: dict[BlockKey, bytes] = field(default_factory=dict)
    sealed: set[BlockKey] = field(default_factory=set)
    promised: set[BlockKey] = field(default_factory=set)
    dropped: set[BlockKey] = field(default_factory=set)


class Writer:
    """Writes into a store and remembers what was acknowledged."""

    def __init__(self, **settings: int) -> None:
        self.store = opened(**settings)
        self.known = Acknowledged()

    def append(self, key: BlockKey, data: bytes) -> str:
        before = self.known.data.get(key, b"")
        codes: list[str] = []

        def done(code: str) -> None:
            if not code:
                self.known.data[key] = before + data
            codes.append(code)

        self.store.submit(record(key, before, data), data, done)
        wait_until(lambda: bool(codes), 10.0, "the append is answered")
        return codes[0]

    def promise(self, key: BlockKey) -> None:
        self.store.write(PromiseEntry(key, "f"))
        self.known.promised.add(key)

    def seal(self, key: BlockKey) -> None:
        data = self.known.data[key]
        self.store.write(SealedEntry(key, "f", len(data), chained(data, 0)))
        self.known.sealed.add(key)

    def drop(self, key: BlockKey) -> None:
        self.known.data.pop(key)
        self.known.sealed.discard(key)
        self.known.promised.discard(key)
        self.store.write(DroppedEntry(key))
        self.known.dropped.add(key)

    def receive(self, key: BlockKey, data: bytes) -> None:
        part = self.store.receive(key)
        for offset in range(0, len(data), 30_000):
            part.write(data[offset : offset + 30_000])
        part.finish("f", len(data), chained(data, 0))
        self.known.data[key] = data
        self.known.sealed.add(key)


def opened(**settings: int) -> Store:
    store = Store(ROOT, reserve_bytes=0, on_crash=fail, **settings)
    store.start()
    return store


def fail(error: BaseException) -> None:
    raise AssertionError(f"the store crashed: {error!r}")


def record(key: BlockKey, before: bytes, data: bytes) -> RecordEntry:
    made = Record(len(before), len(data), chained(data, chained(before, 0)), "w", len(before), 1)
    return RecordEntry(key, "f", "s", made, None)


def contents(store: Store, key: BlockKey) -> bytes:
    part = store.slice(key, 0, store.index[key].length)
    try:
        return disk.pread_fully(part.descriptor, part.length, part.offset)
    finally:
        disk.close(part.descriptor)


def violation(known: Acknowledged) -> str | None:
    """Returns an acknowledgement that the store on the disk does not keep."""
    store = opened()
    try:
        for key, data in known.data.items():
            if key not in store.index:
                return f"{key} is gone"
            if contents(store, key)[: len(data)] != data:
                return f"{key} has lost bytes"
            if key in known.sealed and store.index[key].state != SEALED:
                return f"{key} is no longer sealed"
            if key in known.promised and store.index[key].state == "open":
                return f"the promise about {key} is forgotten"
        for key in known.dropped:
            if key in store.index:
                return f"{key} came back"
        return None
    except (OSError, RainStormError) as error:
        return f"unreadable: {error}"
    finally:
        store.stop()


def life(seed: int) -> Recorder[Acknowledged]:
    """Runs a store through everything it can do."""
    machine = MachineDisk(random.Random(seed))
    with seam.use(seam.Seam(disk=machine.process("store"))):
        writer: list[Writer] = []
        recorder = Recorder(machine, lambda: copy.deepcopy(writer[0].known) if writer else Acknowledged())
        writer.append(Writer(segment_bytes=1500))
        for number in range(4):
            writer[0].append(FIRST, b"%d" % number * 300)
        writer[0].append(SECOND, b"large" * (INLINE_BYTES_MAX // 4))
        writer[0].append(FIRST, b"more" * 100)
        writer[0].promise(FIRST)
        writer[0].seal(FIRST)
        writer[0].receive(THIRD, bytes(range(256)) * 250)
        writer[0].append(SECOND, b"end" * 300)
        writer[0].drop(SECOND)
        writer[0].store.stop()
    return recorder


def violations(seed: int, lucks: int) -> Iterator[str]:
    for moment, known in life(seed).cuts(seed, lucks):
        if (found := violation(known)) is not None:
            yield f"{moment}: {found}"


def test_what_was_acknowledged_survives_every_power_cut(seed: int) -> None:
    assert list(violations(seed, lucks=4)) == []


@pytest.mark.slow
def test_a_file_whose_name_was_not_synced_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes of a large append are only in the block's file, so its name must be durable too."""
    monkeypatch.setattr(BlockFiles, "_sync_names", lambda files: None)
    assert any(violations(seed, lucks=8))


@pytest.mark.slow
def test_a_large_append_that_is_not_synced_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BlockFiles, "sync", lambda files, keys: None)
    assert any(violations(seed, lucks=8))


@pytest.mark.slow
def test_a_received_block_that_is_not_synced_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "rename_durably", disk.rename)
    assert any(violations(seed, lucks=8))


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of fifty pages."""
    found = MachineDisk(random.Random(seed), capacity_bytes=50 * 4096)
    process = found.process("store")
    with seam.use(seam.Seam(disk=process)):
        yield found
        assert process.open_paths() == []


def test_a_full_disk_refuses_appends_and_keeps_what_it_has(machine: MachineDisk) -> None:
    writer = Writer()
    assert writer.append(FIRST, b"x" * 50_000) == ""
    assert writer.append(SECOND, b"y" * 150_000) == DiskFull.code
    assert writer.append(SECOND, b"z") == DiskFull.code, "it would stand behind a hole"
    writer.store.write(DroppedEntry(SECOND))
    assert writer.append(SECOND, b"z") == ""
    writer.store.stop()
    assert violation(writer.known) is None


def test_a_failed_sync_ends_the_store_and_answers_no_append(machine: MachineDisk) -> None:
    crashes: list[BaseException] = []
    store = Store(ROOT, reserve_bytes=0, on_crash=crashes.append)
    store.start()
    machine.faults = [Fault("fdatasync", "*/journal/*", error=errno.EIO)]
    codes: list[str] = []
    store.submit(record(FIRST, b"", b"abc"), b"abc", codes.append)
    wait_until(lambda: bool(crashes), 10.0, "the store ends")
    assert isinstance(crashes[0], DiskFailed)
    assert codes == [], "the record may or may not be on the disk: no answer is sent"
    store.stop()
    store.submit(record(FIRST, b"", b"abc"), b"abc", codes.append)
    assert codes == [Unavailable.code]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_a_large_append_on_a_failing_disk_ends_the_store(machine: MachineDisk, call: str) -> None:
    crashes: list[BaseException] = []
    store = Store(ROOT, reserve_bytes=0, on_crash=crashes.append)
    store.start()
    machine.faults = [Fault(call, "*/blocks/*", error=errno.EIO)]
    data = bytes(INLINE_BYTES_MAX + 1)
    codes: list[str] = []
    store.submit(record(FIRST, b"", data), data, codes.append)
    wait_until(lambda: bool(crashes), 10.0, "the store ends")
    assert isinstance(crashes[0], DiskFailed)
    store.stop()
    assert codes == []


def test_an_append_whose_bytes_find_no_room_is_refused(machine: MachineDisk) -> None:
    """Other processes may take the room between the check and the write."""
    writer = Writer()
    machine.faults = [Fault("pwrite", "*/blocks/*", error=errno.ENOSPC)]
    assert writer.append(FIRST, b"abc") == DiskFull.code
    writer.store.stop()


def test_a_journal_without_room_refuses_its_entries(machine: MachineDisk) -> None:
    writer = Writer()
    machine.faults = [Fault("pwrite", "*/journal/*", error=errno.ENOSPC, times=2)]
    assert writer.append(FIRST, b"abc") == DiskFull.code
    with pytest.raises(DiskFull, match="no room for the journal"):
        writer.store.write(PromiseEntry(SECOND, "f"))
    assert not writer.store.index, "a refused append must not be sent to other nodes"
    writer.store.write(PromiseEntry(SECOND, "f"))
    writer.store.stop()


def test_a_sealed_block_that_was_damaged_is_never_read(machine: MachineDisk) -> None:
    writer = Writer()
    writer.receive(FIRST, b"good bytes")
    writer.store.stop()
    with disk.opened(ROOT / "blocks" / "id1.0", os.O_RDWR) as descriptor:
        disk.pwrite(descriptor, b"bad", 0)
    store = opened()
    with pytest.raises(Corrupt, match="does not match its checksum"):
        store.slice(FIRST, 0, 10)
    with pytest.raises(NotFound):
        store.slice(FIRST, 0, 10)
    assert disk.read_bytes(ROOT / "quarantine" / "id1.0") == b"badd bytes"
    store.stop()


def test_an_entry_that_is_not_written_in_time_is_reported(machine: MachineDisk) -> None:
    store = Store(ROOT, reserve_bytes=0, on_crash=fail)
    with pytest.raises(DiskFailed, match="wrote nothing in time"):
        store.write(PromiseEntry(FIRST, "f"), timeout_s=0.01)
    store.stop()


def test_a_write_after_the_end_is_refused(machine: MachineDisk) -> None:
    store = opened()
    store.stop()
    with pytest.raises(Unavailable):
        store.write(PromiseEntry(FIRST, "f"))


def test_an_entry_that_outgrew_the_journal_is_refused_alone(
    machine: MachineDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Writer()
    monkeypatch.setattr(journal.LAYOUT.__class__, "check", check_small)
    assert writer.append(FIRST, b"x" * 10) == ""
    assert writer.append(SECOND, b"y" * 400) == RecordTooLarge.code
    assert writer.append(SECOND, b"y") == DiskFull.code
    assert writer.append(FIRST, b"x" * 10) == ""
    writer.store.stop()
    monkeypatch.undo()
    assert violation(writer.known) is None


def check_small(layout: object, body: bytes) -> None:
    if len(body) > 300:
        raise RecordTooLarge(f"{len(body)} bytes")


def test_a_disk_that_cannot_be_read_is_no_empty_store(machine: MachineDisk) -> None:
    writer = Writer()
    writer.append(FIRST, b"abc")
    writer.store.stop()
    machine.faults = [Fault("pread", "*/journal/*", error=errno.EIO)]
    with pytest.raises(DiskFailed):
        opened()
    machine.faults = [Fault("listdir", "*/blocks", error=errno.EIO)]
    with pytest.raises(DiskFailed, match="cannot be recovered"):
        opened()
    assert violation(writer.known) is None


def test_a_damaged_journal_removes_no_block(machine: MachineDisk) -> None:
    writer = Writer()
    for _ in range(5):
        writer.append(FIRST, b"abc" * 100)
    writer.store.stop()
    (path,) = [path for path in machine.paths() if path.endswith(".log")]
    with disk.opened(path, os.O_RDWR) as descriptor:
        disk.fsync(descriptor)
    machine.flip_bit(path, 20)
    with pytest.raises(Exception, match="good records behind"):
        opened()
    assert "/data/hydfs/blocks/id1.0" in machine.paths()
