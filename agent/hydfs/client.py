"""The store's client, for tasks, operators and tests.

Any store agent serves any request; tasks use the Unix socket of their own machine. Errors are those of
``agent.common.errors`` with their codes. A wrong argument is a ``UsageError``, and nothing is sent.

Appends are idempotent by (writer, sequence). A writer makes one append at a time, with numbers that only
grow, and repeats the same call after a lost answer.
"""

from __future__ import annotations

import builtins
import contextlib
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import BinaryIO

from agent.common.deadline import Deadline
from agent.common.errors import (
    AlreadyExists,
    ConnectionLost,
    Corrupt,
    InvalidMessage,
    NotFound,
    RainStormError,
    Unreachable,
    UsageError,
)
from agent.common.ids import check_file_name
from agent.common.message import R, Request, check_arguments
from agent.common.shell import clock, disk, threads
from agent.hydfs.core.filetable import put_id
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.file import AppendResult, BlockStat, FileStat, Listed, StoredBlock, StoreHealth
from agent.wire.client import Answered, Client, Target
from agent.wire.codec.framing import PAYLOAD_BYTES_MAX, Buffer

__all__ = [
    "AppendResult",
    "BlockStat",
    "FileStat",
    "HydfsClient",
    "Listed",
    "LocalBlock",
    "StoreHealth",
    "StoredBlock",
]

READ_PIECE_BYTES = 4 * 1024 * 1024
# A commit may be repeated; but if the connection breaks each time, it will break the next time too.
COMMIT_TRIES_MAX = 3


