"""The framed log on the real and the simulated disk: power cuts at every call, full and failing disks."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull, RecordTooLarge
from agent.common.framedlog import Layout
from agent.common.shell import disk, seam
from agent.common.shell.framedlog import FramedLog
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import Moment, power_cuts

LAYOUT = Layout(rb"[0-9]", body_bytes_max=20_000)
PATH = "/data/log"
LUCKS = 60


def body(number: int) -> bytes:
    return b"%d:" % number * (1 + 397 * number % 1500)


@pytest.fixture(params=["real", "simulated"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The path of a log on either disk; nothing may stay open on the simulated one."""
    if request.param == "real":
        yield str(tmp_path / "log")
        return
    process = MachineDisk(random.Random(1)).process("p")
    with seam.use(seam.Seam(disk=process)):
        yield "/log"
        assert process.open_paths() == []


def opened(path: str) -> tuple[FramedLog, list[bytes], bool]:
    """Returns a log, its records and whether its tail was cut."""
    log, found = FramedLog(path, LAYOUT), []

    def take(offset: int, body: bytes) -> None:
        found.append(body)

    return log, found, log.open(take)


def contents(path: str) -> list[bytes]:
    log, found, _ = opened(path)
    log.close()
    return found


def damage(path: str, at: int) -> None:
    data = bytearray(disk.read_bytes(path))
    data[at] ^= 4
    disk.write_durably(path, data)


def test_what_was_appended_is_read_in_order(path: str) -> None:
    log, found, torn = opened(path)
    assert (found, torn) == ([], False)
    assert log.append([body(1), body(2)]) == 0
    second = log.append([body(3)], sync=False)
    assert second == 16 + len(body(1)) + len(body(2))
    log.close()
    log, found, torn = opened(path)
    assert (found, torn) == ([body(1), body(2), body(3)], False)
    log.append([body(4)])
    log.close()
    assert contents(path) == [body(n) for n in (1, 2, 3, 4)]
    assert disk.size(path) == log.size


def test_a_torn_tail_is_cut_once_and_noted_before(path: str) -> None:
    log, _, _ = opened(path)
    log.append([body(1)])
    log.append([body(2)])
    log.close()
    whole = disk.size(path)
    disk.truncate(path, whole - 3)
    sizes = []
    log = FramedLog(path, LAYOUT)
    assert log.open(lambda *_: None, before_cut=lambda: sizes.append(disk.size(path)))
    assert sizes == [whole - 3]
    log.append([body(3)])
    log.close()
    log, found, torn = opened(path)
    log.close()
    assert (found, torn) == ([body(1), body(3)], False)


def test_a_tail_is_not_cut_when_that_cannot_be_noted(path: str) -> None:
    log, _, _ = opened(path)
    log.append([body(1)])
    log.close()
    disk.truncate(path, 5)

    def refuse() -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(DiskFull):
        FramedLog(path, LAYOUT).open(lambda *_: None, before_cut=refuse)
    assert disk.size(path) == 5


def test_damage_is_reported_and_nothing_is_cut(path: str) -> None:
    log, _, _ = opened(path)
    log.append(body(n) for n in range(10))
    log.close()
    damage(path, 30)
    before = disk.read_bytes(path)
    for _ in range(2):
        with pytest.raises(Corrupt, match="damaged at byte 10, with good records behind it"):
            opened(path)
    assert disk.read_bytes(path) == before


def test_a_record_that_is_too_large_is_refused_before_anything_is_written(path: str) -> None:
    log, _, _ = opened(path)
    log.append([body(1)])
    for write in (log.append, log.rewrite):
        with pytest.raises(RecordTooLarge):
            write([body(2), b"3" * 20_001])
    log.append([body(4)])
    log.close()
    assert contents(path) == [body(1), body(4)]


def test_a_rewritten_log_has_only_the_new_records(path: str) -> None:
    log, _, _ = opened(path)
    log.append(body(n) for n in range(50))
    log.rewrite([body(1), body(2)])
    assert log.size == disk.size(path)
    log.append([body(3)])
    log.close()
    assert contents(path) == [body(1), body(2), body(3)]


