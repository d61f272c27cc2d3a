"""The framed log through power cuts at every call, kills, and syncs that failed."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull
from agent.common.shell import disk, seam
from agent.common.shell.framedlog import FramedLog
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import Moment, power_cuts
from tests.unit.common.shell.framedlogs import PATH, body, contents, opened

LUCKS = 60


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
