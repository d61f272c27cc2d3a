"""The framed log on the real and the simulated disk: records, torn tails, full and failing disks."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull, RecordTooLarge
from agent.common.shell import disk, seam
from agent.common.shell.framedlog import FramedLog
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.unit.common.shell.framedlogs import LAYOUT, body, contents, opened


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
