"""The simulated disk of one node: append-only files, a sync that takes time, and what disks do wrong.

Appended bytes can be read at once but are durable only after a completed ``sync``. A crash keeps what was
durable and, as a real page cache may, an arbitrary prefix of the later bytes of each file: the last record
may be torn. Faults are asked for: the next sync can fail, and then **drops** what was not durable, as Linux
marks the pages clean (Rebello, ATC 2020), so that a second sync would succeed and mean nothing; the disk can
be nearly full, which is for its host to ask (``free_bytes``), or full, but for files whose last page still
has room (``slack``); one bit can flip in what is durable; and a torn end can be filled with zeros instead of
cut off, as after a crash between the change of the size and that of the data.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import TYPE_CHECKING

from agent.common.errors import DiskFailed, DiskFull

if TYPE_CHECKING:
    from tests.simulation.world import Node

SYNC_MIN_S = 0.0002
SYNC_MEAN_S = 0.001


class Disk:
    """The files of one node; they outlive its crashes."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.full = False
        self.slack: tuple[str, ...] = ()
        self.free_bytes = math.inf
        self.tears_to_zeros = False
        self._fail_syncs = 0
        self._node = node
        self._rng = rng
        self._files: dict[str, bytearray] = {}
        self._durable_bytes: dict[str, int] = {}

    def names(self) -> list[str]:
        """Returns the names of the files, sorted."""
        return sorted(self._files)

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file, which is made when it does not exist.

        Raises:
            DiskFull: there is no room; part of the data may have been written, as ``write`` may do.
        """
        file = self._files.setdefault(name, bytearray())
        self._durable_bytes.setdefault(name, 0)
        if self.full and name not in self.slack:
            file.extend(data[: self._rng.randint(0, max(0, len(data) - 1))])
            raise DiskFull(f"{self._node.name}: no room left for {name}")
        file.extend(data)
        self.free_bytes -= len(data)

    def sync(self, name: str, done: Callable[[], None], failed: Callable[[], None] | None = None) -> None:
        """Calls ``done`` once everything appended so far is durable; never, when the node crashes before.

        When the disk fails the sync, ``failed`` is called instead; without one the agent stops.
        """
        size = len(self._files.get(name, b""))

        def complete() -> None:
            if self._take_sync_failure(name):
                if failed is None:
                    raise DiskFailed(f"{self._node.name}: sync of {name} failed")
                failed()
                return
            self._durable_bytes[name] = max(self._durable_bytes.get(name, 0), size)
            done()

        self._node.after(SYNC_MIN_S + self._rng.expovariate(1.0) * SYNC_MEAN_S, complete)

    def write_durably(self, name: str, data: bytes) -> None:
        """Replaces a file as by write, fsync, rename: whole and durable at once.

        Raises:
            DiskFull, DiskFailed: the old content stays.
        """
        if self.full:
            raise DiskFull(f"{self._node.name}: no room left for {name}")
        if self._fail_syncs:
            self._fail_syncs -= 1
            raise DiskFailed(f"{self._node.name}: sync of {name} failed")
        self._files[name] = bytearray(data)
        self._durable_bytes[name] = len(data)

    def append_durably(self, name: str, data: bytes) -> None:
        """Appends and syncs in no time, for cores whose shell blocks on the sync.

        Raises:
            DiskFull: there is no room.
            DiskFailed: the sync failed.
        """
        self.append(name, data)
        if self._take_sync_failure(name):
            raise DiskFailed(f"{self._node.name}: sync of {name} failed")
        self._durable_bytes[name] = len(self._files[name])

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file; empty when it does not exist."""
        return bytes(self._files.get(name, b""))

    def size(self, name: str) -> int:
        """Returns how many bytes a file has; 0 when it does not exist."""
        return len(self._files.get(name, b""))

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file off at ``size``, durably."""
        del self._files[name][size:]
        self._durable_bytes[name] = min(self._durable_bytes[name], size)

    def delete(self, name: str) -> None:
        """Removes a file, durably."""
        self._files.pop(name, None)
        self._durable_bytes.pop(name, None)

    def fail_next_sync(self) -> None:
        """Makes the next sync of any file fail."""
        self._fail_syncs += 1

    def mend(self) -> None:
        """Ends all faults that are still to strike; what they did stays."""
        self.full, self.slack, self.free_bytes = False, (), math.inf
        self._fail_syncs = 0

    def flip_bit(self, name: str, offset: int | None = None) -> int:
        """Flips a bit of chance in the durable part of a file; returns the byte's offset, -1 for none."""
        durable = self._durable_bytes.get(name, 0)
        if not durable:
            return -1
        at = self._rng.randrange(durable) if offset is None else offset
        self._files[name][at] ^= 1 << self._rng.randrange(8)
        return at

    def crash(self) -> None:
        """Forgets what was not durable, except for a prefix of chance."""
        for name in self.names():
            durable, size = self._durable_bytes[name], len(self._files[name])
            kept = durable + self._rng.randint(0, size - durable)
            del self._files[name][kept:]
            if self.tears_to_zeros and kept < size:
                self._files[name].extend(bytes(self._rng.randint(0, size - kept)))
            self._durable_bytes[name] = len(self._files[name])

    def _take_sync_failure(self, name: str) -> bool:
        """Tells whether this sync fails; what it was to make durable is then gone from the cache."""
        if not self._fail_syncs:
            return False
        self._fail_syncs -= 1
        if name in self._files:
            del self._files[name][self._durable_bytes[name] :]
        return True