def test_who_reads_a_record_and_fails_leaves_nothing_open(path: str) -> None:
    log, _, _ = opened(path)
    log.append([body(1)])
    log.close()

    def fail(offset: int, body: bytes) -> None:
        raise KeyError(offset)

    with pytest.raises(KeyError):
        FramedLog(path, LAYOUT).open(fail)


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of ten pages."""
    found = MachineDisk(random.Random(seed), capacity_bytes=10 * 4096)
    with seam.use(seam.Seam(disk=found.process("p"))):
        yield found


@pytest.mark.parametrize("luck", range(20))
def test_refused_records_do_not_come_back_after_a_crash(seed: int, luck: int) -> None:
    """Some of the records were completely on the disk before the room ran out."""
    machine = MachineDisk(random.Random(f"{seed}/{luck}"), capacity_bytes=4 * 4096)
    with seam.use(seam.Seam(disk=machine.process("p"))):
        log, _, _ = opened("/log")
        log.append([body(1)])
        with pytest.raises(DiskFull):
            log.append([body(2)] * 100)
    machine.crash()
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert contents("/log") == [body(1)]


def test_a_log_goes_on_after_it_refused_records(machine: MachineDisk) -> None:
    log, _, _ = opened("/log")
    log.append([body(1)])
    log.append([body(7)], sync=False)
    for _ in range(2):
        with pytest.raises(DiskFull, match="no room"):
            log.append([b"2" * 9000] * 10)
    log.append([body(3)])
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert contents("/log") == [body(1), body(7), body(3)]
        log, _, _ = opened("/log")
        with pytest.raises(DiskFull):
            log.append([b"4" * 9000] * 10)
        machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("r"))):
        assert contents("/log") == [body(1), body(7), body(3)]


def test_a_log_that_has_no_room_to_be_rewritten_goes_on(machine: MachineDisk) -> None:
    log, _, _ = opened("/log")
    log.append([b"1" * 15_000])
    with pytest.raises(DiskFull):
        log.rewrite([b"2" * 15_000] * 2)
    log.append([body(2)])
    log.close()
    assert contents("/log") == [b"1" * 15_000, body(2)]
    assert machine.paths() == ["/log"]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_after_a_failure_the_log_cannot_be_used(machine: MachineDisk, call: str) -> None:
    log, _, _ = opened("/log")
    log.append([body(1)])
    machine.faults = [Fault(call, error=errno.EIO)]
    with pytest.raises(DiskFailed, match="Input/output"):
        log.append([body(2)])
    for use in (log.sync, lambda: log.append([body(3)]), lambda: log.rewrite([body(3)])):
        with pytest.raises(DiskFailed, match="failed earlier"):
            use()
    log.close()
    assert contents("/log")[:1] == [body(1)]


def test_a_sync_without_room_is_a_failure_and_no_refusal(machine: MachineDisk) -> None:
    """The records may be on the disk, so the error "no room" would be wrong."""
    log, _, _ = opened("/log")
    machine.faults = [Fault("fdatasync", error=errno.ENOSPC)]
    with pytest.raises(DiskFailed):
        log.append([body(1)])
    log.close()


def test_a_refused_write_that_cannot_be_taken_back_is_a_failure(machine: MachineDisk) -> None:
    log, _, _ = opened("/log")
    machine.faults = [Fault("ftruncate", error=errno.EIO)]
    with pytest.raises(DiskFailed):
        log.append([b"2" * 9000] * 10)
    with pytest.raises(DiskFailed):
        log.append([body(1)])
    log.close()


@pytest.mark.parametrize(
    "fault", [Fault("fsync", "/log.new", error=errno.EIO), Fault("fsync", "/", error=errno.EIO)]
)
def test_a_rewriting_that_fails_ends_the_use_of_the_log(machine: MachineDisk, fault: Fault) -> None:
    log, _, _ = opened("/log")
    log.append([body(1)])
    machine.faults = [fault]
    with pytest.raises(DiskFailed):
        log.rewrite([body(2)])
    with pytest.raises(DiskFailed, match="failed earlier"):
        log.append([body(3)])
    log.close()


def test_a_log_that_cannot_be_opened_again_ends_its_use(machine: MachineDisk) -> None:
    """Later records would go to the file that was replaced."""
    log, _, _ = opened("/log")
    machine.faults = [Fault("open", "/log", error=errno.EMFILE)]
    with pytest.raises(DiskFailed, match="Too many open files"):
        log.rewrite([body(2)])
    with pytest.raises(DiskFailed, match="failed earlier"):
        log.append([body(3)])
    log.close()
    assert contents("/log") == [body(2)]


def test_a_log_that_cannot_be_read_is_no_empty_one(machine: MachineDisk) -> None:
    log, _, _ = opened("/log")
    log.append([body(1)])
    log.close()
    machine.faults = [Fault("pread", error=errno.EIO)]
    with pytest.raises(DiskFailed, match="cannot be opened"):
        opened("/log")
    assert contents("/log") == [body(1)]


# Power cuts at every call


def flat(batches: list[list[bytes]]) -> list[bytes]:
    return [each for batch in batches for each in batch]


class Program:
    """Appends, rewrites once, appends; remembers what was attempted and what was acknowledged."""

    def __init__(self, *, batch: int = 1) -> None:
        self.batch = batch
        self.attempted: list[list[bytes]] = []
        self.acknowledged = 0

    def run(self) -> None:
        self.attempted, self.acknowledged = [], 0
        log, _, _ = opened(PATH)
        for number in range(6):
            if number == 3:
                log.rewrite(flat(self.attempted))
            self.attempted.append([body(10 * number + n) for n in range(self.batch)])
            log.append(self.attempted[-1])
            self.acknowledged += 1
        log.close()

    def violation(self, moment: Moment) -> str | None:
        """Returns the problem of the state that a power cut left."""
        try:
            found = contents(PATH)
        except Corrupt as error:
            return f"{moment}: {error}"
        attempted, sure = flat(self.attempted), flat(self.attempted[: self.acknowledged])
        if found != attempted[: len(found)]:
            return f"{moment}: these records were never written in this order"
        if len(found) < len(sure):
            return f"{moment}: {len(sure)} records were acknowledged, {len(found)} are there"
        log, _, torn = opened(PATH)
        log.close()
        return f"{moment}: torn twice" if torn else None


def prepare() -> None:
    disk.make_folder_durably("/data")


def violations(program: Program, seed: int, lucks: int = LUCKS, *, holes: bool = False) -> Iterator[str]:
    moments = power_cuts(program.run, seed=seed, prepare=prepare, lucks=lucks, holes=holes)
    return (found for moment in moments if (found := program.violation(moment)))


@pytest.mark.parametrize("batch", [1, 4])
def test_what_was_acknowledged_survives_every_power_cut(seed: int, batch: int) -> None:
    assert list(violations(Program(batch=batch), seed, lucks=20)) == []


def test_single_records_survive_a_disk_that_loses_sectors_inside_a_write(seed: int) -> None:
    assert list(violations(Program(batch=1), seed, lucks=20, holes=True)) == []


def test_of_a_batch_with_lost_sectors_nothing_acknowledged_is_lost(seed: int) -> None:
    """It may count as corrupt: a later record of a batch that was never synced can survive an earlier one."""
    found = violations(Program(batch=4), seed, lucks=20, holes=True)
    assert [each for each in found if "damaged at byte" not in each] == []


def nothing(*_: object) -> None:
    """A step that is left out."""


@pytest.mark.parametrize("step", ["fdatasync", "fsync", "sync_folder"])
def test_a_log_without_one_of_its_syncs_is_caught(
    seed: int, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    monkeypatch.setattr(disk, step, nothing)
    assert any(violations(Program(), seed))


def test_a_rewriting_in_place_is_caught(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_place(path: str, data: Iterator[bytes], mode: int) -> int:
        written = b"".join(data)
        with disk.opened(path, os.O_WRONLY | os.O_TRUNC) as descriptor:
            disk.write_fully(descriptor, written)
            disk.fsync(descriptor)
        return len(written)

    monkeypatch.setattr(disk, "write_durably", in_place)
    assert any(violations(Program(), seed))


def reads_lost_again(seed: int, first_life: Callable[[FramedLog], object]) -> bool:
    """Tells whether a record that a second life read is gone after a power cut."""
    machine = MachineDisk(random.Random(seed))
    with seam.use(seam.Seam(disk=machine.process("first"))):
        log, _, _ = opened("/log")
        first_life(log)
    machine.processes[0].kill()
    with seam.use(seam.Seam(disk=machine.process("second"))):
        read = contents("/log")
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("third"))):
        return contents("/log") != read


def test_what_was_read_after_a_kill_survives_a_later_power_cut(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed_before_the_sync(log: FramedLog) -> None:
        log.append([body(1)], sync=False)

    assert not reads_lost_again(seed, killed_before_the_sync)
    monkeypatch.setattr(disk, "fsync", nothing)
    assert reads_lost_again(seed, killed_before_the_sync)


@pytest.mark.parametrize("room", [None, 0], ids=["room", "full"])
@pytest.mark.parametrize("luck", range(12))
def test_data_that_a_failed_sync_left_in_memory_is_rewritten(seed: int, luck: int, room: int | None) -> None:
    """The kernel may show the bytes and the next sync succeed: a power cut would then leave a hole."""
    machine = MachineDisk(random.Random(f"{seed}/{luck}"))
    with seam.use(seam.Seam(disk=machine.process("first"))):
        log, _, _ = opened("/log")
        log.append([body(1)])
        machine.faults = [Fault("fdatasync", error=errno.EIO)]
        with pytest.raises(DiskFailed):
            log.append([body(2), body(7)])
    machine.processes[0].kill()
    if room is not None:
        machine.fill(room)
    with seam.use(seam.Seam(disk=machine.process("second"))):
        log, expected, _ = opened("/log")
        machine.free()
        if luck % 2:
            log.append([body(3)])
            expected.append(body(3))
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("third"))):
        assert contents("/log") == expected


def test_a_log_that_changes_while_it_is_opened_is_a_failure(machine: MachineDisk) -> None:
    """The kernel may replace pages that it could not write by older ones from the disk at any moment."""
    log, _, _ = opened("/log")
    log.append([body(1)])
    log.close()

    def drop_pages(offset: int, found: bytes) -> None:
        with disk.opened("/log", os.O_WRONLY) as descriptor:
            disk.pwrite(descriptor, b"?", 12)

    log = FramedLog("/log", LAYOUT)
    with pytest.raises(DiskFailed, match="changed while it was read"):
        log.open(drop_pages)


def test_a_log_that_was_opened_on_a_full_disk_needs_no_room(machine: MachineDisk) -> None:
    log, _, _ = opened("/log")
    log.append([b"1" * 15_000])
    log.close()
    disk.truncate("/log", disk.size("/log") + 20)
    machine.fill(0)
    log, found, torn = opened("/log")
    assert (found, torn) == ([b"1" * 15_000], True)
    assert disk.size("/log") == log.size
    log.close()
