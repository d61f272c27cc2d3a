"""The interface of a disk, and the real disk.

Shells call the functions of ``disk``; a simulator provides another ``Platform``.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat as modes
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Status:
    """What ``stat`` tells about a file."""

    size: int
    mode: int
    device: int
    inode: int
    modified_ns: int

    @property
    def is_folder(self) -> bool:
        """Tells whether it is a folder."""
        return modes.S_ISDIR(self.mode)


class Platform(Protocol):
    """The calls of a disk; errors are ``OSError`` with the numbers that Linux uses."""

    def open(self, path: str, flags: int, mode: int) -> int:
        """Opens a file or, for reading, a folder."""

    def close(self, descriptor: int) -> None:
        """Closes a descriptor."""

    def read(self, descriptor: int, size: int) -> bytes:
        """Returns up to ``size`` bytes from the current position."""

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Returns up to ``size`` bytes from ``offset``."""

    def write(self, descriptor: int, data: Buffer) -> int:
        """Writes at the current position and returns how many bytes were taken."""

    def pwrite(self, descriptor: int, data: Buffer, offset: int) -> int:
        """Writes at ``offset`` and returns how many bytes were taken."""

    def fsync(self, descriptor: int) -> None:
        """Makes a file, or the names in a folder, durable."""

    def fdatasync(self, descriptor: int) -> None:
        """Makes the contents of a file durable."""

    def ftruncate(self, descriptor: int, size: int) -> None:
        """Sets the size of a file."""

    def rename(self, source: str, target: str) -> None:
        """Renames a file atomically, over an existing one."""

    def unlink(self, path: str) -> None:
        """Removes a name; the file lives on while it is open."""

    def mkdir(self, path: str, mode: int) -> None:
        """Makes a folder."""

    def listdir(self, path: str) -> list[str]:
        """Returns the names in a folder."""

    def stat(self, path: str) -> Status:
        """Describes a file by its path."""

    def fstat(self, descriptor: int) -> Status:
        """Describes an open file."""

    def free_bytes(self, path: str) -> int:
        """Returns the room that an unprivileged process has."""

    def map(self, descriptor: int, size: int) -> mmap.mmap:
        """Maps the first ``size`` bytes of a file that no longer changes."""

    def lock(self, descriptor: int) -> None:
        """Takes the exclusive lock of a file; BlockingIOError when another descriptor holds it."""


class RealDisk:
    """The files of this machine; each method is the system call of that name."""

    def open(self, path: str, flags: int, mode: int) -> int:
        return os.open(path, flags, mode)

    def close(self, descriptor: int) -> None:
        os.close(descriptor)

    def read(self, descriptor: int, size: int) -> bytes:
        return os.read(descriptor, size)

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        return os.pread(descriptor, size, offset)

    def write(self, descriptor: int, data: Buffer) -> int:
        return os.write(descriptor, data)

    def pwrite(self, descriptor: int, data: Buffer, offset: int) -> int:
        return os.pwrite(descriptor, data, offset)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def fdatasync(self, descriptor: int) -> None:
        os.fdatasync(descriptor)

    def ftruncate(self, descriptor: int, size: int) -> None:
        os.ftruncate(descriptor, size)

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def listdir(self, path: str) -> list[str]:
        return os.listdir(path)

    def stat(self, path: str) -> Status:
        return _status(os.stat(path))

    def fstat(self, descriptor: int) -> Status:
        return _status(os.fstat(descriptor))

    def free_bytes(self, path: str) -> int:
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize

    def map(self, descriptor: int, size: int) -> mmap.mmap:
        return mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)

    def lock(self, descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _status(found: os.stat_result) -> Status:
    return Status(found.st_size, found.st_mode, found.st_dev, found.st_ino, found.st_mtime_ns)
