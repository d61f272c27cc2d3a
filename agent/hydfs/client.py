"""The store's client: what tasks, operators and tests use.

Any store agent serves any request; tasks use the Unix socket of their own machine. Errors are those of
``agent.common.errors`` with their codes. Appends are idempotent by (writer, sequence): one append of a writer
at a time, numbers that only grow; after a lost answer the same call is made again.
"""

from __future__ import annotations

import builtins
import mmap
from dataclasses import dataclass
from dataclasses import fields as fields_of
from typing import Any, BinaryIO

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, NotFound, RainStormError, Unreachable
from agent.common.shell import clock, disk
from agent.wire.client import Client, Response, Target
from agent.wire.codec.framing import Buffer

READ_PIECE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class BlockStat:
    """One block of a file; ``offset`` is where it begins in the file."""

    number: int
    offset: int
    length: int
    replicas: tuple[str, ...]
    state: str
    ring_id: str = ""


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file: its id changes when it is deleted and made again."""

    name: str
    file_id: str
    length: int
    blocks: tuple[BlockStat, ...]


@dataclass(frozen=True, slots=True)
class LocalBlock:
    """A sealed block on the disk of this machine, as memory: bytes [start, start + length) of its file."""

    start: int
    length: int
    memory: mmap.mmap


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Where an append is. ``offset`` is -1 for a duplicate that is not its writer's last append."""

    offset: int
    length: int
    copies: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """One agent's blocks (``stored_bytes`` together), and its repair: ``under_replicated`` blocks, file names
    ``waiting`` to be put right, and whether all has been ``checked`` since a node came or went. The counts of
    all agents add up; nothing is owed when all have checked and both are 0.
    """

    view_version: int
    checked: bool
    under_replicated: int
    waiting: int
    blocks: int
    stored_bytes: int


def _stat(value: dict[str, Any]) -> FileStat:
    blocks = tuple(
        BlockStat(
            block["number"],
            block["offset"],
            block["length"],
            tuple(block["replicas"]),
            block["state"],
            block["ring_id"],
        )
        for block in value["blocks"]
    )
    return FileStat(value["name"], value["file_id"], value["length"], blocks)


