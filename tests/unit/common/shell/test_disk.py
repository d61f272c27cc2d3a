"""The calls of the disk, on the real one and on the simulated one: the same program must see the same."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.common.errors import DiskFailed, DiskFull
from agent.common.shell import disk, seam
from tests.simulation.machine.disk import Fault, MachineDisk

READ_WRITE = os.O_RDWR | os.O_CREAT


@pytest.fixture(params=["real", "simulated"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty folder; in the second round it is on a simulated disk, where nothing may stay open."""
    if request.param == "real":
        yield str(tmp_path)
        return
    process = MachineDisk(random.Random(1)).process("p")
    with seam.use(seam.Seam(disk=process)):
        disk.makedirs("/data")
        yield "/data"
        assert process.open_paths() == []


def refuses(number: int, call: Callable[[], object]) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call()
    assert caught.value.errno == number


def write_file(path: str, data: bytes = b"") -> None:
    with disk.opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        disk.write_fully(descriptor, data)


def test_positions_offsets_and_sizes(root: str) -> None:
    path = f"{root}/file"
    with disk.opened(path, READ_WRITE) as descriptor:
        assert disk.write(descriptor, b"hello") == 5
        assert disk.write(descriptor, memoryview(b" world")) == 6
        assert disk.read(descriptor, 10) == b""
        assert disk.pread(descriptor, 5, 6) == b"world"
        assert disk.pread(descriptor, 5, 100) == b""
        assert disk.pwrite(descriptor, b"J", 0) == 1
        assert disk.pread_fully(descriptor, 100, 0) == b"Jello world"
        disk.ftruncate(descriptor, 4)
        assert disk.fstat(descriptor).size == 4
        disk.ftruncate(descriptor, 6)
        assert disk.pread(descriptor, 10, 0) == b"Jell\0\0"
    assert disk.size(path) == 6
    disk.truncate(path, 2)
    assert disk.read_bytes(path) == b"Je"
    assert disk.read_text(path) == "Je"


def test_a_gap_reads_as_zeros(root: str) -> None:
    with disk.opened(f"{root}/file", READ_WRITE) as descriptor:
        disk.pwrite_fully(descriptor, b"end", 10_000)
        assert disk.pread(descriptor, 10, 9_995) == bytes(5) + b"end"
        assert disk.fstat(descriptor).size == 10_003


def test_appends_go_to_the_end_whatever_the_offset(root: str) -> None:
    path = f"{root}/file"
    write_file(path, b"one")
    with disk.opened(path, os.O_WRONLY | os.O_APPEND) as descriptor:
        disk.write_fully(descriptor, b"two")
        disk.pwrite(descriptor, b"three", 0)
    assert disk.read_bytes(path) == b"onetwothree"


def test_flags_of_open(root: str) -> None:
    path = f"{root}/file"
    refuses(errno.ENOENT, lambda: disk.open(path, os.O_RDONLY))
    write_file(path, b"abc")
    refuses(errno.EEXIST, lambda: disk.open(path, READ_WRITE | os.O_EXCL))
    refuses(errno.ENOTDIR, lambda: disk.open(path, os.O_RDONLY | os.O_DIRECTORY))
    refuses(errno.ENOTDIR, lambda: disk.open(f"{path}/below", READ_WRITE))
    refuses(errno.EISDIR, lambda: disk.open(root, os.O_WRONLY))
    write_file(path)
    assert disk.size(path) == 0


