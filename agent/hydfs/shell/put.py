"""Storing a whole file: reserve the name, write its blocks anywhere, make it visible by one change.

A put has no coordinator: nobody sees its blocks before they are whole, so the gateway cuts the stream into
blocks, sends each to its replicas in parallel (pieces of 1 MiB, one flush at the end) and keeps at most
``BUFFERED_BLOCKS`` of them in memory. When a replica fails, the block goes to other nodes. The last step is
one change of the file's register; a put that ends before it leaves nothing visible, and its reservation can
be taken over as soon as its gateway no longer knows it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import (
    AlreadyExists,
    DeadlineExceeded,
    DiskFull,
    NotFound,
    Overloaded,
    RainStormError,
    Unavailable,
    UsageError,
)
from agent.common.ids import check_file_name
from agent.common.shell import clock
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED, chain
from agent.hydfs.core.errors import code_of
from agent.hydfs.core.filetable import BlockEntry
from agent.hydfs.shell.filetable import describe
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Blocks
from agent.hydfs.shell.view import ViewSource, up_nodes
from agent.wire.codec.framing import Buffer
from agent.wire.register.proposer import Registers
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.hydfs.shell.put")

PIECE_BYTES = 1024 * 1024
# Blocks in memory at once in the whole agent: one fills while another is on its way.
BUFFERED_BLOCKS = 3
PUTS_MAX = 32
IDLE_S_MAX = 60.0
BLOCK_TIMEOUT_S = 20.0
TRIES_MAX = 4


@dataclass(slots=True)
class _Put:
    name: str
    file_id: str
    touched_at: float
    pieces: list[Buffer] = field(default_factory=list)
    filling: int = 0
    length: int = 0
    crc: int = 0
    holds_slot: bool = False
    blocks: list[Future[BlockEntry]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Puts:
    """The puts that this agent is the gateway of."""

    def __init__(
        self,
        blocks: Blocks,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        *,
        block_size_bytes: int,
        ack: str,
    ) -> None:
        self._blocks = blocks
        self._peers = peers
        self._registers = registers
        self._views = views
        self._block_size = block_size_bytes
        self._ack = ack
        self._puts: dict[str, _Put] = {}
        self._lock = threading.Lock()
        self._slots = threading.BoundedSemaphore(BUFFERED_BLOCKS)

    def handlers(self) -> dict[str, Handler]:
        """Returns the request handlers."""
        return {
            "hydfs.put_begin": self._begin,
            "hydfs.put_piece": self._piece,
            "hydfs.put_commit": self._commit,
            "hydfs.put_abort": self._abort,
            "hydfs.put_alive": self._alive,
        }

    def is_alive(self, file_id: str) -> bool:
        """Tells whether this agent still works on the put."""
        return file_id in self._puts

    def abandon_idle(self) -> None:
        """Gives up puts whose client has not been heard of for a while."""
        now = clock.monotonic()
        with self._lock:
            old = [file_id for file_id, put in self._puts.items() if now - put.touched_at > IDLE_S_MAX]
        for file_id in old:
            self._give_up(file_id)

    def _begin(self, request: Request) -> Reply:
        name = check_file_name(str(request.fields["name"]))
        self.abandon_idle()
        put = _Put(name, uuid.uuid4().hex, clock.monotonic())
        with self._lock:
            if len(self._puts) >= PUTS_MAX:
                raise Overloaded(f"{PUTS_MAX} puts are under way on this node", hint="try again later")
            self._puts[put.file_id] = put
        try:
            self._reserve(put, request.deadline)
        except BaseException:
            with self._lock:
                self._puts.pop(put.file_id, None)
            raise
        return Reply({"file_id": put.file_id, "piece_bytes": min(PIECE_BYTES, self._block_size)})

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
                details = error.details
                if details.get("state") != filetable.CREATING or self._other_lives(
                    str(details["owner"]), str(details["file_id"])
                ):
                    raise
                instead_of = str(details["file_id"])

    def _other_lives(self, owner: str, file_id: str) -> bool:
        if owner not in up_nodes(self._views.current()):
            return False
        try:
            found = self._peers.call(owner, "hydfs.put_alive", {"file_id": file_id}, timeout_s=2.0)
            return bool(found.fields["alive"])
        except RainStormError:
            return True  # it cannot be asked: the view will tell when it is down

    def _alive(self, request: Request) -> Reply:
        return Reply({"alive": self.is_alive(str(request.fields["file_id"]))})

    def _find(self, request: Request) -> _Put:
        put = self._puts.get(str(request.fields["file_id"]))
        if put is None:
            raise NotFound("this put is not under way any more", hint="put the file again")
        put.touched_at = clock.monotonic()
        return put

    def _piece(self, request: Request) -> Reply:
        put = self._find(request)
        with put.lock:
            offset = int(request.fields["offset"])
            if offset == put.length - len(request.payload):
                return Reply()  # sent twice: the first answer was lost
            if offset != put.length:
                raise UsageError(f"put of {put.name!r}: a piece is missing at {put.length}")
            self._check_sent(put)
            data = memoryview(request.payload)
            while data:
                room = self._block_size - put.filling
                self._add(put, data[:room], request.deadline)
                data = data[room:]
        return Reply()

    def _add(self, put: _Put, data: memoryview, deadline: Deadline) -> None:
        if not put.holds_slot:
            if not self._slots.acquire(timeout=deadline.remaining(clock.monotonic())):
                raise DeadlineExceeded(f"put of {put.name!r}: the replicas do not keep up")
            put.holds_slot = True
        put.pieces.append(data)
        put.filling += len(data)
        put.length += len(data)
        put.crc = chain(data, put.crc)
        if put.filling == self._block_size:
            self._send(put)

    def _send(self, put: _Put) -> None:
        pieces, length, crc, number = put.pieces, put.filling, put.crc, len(put.blocks)
        put.pieces, put.filling, put.crc, put.holds_slot = [], 0, 0, False
        future: Future[BlockEntry] = Future()
        put.blocks.append(future)

        def work() -> None:
            try:
                future.set_result(self._place(put, number, pieces, length, crc))
            except BaseException as error:
                future.set_exception(error)
            finally:
                pieces.clear()
                self._slots.release()

        threading.Thread(target=work, name=f"hydfs-put-{number}", daemon=True).start()

    def _place(self, put: _Put, number: int, pieces: list[Buffer], length: int, crc: int) -> BlockEntry:
        avoid: list[str] = []
        error: RainStormError = Unavailable("the cluster view names no node that is up", hint="fab status")
        for _ in range(TRIES_MAX):
            replicas = self._blocks.placement(put.file_id, number, avoid)
            failures = self._store(put, number, replicas, pieces, length, crc)
            if replicas and not failures:
                view = int(self._views.current()["version"])
                return BlockEntry(number, tuple(replicas), view, SEALED, length, crc, "")
            for node, error in failures.items():
                avoid.append(node)
                self._peers.suspect(node, code_of(error))
            if set(up_nodes(self._views.current())) <= set(avoid) and isinstance(error, DiskFull):
                break
        raise error

    def _store(
        self, put: _Put, number: int, replicas: list[str], pieces: list[Buffer], length: int, crc: int
    ) -> dict[str, RainStormError]:
        failures: dict[str, RainStormError] = {}

        def send(node: str) -> None:
            try:
                self._send_pieces(node, put, number, pieces, length, crc)
            except RainStormError as error:
                failures[node] = error

        threads = [
            threading.Thread(target=send, args=(node,), name=f"hydfs-put-to-{node}", daemon=True)
            for node in replicas[1:]
        ]
        for thread in threads:
            thread.start()
        for node in replicas[:1]:
            send(node)
        for thread in threads:
            thread.join()
        return {node: failures[node] for node in replicas if node in failures}

    def _send_pieces(
        self, node: str, put: _Put, number: int, pieces: list[Buffer], length: int, crc: int
    ) -> None:
        offset = 0
        for piece in pieces:
            end = offset + len(piece)
            fields: dict[str, Any] = {
                "name": put.name,
                "file_id": put.file_id,
                "number": number,
                "sender": self._peers.me,
                "offset": offset,
                "last": end == length,
                "length": length,
                "crc": crc,
            }
            self._peers.call(node, "hydfs.block.store", fields, piece, timeout_s=BLOCK_TIMEOUT_S)
            offset = end

    def _check_sent(self, put: _Put) -> None:
        for future in put.blocks:
            if future.done() and future.exception() is not None:
                self._give_up(put.file_id)
                future.result()

    def _commit(self, request: Request) -> Reply:
        put = self._find(request)
        with put.lock:
            if int(request.fields["length"]) != put.length:
                raise UsageError(f"put of {put.name!r}: {put.length} bytes arrived")
            if put.filling:
                self._send(put)
            try:
                blocks = [
                    future.result(request.deadline.remaining(clock.monotonic())) for future in put.blocks
                ]
                value = self._registers.change(
                    put.name,
                    filetable.publish(put.name, put.file_id, blocks),
                    timeout_s=request.deadline.require(clock.monotonic(), f"put of {put.name!r}"),
                )
            except TimeoutError:
                raise DeadlineExceeded(f"put of {put.name!r}: the replicas do not keep up") from None
            except RainStormError as error:
                if not error.retryable:
                    self._give_up(put.file_id)
                raise
        with self._lock:
            self._puts.pop(put.file_id, None)
        return Reply({"stat": describe(put.name, filetable.live(put.name, value), put.length)})

    def _abort(self, request: Request) -> Reply:
        self._give_up(str(request.fields["file_id"]))
        return Reply()

    def _give_up(self, file_id: str) -> None:
        with self._lock:
            put = self._puts.pop(file_id, None)
        if put is None:
            return
        if put.holds_slot:
            put.holds_slot = False
            put.pieces.clear()
            self._slots.release()
        try:
            self._registers.change(put.name, filetable.remove(put.name, put.file_id), timeout_s=5.0)
        except RainStormError as error:
            logger.warning("put_abort_failed name=%s error=%s", put.name, error)
            return
        for node in up_nodes(self._views.current()):
            self._peers.tell(node, "hydfs.block.drop", {"name": put.name, "file_id": put.file_id})
