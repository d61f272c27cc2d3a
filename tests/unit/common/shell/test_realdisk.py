"""The real disk: each method is the system call of that name, and descriptors are not inherited."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.common.shell.realdisk import RealDisk

DISK = RealDisk()


def test_a_file_is_written_read_and_described(tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    descriptor = DISK.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    assert not os.get_inheritable(descriptor)
    assert DISK.write(descriptor, b"hello") == 5
    assert DISK.pwrite(descriptor, b"J", 0) == 1
    DISK.fdatasync(descriptor)
    DISK.fsync(descriptor)
    assert DISK.pread(descriptor, 10, 1) == b"ello"
    DISK.ftruncate(descriptor, 3)
    found = DISK.fstat(descriptor)
    assert (found.size, found.mode & 0o777, found.is_folder) == (3, 0o600, False)
    assert DISK.stat(path) == found
    with DISK.map(descriptor, 3) as mapped:
        assert mapped[:] == b"Jel"
    DISK.close(descriptor)
    reader = DISK.open(path, os.O_RDONLY, 0)
    assert DISK.read(reader, 10) == b"Jel"
    DISK.close(reader)


def test_names_are_made_changed_and_removed(tmp_path: Path) -> None:
    DISK.mkdir(str(tmp_path / "folder"), 0o750)
    assert DISK.stat(str(tmp_path / "folder")).is_folder
    (tmp_path / "folder" / "a").touch()
    DISK.rename(str(tmp_path / "folder" / "a"), str(tmp_path / "folder" / "b"))
    assert DISK.listdir(str(tmp_path / "folder")) == ["b"]
    DISK.unlink(str(tmp_path / "folder" / "b"))
    assert DISK.listdir(str(tmp_path / "folder")) == []
    assert DISK.free_bytes(str(tmp_path)) > 0


def test_a_lock_belongs_to_one_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first, second = (DISK.open(path, os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    DISK.lock(first)
    with pytest.raises(BlockingIOError):
        DISK.lock(second)
    DISK.close(first)
    DISK.lock(second)
    DISK.close(second)
