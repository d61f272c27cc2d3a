"""The files that a simulated process has open: the ``disk`` of its seam."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.common.shell.realdisk import Buffer, Status
from tests.simulation.machine.inodes import PAGE_BYTES, File, Folder, Inode

if TYPE_CHECKING:
    from tests.simulation.machine.disk import MachineDisk

# The most that one sendfile moves; the caller then calls it again.
SENDFILE_BYTES_MAX = 256 * 1024
DEVICE = 1


@dataclass(slots=True, eq=False)
class OpenFile:
    """An open file, which several descriptors may share, in several processes."""

    inode: Inode
    path: str
    flags: int
    position: int = 0
    references: int = 1

    @property
    def writable(self) -> bool:
        """Tells whether it was opened for writing."""
        return self.flags & os.O_ACCMODE != os.O_RDONLY

    @property
    def readable(self) -> bool:
        """Tells whether it was opened for reading."""
        return self.flags & os.O_ACCMODE != os.O_WRONLY


class ProcessDisk:
    """The descriptors of one process; the methods are those of ``Platform``."""

    def __init__(self, machine: MachineDisk, name: str, descriptors_max: int) -> None:
        self.machine = machine
        self.name = name
        self.descriptors_max = descriptors_max
        self._table: dict[int, OpenFile] = {}
        self._dead = False

    def open_paths(self) -> list[str]:
        """Returns the paths of the open files, sorted: a process at rest holds no more than it should."""
        return sorted(opened.path for opened in self._table.values())

    def kill(self) -> None:
        """Closes all descriptors, as the end of a process does; later calls fail."""
        self._dead = True
        for descriptor in list(self._table):
            self.drop(self._table.pop(descriptor))
        if self in self.machine.processes:
            self.machine.processes.remove(self)

    def give(self, descriptor: int) -> OpenFile:
        """Returns an open file on its way to another process, which must ``take`` or ``drop`` it."""
        opened = self._opened(descriptor)
        opened.references += 1
        return opened

    def take(self, opened: OpenFile) -> int:
        """Returns a descriptor for an open file that came from another process."""
        descriptor = self.machine.descriptor()
        self._table[descriptor] = opened
        return descriptor

    def drop(self, opened: OpenFile) -> None:
        """Ends one reference to an open file."""
        opened.references -= 1
        if opened.references or isinstance(opened.inode, Folder):
            return
        file = opened.inode
        file.handles -= 1
        if file.lock_holder is opened:
            file.lock_holder = None
        self.machine.release(file)

    # The calls of the platform

    def open(self, path: str, flags: int, mode: int) -> int:
        self._begin_call("open", path)
        if len(self._table) >= self.descriptors_max:
            raise _error(errno.EMFILE, path)
        opened = OpenFile(self._find(path, flags, mode), path, flags)
        if isinstance(opened.inode, File):
            opened.inode.handles += 1
            if flags & os.O_TRUNC and opened.writable:
                self.machine.resize(opened.inode, 0)
        elif opened.writable or flags & os.O_CREAT:
            raise _error(errno.EISDIR, path)
        return self.take(opened)

    def close(self, descriptor: int) -> None:
        opened = self._opened(descriptor)
        self._begin_call("close", opened.path)
        self.drop(self._table.pop(descriptor))

    def read(self, descriptor: int, size: int) -> bytes:
        opened, file = self._begin(descriptor, "read", size)
        data = bytes(file.data[opened.position : opened.position + size])
        opened.position += len(data)
        return data

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        _, file = self._begin(descriptor, "pread", size)
        if offset < 0:
            raise _error(errno.EINVAL)
        return bytes(file.data[offset : offset + size])

    def write(self, descriptor: int, data: Buffer) -> int:
        opened, file = self._begin(descriptor, "write", len(data), writes=True)
        if opened.flags & os.O_APPEND:
            opened.position = len(file.data)
        count = self.machine.write(file, bytes(data), opened.position)
        opened.position += count
        return count

    def pwrite(self, descriptor: int, data: Buffer, offset: int) -> int:
        opened, file = self._begin(descriptor, "pwrite", len(data), writes=True)
        if offset < 0:
            raise _error(errno.EINVAL)
        # Linux appends, whatever the offset (BUGS in pwrite(2)).
        at = len(file.data) if opened.flags & os.O_APPEND else offset
        return self.machine.write(file, bytes(data), at)

    def fsync(self, descriptor: int) -> None:
        self._sync(descriptor, "fsync")

    def fdatasync(self, descriptor: int) -> None:
        self._sync(descriptor, "fdatasync")

    def ftruncate(self, descriptor: int, size: int) -> None:
        opened, file = self._begin(descriptor, "ftruncate", size)
        if not opened.writable or size < 0:
            raise _error(errno.EINVAL, opened.path)
        self.machine.resize(file, size)

    def rename(self, source: str, target: str) -> None:
        self._begin_call("rename", target)
        moved = self.machine.inode(source)
        old_folder, old_name = self.machine.parent(source)
        new_folder, new_name = self.machine.parent(target)
        replaced = new_folder.entries.get(new_name)
        if replaced is moved:
            return
        if isinstance(replaced, Folder):
            if isinstance(moved, File):
                raise _error(errno.EISDIR, target)
            if replaced.entries:
                raise _error(errno.ENOTEMPTY, target)
        elif replaced is not None and isinstance(moved, Folder):
            raise _error(errno.ENOTDIR, target)
        self.machine.names.change((old_folder, old_name, None), (new_folder, new_name, moved))
        if replaced is not None:
            self.machine.release(replaced)

    def unlink(self, path: str) -> None:
        self._begin_call("unlink", path)
        file = self.machine.file(path)
        self.machine.names.change((*self.machine.parent(path), None))
        self.machine.release(file)

    def mkdir(self, path: str, mode: int) -> None:
        self._begin_call("mkdir", path)
        folder, name = self.machine.parent(path)
        if name in folder.entries:
            raise _error(errno.EEXIST, path)
        self.machine.make_folder(path, mode)

    def listdir(self, path: str) -> list[str]:
        self._begin_call("listdir", path)
        folder = self.machine.inode(path)
        if isinstance(folder, File):
            raise _error(errno.ENOTDIR, path)
        return list(folder.entries)

    def stat(self, path: str) -> Status:
        self._begin_call("stat", path)
        return _status(self.machine.inode(path))

    def fstat(self, descriptor: int) -> Status:
        opened = self._opened(descriptor)
        self._begin_call("fstat", opened.path)
        return _status(opened.inode)

    def free_bytes(self, path: str) -> int:
        self._begin_call("free_bytes", path)
        self.machine.inode(path)
        return self.machine.free_bytes()

    def map(self, descriptor: int, size: int) -> mmap.mmap:
        _, file = self._begin(descriptor, "map", size)
        if size > len(file.data):
            raise ValueError("mmap length is greater than file size")
        memory = mmap.mmap(-1, size)
        memory[:] = bytes(file.data[:size])
        return memory

    def sendfile(self, sock: Any, descriptor: int, offset: int, size: int) -> int:
        """Sends a part of a file through a simulated socket, whose network asks for it."""
        data = self.pread(descriptor, min(size, SENDFILE_BYTES_MAX), offset)
        return int(sock.send(data)) if data else 0

    def lock(self, descriptor: int) -> None:
        opened, file = self._begin(descriptor, "lock", 0)
        if file.lock_holder not in (None, opened):
            raise _error(errno.EWOULDBLOCK, opened.path)
        file.lock_holder = opened

    def _begin_call(self, call: str, path: str, size: int = 0) -> None:
        self.machine.begin(self.name, call, path, size)
        if self._dead:  # a thread that is being unwound must not change anything
            raise _error(errno.EIO, path)

    def _opened(self, descriptor: int) -> OpenFile:
        if self._dead:
            self._begin_call("dead", "")
        if descriptor not in self._table:
            raise _error(errno.EBADF)
        return self._table[descriptor]

    def _begin(self, descriptor: int, call: str, size: int, *, writes: bool = False) -> tuple[OpenFile, File]:
        opened = self._opened(descriptor)
        self._begin_call(call, opened.path, size)
        if isinstance(opened.inode, Folder):
            raise _error(errno.EISDIR, opened.path)
        allowed = opened.writable if writes else opened.readable or call not in ("read", "pread", "map")
        if not allowed:
            raise _error(errno.EBADF, opened.path)
        return opened, opened.inode

    def _sync(self, descriptor: int, call: str) -> None:
        opened = self._opened(descriptor)
        inode = opened.inode
        # A sync covers the writes before it began; during a slow one, other threads may write.
        waiting = list(inode.pending) if isinstance(inode, File) else []
        try:
            self._begin_call(call, opened.path)
        except OSError:
            if isinstance(inode, File):
                self.machine.lose_writes(inode)
            raise
        if isinstance(inode, File):
            inode.sync(waiting)
        else:
            self.machine.names.sync(inode)

    def _find(self, path: str, flags: int, mode: int) -> Inode:
        folder, name = self.machine.parent(path) if flags & os.O_CREAT else (None, "")
        if folder is not None and name not in folder.entries:
            return self.machine.create(path, mode)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise _error(errno.EEXIST, path)
        found = self.machine.inode(path)
        if flags & os.O_DIRECTORY and isinstance(found, File):
            raise _error(errno.ENOTDIR, path)
        return found


def _error(number: int, path: str = "") -> OSError:
    return OSError(number, os.strerror(number), path) if path else OSError(number, os.strerror(number))


def _status(inode: Inode) -> Status:
    if isinstance(inode, Folder):
        return Status(PAGE_BYTES, stat.S_IFDIR | inode.mode, DEVICE, inode.number, 0)
    modified_ns = int(inode.modified_at * 1e9)
    return Status(len(inode.data), stat.S_IFREG | inode.mode, DEVICE, inode.number, modified_ns)
