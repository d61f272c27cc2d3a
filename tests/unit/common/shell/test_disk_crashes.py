"""The durable helpers survive a power cut at every call; without one of their steps they do not."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable

import pytest

from agent.common.errors import DiskFailed
from agent.common.shell import disk, seam
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import power_cuts

# This many kinds of luck for each cut find every planted mistake: the rarest one shows in a third of them.
LUCKS = 60
OLD, NEW = b"old " * 300, b"new " * 2500
PATH = "/data/file"


def prepare() -> None:
    disk.make_folder_durably("/data")
    disk.write_durably(PATH, OLD)


def replace() -> None:
    disk.write_durably(PATH, NEW)


def broken_replacements(program: Callable[[], None], seed: int) -> list[str]:
    """Returns the cuts that left neither the old nor the new file, or not the one that was acknowledged."""
    found = []
    for moment in power_cuts(program, seed=seed, prepare=prepare, lucks=LUCKS):
        content = disk.read_bytes(PATH) if disk.exists(PATH) else b""
        if content not in (OLD, NEW) or (moment.survived and content != NEW):
            found.append(str(moment))
    return found


def test_a_file_is_replaced_whole_at_every_cut(seed: int) -> None:
    assert broken_replacements(replace, seed) == []


def nothing(*_: object) -> None:
    """A step that is left out."""


def test_a_replacement_without_the_sync_of_the_file_is_caught(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "fsync", nothing)
    assert broken_replacements(replace, seed)


def test_a_replacement_without_the_sync_of_the_folder_is_caught(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "sync_folder", nothing)
    assert broken_replacements(replace, seed)


def test_a_rename_before_the_sync_is_caught(seed: int) -> None:
    def rename_first() -> None:
        fresh = f"{PATH}.new"
        with disk.opened(fresh, os.O_WRONLY | os.O_CREAT) as descriptor:
            disk.write_fully(descriptor, NEW)
            disk.rename(fresh, PATH)
            disk.fsync(descriptor)
        disk.sync_folder("/data")

    assert broken_replacements(rename_first, seed)


def test_writing_over_the_old_file_is_caught(seed: int) -> None:
    def write_over() -> None:
        with disk.opened(PATH, os.O_WRONLY | os.O_TRUNC) as descriptor:
            disk.write_fully(descriptor, NEW)
            disk.fsync(descriptor)

    assert broken_replacements(write_over, seed)


def lost_marks(program: Callable[[], None], seed: int) -> list[str]:
    """Returns the cuts after the end of ``program`` after which its mark is not there."""
    return [
        str(moment)
        for moment in power_cuts(program, seed=seed, lucks=LUCKS)
        if moment.survived and not disk.exists("/data/store/mark")
    ]


def mark() -> None:
    disk.make_folder_durably("/data/store")
    disk.create_durably("/data/store/mark")


def test_a_mark_and_its_folders_survive(seed: int) -> None:
    assert lost_marks(mark, seed) == []


def test_folders_that_were_made_without_a_sync_are_caught(seed: int) -> None:
    def careless() -> None:
        disk.makedirs("/data/store")
        disk.create_durably("/data/store/mark")

    assert lost_marks(careless, seed)


def test_folders_that_a_killed_process_left_are_synced(seed: int) -> None:
    def killed_before() -> None:
        disk.makedirs("/data")
        mark()

    assert lost_marks(killed_before, seed) == []


def test_removals_and_renames_survive(seed: int) -> None:
    def program() -> None:
        disk.remove_durably(PATH)
        disk.rename_durably("/data/other", "/data/renamed")

    def begin() -> None:
        prepare()
        disk.create_durably("/data/other")

    for moment in power_cuts(program, seed=seed, prepare=begin):
        names = disk.listdir("/data")
        assert ("other" in names) != ("renamed" in names), str(moment)
        if moment.survived:
            assert names == ["renamed"], str(moment)


def test_a_removed_mark_does_not_come_back(seed: int) -> None:
    def program() -> None:
        disk.remove_durably(PATH)

    for moment in power_cuts(program, seed=seed, prepare=prepare, lucks=LUCKS):
        assert not (moment.survived and disk.exists(PATH)), str(moment)


def test_after_a_failed_sync_of_the_folder_nobody_knows(seed: int) -> None:
    """Both contents are possible, so an error that says "the old file stays" would be wrong."""
    for number, kept in enumerate((OLD, NEW)):
        machine = MachineDisk(random.Random(seed))
        with seam.use(seam.Seam(disk=machine.process("p"))):
            prepare()
            machine.faults = [Fault("fsync", "/data", error=errno.EIO)]
            with pytest.raises(DiskFailed, match="cannot be synced"):
                replace()
        machine.crash(("nothing", "everything")[number])
        with seam.use(seam.Seam(disk=machine.process("p"))):
            assert disk.read_bytes(PATH) == kept


def test_a_second_sync_after_a_failed_one_proves_nothing(seed: int) -> None:
    machine = MachineDisk(random.Random(seed))
    with seam.use(seam.Seam(disk=machine.process("p"))):
        disk.create_durably("/file")
        machine.faults = [Fault("fdatasync", error=errno.EIO)]
        with disk.opened("/file", os.O_WRONLY) as descriptor:
            disk.write_fully(descriptor, b"data")
            with pytest.raises(OSError, match="Input/output"):
                disk.fdatasync(descriptor)
            disk.fdatasync(descriptor)
    machine.crash("everything")
    with seam.use(seam.Seam(disk=machine.process("p"))):
        assert disk.read_bytes("/file") == b""


def test_a_cut_may_tear_a_write_anywhere(seed: int) -> None:
    """Like a real disk, the simulated one leaves parts, zeros, holes, everything or nothing."""
    data = bytes(range(1, 256)) * 20

    def write() -> None:
        with disk.opened("/file", os.O_WRONLY | os.O_CREAT) as descriptor:
            disk.write_fully(descriptor, data)

    left = [
        disk.read_bytes("/file") if disk.exists("/file") else None
        for _ in power_cuts(write, seed=seed, lucks=300, holes=True)
    ]
    sizes = {len(each) for each in left if each is not None}
    assert None in left
    assert {0, len(data)} <= sizes
    assert len(sizes) > 50
    assert any(each and each != data and each.endswith(bytes(2)) for each in left), "zeros behind the data"
    assert any(each and not each[:512].strip(b"\0") and each.strip(b"\0") for each in left), (
        "a hole before it"
    )


def test_the_same_seed_leaves_the_same(seed: int) -> None:
    def outcome() -> list[tuple[str, bytes]]:
        return [
            (path, disk.read_bytes(path))
            for moment in power_cuts(replace, seed=seed, prepare=prepare, lucks=3)
            for path in moment.disk.paths()
        ]

    assert outcome() == outcome()
