"""What one store agent does for another: records, promises, seals, whole blocks.

Only the cluster's own nodes may call these requests. Everything an append needs passes through the node's
core; whole sealed blocks (puts and repair) go straight to the store.
"""

from __future__ import annotations

import logging
from typing import Any

from agent.common.errors import (
    Corrupt,
    Fenced,
    Internal,
    RainStormError,
    StaleView,
    Unavailable,
)
from agent.common.shell import clock, threads
from agent.common.shell.worker import Pool
from agent.hydfs.core import filetable
from agent.hydfs.core.block import (
    DroppedEntry,
    PromiseEntry,
    RecordEntry,
    record_from_wire,
)
from agent.hydfs.core.errors import code_of, error_of
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AnswerWrite,
    AppendRequested,
    BlockDropped,
    BlockOpened,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    SealBlock,
    SealFailed,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.node import NodeCore
from agent.hydfs.core.ring import block_token, ring_of
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.node import Engine
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.takeover import Sealing
from agent.hydfs.shell.transfers import Incoming
from agent.hydfs.shell.view import ViewSource, up_nodes
from agent.hydfs.shell.waiting.filelocks import FileLocks
from agent.hydfs.shell.waiting.waiter import Waiter, Waiters
from agent.wire.register.proposer import Registers
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.hydfs.shell.replica")

# A newer view that a caller knows of reaches every agent within a fraction of this.
VIEW_WAIT_S = 0.5
# Each seal is a change of the file table, so most of the time is spent waiting for the voters.
SEAL_THREADS = 4
# Seals that wait: after the loss of a node each block that it held is sealed.
SEALS_MAX = 1024
# A seal under way ends with the change of the file table.
CLOSE_TIMEOUT_S = 5.0


class Blocks:
    """The block service of one agent."""

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
        self.sealing = Sealing(
            store, peers, registers, self.post, replicas=replicas, ack_timeout_s=ack_timeout_s
        )
        self.incoming = Incoming(store, self.post)
        self._replicas = replicas
        self._ack_timeout = ack_timeout_s
        self._process = threads.unique_id()[:12]
        self._opened = 0
        # The first append to a file without an open block opens one; others to the same file wait for that.
        self._opening = FileLocks()
        self._waiters = Waiters()
        self._seals = Pool("hydfs-seal", SEAL_THREADS, SEALS_MAX)
        self._lock = threads.lock()

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
            "hydfs.block.store": self.incoming.take,
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
                promise = PromiseEntry(key, name)
                self.store.submit(promise, b"", lambda code: self.post(PromiseWritten(key, code)))
            case SendWrite(peer=peer):
                if not self.peers.later(peer, lambda: self._send_write(effect)):
                    self.post(WriteAnswered(peer, effect.key, effect.record.end, "OVERLOADED"))
            case SealBlock():
                try:
                    self._seals.run(self._seal_own, effect)
                except RainStormError as error:
                    self.post(SealFailed(effect.key, error.code, error.message))
            case _:
                effect.token.put(effect)

    def placement(self, file_id: str, number: int, avoid: list[str]) -> list[str]:
        """Returns where a new block goes: distinct nodes, this one first when it is to coordinate.

        With fewer stores up than copies wanted there are fewer copies, and every answer says how many.
        """
        nodes = up_nodes(self.views.current())
        avoid = [*self.peers.suspects(), *avoid]
        # The view keeps a machine that lives while its store is down; membership's gossip knows better.
        shunned = [node for node in nodes if node in avoid]
        gone = self.views.storeless(shunned) if shunned else []
        ring = ring_of(tuple(nodes))
        return ring.successors(block_token(file_id, number), self._replicas, avoid, gone)

    def refuse_waiters(self) -> None:
        """Refuses requests that wait for the core: it has stopped."""
        self._waiters.refuse_all()

    def close(self) -> None:
        """Gives up the seals that wait and the blocks on their way in."""
        self._seals.stop(drain=False, timeout_s=CLOSE_TIMEOUT_S)
        self.incoming.close()

    def _seal_own(self, effect: SealBlock) -> None:
        try:
            self.sealing.seal_in_table(effect)
        except RainStormError as error:
            logger.warning("seal_failed name=%s number=%d error=%s", effect.name, effect.key[1], error)
        except Exception as error:
            # Those who wait for the next block must hear of it, whatever went wrong; the pool logs it.
            self.post(SealFailed(effect.key, "INTERNAL", f"sealing failed: {error!r}"))
            raise

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

    def _ask(self, event: Any, request: Request, what: str) -> Any:
        """Brings in an event whose token is a ``Waiter`` and returns the core's answer."""
        return self._waiters.ask(event.token, lambda: self.post(event), request.deadline, what)

    def _append(self, request: Request) -> Reply:
        fields = request.fields
        file_id, number = str(fields["file_id"]), fields["number"]
        extra: dict[str, Any] = {}
        if number is None or not self.core.coordinates((file_id, number)):
            # The first append of another client may be opening the very same block just now.
            with self._opening.hold(file_id, request.deadline, f"append to {fields['name']!r}"):
                if number is None:
                    number, extra["value"] = self._open(request)
        event = AppendRequested(
            Waiter(),
            (file_id, int(number)),
            str(fields["writer"]),
            int(fields["sequence"]),
            fields["if_offset"],
            request.payload,
        )
        answer = self._ask(event, request, f"append to {fields['name']!r}")
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
            if len(block.replicas) < self._replicas:
                self.sealing.on_missing_copies(name)
        return block.number, value

    def _tail(self, request: Request) -> Reply:
        key = (str(request.fields["file_id"]), int(request.fields["number"]))
        if not self.core.coordinates(key):
            with self._opening.hold(key[0], request.deadline, "tail"):
                pass  # an opening under way ends first
        answer = self._ask(TailRequested(Waiter(), key), request, "tail")
        assert isinstance(answer, AnswerTail)
        return Reply({"length": answer.length})

    def _write(self, request: Request) -> Reply:
        fields = request.fields
        event = WriteReceived(
            Waiter(),
            (str(fields["file_id"]), int(fields["number"])),
            str(fields["name"]),
            str(fields["session"]),
            record_from_wire(fields["record"]),
            request.payload,
        )
        answer = self._ask(event, request, "record")
        assert isinstance(answer, AnswerWrite)
        if answer.code:
            raise error_of(answer.code, answer.message)
        return Reply()

    def _promise(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        if key not in self.store.index:
            self._new_disk.refuse_unknown(str(fields["name"]), key[1])
        answer = self._ask(PromiseRequested(Waiter(), key, str(fields["name"])), request, "promise")
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
            self.sealing.take_over(name, entry, block)
        return Reply()

    def _certify(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        self.sealing.certify(key, str(fields["name"]), int(fields["length"]), int(fields["crc"]))
        return Reply()

    def _read(self, request: Request) -> Reply:
        fields = request.fields
        key = (str(fields["file_id"]), int(fields["number"]))
        try:
            return Reply(payload=self.store.slice(key, int(fields["offset"]), int(fields["length"])))
        except Corrupt:
            self.post(BlockDropped(key))
            self.sealing.on_missing_copies(str(fields.get("name", "")))
            raise

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
