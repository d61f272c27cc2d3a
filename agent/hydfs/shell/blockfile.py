"""The files of the blocks on this node's disk, and incoming whole blocks, for puts and repair."""

from __future__ import annotations

import contextlib
import errno
import os
import zlib
from collections import OrderedDict
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Protocol

from agent.common.errors import Corrupt, DiskFull, has_no_room
from agent.common.shell import disk, threads
from agent.hydfs.core.block import BlockKey, chain
from agent.wire.codec.framing import Buffer

OPEN_FILES_MAX = 64
SCAN_BYTES = 1024 * 1024


class BlockFiles:
    """The files in one folder; one thread writes them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threads.lock()
        self._open: OrderedDict[BlockKey, int] = OrderedDict()
        # Files with bytes that are not yet on stable storage, and whether the folder has a name that is not.
        self._unsynced: dict[BlockKey, None] = {}
        # A process that was killed before its sync may have made some of the existing names.
        self._unsynced_names = True

    def path(self, key: BlockKey) -> Path:
        """Returns where the file of a block is."""
        return self._folder / f"{key[0]}.{key[1]}"

    def reader(self, key: BlockKey) -> int:
        """Returns a descriptor for reading, which the caller closes."""
        return disk.open(self.path(key), os.O_RDONLY)

    def crc_of(self, key: BlockKey, length: int) -> int:
        """Returns the checksum of the first ``length`` bytes, -1 when there are fewer or no file."""
        crc = 0
        try:
            descriptor = disk.open(self.path(key), os.O_RDONLY)
        except FileNotFoundError:
            return -1
        try:
            while length:
                piece = disk.read(descriptor, min(length, SCAN_BYTES))
                if not piece:
                    return -1
                crc = zlib.crc32(piece, crc)
                length -= len(piece)
        finally:
            disk.close(descriptor)
        return crc

    def write(self, key: BlockKey, data: Buffer, offset: int) -> None:
        """Writes into a block's file; ``sync`` makes it durable."""
        self._unsynced[key] = None
        disk.pwrite_fully(self._descriptor(key), data, offset)

    def sync(self, keys: Iterable[BlockKey]) -> None:
        """Makes everything written to the files of these blocks durable."""
        for key in keys:
            disk.fdatasync(self._descriptor(key))
            self._unsynced.pop(key, None)
        if self._unsynced_names:
            self._sync_names()

    def sync_all(self, known: Container[BlockKey]) -> None:
        """Makes the contents of the ``known`` blocks' files and the names of all files durable."""
        for key in list(self._unsynced):
            if key in known and disk.exists(self.path(key)):
                disk.fdatasync(self._descriptor(key))
        self._unsynced.clear()
        self._sync_names()

    def cut(self, key: BlockKey, length: int) -> None:
        """Cuts off the bytes of a file behind the end of its block."""
        path = self.path(key)
        with contextlib.suppress(FileNotFoundError):
            if disk.size(path) > length:
                disk.truncate(path, length)

    def replace(self, key: BlockKey, path: Path) -> None:
        """Durably makes a file, whose bytes are durable, the file of a block."""
        self._close(key)
        disk.rename_durably(path, self.path(key))

    def move_away(self, key: BlockKey, folder: Path) -> None:
        """Moves the file of a block, if there is one, into another folder."""
        disk.makedirs(folder)
        with contextlib.suppress(FileNotFoundError):
            disk.rename(self.path(key), folder / self.path(key).name)

    def remove(self, key: BlockKey) -> None:
        """Removes the file of a block."""
        self._unsynced.pop(key, None)
        self._close(key)
        disk.unlink(self.path(key), missing_ok=True)

    def remove_others(self, known: Iterable[BlockKey]) -> None:
        """Removes every file that belongs to none of the ``known`` blocks."""
        names = {self.path(key).name for key in known}
        for name in disk.listdir(self._folder):
            if name not in names:
                disk.unlink(self._folder / name)

    def move_others(self, known: Iterable[BlockKey], folder: Path) -> None:
        """Moves every file that belongs to none of the ``known`` blocks into another folder."""
        names = {self.path(key).name for key in known}
        disk.makedirs(folder)
        for name in disk.listdir(self._folder):
            if name not in names:
                disk.rename(self._folder / name, folder / name)

    def close(self) -> None:
        """Closes the open files."""
        with self._lock:
            while self._open:
                disk.close(self._open.popitem()[1])

    def _descriptor(self, key: BlockKey) -> int:
        with self._lock:
            descriptor = self._open.get(key)
            if descriptor is None:
                descriptor = self._opened(key)
                self._open[key] = descriptor
                if len(self._open) > OPEN_FILES_MAX:
                    disk.close(self._open.popitem(last=False)[1])
            self._open.move_to_end(key)
            return descriptor

    def _opened(self, key: BlockKey) -> int:
        with contextlib.suppress(FileNotFoundError):
            return disk.open(self.path(key), os.O_RDWR)
        self._unsynced_names = True
        return disk.open(self.path(key), os.O_RDWR | os.O_CREAT, 0o600)

    def _close(self, key: BlockKey) -> None:
        with self._lock:
            descriptor = self._open.pop(key, None)
        if descriptor is not None:
            disk.close(descriptor)

    def _sync_names(self) -> None:
        disk.sync_folder(self._folder)
        self._unsynced_names = False


class Adopter(Protocol):
    """The parts of the store that an incoming block uses."""

    root: Path

    def free_bytes(self) -> int:
        """Returns the room above the reserve."""

    def adopt(self, part: Part, name: str) -> None:
        """Durably makes the part this node's copy."""


class Part:
    """An incoming block: pieces in order, a running checksum, one flush at the end.

    It becomes visible atomically, or not at all.
    """

    def __init__(self, store: Adopter, key: BlockKey, path: Path) -> None:
        self.key = key
        self.path = path
        self.length = 0
        self.crc = 0
        self._store = store
        self._file = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, data: Buffer) -> None:
        """Appends a piece.

        Raises:
            DiskFull: there is no room above the reserve; the part is gone.
        """
        try:
            if self._store.free_bytes() < len(data):
                raise OSError(errno.ENOSPC, "reserve")
            disk.write_fully(self._file, data)
        except OSError as error:
            self.abandon()
            if has_no_room(error):
                raise DiskFull(
                    f"no room for a block in {self._store.root}", hint="free space on this node's disk"
                ) from None
            raise disk.failure(error, f"{self.path} cannot be written") from error
        self.crc = chain(data, self.crc)
        self.length += len(data)

    def finish(self, name: str, length: int, crc: int) -> None:
        """Flushes the part and makes it this node's copy of the block.

        Raises:
            Corrupt: the bytes are not those that the sender announced; the part is gone.
            DiskFull, DiskFailed: it cannot be made durable; the part is gone.
        """
        if (self.length, self.crc) != (length, crc):
            self.abandon()
            raise Corrupt(f"block {self.key[1]} of {name!r} arrived damaged", hint="it is sent again")
        try:
            disk.fdatasync(self._file)
        except OSError as error:
            self.abandon()
            raise disk.failure(error, f"{self.path} cannot be synced") from error
        disk.close(self._file)
        self._file = -1
        try:
            self._store.adopt(self, name)
        except DiskFull:
            disk.unlink(self.path, missing_ok=True)  # it was refused and will never become a block
            raise

    def abandon(self) -> None:
        """Removes the part."""
        if self._file >= 0:
            disk.close(self._file)
            self._file = -1
            disk.unlink(self.path, missing_ok=True)
