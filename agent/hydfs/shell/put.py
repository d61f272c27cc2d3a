"""Storing a whole file: reserve the name, write its blocks anywhere, make it visible by one change.

A put has no coordinator, because its blocks are not visible before they are complete. The gateway cuts the
stream into blocks, sends each to its replicas (``transfers.outgoing``) and keeps at most ``BUFFERED_BLOCKS``
of them in memory. The last step is one change of the file's register. A put that ends before it leaves
nothing visible, and another put may replace its reservation as soon as its gateway no longer works on it.

Each request may be repeated when its answer was lost. The client draws a key, from which the id of the new
file follows, so that a repeated begin finds the first one. A commit that finds no put reads the file table.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from agent.common.deadline import Deadline
from agent.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    NotFound,
    Overloaded,
    RainStormError,
    Unavailable,
    UsageError,
)
from agent.common.ids import check_file_name
from agent.common.message import Done
from agent.common.shell import clock, threads
from agent.common.shell.pool import Pool
from agent.hydfs.core import filetable
from agent.hydfs.core.block import chain
from agent.hydfs.core.filetable import BlockEntry, Reservation
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.block import AskPut, DropFile, PutLife
from agent.hydfs.shell.filetable import answer, describe
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.transfers.outgoing import Block, Outgoing
from agent.hydfs.shell.view import ViewSource
from agent.wire.codec.framing import Buffer
from agent.wire.endpoint import Call, Endpoint, endpoint
from agent.wire.register.proposer import Registers

logger = logging.getLogger("agent.hydfs.shell.put")

PIECE_BYTES = 1024 * 1024
# Replicas in memory at once in the whole agent: one fills while another is on its way.
BUFFERED_BLOCKS = 3
PUTS_MAX = 32
IDLE_S_MAX = 60.0
CLOSE_TIMEOUT_S = 5.0


@dataclass(slots=True)
class _Put:
    """One put. ``lock`` serialises its pieces; ``ended``, ``requests`` and ``holds_slot`` belong to the
    condition of ``Puts``, so that a put can be aborted while one of its pieces waits.
    """

    name: str
    file_id: str
    touched_at: float
    pieces: list[Buffer] = field(default_factory=list)
    filling: int = 0
    length: int = 0
    crc: int = 0
    blocks: list[threads.Future[BlockEntry]] = field(default_factory=list)
    lock: threads.Lock = field(default_factory=threads.lock)
    requests: int = 0
    ended: bool = False
    holds_slot: bool = False
    # The outcomes of the requests that begin and commit it: each may be repeated when its answer was lost.
    reserved: bool = False
    refused: BaseException | None = None
    committed: messages.FileStat | None = None


class Puts:
    """The puts whose gateway is this agent."""

    def __init__(
        self,
        replicas: Replicas,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        *,
        block_size_bytes: int,
        ack: str,
    ) -> None:
        self._peers = peers
        self._registers = registers
        self._views = views
        self._block_size = block_size_bytes
        self._ack = ack
        self._puts: dict[str, _Put] = {}
        self._changed = threads.condition()
        self._free = BUFFERED_BLOCKS
        # A block that waits for a thread holds a slot, so there are never more blocks than slots.
        self._placers = Pool("hydfs-put", BUFFERED_BLOCKS, BUFFERED_BLOCKS)
        self._outgoing = Outgoing(replicas.choose, peers, views, BUFFERED_BLOCKS)

    def close(self) -> None:
        """Aborts the puts in progress; other gateways and repair find their reservations abandoned."""
        with self._changed:
            puts = list(self._puts.values())
            self._puts.clear()
        for put in puts:
            self._end(put)
        self._placers.stop(drain=False, timeout_s=CLOSE_TIMEOUT_S)
        self._outgoing.stop(CLOSE_TIMEOUT_S)

    @property
    def free_slots(self) -> int:
        """Returns the number of further blocks that may be in memory."""
        return self._free

    def endpoints(self) -> list[Endpoint]:
        """Returns the endpoints for clients and for the gateways of other puts."""
        return [
            endpoint(messages.BeginPut, self._begin),
            endpoint(messages.PutPiece, self._piece),
            endpoint(messages.CommitPut, self._commit),
            endpoint(messages.AbortPut, self._abort),
            endpoint(AskPut, self._life),
        ]

    def is_alive(self, file_id: str) -> bool:
        """Tells whether this agent still works on the put."""
        return file_id in self._puts

    def abandon_idle(self) -> None:
        """Aborts puts whose client has made no request for a while."""
        now = clock.monotonic()
        with self._changed:
            old = [
                file_id
                for file_id, put in self._puts.items()
                if not put.requests and now - put.touched_at > IDLE_S_MAX
            ]
        for file_id in old:
            self._give_up(file_id)

    def _begin(self, request: messages.BeginPut, call: Call) -> messages.PutBegun:
        name = check_file_name(request.name)
        self.abandon_idle()
        file_id = filetable.put_id(name, request.key or threads.unique_id())
        with self._changed:
            if file_id not in self._puts:
                if len(self._puts) >= PUTS_MAX:
                    raise Overloaded(f"{PUTS_MAX} puts are in progress on this node", hint="try again later")
                self._puts[file_id] = _Put(name, file_id, clock.monotonic())
        with self._working(file_id) as put, self._in_turn(put, call.deadline):
            if put.refused is not None:
                raise put.refused
            if not put.reserved:
                self._reserve_once(put, call.deadline)
        return messages.PutBegun(file_id, min(PIECE_BYTES, self._block_size))

    def _reserve_once(self, put: _Put, deadline: Deadline) -> None:
        try:
            self._reserve(put, deadline)
            put.reserved = True
            if put.ended:  # aborted before there was anything to remove
                self._remove(put)
            self._require_under_way(put)
        except BaseException as error:
            put.refused = error
            with self._changed:
                self._puts.pop(put.file_id, None)
            raise

    def _reserve(self, put: _Put, deadline: Deadline) -> None:
        instead_of = ""
        while True:
            change = filetable.create(
                put.name,
                put.file_id,
                self._ack,
                state=filetable.CREATING,
                owner=self._peers.me,
                instead_of=instead_of,
            )
            try:
                timeout_s = deadline.require(clock.monotonic(), f"put of {put.name!r}")
                self._registers.change(put.name, change, timeout_s=timeout_s)
                return
            except AlreadyExists as error:
                other = Reservation.of(error)
                if other is None or other.state != filetable.CREATING or self._lives(other):
                    raise
                instead_of = other.file_id

    def _lives(self, other: Reservation) -> bool:
        if other.owner not in self._views.current().up_names():
            return False
        try:
            return self._peers.ask(other.owner, AskPut(other.file_id), timeout_s=2.0).message.alive
        except RainStormError:
            return True  # it does not answer; the view will show when it is down

    def _life(self, request: AskPut, call: Call) -> PutLife:
        return PutLife(self.is_alive(request.file_id))

    @contextmanager
    def _working(self, file_id: str) -> Iterator[_Put]:
        """Finds the put of a request, which does not count as idle during the request."""
        with self._changed:
            put = self._puts.get(file_id)
            if put is None:
                raise _not_in_progress()
            put.requests += 1
        try:
            yield put
        finally:
            with self._changed:
                put.requests -= 1
                put.touched_at = clock.monotonic()

    @contextmanager
    def _in_turn(self, put: _Put, deadline: Deadline) -> Iterator[None]:
        if not put.lock.acquire(timeout=deadline.remaining(clock.monotonic())):
            raise DeadlineExceeded(f"put of {put.name!r}: its previous request is still in progress")
        try:
            yield
        finally:
            put.lock.release()

    def _piece(self, request: messages.PutPiece, call: Call) -> Done:
        size = len(call.payload)
        if not 0 < size <= PIECE_BYTES:
            raise UsageError(f"a piece of a put has from 1 to {PIECE_BYTES} bytes, not {size}")
        with self._working(request.file_id) as put, self._in_turn(put, call.deadline):
            if request.offset == put.length - size:
                return Done()  # sent twice: the first answer was lost
            if request.offset != put.length:
                raise UsageError(f"put of {put.name!r}: a piece is missing at {put.length}")
            self._check_sent(put)
            data = memoryview(call.payload)
            while data:
                room = self._block_size - put.filling
                self._add(put, data[:room], call.deadline)
                data = data[room:]
        return Done()

    def _add(self, put: _Put, data: memoryview, deadline: Deadline) -> None:
        self._take_slot(put, deadline)
        put.pieces.append(data)
        put.filling += len(data)
        put.length += len(data)
        put.crc = chain(data, put.crc)
        if put.filling == self._block_size:
            self._send(put)

    def _take_slot(self, put: _Put, deadline: Deadline) -> None:
        with self._changed:
            if not put.holds_slot:
                wait_s = deadline.remaining(clock.monotonic())
                if not self._changed.wait_for(lambda: put.ended or self._free > 0, wait_s):
                    raise DeadlineExceeded(f"put of {put.name!r}: the replicas do not keep up")
            self._require_under_way(put)
            if not put.holds_slot:
                self._free -= 1
                put.holds_slot = True

    def _free_slot(self) -> None:
        with self._changed:
            self._free += 1
            assert self._free <= BUFFERED_BLOCKS, "a slot came back twice"
            self._changed.notify_all()

    @staticmethod
    def _require_under_way(put: _Put) -> None:
        if put.ended:
            raise NotFound(f"the put of {put.name!r} was aborted", hint="put the file again")

    def _end(self, put: _Put) -> None:
        """Marks a put as aborted; a piece of it that waits for a slot is refused."""
        with self._changed:
            put.ended = True
            held, put.holds_slot = put.holds_slot, False
            self._changed.notify_all()
        if held:
            self._free_slot()

    def _send(self, put: _Put) -> None:
        """Hands the filled block to a thread that stores it; the slot goes with it."""
        block = Block(put.name, put.file_id, len(put.blocks), tuple(put.pieces), put.filling, put.crc)
        with self._changed:
            self._require_under_way(put)
            put.holds_slot = False
        put.pieces, put.filling, put.crc = [], 0, 0
        try:
            future = self._placers.call(self._place_block, block)
        except RainStormError as error:
            self._free_slot()
            future = threads.future()
            future.set_exception(error)
        put.blocks.append(future)

    def _place_block(self, block: Block) -> BlockEntry:
        try:
            return self._outgoing.place(block)
        finally:
            self._free_slot()

    def _check_sent(self, put: _Put) -> None:
        for future in put.blocks:
            if future.done() and (future.cancelled() or future.exception() is not None):
                self._give_up(put.file_id)
                self._result(put, future, 0.0)

    @staticmethod
    def _result(put: _Put, future: threads.Future[BlockEntry], timeout_s: float) -> BlockEntry:
        try:
            return future.result(timeout_s)
        except TimeoutError:
            raise DeadlineExceeded(f"put of {put.name!r}: the replicas do not keep up") from None
        except threads.CancelledError:
            raise Unavailable(f"put of {put.name!r}: the agent is stopping") from None

    def _commit(self, request: messages.CommitPut, call: Call) -> messages.Described:
        with ExitStack() as stack:
            try:
                put = stack.enter_context(self._working(request.file_id))
            except NotFound:
                return answer(self._committed(request, call.deadline), paged=request.paged)
            stack.enter_context(self._in_turn(put, call.deadline))
            if put.committed is None:
                put.committed = self._commit_once(put, request.length, call.deadline)
            return answer(put.committed, paged=request.paged)

    def _committed(self, request: messages.CommitPut, deadline: Deadline) -> messages.FileStat:
        """Answers the commit of a put that is not in progress: it may have been committed before."""
        if request.name:
            name = check_file_name(request.name)
            value = self._registers.read(
                name, timeout_s=deadline.require(clock.monotonic(), f"put of {name!r}")
            )
            entry = filetable.as_put(name, value, request.file_id, request.length)
            if entry is not None:
                return describe(name, entry, request.length)
        raise _not_in_progress()

    def _commit_once(self, put: _Put, length: int, deadline: Deadline) -> messages.FileStat:
        if length != put.length:
            raise UsageError(f"put of {put.name!r}: {put.length} bytes arrived")
        if put.filling:
            self._send(put)
        try:
            value = self._publish(put, deadline)
        except RainStormError as error:
            if not error.retryable:
                self._give_up(put.file_id)
            raise
        with self._changed:
            self._puts.pop(put.file_id, None)
        entry = filetable.as_put(put.name, value, put.file_id, put.length)
        assert entry is not None, "a put that was published is not in the file table"
        return describe(put.name, entry, put.length)

    def _publish(self, put: _Put, deadline: Deadline) -> object:
        blocks = [self._result(put, future, deadline.remaining(clock.monotonic())) for future in put.blocks]
        assert sum(block.length for block in blocks) == put.length, "a block of the put is missing"
        change = filetable.publish(put.name, put.file_id, blocks)
        timeout_s = deadline.require(clock.monotonic(), f"put of {put.name!r}")
        return self._registers.change(put.name, change, timeout_s=timeout_s)

    def _abort(self, request: messages.AbortPut, call: Call) -> Done:
        self._give_up(request.file_id)
        return Done()

    def _give_up(self, file_id: str) -> None:
        with self._changed:
            put = self._puts.pop(file_id, None)
        if put is None:
            return
        self._end(put)
        self._remove(put)

    def _remove(self, put: _Put) -> None:
        """Removes the reservation of a put, and its blocks, unless it was committed after all."""
        try:
            self._registers.change(put.name, filetable.abandon(put.name, put.file_id), timeout_s=5.0)
        except RainStormError as error:
            logger.warning("put_abort_failed name=%s error=%s", put.name, error)
            return
        for node in self._views.current().up_names():
            self._peers.tell(node, DropFile(put.file_id, put.name))


def _not_in_progress() -> NotFound:
    return NotFound("this put is no longer in progress", hint="put the file again")