class HydfsClient:
    """Talks to one store agent."""

    def __init__(self, client: Client, target: Target) -> None:
        self._client = client
        self._target = target

    def create(self, name: str, *, timeout_s: float = 10.0) -> FileStat:
        """Makes an empty file.

        Raises:
            AlreadyExists: the name is taken.
        """
        try:
            return _stat(self._call("hydfs.create", {"name": name}, timeout_s=timeout_s).fields["stat"])
        except ConnectionLost:
            raise Unreachable(
                f"creating {name!r}: the answer was lost, the file may exist now", hint="ask for its stat"
            ) from None

    def append(
        self,
        name: str,
        data: Buffer,
        *,
        writer: str,
        sequence: int,
        if_offset: int | None = None,
        timeout_s: float = 10.0,
    ) -> AppendResult:
        """Appends ``data`` whole, once for each (writer, sequence), and returns where it is.

        Args:
            name: the file.
            data: at most a quarter of a block (2 MiB by default).
            writer: an id of the caller's own.
            sequence: larger than in the writer's earlier appends; gaps are allowed.
            if_offset: when given, append only if the file has exactly this length.
            timeout_s: how long to keep trying; failed replicas are replaced meanwhile.

        Raises:
            NotFound: no such file.
            Conflict: the file's length is not ``if_offset``; ``details['length']`` tells what it is.
            DeadlineExceeded: the outcome is unknown; the same call may be made again.
        """
        fields = {"name": name, "writer": writer, "sequence": sequence, "if_offset": if_offset}
        found = self._call("hydfs.append", fields, data, timeout_s=timeout_s).fields
        return AppendResult(found["offset"], found["length"], found["copies"], found["duplicate"])

    def read(
        self, name: str, offset: int, length: int, *, file_id: str | None = None, timeout_s: float = 10.0
    ) -> Buffer:
        """Returns the bytes from ``offset`` on, ``length`` of them or as many as there are.

        With the ``file_id`` of an earlier ``stat`` sealed blocks are read without asking the file table
        (they never change).

        Raises:
            NotFound: no such file, or it is not the one with ``file_id`` any more.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        pieces: list[Buffer] = []
        got = 0
        while got < length:
            fields = {
                "name": name,
                "offset": offset + got,
                "length": min(length - got, READ_PIECE_BYTES),
                "file_id": file_id,
            }
            found = self._call(
                "hydfs.read", fields, timeout_s=deadline.require(clock.monotonic(), f"read of {name!r}")
            )
            if found.fields["end"]:
                break
            file_id = found.fields["file_id"]  # the rest must be of the same file
            pieces.append(found.payload)
            got += len(found.payload)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def map_block(self, name: str, offset: int, file_id: str, *, timeout_s: float = 5.0) -> LocalBlock | None:
        """Returns the sealed block that holds byte ``offset``, mapped into memory; None when it is elsewhere.

        Works through the Unix socket of the same machine only.
        """
        fields = {"name": name, "offset": offset, "file_id": file_id}
        try:
            found = self._client.call(self._target, "hydfs.open_block", fields, timeout_s=timeout_s)
        except NotFound:
            return None
        assert found.descriptor is not None
        try:
            length = int(found.fields["length"])
            memory = disk.map(found.descriptor, length)
        finally:
            disk.close(found.descriptor)
        return LocalBlock(int(found.fields["start"]), length, memory)

    def stat(self, name: str, *, timeout_s: float = 10.0) -> FileStat:
        """Returns the file with its linearizable length.

        Raises:
            NotFound: no such file.
        """
        return _stat(self._call("hydfs.stat", {"name": name}, timeout_s=timeout_s).fields["stat"])

    def put(self, name: str, source: BinaryIO, *, timeout_s: float = 600.0) -> FileStat:
        """Stores a new file; it becomes visible when it is whole.

        Raises:
            AlreadyExists: the name is taken.
            DiskFull: no node has room.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        begun = self._call("hydfs.put_begin", {"name": name}, timeout_s=min(15.0, timeout_s)).fields
        file_id, size = begun["file_id"], begun["piece_bytes"]
        offset = 0
        try:
            while data := source.read(size):
                self._call(
                    "hydfs.put_piece",
                    {"file_id": file_id, "offset": offset},
                    data,
                    timeout_s=min(60.0, deadline.require(clock.monotonic(), f"put of {name!r}")),
                )
                offset += len(data)
            fields = {"file_id": file_id, "length": offset}
            found = self._call("hydfs.put_commit", fields, timeout_s=min(60.0, timeout_s))
        except BaseException:
            self._abort(file_id)
            raise
        return _stat(found.fields["stat"])

    def get(self, name: str, sink: BinaryIO, *, timeout_s: float = 600.0) -> int:
        """Writes the whole file into ``sink`` and returns its length.

        Raises:
            NotFound: no such file.
        """
        stat = self.stat(name)
        deadline = Deadline(clock.monotonic(), timeout_s)
        offset = 0
        while offset < stat.length:
            left = deadline.require(clock.monotonic(), f"get of {name!r}")
            size = min(READ_PIECE_BYTES, stat.length - offset)
            data = self.read(name, offset, size, file_id=stat.file_id, timeout_s=min(30.0, left))
            if not data:
                raise NotFound(f"file {name!r} changed while it was read", hint="get it again")
            sink.write(data)
            offset += len(data)
        return offset

    def list(self, prefix: str = "", *, timeout_s: float = 30.0) -> builtins.list[FileStat]:
        """Returns the files whose names begin with ``prefix``, sorted by name."""
        found = self._call("hydfs.list", {"prefix": prefix}, timeout_s=timeout_s).fields["files"]
        return [_stat(value) for value in found]

    def store(self, node: str = "", *, timeout_s: float = 10.0) -> builtins.list[dict[str, Any]]:
        """Returns the blocks on ``node`` (the agent's own when empty)."""
        found = self._call("hydfs.store", {"node": node}, timeout_s=timeout_s).fields["blocks"]
        return [dict(value) for value in found]

    def health(self, *, timeout_s: float = 5.0) -> StoreHealth:
        """Returns what this agent keeps and what its repair still has to do."""
        found = self._call("hydfs.health", {}, timeout_s=timeout_s).fields
        return StoreHealth(**{each.name: found[each.name] for each in fields_of(StoreHealth)})

    def delete(self, name: str, *, timeout_s: float = 15.0) -> None:
        """Deletes a file.

        Raises:
            NotFound: no such file.
        """
        self._call("hydfs.delete", {"name": name}, timeout_s=timeout_s)

    def delete_prefix(self, prefix: str, *, timeout_s: float = 60.0) -> int:
        """Deletes every file whose name begins with ``prefix`` and returns how many there were."""
        found = self._call("hydfs.delete_prefix", {"prefix": prefix}, timeout_s=timeout_s)
        return len(found.fields["deleted"])

    def _abort(self, file_id: str) -> None:
        try:
            self._call("hydfs.put_abort", {"file_id": file_id}, timeout_s=5.0)
        except RainStormError:
            return  # the agent gives up an idle put by itself

    def _call(
        self, kind: str, fields: dict[str, Any], payload: Buffer = b"", *, timeout_s: float
    ) -> Response:
        return self._client.call(self._target, kind, fields, payload, timeout_s=timeout_s)
