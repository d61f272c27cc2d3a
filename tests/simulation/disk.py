"""The simulated disk of one node: append-only files, and a sync that takes time.

Appended bytes can be read at once but are durable only after a completed ``sync``. A crash keeps what was
durable and, as a real page cache may, an arbitrary prefix of the later bytes of each file: the last record
may be torn.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.simulation.world import Node

SYNC_MIN_S = 0.0002
SYNC_MEAN_S = 0.001


class Disk:
    """The files of one node; they outlive its crashes."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self._node = node
        self._rng = rng
        self._files: dict[str, bytearray] = {}
        self._durable_bytes: dict[str, int] = {}

    def names(self) -> list[str]:
        """Returns the names of the files, sorted."""
        return sorted(self._files)

    def append(self, name: str, data: bytes) -> None:
        """Appends to a file, which is made when it does not exist."""
        self._files.setdefault(name, bytearray()).extend(data)
        self._durable_bytes.setdefault(name, 0)

    def sync(self, name: str, done: Callable[[], None]) -> None:
        """Calls ``done`` once everything appended so far is durable; never, when the node crashes before."""
        size = len(self._files.get(name, b""))

        def complete() -> None:
            self._durable_bytes[name] = max(self._durable_bytes.get(name, 0), size)
            done()

        self._node.after(SYNC_MIN_S + self._rng.expovariate(1.0) * SYNC_MEAN_S, complete)

    def write_durably(self, name: str, data: bytes) -> None:
        """Replaces a file as by write, fsync, rename: whole and durable at once."""
        self._files[name] = bytearray(data)
        self._durable_bytes[name] = len(data)

    def append_durably(self, name: str, data: bytes) -> None:
        """Appends and syncs in no time, for cores whose shell blocks on the sync."""
        self.append(name, data)
        self._durable_bytes[name] = len(self._files[name])

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file; empty when it does not exist."""
        return bytes(self._files.get(name, b""))

    def truncate(self, name: str, size: int) -> None:
        """Cuts a file off at ``size``, durably."""
        del self._files[name][size:]
        self._durable_bytes[name] = min(self._durable_bytes[name], size)

    def delete(self, name: str) -> None:
        """Removes a file, durably."""
        self._files.pop(name, None)
        self._durable_bytes.pop(name, None)

    def crash(self) -> None:
        """Forgets what was not durable, except for a prefix of chance."""
        for name in self.names():
            durable = self._durable_bytes[name]
            kept = durable + self._rng.randint(0, len(self._files[name]) - durable)
            del self._files[name][kept:]
            self._durable_bytes[name] = kept
