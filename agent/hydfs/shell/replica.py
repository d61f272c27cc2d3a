"""The requests that store agents make of each other: records, promises, seals, whole blocks.

Only the cluster's own nodes may make them. Every step of an append passes through the node's core; whole
sealed blocks (of puts and repair) go directly to the store.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar, assert_never

from agent.common.errors import Conflict, Corrupt, Fenced, RainStormError, StaleView, Unavailable
from agent.common.message import Done, Request
from agent.common.shell import clock, threads
from agent.common.shell.pool import Pool
from agent.hydfs.core import filetable, placement
from agent.hydfs.core.block import BlockKey, DroppedEntry, PromiseEntry, RecordEntry
from agent.hydfs.core.errors import code_of
from agent.hydfs.core.events import (
    Answer,
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AnswerWrite,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    Effect,
    Event,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    SealBlock,
    SealFailed,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.node import NodeCore
from agent.hydfs.messages import block as messages
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.node import Engine
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.takeover import Sealer
from agent.hydfs.shell.transfers.incoming import Transfers
from agent.hydfs.shell.view import ViewSource
from agent.hydfs.shell.waiting.filelocks import FileLocks
from agent.hydfs.shell.waiting.waiter import Asked, Waiter, Waiters
from agent.wire.connection import FileSlice
from agent.wire.endpoint import Answer as Reply
from agent.wire.endpoint import Call, Endpoint, endpoint
from agent.wire.register.proposer import Registers

logger = logging.getLogger("agent.hydfs.shell.replica")

Q = TypeVar("Q", bound=Request[Any])
# A newer view that a caller already has reaches every agent within a fraction of this time.
VIEW_WAIT_S = 0.5
# Each seal is a change of the file table, so most of the time is spent waiting for the voters.
SEAL_THREADS = 4
# Seals that wait: after the loss of a node each block that it held is sealed.
SEALS_MAX = 1024
# A seal in progress ends with the change of the file table.
CLOSE_TIMEOUT_S = 5.0


class Replicas:
    """The copies of blocks on this node, and the requests of other nodes about them."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        new_disk: NewDisk,
        *,
        replicas: int,
        block_size_bytes: int,
        ack_timeout_s: float,
    ) -> None:
        self.store = store
        self.peers = peers
        self.registers = registers
        self.views = views
        self._new_disk = new_disk
        self.core = NodeCore(
            peers.me, store.index.values(), block_size_bytes=block_size_bytes, ack_timeout_s=ack_timeout_s
        )
        self.engine: Engine | None = None
        self.sealer = Sealer(
            store, peers, registers, self.post, replicas=replicas, ack_timeout_s=ack_timeout_s
        )
        self.transfers = Transfers(store, self.post)
        self._replicas = replicas
        self._ack_timeout = ack_timeout_s
        self._process = threads.unique_id()[:12]
        self._opened = 0
        # The first append to a file without an open block opens one; other appends to that file wait for it.
        self._opening = FileLocks()
        self._waiters = Waiters()
        self._seals = Pool("hydfs-seal", SEAL_THREADS, SEALS_MAX)
        self._lock = threads.lock()

    def endpoints(self) -> list[Endpoint]:
        """Returns the endpoints for the other store agents."""
        return [
            self._for_nodes(messages.AppendToBlock, self._append),
            self._for_nodes(messages.AskTail, self._tail),
            self._for_nodes(messages.WriteRecord, self._write),
            self._for_nodes(messages.AskPromise, self._promise),
            self._for_nodes(messages.Seal, self._seal),
            self._for_nodes(messages.Certify, self._certify),
            self._for_nodes(messages.ReadBlock, self._read),
            self._for_nodes(messages.StorePiece, self.transfers.take),
            self._for_nodes(messages.DropFile, self._drop),
        ]

    def post(self, event: Event) -> None:
        """Posts an event to the core."""
        assert self.engine is not None
        self.engine.post(event)

    def execute(self, effect: Effect) -> None:
        """Carries out an effect of the core; never blocks."""
        match effect:
            case PersistRecord(key=key, record=record):
                entry = RecordEntry(key, effect.name, effect.session, record, None)
                self.store.submit(
                    entry, effect.data, lambda code: self.post(RecordWritten(key, record.end, code))
                )
            case PersistPromise(key=key, name=name, doubtful=doubtful):
                promise = PromiseEntry(key, name, doubtful)
                self.store.submit(promise, b"", lambda code: self.post(PromiseWritten(key, code)))
            case SendWrite(peer=peer):
                if not self.peers.later(peer, lambda: self._send_write(effect)):
                    self.post(WriteAnswered(peer, effect.key, effect.record.end, "OVERLOADED"))
            case SealBlock():
                try:
                    self._seals.run(self._seal_own, effect)
                except RainStormError as error:
                    self.post(SealFailed(effect.key, error.code, error.message))
            case AnswerAppend() | AnswerPromise() | AnswerTail() | AnswerWrite() | Refuse():
                assert isinstance(effect.token, Waiter)
                effect.token.put(effect)
            case _:
                assert_never(effect)

    def choose(self, file_id: str, number: int, avoid: list[str]) -> list[str]:
        """Returns the nodes of a new block, according to the view and the suspects of this moment.

        With too few stores up there are fewer copies than wanted; every answer says how many.
        """
        nodes = self.views.current().up_names()
        avoid = [*self.peers.suspects(), *avoid]
        # In the view a machine is up even while its store is down; membership's gossip shows which it is.
        avoided = [node for node in nodes if node in avoid]
        gone = self.views.storeless(avoided) if avoided else []
        return placement.choose(file_id, number, nodes, self._replicas, avoid, gone)

    def refuse_waiters(self) -> None:
        """Refuses requests that wait for the core: it has stopped."""
        self._waiters.refuse_all()

    def close(self) -> None:
        """Cancels queued seals and incoming transfers."""
        self._seals.stop(drain=False, timeout_s=CLOSE_TIMEOUT_S)
        self.transfers.close()

    def _seal_own(self, effect: SealBlock) -> None:
        try:
            self.sealer.seal_in_table(effect)
        except RainStormError as error:
            logger.warning("seal_failed name=%s number=%d error=%s", effect.name, effect.key[1], error)
        except Exception as error:
            # Clients wait for the next block: they must be answered after any failure. The pool logs it.
            self.post(SealFailed(effect.key, "INTERNAL", f"sealing failed: {error!r}"))
            raise

    def _for_nodes(self, request: type[Q], handle: Callable[[Q, Call], object]) -> Endpoint:
        def checked(found: Q, call: Call) -> object:
            if call.peer not in self.peers.names:
                raise Fenced(f"{request.kind} is for the cluster's nodes only, not for {call.peer!r}")
            return handle(found, call)

        return endpoint(request, checked)

    def _send_write(self, effect: SendWrite) -> None:
        code = ""
        file_id, number = effect.key
        request = messages.WriteRecord(file_id, number, effect.name, effect.session, effect.record)
        try:
            self.peers.ask(effect.peer, request, effect.data, timeout_s=self._ack_timeout)
        except RainStormError as error:
            code = code_of(error)
            self.peers.suspect(effect.peer, code)
        self.post(WriteAnswered(effect.peer, effect.key, effect.record.end, code))

    def _ask(self, event: Asked, call: Call, what: str) -> Answer:
        """Posts an event whose token is a ``Waiter`` and returns the core's answer."""
        return self._waiters.ask(event, self.post, call.deadline, what)

    def _append(self, request: messages.AppendToBlock, call: Call) -> messages.BlockAppended:
        what = f"append to {request.name!r}"
        number, entry = request.number, None
        if number is None or not self.core.coordinates((request.file_id, number)):
            # The first append of another client may be opening the same block at this moment.
            with self._opening.hold(request.file_id, call.deadline, what):
                if number is None:
                    number, entry = self._open(request, call)
        event = AppendRequested(
            Waiter(),
            (request.file_id, number),
            request.writer,
            request.sequence,
            request.if_offset,
            call.payload,
        )
        answer = self._ask(event, call, what)
        assert isinstance(answer, AnswerAppend)
        return messages.BlockAppended(answer.offset, answer.length, answer.copies, answer.duplicate, entry)

    def _open(self, request: messages.AppendToBlock, call: Call) -> tuple[int, FileEntry]:
        name, file_id = request.name, request.file_id
        if not self.views.reach(call.view, VIEW_WAIT_S):
            raise StaleView(f"{self.peers.me} does not have view {call.view} yet", hint="try again")
        order = self.choose(file_id, request.next, list(request.avoid))
        replicas = [self.peers.me, *[node for node in order if node != self.peers.me]][: len(order)]
        if not replicas:
            raise Unavailable("the cluster view names no node that is up", hint="fab status")
        with self._lock:
            self._opened += 1
            session = f"{self.peers.me}/{self._process}/{self._opened}"
        view = self.views.current().version
        value = self.registers.change(
            name,
            filetable.open_next(name, file_id, replicas, view, session),
            timeout_s=call.deadline.remaining(clock.monotonic()),
        )
        entry = filetable.live(name, value)
        block = entry.open_block
        assert block is not None, "opening a block ended without an open block"
        key = (file_id, block.number)
        if block.session == session:
            self.post(
                BlockOpened(
                    key,
                    name,
                    session,
                    block.replicas,
                    entry.ack,
                    entry.sealed_length,
                    dict(entry.writers),
                    view,
                )
            )
            if len(block.replicas) < self._replicas:
                self.sealer.on_missing_copies(name)
        return block.number, entry

    def _tail(self, request: messages.AskTail, call: Call) -> messages.TailLength:
        key = (request.file_id, request.number)
        if not self.core.coordinates(key):
            with self._opening.hold(request.file_id, call.deadline, "tail"):
                pass  # wait until the block that is being opened is open
        answer = self._ask(TailRequested(Waiter(), key), call, "tail")
        assert isinstance(answer, AnswerTail)
        return messages.TailLength(answer.length)

    def _write(self, request: messages.WriteRecord, call: Call) -> Done:
        key = (request.file_id, request.number)
        event = WriteReceived(Waiter(), key, request.name, request.session, request.record, call.payload)
        answer = self._ask(event, call, "record")
        assert isinstance(answer, AnswerWrite)
        return Done()

    def _promise(self, request: messages.AskPromise, call: Call) -> messages.Promised:
        key = (request.file_id, request.number)
        doubtful = self._new_disk.pending and key not in self.store.index
        answer = self._ask(PromiseRequested(Waiter(), key, request.name, doubtful), call, "promise")
        assert isinstance(answer, AnswerPromise)
        return messages.Promised(answer.length, answer.crc, answer.writers, answer.doubtful)

    def _seal(self, request: messages.Seal, call: Call) -> Done:
        entry = self._read_entry(request.name, call)
        block = entry.open_block if entry is not None and entry.file_id == request.file_id else None
        if entry is not None and block is not None and block.number == request.number:
            self.sealer.take_over(request.name, entry, block)
        return Done()

    def _certify(self, request: messages.Certify, call: Call) -> Done:
        key = (request.file_id, request.number)
        self.sealer.certify(key, request.name, request.length, request.crc)
        return Done()

    def _read(self, request: messages.ReadBlock, call: Call) -> Reply[Done]:
        key = (request.file_id, request.number)
        return Reply(Done(), self.slice(request.name, key, request.offset, request.length))

    def slice(self, name: str, key: BlockKey, offset: int, length: int) -> FileSlice:
        """Returns a part of a copy for sending; a damaged copy is reported for repair.

        Raises:
            NotFound: this node does not hold these bytes.
            Corrupt: the copy is damaged, and is now in quarantine.
        """
        try:
            return self.store.slice(key, offset, length)
        except Corrupt:
            self.post(BlockDropped(key))
            if name:
                self.sealer.on_missing_copies(name)
            raise

    def _drop(self, request: messages.DropFile, call: Call) -> Done:
        """Drops the copies of a file that no longer has this id in the file table."""
        entry = self._read_entry(request.name, call)
        if entry is not None and entry.file_id == request.file_id and entry.state != filetable.DELETED:
            raise Conflict(f"file {request.name!r} is not deleted")
        for key in [key for key in list(self.store.index) if key[0] == request.file_id]:
            self.drop(key)
        return Done()

    def drop(self, key: BlockKey) -> None:
        """Removes this node's copy of a block."""
        self.post(BlockDropped(key))
        self.store.write(DroppedEntry(key))

    def _read_entry(self, name: str, call: Call) -> FileEntry | None:
        timeout_s = call.deadline.require(clock.monotonic(), f"file {name!r}")
        return filetable.from_value(self.registers.read(name, timeout_s=timeout_s), name)
