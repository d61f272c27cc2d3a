"""The simulated disk of one machine, and the view that each of its processes has of it.

``MachineDisk`` holds the files and outlives everything; ``ProcessDisk`` is the ``disk`` of a process's seam:
its table of descriptors over those files. A killed process loses its descriptors and locks and nothing else.
A power failure (``crash``) ends all processes and loses everything that was not durable (``inodes``). Faults
are planned (``Fault``) or applied to the medium: a flipped bit, a cut or vanished file. All random choices
come from one source.
"""

from __future__ import annotations

import errno
import fnmatch
import functools
import os
import posixpath
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from agent.common.shell import seam
from tests.simulation.machine.inodes import PAGE_BYTES, File, Folder, Inode, Names, Resize, Write
from tests.simulation.machine.openfiles import ProcessDisk

# The free space that statvfs reports for a disk without a limit.
UNLIMITED_BYTES = 1 << 40
# A larger file is a defect of the program that writes it; the simulator holds it in memory.
FILE_BYTES_MAX = 1 << 30
# The number of paths whose parts are cached: an agent uses the same few paths again and again.
PATHS_MAX = 1024


@dataclass(slots=True)
class Fault:
    """A plan: the first ``skip`` matching calls succeed, then ``times`` of them fail or are slow."""

    call: str
    path: str = "*"
    error: int = 0
    delay_s: float = 0.0
    skip: int = 0
    times: int = 1


# Not frozen: there are some thousand of them in a run, and each frozen field costs a microsecond.
@dataclass(slots=True)
class Call:
    """A call that a process is about to make."""

    process: str
    name: str
    path: str
    size: int