def test_a_descriptor_allows_what_it_was_opened_for(root: str) -> None:
    path = f"{root}/file"
    write_file(path, b"abc")
    with disk.opened(path, os.O_RDONLY) as descriptor:
        refuses(errno.EBADF, lambda: disk.write(descriptor, b"x"))
        refuses(errno.EINVAL, lambda: disk.ftruncate(descriptor, 0))
        disk.fsync(descriptor)
    with disk.opened(path, os.O_WRONLY) as descriptor:
        refuses(errno.EBADF, lambda: disk.read(descriptor, 1))
        refuses(errno.EBADF, lambda: disk.pread(descriptor, 1, 0))
    refuses(errno.EBADF, lambda: disk.close(descriptor))
    refuses(errno.EBADF, lambda: disk.fdatasync(descriptor))
    with disk.opened(root, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        refuses(errno.EISDIR, lambda: disk.read(descriptor, 1))
        assert disk.fstat(descriptor).is_folder


def test_renames_and_removals(root: str) -> None:
    one, two, folder = f"{root}/one", f"{root}/two", f"{root}/folder"
    write_file(one, b"1")
    write_file(two, b"2")
    disk.mkdir(folder)
    disk.rename(one, two)
    assert disk.listdir(root) == ["folder", "two"]
    disk.rename(two, f"{folder}/three")
    assert disk.read_bytes(f"{folder}/three") == b"1"
    refuses(errno.ENOENT, lambda: disk.rename(one, two))
    refuses(errno.EISDIR, lambda: disk.unlink(folder))
    write_file(one)
    refuses(errno.EISDIR, lambda: disk.rename(one, folder))
    refuses(errno.ENOTDIR, lambda: disk.rename(folder, one))
    disk.unlink(one)
    disk.unlink(one, missing_ok=True)
    refuses(errno.ENOENT, lambda: disk.unlink(one))
    assert disk.listdir(root) == ["folder"]


def test_an_open_file_outlives_its_name(root: str) -> None:
    path = f"{root}/file"
    write_file(path, b"before")
    with disk.opened(path, os.O_RDWR) as descriptor:
        disk.unlink(path)
        assert not disk.exists(path)
        write_file(path, b"another")
        disk.pwrite(descriptor, b"B", 0)
        assert disk.pread(descriptor, 6, 0) == b"Before"
        assert disk.fstat(descriptor).inode != disk.stat(path).inode
    assert disk.read_bytes(path) == b"another"


def test_folders(root: str) -> None:
    disk.makedirs(f"{root}/a/b/c")
    disk.makedirs(f"{root}/a/b/c")
    refuses(errno.EEXIST, lambda: disk.mkdir(f"{root}/a"))
    refuses(errno.ENOENT, lambda: disk.listdir(f"{root}/missing"))
    write_file(f"{root}/file")
    refuses(errno.EEXIST, lambda: disk.makedirs(f"{root}/file"))
    refuses(errno.ENOTDIR, lambda: disk.listdir(f"{root}/file"))
    assert disk.listdir(root) == ["a", "file"]
    assert disk.exists(f"{root}/a/b/c")
    assert not disk.exists(f"{root}/file/below")
    assert not disk.stat(f"{root}/file").is_folder
    assert disk.free_bytes(root) > 0


def test_a_lock_belongs_to_one_descriptor_and_ends_with_it(root: str) -> None:
    path = f"{root}/lock"
    with disk.opened(path, READ_WRITE) as first, disk.opened(path, READ_WRITE) as second:
        disk.lock(first)
        disk.lock(first)
        with pytest.raises(BlockingIOError):
            disk.lock(second)
    with disk.opened(path, READ_WRITE) as third:
        disk.lock(third)


def test_a_mapped_file(root: str) -> None:
    path = f"{root}/file"
    write_file(path, b"line 1\nline 2\n")
    with disk.opened(path, os.O_RDONLY) as descriptor:
        memory = disk.map(descriptor, 14)
        with pytest.raises(ValueError, match="length"):
            disk.map(descriptor, 15)
    assert memory[5:8] == b"1\nl"
    memory.close()


def test_durable_helpers_do_what_they_say_without_a_crash(root: str) -> None:
    path = f"{root}/file"
    assert disk.write_durably(path, b"first") == 5
    assert disk.write_durably(path, (b"%05d" % n for n in range(100_000))) == 500_000
    assert disk.read_bytes(path)[-5:] == b"99999"
    write_file(f"{path}.new", b"left by a crash")
    disk.write_durably(path, b"third", 0o640)
    assert disk.read_bytes(path) == b"third"
    assert disk.stat(path).mode & 0o777 == 0o640
    disk.create_durably(f"{root}/mark")
    disk.create_durably(f"{root}/mark")
    disk.rename_durably(f"{root}/mark", f"{root}/moved")
    assert disk.listdir(root) == ["file", "moved"]
    disk.remove_durably(f"{root}/moved")
    disk.remove_durably(f"{root}/moved")
    disk.make_folder_durably(f"{root}/x/y")
    disk.make_folder_durably(f"{root}/x/y")
    assert disk.listdir(root) == ["file", "x"]


def test_a_file_that_cannot_be_written_stays_as_it_was(root: str) -> None:
    disk.makedirs(f"{root}/file.new")
    write_file(f"{root}/file", b"before")
    with pytest.raises(OSError, match="directory"):
        disk.write_durably(f"{root}/file", b"after")
    assert disk.read_bytes(f"{root}/file") == b"before"


def test_an_error_of_the_operating_system_gets_a_name() -> None:
    assert isinstance(disk.failure(OSError(errno.ENOSPC, "full"), "x"), DiskFull)
    assert isinstance(disk.failure(OSError(errno.EDQUOT, "full"), "x"), DiskFull)
    assert isinstance(disk.failure(OSError(errno.EIO, "broken"), "x"), DiskFailed)


@pytest.fixture
def machine() -> Iterator[MachineDisk]:
    """A simulated disk of twenty pages, with a process that uses it."""
    found = MachineDisk(random.Random(1), capacity_bytes=20 * 4096)
    with seam.use(seam.Seam(disk=found.process("p"))):
        yield found


def test_no_room_takes_a_part_and_then_nothing(machine: MachineDisk) -> None:
    with disk.opened("/file", READ_WRITE) as descriptor:
        assert disk.write(descriptor, bytes(19 * 4096 + 10)) == 19 * 4096 + 10
        assert disk.free_bytes("/") == 0
        assert disk.write(descriptor, bytes(5000)) == 4086, "the rest of the last page"
        refuses(errno.ENOSPC, lambda: disk.write(descriptor, b"x"))
        refuses(errno.ENOSPC, lambda: disk.ftruncate(descriptor, 30 * 4096))
        disk.pwrite(descriptor, b"over what is there", 0)
        disk.unlink("/file")
        assert disk.free_bytes("/") == 0, "it is still open"
    assert disk.free_bytes("/") == 20 * 4096


def test_a_full_disk_leaves_the_old_file_and_no_other(machine: MachineDisk) -> None:
    disk.write_durably("/file", b"before")
    with pytest.raises(OSError, match="No space"):
        disk.write_durably("/file", bytes(30 * 4096))
    assert machine.paths() == ["/file"]
    assert disk.read_bytes("/file") == b"before"


def test_faults_strike_as_planned(machine: MachineDisk) -> None:
    write_file("/file", b"abc")
    machine.faults = [
        Fault("fsync", "/file*", error=errno.EIO, skip=1),
        Fault("open", error=errno.EMFILE, skip=3),
    ]
    with disk.opened("/file", os.O_RDWR) as descriptor:
        disk.fsync(descriptor)
        refuses(errno.EIO, lambda: disk.fsync(descriptor))
        disk.fsync(descriptor)
    with disk.opened("/", os.O_RDONLY) as descriptor:
        disk.fsync(descriptor)
    write_file("/other")
    refuses(errno.EMFILE, lambda: disk.open("/file", os.O_RDONLY))
    assert machine.struck == {("fsync", errno.EIO): 1, ("open", errno.EMFILE): 1}


def test_a_process_has_so_many_descriptors_and_loses_them_with_its_life(machine: MachineDisk) -> None:
    other = machine.process("q", descriptors_max=2)
    with seam.use(seam.Seam(disk=other)):
        held = disk.open("/lock", READ_WRITE)
        disk.lock(held)
        disk.open("/lock", os.O_RDONLY)
        refuses(errno.EMFILE, lambda: disk.open("/lock", os.O_RDONLY))
        assert other.open_paths() == ["/lock", "/lock"]
    refuses(errno.EBADF, lambda: disk.close(held))
    with disk.opened("/lock", os.O_RDWR) as descriptor:
        with pytest.raises(BlockingIOError):
            disk.lock(descriptor)
        other.kill()
        disk.lock(descriptor)


def test_a_descriptor_travels_to_another_process(machine: MachineDisk) -> None:
    write_file("/file", b"abc")
    other = machine.process("q")
    with disk.opened("/file", os.O_RDONLY) as descriptor:
        disk.read(descriptor, 1)
        travelling = machine.processes[0].give(descriptor)
    disk.unlink("/file")
    with seam.use(seam.Seam(disk=other)):
        received = other.take(travelling)
        assert disk.read(received, 5) == b"bc"
        disk.close(received)
    assert disk.free_bytes("/") == 20 * 4096


def test_a_killed_process_changes_nothing_any_more(machine: MachineDisk) -> None:
    descriptor = disk.open("/file", READ_WRITE)
    machine.processes[0].kill()
    refuses(errno.EIO, lambda: disk.write(descriptor, b"x"))
    refuses(errno.EIO, lambda: disk.unlink("/file"))
    assert machine.paths() == ["/file"]


def test_what_is_done_to_the_medium(machine: MachineDisk) -> None:
    write_file("/file", b"abcdef")
    assert machine.flip_bit("/file") == -1, "nothing is durable yet"
    disk.write_durably("/file", b"abcdef")
    at = machine.flip_bit("/file")
    assert [
        n for n, (x, y) in enumerate(zip(disk.read_bytes("/file"), b"abcdef", strict=True)) if x != y
    ] == [at]
    machine.cut("/file", 3)
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("p"))):
        assert disk.size("/file") == 3
        machine.remove("/file")
        machine.crash("nothing")
    assert machine.paths() == []
