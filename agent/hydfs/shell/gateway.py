"""The service of every store agent for its clients: it routes appends, reads, lists and deletes.

The agent that a client talks to is the client's gateway: it reads the file's register, finds the coordinator
(``core.route`` decides which node to ask) and passes the payload on. Reads of sealed blocks are served from
this node's own copy when there is one.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator

from agent.common.deadline import Deadline
from agent.common.errors import Conflict, Corrupt, NotFound, RainStormError, Unavailable, UsageError
from agent.common.ids import check_file_name
from agent.common.ids import ring_id as node_ring_id
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED
from agent.hydfs.core.errors import code_of
from agent.hydfs.core.filetable import BlockEntry, FileEntry
from agent.hydfs.core.placement import block_token
from agent.hydfs.core.route import LOST, AskCoordinator, AskSeal
from agent.hydfs.messages import block as between
from agent.hydfs.messages import file as messages
from agent.hydfs.shell.filetable import BLOCKS_PAGE, FileTable, answer, describe, ring_id
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.view import ViewSource
from agent.wire.endpoint import Answer, Call, Endpoint, endpoint
from agent.wire.register.proposer import Registers
from agent.wire.server import LOCAL

logger = logging.getLogger("agent.hydfs.shell.gateway")

# One reply carries at most this much; a client that wants more asks again.
READ_BYTES_MAX = 4 * 1024 * 1024
# A replica sends such a reply in well under a second; after this time another one is asked.
READ_TIMEOUT_S = 5.0
# Files and blocks together in one page of a listing.
PAGE_ENTRIES = BLOCKS_PAGE
# Copies in one page of a node's store: 3.5 megabytes of the four that a header may have, if each name has 255
# characters of four bytes.
STORED_PAGE = 3000


class Gateway:
    """The client-facing requests of one agent."""

    def __init__(
        self,
        replicas: Replicas,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        *,
        block_size_bytes: int,
        ack: str,
        ack_timeout_s: float,
    ) -> None:
        self._replicas = replicas
        self._peers = peers
        self._registers = registers
        self._record_max = block_size_bytes // 4
        self._ack = ack
        self._ack_timeout = ack_timeout_s
        self.table = FileTable(peers, registers, views, ack_timeout_s=ack_timeout_s)

    def endpoints(self) -> list[Endpoint]:
        """Returns the endpoints for clients."""
        return [
            endpoint(messages.Create, self._create),
            endpoint(messages.Append, self._append),
            endpoint(messages.Stat, self._stat),
            endpoint(messages.ListFiles, self._list),
            endpoint(messages.Delete, self._delete),
            endpoint(messages.DeletePrefix, self._delete_prefix),
            endpoint(messages.ListStored, self._list_stored),
            endpoint(between.ListOwnStored, self._list_own_stored),
            *self.task_endpoints(),
        ]

    def task_endpoints(self) -> list[Endpoint]:
        """Returns the endpoints for tasks, which may only read: their writes go through their agent."""
        return [endpoint(messages.Read, self._read), endpoint(messages.OpenBlock, self._open_block)]

    def close(self) -> None:
        """Wakes requests that wait for their next attempt."""
        self.table.close()

    def _create(self, request: messages.Create, call: Call) -> messages.Described:
        name = check_file_name(request.name)
        change = filetable.create(name, threads.unique_id(), self._ack)
        timeout_s = call.deadline.remaining(clock.monotonic())
        entry = filetable.live(name, self._registers.change(name, change, timeout_s=timeout_s))
        self.table.remember(name, entry)
        return messages.Described(describe(name, entry, 0))

    def _append(self, request: messages.Append, call: Call) -> messages.AppendResult:
        name = check_file_name(request.name)
        self._check_size(name, len(call.payload))

        def ask(step: AskCoordinator, entry: FileEntry) -> between.BlockAppended:
            body = between.AppendToBlock(
                name,
                entry.file_id,
                step.number,
                request.writer,
                request.sequence,
                entry.next_number,
                step.avoid,
                request.if_offset,
            )
            timeout_s = min(2.0 * self._ack_timeout + 0.5, call.deadline.remaining(clock.monotonic()))
            found = self._peers.ask(step.node, body, call.payload, timeout_s=timeout_s).message
            if found.value is not None:
                self.table.remember(name, found.value)
            return found

        found = self.table.follow(name, call.deadline, ask)
        return messages.AppendResult(found.offset, found.length, found.copies, found.duplicate)

    def _check_size(self, name: str, size: int) -> None:
        if size == 0:
            raise UsageError(f"nothing to append to {name!r}")
        if size > self._record_max:
            raise UsageError(
                f"append of {size} bytes to {name!r}: one append may have {self._record_max} bytes",
                hint="split it into several appends, or put a new file",
            )

    def _stat(self, request: messages.Stat, call: Call) -> messages.Described:
        name = check_file_name(request.name)
        stat = self.table.stat(name, call.deadline)
        if request.file_id is not None and stat.file_id != request.file_id:
            raise NotFound(f"file {name!r} was deleted", details={"file_id": stat.file_id})
        return answer(stat, paged=request.paged, after=request.after)

    def _read(self, request: messages.Read, call: Call) -> Answer[messages.Part]:
        name, offset, file_id = check_file_name(request.name), request.offset, request.file_id
        while True:
            entry = self.table.known(name)
            if file_id is None or entry is None or entry.file_id != file_id:
                entry = self.table.entry(name, call.deadline)
            if file_id is not None and entry.file_id != file_id:
                raise NotFound(f"file {name!r} was deleted", details={"file_id": entry.file_id})
            end = entry.sealed_length
            if offset >= end:
                entry, end = self.table.settle(name, call.deadline)
            if offset >= end or request.length == 0:
                return Answer(messages.Part(offset >= end, entry.file_id))
            length = min(request.length, READ_BYTES_MAX)
            piece = self._read_block(name, entry, offset, length, end, call.deadline)
            if piece is not None:
                return piece
            file_id = None  # the known entry is out of date

    def _open_block(self, request: messages.OpenBlock, call: Call) -> Answer[messages.OpenedBlock]:
        """Hands the file of a sealed block to a task of this machine, which then reads it directly.

        HDFS calls this a short-circuit local read. A sealed block never changes, and a process that has the
        file open can read it even after the block was dropped.
        """
        name, offset, file_id = check_file_name(request.name), request.offset, request.file_id
        if call.peer != LOCAL:
            raise UsageError("only processes of the same machine can be given an open file")
        entry = self.table.known(name)
        if entry is None or entry.file_id != file_id:
            entry = self.table.entry(name, call.deadline)
        start = 0
        for block in entry.blocks:
            if block.state != SEALED:
                break
            if start <= offset < start + block.length and entry.file_id == file_id:
                try:
                    part = self._replicas.slice(name, (file_id, block.number), 0, block.length)
                except Corrupt:
                    break  # the copy is now in quarantine: the task reads another one
                return Answer(messages.OpenedBlock(start, block.length), descriptor=part.descriptor)
            start += block.length
        raise NotFound(f"no sealed block of {name!r} at byte {offset} is on this node")

    def _read_block(
        self, name: str, entry: FileEntry, offset: int, length: int, end: int, deadline: Deadline
    ) -> Answer[messages.Part] | None:
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
    ) -> Answer[messages.Part] | None:
        request = between.ReadBlock(entry.file_id, block.number, offset, length, name)
        suspects = self._peers.suspects()
        order = sorted(block.replicas, key=lambda each: (each != self._peers.me, each in suspects))
        if block.state != SEALED:
            order = [block.replicas[0], *[each for each in order if each != block.replicas[0]]]
        last: RainStormError | None = None
        for replica in order:
            try:
                left = deadline.require(clock.monotonic(), f"read of {name!r}")
                found = self._peers.ask(replica, request, timeout_s=min(READ_TIMEOUT_S, left))
                return Answer(messages.Part(False, entry.file_id), found.payload)
            except RainStormError as error:
                last = error
                if code_of(error) in LOST:
                    self._peers.suspect(replica)
        now = self.table.entry(name, deadline)
        found_block = now.block(block.number) if now.file_id == entry.file_id else None
        if found_block != block:
            return None
        raise Unavailable(
            f"no replica of block {block.number} of {name!r} answers: {last}", hint="fab status"
        )

    def _list(self, request: messages.ListFiles, call: Call) -> messages.Listed:
        stats: list[messages.FileStat] = []
        damaged: list[str] = []
        more_blocks = False
        for name in (page := _Page(self._registers, request, call.deadline)):
            page.filled += 1
            try:
                stat = self.table.stat(name, call.deadline)
            except NotFound:
                continue
            except Corrupt as error:
                logger.error("file_entry_refused name=%s error=%s", name, error)
                damaged.append(name)
                continue
            # A file that does not fit fills the page, so it is the last one.
            found = answer(stat, paged=request.paged, room=PAGE_ENTRIES - page.filled)
            stats.append(found.stat)
            page.filled += len(found.stat.blocks)
            more_blocks = found.more
        return messages.Listed(tuple(stats), tuple(damaged), page.next, more_blocks)

    def _delete(self, request: messages.Delete, call: Call) -> Done:
        self.delete(check_file_name(request.name), call.deadline)
        return Done()

    def _delete_prefix(self, request: messages.DeletePrefix, call: Call) -> messages.Deleted:
        deleted = []
        for name in (page := _Page(self._registers, request, call.deadline)):
            try:
                self.delete(name, call.deadline)
                deleted.append(name)
                page.filled += 1
            except NotFound:
                continue
        return messages.Deleted(tuple(deleted), page.next)

    def delete(self, name: str, deadline: Deadline) -> None:
        """Deletes a file; its open block is sealed first, so that no append is acknowledged afterwards."""
        while True:
            entry = self.table.entry(name, deadline)
            if entry.open_block is not None:
                self._seal_open(name, entry, deadline)
            try:
                timeout_s = deadline.require(clock.monotonic(), f"delete of {name!r}")
                self._registers.change(name, filetable.remove(name, entry.file_id), timeout_s=timeout_s)
                break
            except Conflict:
                continue
        self.table.forget(name)
        for replica in dict.fromkeys(replica for block in entry.blocks for replica in block.replicas):
            self._peers.tell(replica, between.DropFile(entry.file_id, name))

    def _seal_open(self, name: str, entry: FileEntry, deadline: Deadline) -> None:
        block = entry.open_block
        assert block is not None
        last: RainStormError | None = None
        for replica in block.replicas:
            try:
                self.table.ask_seal(name, entry, AskSeal(replica, block.number))
                return
            except RainStormError as error:
                last = error
                deadline.require(clock.monotonic(), f"delete of {name!r}")
        raise Unavailable(f"{name!r} cannot be closed for deletion: {last}", hint="fab status")

    def _list_stored(self, request: messages.ListStored, call: Call) -> messages.StoredBlocks:
        name = request.node or self._peers.me
        if name not in self._peers.names:
            raise UsageError(f"there is no node {name!r}", hint=f"nodes: {', '.join(self._peers.names)}")
        own = between.ListOwnStored(request.after, request.paged)
        found = self._peers.ask(name, own, timeout_s=READ_TIMEOUT_S).message
        return messages.StoredBlocks(found.blocks, name, node_ring_id(name), found.more)

    def _list_own_stored(self, request: between.ListOwnStored, call: Call) -> messages.StoredBlocks:
        metas = list(self._replicas.store.index.values())
        places = [(meta.name, *meta.key) for meta in metas]
        chosen = [
            each for each in zip(places, metas, strict=True) if not request.after or each[0] > request.after
        ]
        count = STORED_PAGE if request.paged else len(chosen)
        page = heapq.nsmallest(count, chosen, key=lambda each: each[0])
        return messages.StoredBlocks(
            tuple(
                messages.StoredBlock(*place, meta.length, meta.state, ring_id(block_token(*meta.key)))
                for place, meta in page
            ),
            more=len(page) < len(chosen),
        )


class _Page:
    """Names of files for one answer; at the end, ``next`` is the name after which the next page begins."""

    def __init__(
        self,
        registers: Registers,
        request: messages.ListFiles | messages.DeletePrefix,
        deadline: Deadline,
    ) -> None:
        self.next = ""
        # The number of files and blocks in the answer so far.
        self.filled = 0
        self._registers = registers
        self._request = request
        self._deadline = deadline
        # A page that ends early is still an answer; a late one is not.
        self._late_at = clock.monotonic() + deadline.remaining(clock.monotonic()) / 2

    def __iter__(self) -> Iterator[str]:
        """Yields the names.

        Raises:
            UsageError: the client does not know of pages, and would take the first page for all names.
        """
        prefix, paged = self._request.prefix, self._request.paged
        timeout_s = self._deadline.remaining(clock.monotonic())
        found = self._registers.keys_page(prefix, self._request.after, timeout_s=timeout_s)
        if found.more and not paged:
            raise UsageError(
                f"too many names begin with {prefix!r} for one answer", hint="name a longer prefix"
            )
        for number, name in enumerate(found.keys):
            late = self.filled >= PAGE_ENTRIES or clock.monotonic() > self._late_at
            if paged and late and number:
                self.next = found.keys[number - 1]
                return
            yield name
        self.next = found.keys[-1] if found.more else ""
