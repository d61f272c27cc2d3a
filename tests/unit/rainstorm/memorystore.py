"""A HyDFS in memory, with the rules that the engine relies on: idempotent and conditional appends.

A test may make calls fail: ``fail(call, error)`` makes the next calls of that name raise the error, before
or after they take effect. The engine repeats a request that may yet succeed; once ``gives_up`` is set it does
not.
"""

from __future__ import annotations

import builtins
from collections import deque
from typing import Any, cast

from agent.common.errors import AlreadyExists, Conflict, NotFound, RainStormError
from agent.common.shell import threads
from agent.hydfs.client import AppendResult, BlockStat, FileStat, HydfsClient, LocalBlock
from agent.rainstorm.io.storage import Storage

BLOCK_BYTES = 64


class MemoryFile:
    """The bytes of a file, and the last append of each writer."""

    def __init__(self, number: int) -> None:
        self.file_id = f"file-{number}"
        self.data = bytearray()
        self.writers: dict[str, tuple[int, int]] = {}


class MemoryStore:
    """Files by name, behind the calls of a ``HydfsClient``."""

    def __init__(self) -> None:
        self.files: dict[str, MemoryFile] = {}
        self.calls: list[tuple[str, str]] = []
        self.replicas: tuple[str, ...] = ("n1",)
        self.gives_up = threads.event()
        self._created = 0
        self._failures: dict[str, deque[tuple[RainStormError, bool]]] = {}

    def storage(self, stopping: Any = None) -> Storage:
        """Returns the engine's view of this store."""
        return Storage(cast("HydfsClient", self), stopping or self.gives_up)

    def fail(self, call: str, error: RainStormError, times: int = 1, *, after: bool = False) -> None:
        """Makes the next calls of a name fail; with ``after``, only once they have taken effect."""
        self._failures.setdefault(call, deque()).extend([(error, after)] * times)

    def work_again(self, call: str) -> None:
        """Takes back the failures that are still to come."""
        self._failures.pop(call, None)

    def put_bytes(self, name: str, data: bytes) -> None:
        """Makes a file with these bytes."""
        self.create(name)
        self.files[name].data += data

    def create(self, name: str, *, timeout_s: float = 10.0) -> FileStat:
        later = self._begin("create", name)
        if name in self.files:
            raise AlreadyExists(f"{name} exists")
        self._created += 1
        self.files[name] = MemoryFile(self._created)
        self._end(later)
        return self._stat(name)

    def append(
        self,
        name: str,
        data: Any,
        *,
        writer: str,
        sequence: int,
        if_offset: int | None = None,
        timeout_s: float = 10.0,
    ) -> AppendResult:
        later = self._begin("append", name)
        file = self._file(name)
        known = file.writers.get(writer, (0, 0))
        if sequence > known[0]:
            if if_offset is not None and if_offset != len(file.data):
                raise Conflict(f"{name} has {len(file.data)} bytes")
            file.writers[writer] = (sequence, len(file.data))
            file.data += data
        self._end(later)
        offset = file.writers[writer][1] if sequence == file.writers[writer][0] else -1
        return AppendResult(offset, len(file.data), 3, sequence <= known[0])

    def read(
        self, name: str, offset: int, length: int, *, file_id: str | None = None, timeout_s: float = 10.0
    ) -> bytes:
        self._begin("read", name)
        file = self._file(name)
        if file_id not in (None, file.file_id):
            raise NotFound(f"{name} is another file")
        return bytes(file.data[offset : offset + length])

    def map_block(self, name: str, offset: int, file_id: str, *, timeout_s: float = 5.0) -> LocalBlock | None:
        return None

    def stat(self, name: str, *, timeout_s: float = 10.0) -> FileStat:
        self._begin("stat", name)
        self._file(name)
        return self._stat(name)

    def list(self, prefix: str = "", *, timeout_s: float = 30.0) -> builtins.list[FileStat]:
        self._begin("list", prefix)
        return [self._stat(name) for name in sorted(self.files) if name.startswith(prefix)]

    def delete(self, name: str, *, timeout_s: float = 15.0) -> None:
        self._begin("delete", name)
        self._file(name)
        del self.files[name]

    def delete_prefix(self, prefix: str, *, timeout_s: float = 60.0) -> int:
        self._begin("delete_prefix", prefix)
        names = [name for name in self.files if name.startswith(prefix)]
        for name in names:
            del self.files[name]
        return len(names)

    def _file(self, name: str) -> MemoryFile:
        if name not in self.files:
            raise NotFound(f"no file {name}")
        return self.files[name]

    def _begin(self, call: str, name: str) -> RainStormError | None:
        self.calls.append((call, name))
        waiting = self._failures.get(call)
        if not waiting:
            return None
        error, after = waiting.popleft()
        if not after:
            raise error
        return error

    def _end(self, later: RainStormError | None) -> None:
        if later is not None:
            raise later

    def _stat(self, name: str) -> FileStat:
        file = self.files[name]
        blocks = tuple(
            BlockStat(number, offset, min(BLOCK_BYTES, len(file.data) - offset), self.replicas, "sealed")
            for number, offset in enumerate(range(0, len(file.data), BLOCK_BYTES))
        )
        return FileStat(name, file.file_id, len(file.data), blocks)
