"""The mark of a store folder that was found empty: it survives restarts, and goes when all is settled."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from agent.common.errors import DiskFailed, DiskFull
from agent.common.shell import disk, seam
from agent.hydfs.shell.newdisk import NewDisk
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import power_cuts

ROOT = Path("/data/hydfs")


def test_an_empty_folder_is_marked_until_it_is_settled(tmp_path: Path) -> None:
    new = NewDisk(tmp_path)
    assert new.pending
    (tmp_path / "journal").mkdir()
    assert NewDisk(tmp_path).pending, "a restart does not forget it"
    new.settle()
    assert not NewDisk(tmp_path).pending


def test_a_folder_with_a_journal_is_not_new(tmp_path: Path) -> None:
    (tmp_path / "journal").mkdir()
    assert not NewDisk(tmp_path).pending


def test_no_power_cut_makes_a_new_disk_an_old_one_before_it_is_settled(seed: int) -> None:
    settled = False

    def program() -> None:
        nonlocal settled
        settled = False
        disk.make_folder_durably(ROOT)
        new = NewDisk(ROOT)
        disk.make_folder_durably(ROOT / "journal")
        settled = True
        new.settle()

    for moment in power_cuts(program, seed=seed, lucks=20):
        disk.make_folder_durably(ROOT)
        assert settled or NewDisk(ROOT).pending, str(moment)
        if moment.survived:
            assert not NewDisk(ROOT).pending, str(moment)


@pytest.mark.parametrize(("error", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, DiskFailed)])
def test_a_mark_that_cannot_be_written_keeps_the_agent_from_starting(
    seed: int, error: int, kind: type[Exception]
) -> None:
    machine = MachineDisk(random.Random(seed))
    with seam.use(seam.Seam(disk=machine.process("p"))):
        disk.makedirs(ROOT)
        machine.faults = [Fault("open", "*/new", error=error)]
        with pytest.raises(kind):
            NewDisk(ROOT)
        new = NewDisk(ROOT)
        machine.faults = [Fault("unlink", "*/new", error=errno.EIO)]
        with pytest.raises(DiskFailed, match="cannot be removed"):
            new.settle()
        assert new.pending
