"""What any store agent does for any client: route appends, read, list, delete.

The agent that a client talks to is the client's gateway: it reads the file's register, finds the coordinator
(``route.py`` decides, whatever has failed) and passes the payload on. Reads of sealed blocks are served from
this node's own copy when there is one.
"""

from __future__ import annotations

from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import (
    Conflict,
    NotFound,
    RainStormError,
    Unavailable,
    UsageError,
)
from agent.common.ids import check_file_name, ring_id
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED
from agent.hydfs.core.errors import code_of
from agent.hydfs.core.filetable import BlockEntry, FileEntry
from agent.hydfs.core.ring import block_token
from agent.hydfs.core.route import LOST, AskCoordinator, AskSeal
from agent.hydfs.shell.filetable import Files, describe
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Blocks
from agent.hydfs.shell.view import ViewSource
from agent.wire.client import Response
from agent.wire.register.proposer import Registers
from agent.wire.server import Handler, Reply, Request

# One reply carries at most this much; a client that wants more asks again.
READ_BYTES_MAX = 4 * 1024 * 1024
LIST_MAX = 10_000


class Gateway:
    """The client-facing requests of one agent."""

    def __init__(
        self,
        blocks: Blocks,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        *,
        block_size_bytes: int,
        ack: str,
        ack_timeout_s: float,
    ) -> None:
        self._blocks = blocks
        self._peers = peers
        self._registers = registers
        self._record_max = block_size_bytes // 4
        self._ack = ack
        self._ack_timeout = ack_timeout_s
        self.files = Files(peers, registers, views, ack_timeout_s=ack_timeout_s)

    def handlers(self) -> dict[str, Handler]:
        """Returns the request handlers."""
        return {
            "hydfs.create": self._create,
            "hydfs.append": self._append,
            "hydfs.read": self._read,
            "hydfs.open_block": self._open_block,
            "hydfs.stat": self._stat,
            "hydfs.list": self._list,
            "hydfs.delete": self._delete,
            "hydfs.delete_prefix": self._delete_prefix,
            "hydfs.store": self._store,
            "hydfs.store_local": self._store_local,
        }

    def task_handlers(self) -> dict[str, Handler]:
        """Returns what tasks may ask for, which is to read: what they write goes through their agent."""
        return {"hydfs.read": self._read, "hydfs.open_block": self._open_block}

    def close(self) -> None:
        """Wakes requests that wait for another try."""
        self.files.close()

    def _create(self, request: Request) -> Reply:
        name = check_file_name(str(request.fields["name"]))
        change = filetable.create(name, threads.unique_id(), self._ack)
        timeout_s = request.deadline.remaining(clock.monotonic())
        entry = filetable.live(name, self._registers.change(name, change, timeout_s=timeout_s))
        self.files.remember(name, entry)
        return Reply({"stat": describe(name, entry, 0)})

    def _append(self, request: Request) -> Reply:
        fields = request.fields
        name, writer, sequence = check_file_name(str(fields["name"])), fields["writer"], fields["sequence"]
        self._check_append(name, writer, sequence, len(request.payload))

        def ask(step: AskCoordinator, entry: FileEntry) -> Response:
            body = {
                "name": name,
                "file_id": entry.file_id,
                "number": step.number,
                "next": entry.next_number,
                "avoid": list(step.avoid),
                "writer": writer,
                "sequence": sequence,
                "if_offset": fields.get("if_offset"),
            }
            timeout_s = min(2.0 * self._ack_timeout + 0.5, request.deadline.remaining(clock.monotonic()))
            found = self._peers.call(
                step.node, "hydfs.block.append", body, request.payload, timeout_s=timeout_s
            )
            opened = filetable.from_value(found.fields.get("value"))
            if opened is not None:
                self.files.remember(name, opened)
            return found

        found = self.files.follow(name, request.deadline, ask)
        keys = ("offset", "length", "copies", "duplicate")
        return Reply({key: found.fields[key] for key in keys})

    def _check_append(self, name: str, writer: Any, sequence: Any, size: int) -> None:
        if not isinstance(writer, str) or not 0 < len(writer) <= 255:
            raise UsageError("an append needs a writer id of 1-255 characters")
        if not isinstance(sequence, int) or sequence < 0:
            raise UsageError("an append needs a sequence number of 0 or more")
        if size == 0:
            raise UsageError(f"nothing to append to {name!r}")
        if size > self._record_max:
            raise UsageError(
                f"append of {size} bytes to {name!r}: one append may have {self._record_max} bytes",
                hint="split it into several appends, or put a new file",
            )

    def _stat(self, request: Request) -> Reply:
        name = check_file_name(str(request.fields["name"]))
        return Reply({"stat": self.files.stat(name, request.deadline)})

    def _read(self, request: Request) -> Reply:
        fields = request.fields
        name, offset, length = (
            check_file_name(str(fields["name"])),
            int(fields["offset"]),
            int(fields["length"]),
        )
        if offset < 0 or length < 0:
            raise UsageError("offset and length of a read must not be negative")
        file_id = fields.get("file_id")
        while True:
            entry = self.files.known(name)
            if file_id is None or entry is None or entry.file_id != file_id:
                entry = self.files.entry(name, request.deadline)
            if file_id is not None and entry.file_id != file_id:
                raise NotFound(f"file {name!r} was deleted", details={"file_id": entry.file_id})
            end = entry.sealed_length
            if offset >= end:
                entry, end = self.files.settle(name, request.deadline)
            if offset >= end or length == 0:
                return Reply({"end": offset >= end, "file_id": entry.file_id})
            piece = self._read_block(name, entry, offset, min(length, READ_BYTES_MAX), end, request.deadline)
            if piece is not None:
                return piece
            file_id = None  # what we knew is out of date

    def _open_block(self, request: Request) -> Reply:
        """Hands the file of a sealed block to a task of this machine, which then reads it without us.

        HDFS calls this a short-circuit local read: a sealed block never changes, and a file that is dropped
        stays readable for whoever has it open.
        """
        name, offset = check_file_name(str(request.fields["name"])), int(request.fields["offset"])
        file_id = str(request.fields["file_id"])
        if request.peer != "local":
            raise UsageError("only processes of the same machine can be given an open file")
        entry = self.files.known(name)
        if entry is None or entry.file_id != file_id:
            entry = self.files.entry(name, request.deadline)
        start = 0
        for block in entry.blocks:
            if block.state != SEALED:
                break
            if start <= offset < start + block.length and entry.file_id == file_id:
                part = self._blocks.store.slice((file_id, block.number), 0, block.length)
                return Reply({"start": start, "length": block.length}, b"", part.descriptor)
            start += block.length
        raise NotFound(f"no sealed block of {name!r} at byte {offset} is on this node")

    def _read_block(
        self, name: str, entry: FileEntry, offset: int, length: int, end: int, deadline: Deadline
    ) -> Reply | None:
        start = 0
        for block in entry.blocks:
            size = block.length if block.state == SEALED else end - start
            if offset < start + size:
                length = min(length, start + size - offset)
                return self._fetch(name, entry, block, offset - start, length, deadline)
            start += size
        return None

    def _fetch(
        self, name: str, entry: FileEntry, block: BlockEntry, offset: int, length: int, deadline: Deadline
    ) -> Reply | None:
        key = (entry.file_id, block.number)
        fields = {"name": name, "file_id": key[0], "number": key[1], "offset": offset, "length": length}
        suspects = self._peers.suspects()
        order = sorted(block.replicas, key=lambda node: (node != self._peers.me, node in suspects))
        if block.state != SEALED:
            order = [block.replicas[0], *[node for node in order if node != block.replicas[0]]]
        last: RainStormError | None = None
        for node in order:
            try:
                found = self._peers.call(
                    node,
                    "hydfs.block.read",
                    fields,
                    timeout_s=min(5.0, deadline.require(clock.monotonic(), f"read of {name!r}")),
                )
                return Reply({"end": False, "file_id": entry.file_id}, found.payload)
            except RainStormError as error:
                last = error
                if code_of(error) in LOST:
                    self._peers.suspect(node)
        now = self.files.entry(name, deadline)
        found_block = now.block(block.number) if now.file_id == entry.file_id else None
        if found_block != block:
            return None
        raise Unavailable(
            f"no replica of block {block.number} of {name!r} answers: {last}", hint="fab status"
        )

    def _list(self, request: Request) -> Reply:
        prefix = str(request.fields.get("prefix", ""))
        stats = []
        for name in self._names(prefix, request.deadline):
            try:
                stats.append(self.files.stat(name, request.deadline))
            except NotFound:
                continue
        return Reply({"files": stats})

    def _names(self, prefix: str, deadline: Deadline) -> list[str]:
        names = self._registers.keys(prefix, timeout_s=deadline.remaining(clock.monotonic()))
        if len(names) > LIST_MAX:
            raise UsageError(f"{len(names)} names begin with {prefix!r}", hint="name a longer prefix")
        return names

    def _delete(self, request: Request) -> Reply:
        self.delete(check_file_name(str(request.fields["name"])), request.deadline)
        return Reply()

    def _delete_prefix(self, request: Request) -> Reply:
        prefix = str(request.fields["prefix"])
        if not prefix:
            raise UsageError("an empty prefix would delete every file")
        deleted = []
        for name in self._names(prefix, request.deadline):
            try:
                self.delete(name, request.deadline)
                deleted.append(name)
            except NotFound:
                continue
        return Reply({"deleted": deleted})

    def delete(self, name: str, deadline: Deadline) -> None:
        """Deletes a file; its open block is sealed first, so that no append is acknowledged afterwards."""
        while True:
            entry = self.files.entry(name, deadline)
            if entry.open_block is not None:
                self._seal_open(name, entry, deadline)
            try:
                timeout_s = deadline.require(clock.monotonic(), f"delete of {name!r}")
                self._registers.change(name, filetable.remove(name, entry.file_id), timeout_s=timeout_s)
                break
            except Conflict:
                continue
        self.files.forget(name)
        for node in dict.fromkeys(node for block in entry.blocks for node in block.replicas):
            self._peers.tell(node, "hydfs.block.drop", {"name": name, "file_id": entry.file_id})

    def _seal_open(self, name: str, entry: FileEntry, deadline: Deadline) -> None:
        block = entry.open_block
        assert block is not None
        last: RainStormError | None = None
        for node in block.replicas:
            try:
                self.files.ask_seal(name, entry, AskSeal(node, block.number))
                return
            except RainStormError as error:
                last = error
                deadline.require(clock.monotonic(), f"delete of {name!r}")
        raise Unavailable(f"{name!r} cannot be closed for deletion: {last}", hint="fab status")

    def _store(self, request: Request) -> Reply:
        node = str(request.fields.get("node") or self._peers.me)
        if node not in self._peers.names:
            raise UsageError(f"there is no node {node!r}", hint=f"nodes: {', '.join(self._peers.names)}")
        found = self._peers.call(node, "hydfs.store_local", {}, timeout_s=5.0)
        return Reply({"blocks": found.fields["blocks"], "node": node, "ring_id": ring_id(node)})

    def _store_local(self, request: Request) -> Reply:
        found = [
            {
                "name": meta.name,
                "file_id": meta.key[0],
                "number": meta.key[1],
                "length": meta.length,
                "state": meta.state,
                "ring_id": f"{block_token(*meta.key):08x}",
            }
            for meta in sorted(
                list(self._blocks.store.index.values()), key=lambda meta: (meta.name, meta.key)
            )
        ]
        return Reply({"blocks": found})
