"""A whole block on its way to this node's disk, for puts and repair: visible when it is whole, or never."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Protocol

from agent.common.errors import Corrupt, DiskFailed, DiskFull, has_no_room
from agent.hydfs.core.block import BlockKey, chain
from agent.wire.codec.framing import Buffer


class Adopter(Protocol):
    """The store, as a part sees it."""

    root: Path

    def free_bytes(self) -> int:
        """Returns the room above the reserve."""

    def adopt(self, part: Part, name: str) -> None:
        """Makes the part this node's copy, durably."""


class Part:
    """A block on its way in: pieces in order, a running checksum, one flush at the end."""

    def __init__(self, store: Adopter, key: BlockKey, path: Path) -> None:
        self.key = key
        self.path = path
        self.length = 0
        self.crc = 0
        self._store = store
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)

    def write(self, data: Buffer) -> None:
        """Appends a piece.

        Raises:
            DiskFull: there is no room above the reserve; the part is gone.
        """
        try:
            if self._store.free_bytes() < len(data):
                raise OSError(errno.ENOSPC, "reserve")
            view = memoryview(data)
            while view:
                view = view[os.write(self._file, view) :]
        except OSError as error:
            self.abandon()
            if has_no_room(error):
                raise DiskFull(
                    f"no room for a block in {self._store.root}", hint="free space on this node's disk"
                ) from None
            raise DiskFailed(f"{self.path}: {error}") from error
        self.crc = chain(data, self.crc)
        self.length += len(data)

    def finish(self, name: str, length: int, crc: int) -> None:
        """Flushes the part and makes it this node's copy of the block.

        Raises:
            Corrupt: the bytes are not those that the sender announced.
        """
        if (self.length, self.crc) != (length, crc):
            self.abandon()
            raise Corrupt(f"block {self.key[1]} of {name!r} arrived damaged", hint="it is sent again")
        os.fdatasync(self._file)
        os.close(self._file)
        self._file = -1
        self._store.adopt(self, name)

    def abandon(self) -> None:
        """Removes the part."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
            self.path.unlink(missing_ok=True)
