"""What one store agent does for another: records, promises, seals, whole blocks.

Only the cluster's own nodes may call these requests. Everything an append needs passes through the node's
core; whole sealed blocks (puts and repair) go straight to the store.
"""

from __future__ import annotations

import logging
import queue
import threading
import uuid
from typing import Any

from agent.common import clock, errors
from agent.common.errors import (
    Corrupt,
    DeadlineExceeded,
    Fenced,
    Internal,
    NotFound,
    RainStormError,
    StaleView,
    Unavailable,
)
from agent.hydfs import filetable
from agent.hydfs.block import (
    SEALED,
    BlockKey,
    DroppedEntry,
    PromiseEntry,
    RecordEntry,
    SealedEntry,
    record_from_wire,
)
from agent.hydfs.engine import Engine
from agent.hydfs.events import (
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AnswerWrite,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    BlockSealed,
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
from agent.hydfs.node import NodeCore, SealRequested
from agent.hydfs.peers import Peers
from agent.hydfs.ring import Ring, block_token
from agent.hydfs.store import Part, Store
from agent.hydfs.takeover import AskPromise, GiveUp, PromiseFailed, PromiseReceived, Takeover
from agent.hydfs.views import ViewSource, up_nodes
from agent.wire.registers import Registers
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.hydfs.blocks")

Waiter = queue.SimpleQueue[Any]
PARTS_MAX = 64
# A newer view that a caller knows of reaches every agent within a fraction of this.
VIEW_WAIT_S = 0.5


class StoreError(RainStormError):
    """An answer between store agents whose code is not an error a client may see."""


def error_of(code: str, message: str, details: dict[str, Any] | None = None) -> RainStormError:
    """Returns an exception with this code, also for the codes that only store agents use."""
    error = errors.from_wire({"code": code, "message": message, "details": details or {}})
    if error.code != code:
        error = StoreError(message, details={"store_code": code, **(details or {})})
    return error


def code_of(error: RainStormError) -> str:
    """Returns the code that ``error_of`` was given."""
    return str(error.details.get("store_code") or error.code)


class Blocks:
    """The block service of one agent."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        *,
        replicas: int,
        block_size_bytes: int,
        ack_timeout_s: float,
    ) -> None:
        self.store = store
        self.peers = peers
        self.registers = registers
        self.views = views
        self.core = NodeCore(
            peers.me, store.index.values(), block_size_bytes=block_size_bytes, ack_timeout_s=ack_timeout_s
        )
        self.engine: Engine | None = None
        self.on_missing_copies: Any = lambda name: None
        self._replicas = replicas
        self._ack_timeout = ack_timeout_s
        self._process = uuid.uuid4().hex[:12]
        self._opened = 0
        self._locks: dict[str, threading.Lock] = {}
        self._parts: dict[tuple[str, BlockKey], tuple[Part, float]] = {}
        self._lock = threading.Lock()

    def handlers(self) -> dict[str, Handler]:
        """Returns the request handlers."""
        found: dict[str, Handler] = {
            "hydfs.block.append": self._append,
            "hydfs.block.tail": self._tail,
            "hydfs.block.write": self._write,
            "hydfs.block.promise": self._promise,
            "hydfs.block.seal": self._seal,
            "hydfs.block.certify": self._certify,
            "hydfs.block.read": self._read,
            "hydfs.block.store": self._store,
            "hydfs.block.drop": self._drop,
        }
        return {kind: self._only_nodes(handler) for kind, handler in found.items()}

    def post(self, event: Any) -> None:
        """Brings an event into the core."""
        assert self.engine is not None
        self.engine.post(event)

    def execute(self, effect: Any) -> None:
        """Carries out an effect of the core; never blocks."""
        match effect:
            case PersistRecord(key=key, record=record):
                entry = RecordEntry(key, effect.name, effect.session, record, None)
                self.store.submit(
                    entry, effect.data, lambda code: self.post(RecordWritten(key, record.end, code))
                )
            case PersistPromise(key=key, name=name):
                self.store.submit(PromiseEntry(key, name), b"", lambda _: self.post(PromiseWritten(key)))
            case SendWrite(peer=peer):
                self.peers.later(peer, lambda: self._send_write(effect))
            case SealBlock():
                self.peers.later(self.peers.me, lambda: self._seal_own(effect))
            case _:
                effect.token.put(effect)

    def placement(self, file_id: str, number: int, avoid: list[str]) -> list[str]:
        """Returns where a new block goes: distinct nodes, this one first when it is to coordinate.

        With fewer nodes up than copies wanted there are fewer copies, and every answer says how many.
        """
        nodes = up_nodes(self.views.current())
        avoid = [*self.peers.suspects(), *avoid]
        return Ring(nodes).successors(block_token(file_id, number), self._replicas, avoid)

    def seal_in_table(self, effect: SealBlock) -> filetable.FileEntry | None:
        """Makes a block final in the file table and tells its replicas; returns the file, None if gone."""
        file_id, number = effect.key
        for node in effect.failed:
            self.peers.suspect(node)
        change = filetable.seal(
            effect.name, file_id, number, effect.length, effect.crc, effect.holders, effect.writers
        )
        try:
            entry = filetable.from_value(self.registers.change(effect.name, change))
        except NotFound:
            self.post(SealFailed(effect.key, "NOT_FOUND", f"file {effect.name!r} was deleted"))
            return None
        except RainStormError as error:
            self.post(SealFailed(effect.key, error.code, error.message))
            raise
        assert entry is not None
        block = entry.block(number)
        length, crc = (block.length, block.crc) if block is not None else (0, 0)
        logger.info(
            "block_sealed name=%s number=%d length=%d failed=%s",
            effect.name,
            number,
            length,
            ",".join(effect.failed) or "-",
        )
        fields = {"name": effect.name, "file_id": file_id, "number": number, "length": length, "crc": crc}
        self.certify(effect.key, effect.name, length, crc)
        holders = block.replicas if block is not None else effect.holders
        for node in dict.fromkeys((*holders, *effect.holders, *effect.failed)):
            if node != self.peers.me:
                self.peers.tell(node, "hydfs.block.certify", fields)
        if block is not None and len(block.replicas) < self._replicas:
            self.on_missing_copies(effect.name)
        return entry

    def _seal_own(self, effect: SealBlock) -> None:
        try:
            self.seal_in_table(effect)
        except RainStormError as error:
            logger.warning("seal_failed name=%s number=%d error=%s", effect.name, effect.key[1], error)

    def certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        """Makes this node's copy agree with the file table: final, shortened, or dropped."""
        meta = self.store.index.get(key)
        if meta is not None and meta.state == SEALED and (meta.length, meta.crc) == (length, crc):
            self.post(BlockSealed(key, name, length, crc))
            return
        good = length > 0 and meta is not None and meta.length >= length
        if good and self.store.crc_of(key, length) == crc:
            self.post(BlockSealed(key, name, length, crc))
            self.store.write(SealedEntry(key, name, length, crc))
        elif meta is not None:
            self.post(BlockDropped(key))
            self.store.write(DroppedEntry(key))
        else:
            self.post(BlockDropped(key))

    def take_over(self, name: str, entry: filetable.FileEntry, block: filetable.BlockEntry) -> None:
        """Seals a block that somebody else coordinates or coordinated.

        Raises:
            Unavailable: too few replicas answer.
        """
        key = (entry.file_id, block.number)
        takeover = Takeover(
            key, name, block.replicas, entry.ack, entry.sealed_length, timeout_s=self._ack_timeout
        )
        inbox: Waiter = queue.SimpleQueue()
        effects = takeover.start(clock.monotonic())
        while True:
            for effect in effects:
                match effect:
                    case AskPromise(peer=peer):
                        self._ask_later(peer, key, name, inbox)
                    case SealBlock():
                        self.seal_in_table(effect)
                        return
                    case GiveUp(code=code, message=message):
                        raise error_of(code, message)
            deadline = takeover.next_deadline()
            assert deadline is not None
            try:
                event = inbox.get(timeout=max(0.0, deadline - clock.monotonic()))
            except queue.Empty:
                event = None
            effects = takeover.handle(clock.monotonic(), event)

    def _only_nodes(self, handler: Handler) -> Handler:
        def checked(request: Request) -> Reply:
            if request.peer not in self.peers.names:
                raise Fenced(f"{request.type} is for the cluster's nodes only, not for {request.peer!r}")
            return handler(request)

        return checked

    def _send_write(self, effect: SendWrite) -> None:
        code = ""
        try:
            self.peers.call(
                effect.peer,
                "hydfs.block.write",
                {
                    "file_id": effect.key[0],
                    "number": effect.key[1],
                    "name": effect.name,
                    "session": effect.session,
                    "record": effect.record.to_wire(),
                },
                effect.data,
                timeout_s=self._ack_timeout,
            )
        except RainStormError as error:
            code = code_of(error)
            self.peers.suspect(effect.peer, code)
        self.post(WriteAnswered(effect.peer, effect.key, effect.record.end, code))

    def _ask_later(self, peer: str, key: BlockKey, name: str, inbox: Waiter) -> None:
        self.peers.later(peer, lambda: inbox.put(self._ask_promise(peer, key, name)))

    def _ask_promise(self, peer: str, key: BlockKey, name: str) -> PromiseReceived | PromiseFailed:
        fields = {"file_id": key[0], "number": key[1], "name": name}
        try:
            found = self.peers.call(peer, "hydfs.block.promise", fields, timeout_s=self._ack_timeout).fields
        except RainStormError:
            return PromiseFailed(peer)
        writers = {writer: (mark[0], mark[1], mark[2]) for writer, mark in found["writers"].items()}
        return PromiseReceived(peer, found["length"], found["crc"], writers, found["doubtful"])

    def _wait(self, waiter: Waiter, request: Request, what: str) -> Any:
        try:
            answer = waiter.get(timeout=request.deadline.remaining(clock.monotonic()))
        except queue.Empty:
            raise DeadlineExceeded(f"{what}: no answer in time") from None
        if isinstance(answer, Refuse):
            raise error_of(answer.code, answer.message, answer.details)
        return answer

    def _append(self, request: Request) -> Reply:
        fields = request.fields
        file_id, number = str(fields["file_id"]), fields["number"]
        extra: dict[str, Any] = {}
        if number is None or not self.core.coordinates((file_id, number)):
            # The first append of another client may be opening the very same block just now.
            with self._file_lock(file_id):
                if number is None:
                    number, extra["value"] = self._open(request)
        waiter: Waiter = queue.SimpleQueue()
        self.post(
            AppendRequested(
                waiter,
                (file_id, int(number)),
                str(fields["writer"]),
                int(fields["sequence"]),
                fields["if_offset"],
                request.payload,
            )
        )
        answer = self._wait(waiter, request, f"append to {fields['name']!r}")
        assert isinstance(answer, AnswerAppend)
        return Reply(
            {
                "offset": answer.offset,
                "length": answer.length,
                "copies": answer.copies,
                "duplicate": answer.duplicate,
                **extra,
            }
        )

    def _file_lock(self, file_id: str) -> threading.Lock:
        with self._lock:
            if len(self._locks) > 4096:
                self._locks = {key: lock for key, lock in self._locks.items() if lock.locked()}
            return self._locks.setdefault(file_id, threading.Lock())

    def _open(self, request: Request) -> tuple[int, Any]:
        fields = request.fields
        name, file_id = str(fields["name"]), str(fields["file_id"])
        if not self.views.reach(int(fields["view"]), VIEW_WAIT_S):
            raise StaleView(f"{self.peers.me} has not learned view {fields['view']} yet", hint="try again")
        order = self.placement(file_id, int(fields["next"]), list(fields["avoid"]))
        replicas = [self.peers.me, *[node for node in order if node != self.peers.me]][: len(order)]
        if not replicas:
            raise Unavailable("the cluster view names no node that is up", hint="fab status")
        with self._lock:
            self._opened += 1
            session = f"{self.peers.me}/{self._process}/{self._opened}"
        view = int(self.views.current()["version"])
        value = self.registers.change(
            name,
            filetable.open_next(name, file_id, replicas, view, session),
            timeout_s=request.deadline.remaining(clock.monotonic()),
        )
        entry = filetable.from_value(value)
        block = entry.open_block if entry is not None else None
        assert entry is not None
        assert block is not None
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
                    dict(entry.writers or {}),
                    view,
                )
            )
        return block.number, value

    def _tail(self, request: Request) -> Reply:
        waiter: Waiter = queue.SimpleQueue()
        key = (str(request.fields["file_id"]), int(request.fields["number"]))
        if not self.core.coordinates(key):
            with self._file_lock(key[0]):
                pass  # an opening under way ends first
        self.post(TailRequested(waiter, key))
        answer = self._wait(waiter, request, "tail")
        assert isinstance(answer, AnswerTail)
        return Reply({"length": answer.length})

    def _write(self, request: Request) -> Reply:
        fields = request.fields
        waiter: Waiter = queue.SimpleQueue()
        self.post(
            WriteReceived(
                waiter,
                (str(fields["file_id"]), int(fields["number"])),
                str(fields["name"]),
                str(fields["session"]),
                record_from_wire(fields["record"]),
                request.payload,
            )
        )
        answer = self._wait(waiter, request, "record")
        assert isinstance(answer, AnswerWrite)
        if answer.code:
            raise error_of(answer.code, answer.message)
        return Reply()

    def _promise(self, request: Request) -> Reply:
        fields = request.fields
        waiter: Waiter = queue.SimpleQueue()
        key = (str(fields["file_id"]), int(fields["number"]))
        self.post(PromiseRequested(waiter, key, str(fields["name"])))
        answer = self._wait(waiter, request, "promise")
        assert isinstance(answer, AnswerPromise)
        return Reply(
            {
                "length": answer.length,
                "crc": answer.crc,
                "writers": {writer: list(mark) for writer, mark in answer.writers.items()},
                "doubtful": answer.doubtful,
            }
        )

    def _seal(self, request: Request) -> Reply:
        name, number = str(request.fields["name"]), int(request.fields["number"])
        file_id = str(request.fields["file_id"])
        entry = filetable.from_value(self.registers.read(name))
        block = entry.open_block if entry is not None and entry.file_id == file_id else None
        if entry is not None and block is not None and block.number == number:
            self.take_over(name, entry, block)
        return Reply()

    def _certify(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        self.certify(key, str(fields["name"]), int(fields["length"]), int(fields["crc"]))
        return Reply()

    def _read(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        try:
            return Reply(payload=self.store.slice(key, int(fields["offset"]), int(fields["length"])))
        except Corrupt:
            self.post(BlockDropped(key))
            self.on_missing_copies(str(fields.get("name", "")))
            raise

    def _store(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        offset, name = int(fields["offset"]), str(fields["name"])
        slot = (str(fields["sender"]), key)
        with self._lock:
            part, _ = self._parts.pop(slot, (None, 0.0))
        if offset == 0:
            if part is not None:
                part.abandon()
            self._abandon_old_parts()
            part = self.store.receive(key)
        if part is None or part.length != offset:
            if part is not None:
                part.abandon()
            raise Fenced(f"block {key[1]} of {name!r}: a piece is missing before {offset}")
        part.write(request.payload)
        if fields["last"]:
            part.finish(name, int(fields["length"]), int(fields["crc"]))
            self.post(BlockSealed(key, name, part.length, part.crc))
        else:
            with self._lock:
                self._parts[slot] = (part, clock.monotonic())
        return Reply()

    def _abandon_old_parts(self) -> None:
        now = clock.monotonic()
        with self._lock:
            old = [slot for slot, (_, at) in self._parts.items() if now - at > 60.0]
            parts = [self._parts.pop(slot)[0] for slot in old]
            full = len(self._parts) >= PARTS_MAX
        for part in parts:
            part.abandon()
        if full:
            raise Unavailable(f"{PARTS_MAX} blocks are on their way to this node already")

    def close(self) -> None:
        """Gives up the blocks that are on their way in."""
        with self._lock:
            parts = [part for part, _ in self._parts.values()]
            self._parts.clear()
        for part in parts:
            part.abandon()

    def _drop(self, request: Request) -> Reply:
        """Drops the copies of a file that the table no longer knows under this id."""
        name, file_id = str(request.fields["name"]), str(request.fields["file_id"])
        entry = filetable.from_value(self.registers.read(name))
        if entry is not None and entry.file_id == file_id and entry.state != filetable.DELETED:
            raise Internal(f"file {name!r} is not deleted")
        for key in [key for key in list(self.store.index) if key[0] == file_id]:
            self.post(BlockDropped(key))
            self.store.write(DroppedEntry(key))
        return Reply()


__all__ = ["Blocks", "SealRequested", "code_of", "error_of"]