@dataclass(frozen=True, slots=True)
class LocalBlock:
    """A sealed block on the disk of this machine, as memory: bytes [start, start + length) of its file."""

    start: int
    length: int
    memory: mmap.mmap


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
            request = messages.Create(check_file_name(name))
            return self._ask(request, timeout_s=timeout_s).message.stat
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
        """Appends ``data`` atomically, once for each (writer, sequence), and returns where it is.

        Args:
            name: the file.
            data: at most a quarter of a block (2 MiB by default).
            writer: an id that only this caller uses.
            sequence: larger than in the writer's earlier appends; gaps are allowed.
            if_offset: when given, append only if the file has exactly this length.
            timeout_s: how long to keep trying; failed replicas are replaced meanwhile.

        Raises:
            NotFound: no such file.
            Conflict: the file's length is not ``if_offset``; ``details['length']`` is its length.
            DeadlineExceeded: the outcome is unknown; the same call may be made again.
        """
        if not 0 < len(data) <= PAYLOAD_BYTES_MAX:
            raise UsageError(
                f"an append to {name!r} has from 1 to {PAYLOAD_BYTES_MAX} bytes, not {len(data)}",
                hint="split it into several appends, or put a new file",
            )
        request = messages.Append(check_file_name(name), writer, sequence, if_offset)
        return self._ask(request, data, timeout_s=timeout_s).message

    def read(
        self, name: str, offset: int, length: int, *, file_id: str | None = None, timeout_s: float = 10.0
    ) -> Buffer:
        """Returns up to ``length`` bytes from ``offset`` on, fewer only at the end of the file.

        With the ``file_id`` of an earlier ``stat`` sealed blocks are read without asking the file table
        (they never change).

        Raises:
            NotFound: no such file, or it is not the one with ``file_id`` any more.
        """
        check_arguments(messages.Read(check_file_name(name), offset, length, file_id))
        deadline = Deadline(clock.monotonic(), timeout_s)
        pieces: list[Buffer] = []
        got = 0
        while got < length:
            request = messages.Read(name, offset + got, min(length - got, READ_PIECE_BYTES), file_id)
            left = deadline.require(clock.monotonic(), f"read of {name!r}")
            found = self._ask(request, timeout_s=left)
            if found.message.end:
                break
            file_id = found.message.file_id  # the rest must be of the same file
            pieces.append(found.payload)
            got += len(found.payload)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def map_block(self, name: str, offset: int, file_id: str, *, timeout_s: float = 5.0) -> LocalBlock | None:
        """Returns the sealed block that holds byte ``offset``, mapped into memory; None when it is elsewhere.

        Works only through the Unix socket of the same machine.
        """
        request = messages.OpenBlock(check_file_name(name), offset, file_id)
        try:
            found = self._ask(request, timeout_s=timeout_s)
        except NotFound:
            return None
        if found.descriptor is None:
            raise InvalidMessage(f"{self._target} opened a block of {name!r} without handing it over")
        block = found.message
        try:
            memory = disk.map(found.descriptor, block.length)
        except (OSError, ValueError) as error:
            raise Corrupt(f"a local block of {name!r} cannot be mapped: {error}") from None
        finally:
            disk.close(found.descriptor)
        return LocalBlock(block.start, block.length, memory)

    def stat(self, name: str, *, timeout_s: float = 10.0) -> FileStat:
        """Returns the file with its linearizable length.

        Raises:
            NotFound: no such file.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        request = messages.Stat(check_file_name(name), paged=True)
        return self._whole(self._ask(request, timeout_s=timeout_s).message, deadline)

    def _whole(self, page: messages.Described, deadline: Deadline) -> FileStat:
        """Returns a file with all its blocks, of which ``page`` has the first ones.

        A block that another one follows is sealed, so what earlier pages said of it stays true. Length and
        last block are those of the last page.
        """
        blocks = builtins.list(page.stat.blocks)
        while page.more:
            name, after = page.stat.name, blocks[-1].number if blocks else None
            left = deadline.require(clock.monotonic(), f"the blocks of {name!r}")
            page = self._ask(messages.Stat(name, page.stat.file_id, after, True), timeout_s=left).message
            first = page.stat.blocks[0].number if page.stat.blocks else None
            if (page.more and first is None) or not (first is None or after is None or after < first):
                raise InvalidMessage(f"a listing of the blocks of {name!r} goes from {after} to {first}")
            blocks += page.stat.blocks
        return replace(page.stat, blocks=tuple(blocks))

    def put(self, name: str, source: BinaryIO, *, timeout_s: float = 600.0) -> FileStat:
        """Stores a new file, which becomes visible atomically or not at all.

        Raises:
            AlreadyExists: the name is taken.
            DiskFull: no node has room.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        begin = messages.BeginPut(check_file_name(name), threads.unique_id())
        file_id = put_id(name, begin.key)
        try:
            begun = self._ask(begin, timeout_s=min(15.0, timeout_s)).message
            file_id = begun.file_id
            offset = 0
            while data := source.read(begun.piece_bytes):
                left = deadline.require(clock.monotonic(), f"put of {name!r}")
                self._ask(messages.PutPiece(file_id, offset), data, timeout_s=min(60.0, left))
                offset += len(data)
            committed = self._commit(messages.CommitPut(file_id, offset, name, paged=True), deadline)
        except AlreadyExists:
            raise  # nothing was begun
        except BaseException:
            self._abort(file_id)
            raise
        return self._whole(committed, deadline)

    def _commit(self, request: messages.CommitPut, deadline: Deadline) -> messages.Described:
        tries = 0
        while True:
            left = deadline.require(clock.monotonic(), f"put of {request.name!r}")
            try:
                return self._ask(request, timeout_s=min(60.0, left)).message
            except ConnectionLost:
                tries += 1
                if tries == COMMIT_TRIES_MAX:
                    raise Unreachable(
                        f"putting {request.name!r}: the answer was lost, the file may exist now",
                        hint="ask for its stat",
                    ) from None

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

    def pages(self, prefix: str = "", *, timeout_s: float = 30.0) -> Iterator[Listed]:
        """Yields the files whose names begin with ``prefix``, page by page, sorted by name.

        A file that is made or deleted meanwhile may or may not be among them. Each page has ``timeout_s``.
        """
        after = ""
        while True:
            deadline = Deadline(clock.monotonic(), timeout_s)
            page = self._ask(messages.ListFiles(prefix, after, paged=True), timeout_s=timeout_s).message
            yield self._with_all_blocks(page, deadline)
            if not page.next:
                return
            after = _advanced(after, page.next)

    def _with_all_blocks(self, page: Listed, deadline: Deadline) -> Listed:
        if not page.more_blocks or not page.files:
            return page
        *files, last = page.files
        with contextlib.suppress(NotFound):  # it was deleted since
            files.append(self._whole(messages.Described(last, more=True), deadline))
        return replace(page, files=tuple(files), more_blocks=False)

    def list(self, prefix: str = "", *, timeout_s: float = 30.0) -> builtins.list[FileStat]:
        """Returns the files of all pages."""
        return [stat for page in self.pages(prefix, timeout_s=timeout_s) for stat in page.files]

    def store(self, node: str = "", *, timeout_s: float = 10.0) -> builtins.list[StoredBlock]:
        """Returns the blocks on ``node`` (the agent's own when empty); each page has ``timeout_s``."""
        found: builtins.list[StoredBlock] = []
        while True:
            after = found[-1].place if found else None
            page = self._ask(messages.ListStored(node, after, paged=True), timeout_s=timeout_s).message
            if page.blocks and after is not None and page.blocks[0].place <= after:
                raise InvalidMessage(f"a listing goes back from {after} to {page.blocks[0].place}")
            found += page.blocks
            if not page.more or not page.blocks:
                return found

    def health(self, *, timeout_s: float = 5.0) -> StoreHealth:
        """Returns how much this agent stores and how much its repair still has to do."""
        return self._ask(messages.Health(), timeout_s=timeout_s).message

    def delete(self, name: str, *, timeout_s: float = 15.0) -> None:
        """Deletes a file.

        Raises:
            NotFound: no such file.
        """
        self._ask(messages.Delete(check_file_name(name)), timeout_s=timeout_s)

    def delete_prefix(self, prefix: str, *, timeout_s: float = 60.0) -> int:
        """Deletes every file whose name begins with ``prefix`` and returns their number.

        They are deleted page by page; each page has ``timeout_s``.
        """
        count, after = 0, ""
        while True:
            request = messages.DeletePrefix(prefix, after, paged=True)
            found = self._ask(request, timeout_s=timeout_s).message
            count += len(found.deleted)
            if not found.next:
                return count
            after = _advanced(after, found.next)

    def _abort(self, file_id: str) -> None:
        try:
            self._ask(messages.AbortPut(file_id), timeout_s=5.0)
        except RainStormError:
            return  # the agent aborts an idle put by itself

    def _ask(self, request: Request[R], payload: Buffer = b"", *, timeout_s: float) -> Answered[R]:
        check_arguments(request)
        return self._client.ask(self._target, request, payload, timeout_s=timeout_s)


def _advanced(after: str, following: str) -> str:
    if following <= after:
        raise InvalidMessage(f"a listing goes back from {after!r} to {following!r}")
    return following