class MachineDisk:
    """The files of one machine."""

    def __init__(
        self,
        rng: random.Random,
        *,
        capacity_bytes: int | None = None,
        wall: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.rng = rng
        self.capacity_bytes = capacity_bytes
        self.faults: list[Fault] = []
        # How often each fault struck, by call and error number.
        self.struck: Counter[tuple[str, int]] = Counter()
        # Runs before every call: a scheduling point, or the place where a test cuts the power.
        self.on_call: Callable[[Call], None] | None = None
        self.names = Names()
        self.processes: list[ProcessDisk] = []
        self._wall = wall
        self._used_pages = 0
        self._numbers = 1
        self._descriptors = 1 << 20  # far from real ones: mixing them up fails at once
        self.root = Folder(self._numbers, 0o755)

    def process(self, name: str, *, descriptors_max: int = 1024) -> ProcessDisk:
        """Returns the disk of a new process."""
        made = ProcessDisk(self, name, descriptors_max)
        self.processes.append(made)
        return made

    def crash(self, keep: str = "some", *, holes: bool = False) -> None:
        """Cuts the power: all processes end, and ``keep`` says which changes survive that were not durable.

        Args:
            keep: ``nothing``, ``everything``, ``torn`` (a part of each file's last write, and all names) or
                ``some``, which draws one of these for each file and for the names.
            holes: a file may lose an earlier sector of a write and keep a later one.
        """
        for process in list(self.processes):
            process.kill()
        self.names.crash(self.rng, keep)
        self._used_pages = 0
        for inode in self._reset(self.root, set()):
            if isinstance(inode, File):
                inode.crash(self.rng, keep, holes=holes)
                self._used_pages += pages(len(inode.data))

    def _reset(self, folder: Folder, seen: set[int]) -> Iterator[Inode]:
        """Yields each inode that the medium still names, once."""
        folder.entries = dict(folder.durable)
        for _, inode in sorted(folder.entries.items()):
            if isinstance(inode, File):
                inode.names = inode.names + 1 if inode.number in seen else 1
                inode.handles, inode.lock_holder = 0, None
            if inode.number in seen:
                continue
            seen.add(inode.number)
            yield inode
            if isinstance(inode, Folder):
                yield from self._reset(inode, seen)

    # Changes to the medium

    def flip_bit(self, path: str, offset: int | None = None) -> int:
        """Flips a bit in a file and returns the byte's offset, -1 when it is empty."""
        file = self.file(path)
        if not file.durable:
            return -1
        at = self.rng.randrange(len(file.durable)) if offset is None else offset
        bit = 1 << self.rng.randrange(8)
        file.durable[at] ^= bit
        if at < len(file.data):
            file.data[at] ^= bit
        return at

    def cut(self, path: str, size: int) -> None:
        """Cuts a file off, durably."""
        file = self.file(path)
        self.resize(file, size)
        file.sync()

    def fill(self, room_bytes: int) -> None:
        """Leaves room for only ``room_bytes`` until ``free``."""
        self.capacity_bytes = self._used_pages * PAGE_BYTES + room_bytes

    def free(self) -> None:
        """Gives the disk all room again."""
        self.capacity_bytes = None

    def remove(self, path: str) -> None:
        """Removes a file or folder, durably."""
        folder, name = self.parent(path)
        found = self.inode(path)
        self.names.change((folder, name, None))
        self.release(found)
        self.names.sync(folder)

    def paths(self, folder: str = "/") -> list[str]:
        """Returns the paths of all files in and below a folder, sorted."""
        found = []
        start = self.inode(folder)
        assert isinstance(start, Folder)
        for name, inode in start.entries.items():
            path = posixpath.join(folder, name)
            found += [path] if isinstance(inode, File) else self.paths(path)
        return sorted(found)

    def durable_contents(self, folder: str) -> Iterator[bytes]:
        """Yields the bytes of each file below a folder that are certain to survive a power failure."""
        found: Inode | None = self.root
        for name in _parts(folder):
            found = found.durable.get(name) if isinstance(found, Folder) else None
        waiting = [found]
        while waiting:
            inode = waiting.pop()
            if isinstance(inode, File):
                yield bytes(inode.durable)
            elif inode is not None:
                waiting += inode.durable.values()

    # The calls of processes

    def begin(self, process: str, name: str, path: str, size: int = 0) -> None:
        """Begins a call: lets other threads run, and fails or waits as planned."""
        if self.on_call is not None:
            self.on_call(Call(process, name, path, size))
        for fault in self.faults:
            if not fault.times or not fnmatch.fnmatchcase(name, fault.call):
                continue
            if not fnmatch.fnmatchcase(path, fault.path):
                continue
            if fault.skip:
                fault.skip -= 1
                continue
            fault.times -= 1
            self.struck[fault.call, fault.error] += 1
            if fault.delay_s:
                seam.current().threads.sleep(fault.delay_s)
            if fault.error:
                raise OSError(fault.error, os.strerror(fault.error), path)

    def inode(self, path: str) -> Inode:
        """Returns the inode that a path names."""
        found: Inode = self.root
        for name in _parts(path):
            if isinstance(found, File):
                raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            if name not in found.entries:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            found = found.entries[name]
        return found

    def file(self, path: str) -> File:
        """Returns the file of a path."""
        found = self.inode(path)
        if isinstance(found, Folder):
            raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        return found

    def parent(self, path: str) -> tuple[Folder, str]:
        """Returns the folder that holds, or may hold, a name, and the name."""
        parts = _parts(path)
        if not parts:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        folder = self.inode("/" + "/".join(parts[:-1]))
        if isinstance(folder, File):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        return folder, parts[-1]

    def create(self, path: str, mode: int) -> File:
        """Makes an empty file."""
        made = File(self._number(), mode)
        made.modified_at = self._wall()
        self.names.change((*self.parent(path), made))
        return made

    def make_folder(self, path: str, mode: int) -> None:
        """Makes an empty folder."""
        self.names.change((*self.parent(path), Folder(self._number(), mode)))

    def descriptor(self) -> int:
        """Returns a descriptor that no process of this machine ever had."""
        self._descriptors += 1
        return self._descriptors

    def write(self, file: File, data: bytes, offset: int) -> int:
        """Writes as much as fits and returns the number of bytes."""
        if offset + len(data) > FILE_BYTES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        size = len(file.data)
        # The last page of a file has room even on a full disk.
        end = max(size, (pages(size) + self._free_pages()) * PAGE_BYTES)
        taken = data[: max(0, end - offset)]
        if data and not taken:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if taken:
            file.change(Write(offset, taken))
            self._changed(file, size)
        return len(taken)

    def resize(self, file: File, size: int) -> None:
        """Sets the size of a file."""
        if size > FILE_BYTES_MAX:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        before = len(file.data)
        if pages(size) - pages(before) > self._free_pages():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if size != before:
            file.change(Resize(size))
        self._changed(file, before)

    def lose_writes(self, file: File) -> None:
        """Has the effect of a failed sync on a file."""
        before = len(file.data)
        file.fail_sync(self.rng)
        self._changed(file, before)

    def release(self, inode: Inode) -> None:
        """Frees the room of a file that no longer has a name or a descriptor."""
        if isinstance(inode, File) and inode.names == 0 and inode.handles == 0:
            self._used_pages -= pages(len(inode.data))
            inode.data = bytearray()

    def free_bytes(self) -> int:
        """Returns the room that is left."""
        return self._free_pages() * PAGE_BYTES

    def _free_pages(self) -> int:
        if self.capacity_bytes is None:
            return UNLIMITED_BYTES // PAGE_BYTES
        return max(0, self.capacity_bytes // PAGE_BYTES - self._used_pages)

    def _changed(self, file: File, size_before: int) -> None:
        self._used_pages += pages(len(file.data)) - pages(size_before)
        file.modified_at = self._wall()

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers


def pages(size: int) -> int:
    """Returns how many pages a file of ``size`` bytes takes."""
    return -(-size // PAGE_BYTES)


@functools.lru_cache(maxsize=PATHS_MAX)
def _parts(path: str) -> tuple[str, ...]:
    return tuple(part for part in posixpath.normpath(posixpath.join("/", path)).split("/") if part)
