"""The files of blocks: writing, cutting, replacing and removing them, and the number of open ones."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull
from agent.common.shell import disk, seam
from agent.hydfs.core.block import BlockKey, chain
from agent.hydfs.shell import blockfile
from agent.hydfs.shell.blockfile import BlockFiles, Part
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.openfiles import ProcessDisk

FOLDER = Path("/blocks")
FIRST, SECOND, THIRD = ("id1", 0), ("id1", 1), ("id2", 0)


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of twenty pages with a folder for blocks; nothing may stay open on it."""
    found = MachineDisk(random.Random(seed), capacity_bytes=20 * 4096)
    process = found.process("p")
    with seam.use(seam.Seam(disk=process)):
        disk.make_folder_durably(FOLDER)
        yield found
        assert process.open_paths() == []


def process_of(machine: MachineDisk) -> ProcessDisk:
    return machine.processes[0]


def content(files: BlockFiles, key: BlockKey) -> bytes:
    return disk.read_bytes(files.path(key))


def test_bytes_go_where_they_belong(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"hello", 0)
    files.write(SECOND, b"other", 0)
    files.write(FIRST, b" world", 5)
    assert content(files, FIRST) == b"hello world"
    assert files.crc_of(FIRST, 5) == chain(b"hello", 0)
    assert files.crc_of(FIRST, 12) == -1, "there are fewer bytes"
    descriptor = files.reader(FIRST)
    assert disk.pread(descriptor, 5, 6) == b"world"
    disk.close(descriptor)
    files.cut(FIRST, 5)
    files.cut(SECOND, 100)
    files.cut(THIRD, 0)
    assert (content(files, FIRST), content(files, SECOND)) == (b"hello", b"other")
    files.close()


def test_what_was_synced_survives_with_its_name(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"synced", 0)
    files.write(SECOND, b"not", 0)
    files.sync([FIRST])
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert content(BlockFiles(FOLDER), FIRST) == b"synced"
        # The other file's name is there, but its bytes are not.
        assert content(BlockFiles(FOLDER), SECOND) == b""


def test_everything_known_is_synced_and_the_rest_forgotten(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    for key in (FIRST, SECOND, THIRD):
        files.write(key, b"data", 0)
    disk.unlink(files.path(SECOND))
    files.sync_all({FIRST: None, SECOND: None})
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert content(BlockFiles(FOLDER), FIRST) == b"data"
        assert disk.listdir(FOLDER) == ["id1.0", "id2.0"]


def test_so_many_files_are_open_and_no_more(machine: MachineDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockfile, "OPEN_FILES_MAX", 2)
    files = BlockFiles(FOLDER)
    for key in (FIRST, SECOND, FIRST, THIRD):
        files.write(key, b"x", 0)
    assert process_of(machine).open_paths() == ["/blocks/id1.0", "/blocks/id2.0"], "the last used one stays"
    files.write(SECOND, b"y", 1)
    assert content(files, SECOND) == b"xy"
    files.close()


def test_files_are_replaced_moved_and_removed(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"old", 0)
    disk.write_durably(FOLDER / "part", b"new")
    files.replace(FIRST, FOLDER / "part")
    files.write(FIRST, b"N", 0)
    assert content(files, FIRST) == b"New", "the descriptor of the old file is no longer used"
    files.move_away(FIRST, Path("/quarantine"))
    files.move_away(FIRST, Path("/quarantine"))
    assert disk.listdir("/quarantine") == ["id1.0"]
    files.write(SECOND, b"x", 0)
    files.remove(SECOND)
    files.remove(SECOND)
    assert disk.listdir(FOLDER) == []
    files.close()


def test_other_files_are_removed(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"x", 0)
    files.close()
    for name in ("id9.0", "id1.0.1.part"):
        disk.close(disk.open(FOLDER / name, os.O_WRONLY | os.O_CREAT))
    files.remove_others([FIRST])
    assert disk.listdir(FOLDER) == ["id1.0"]


def test_other_files_are_moved_when_an_entry_may_have_told_of_them(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"x", 0)
    files.close()
    disk.close(disk.open(FOLDER / "id9.0", os.O_WRONLY | os.O_CREAT))
    files.move_others([FIRST], Path("/quarantine"))
    assert (disk.listdir(FOLDER), disk.listdir("/quarantine")) == (["id1.0"], ["id9.0"])


def test_a_file_that_is_gone_has_no_checksum(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    assert files.crc_of(SECOND, 3) == -1


class Shelf:
    """The part of the store that an incoming block uses: room, and a place to go."""

    def __init__(self, room: int = 1 << 30) -> None:
        self.root = FOLDER
        self.room = room
        self.adopted: list[tuple[str, int, int]] = []

    def free_bytes(self) -> int:
        return self.room

    def adopt(self, part: Part, name: str) -> None:
        self.adopted.append((name, part.length, part.crc))


def part(shelf: Shelf) -> Part:
    return Part(shelf, FIRST, FOLDER / "id1.0.1.part")


def test_a_part_is_adopted_when_it_is_what_was_announced(machine: MachineDisk) -> None:
    shelf = Shelf()
    arriving = part(shelf)
    arriving.write(b"abc")
    arriving.write(b"def")
    arriving.finish("f", 6, chain(b"abcdef", 0))
    arriving.abandon()
    assert shelf.adopted == [("f", 6, chain(b"abcdef", 0))]
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert disk.listdir(FOLDER) in ([], ["id1.0.1.part"])


@pytest.mark.parametrize(("length", "crc"), [(3, 1), (4, chain(b"abc", 0))])
def test_a_part_that_arrived_damaged_is_gone(machine: MachineDisk, length: int, crc: int) -> None:
    shelf = Shelf()
    arriving = part(shelf)
    arriving.write(b"abc")
    with pytest.raises(Corrupt, match="arrived damaged"):
        arriving.finish("f", length, crc)
    assert shelf.adopted == []
    assert disk.listdir(FOLDER) == []


def test_a_part_leaves_the_reserve_alone(machine: MachineDisk) -> None:
    arriving = part(Shelf(room=5))
    with pytest.raises(DiskFull):
        arriving.write(b"abcdef")
    assert disk.listdir(FOLDER) == []


@pytest.mark.parametrize("call", ["write", "fdatasync"])
def test_a_part_on_a_failing_disk_is_gone(machine: MachineDisk, call: str) -> None:
    shelf = Shelf()
    arriving = part(shelf)
    machine.faults = [Fault(call, error=errno.EIO)]
    with pytest.raises(DiskFailed):
        receive(arriving)
    assert shelf.adopted == []
    assert disk.listdir(FOLDER) == []


def receive(arriving: Part) -> None:
    arriving.write(b"abc")
    arriving.finish("f", 3, chain(b"abc", 0))


def test_a_name_that_a_killed_process_made_is_synced_with_the_next_payload(machine: MachineDisk) -> None:
    files = BlockFiles(FOLDER)
    files.write(FIRST, b"small", 0)
    files.close()
    again = BlockFiles(FOLDER)
    again.write(FIRST, b"large", 0)
    again.sync([FIRST])
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        assert content(BlockFiles(FOLDER), FIRST) == b"large"
