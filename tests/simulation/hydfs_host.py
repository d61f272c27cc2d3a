"""A store agent on a simulated node: ``NodeCore``, ``Takeover``, ``repair``, the journal format and a voter.

The shell around them has no thread; every message may be lost, doubled or overtaken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from agent.common import message
from agent.common.core import Tick
from agent.common.errors import DiskFull, RainStormError
from agent.common.register import (
    Accept,
    Prepare,
    Read,
    VoterRequest,
)
from agent.hydfs.core import filetable
from agent.hydfs.core.block import (
    OPEN,
    BlockKey,
    PromiseEntry,
    Record,
    RecordEntry,
    chain,
)
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerPromise,
    AnswerTail,
    AnswerWrite,
    AppendRequested,
    BlockOpened,
    BlockSealed,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    SealBlock,
    SendWrite,
    TailRequested,
    WriteAnswered,
    WriteReceived,
)
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.core.node import NodeCore
from agent.hydfs.core.ring import block_token, ring_of
from tests.simulation.hydfs_disk import Bugs, StoreDisk
from tests.simulation.hydfs_rpc import (
    ACK_TIMEOUT_S,
    BLOCK_BYTES,
    REPLICAS,
    Caller,
    Fields,
    Reply,
    ballot,
    ignore,
)
from tests.simulation.hydfs_sealing import Sealing
from tests.simulation.hydfs_tender import Tender
from tests.simulation.voter import Voter
from tests.simulation.world import Node


class StoreHost(Caller):
    """One node of the store."""

    def __init__(self, node: Node, names: Sequence[str], bugs: Bugs) -> None:
        super().__init__(node, names)
        self.names = list(names)
        self.bugs = bugs
        self.disk = StoreDisk(node, bugs)
        self.voter = Voter(node)
        self.sealing = Sealing(self)
        self.index, self.data = self.disk.index, self.disk.data
        self._opened = 0
        self._opening: dict[str, list[Callable[[], None]]] = {}
        self.core = NodeCore(
            node.name, self.index.values(), block_size_bytes=BLOCK_BYTES, ack_timeout_s=ACK_TIMEOUT_S
        )
        Tender(self)

    def next_deadline(self) -> float | None:
        return self.core.next_deadline()

    def on_timer(self, now: float) -> None:
        self.post(Tick())

    def on_unreachable(self, now: float, target: str) -> None:
        raise AssertionError("the store sends datagrams only")

    def check_invariants(self) -> None:
        self.core.check_invariants()

    def post(self, event: Any) -> None:
        for effect in self.core.handle(self.node.now, event):
            self._execute(effect)
        if self.bugs.forget_dropped:
            self.core.replica._gone.clear()

    def serve(self, kind: str, fields: Fields, payload: bytes, reply: Reply) -> None:
        getattr(self, f"_serve_{kind}")(fields, payload, reply)

    def _execute(self, effect: Any) -> None:
        match effect:
            case PersistRecord(key=key, record=record):
                entry = RecordEntry(key, effect.name, effect.session, record, bytes(effect.data))
                self.disk.persist(entry, lambda code: self.post(RecordWritten(key, record.end, code)))
            case PersistPromise(key=key, name=name):
                if self.bugs.forget_promise:
                    self.node.after(0.0, lambda: self._pretend_promise(key))
                else:
                    self.disk.persist(PromiseEntry(key, name), lambda code: self._promise_written(key, code))
            case SendWrite(peer=peer):
                self._send_write(peer, effect)
            case SealBlock():
                self.sealing.seal_in_table(effect, lambda error: None)
            case _:
                effect.token(effect)

    def _promise_written(self, key: BlockKey, code: str) -> None:
        self.post(PromiseWritten(key, "" if self.bugs.count_refused_promise else code))

    def _pretend_promise(self, key: BlockKey) -> None:
        self.post(PromiseWritten(key))
        copy = self.core.replica._copies.get(key)
        if copy is not None:
            copy.state, copy.durable_promise = OPEN, False

    def _send_write(self, peer: str, effect: SendWrite) -> None:
        fields = {
            "key": list(effect.key),
            "name": effect.name,
            "session": effect.session,
            "record": msgspec.to_builtins(effect.record),
        }

        def answered(code: str, fields: Fields, payload: bytes) -> None:
            self.post(WriteAnswered(peer, effect.key, effect.record.end, code))

        done: Reply = answered
        if self.bugs.ack_early:
            self.node.after(0.0, lambda: answered("", {}, b""))
            done = ignore
        self.call(peer, "write", fields, bytes(effect.data), ACK_TIMEOUT_S, done)

    def _serve_voter(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        key = fields["key"]
        request: VoterRequest = Read(key)
        if fields["ask"] == "Prepare":
            request = Prepare(key, ballot(fields["ballot"]))
        elif fields["ask"] == "Accept":
            request = Accept(key, ballot(fields["ballot"]), fields["value"])
        try:
            found = self.voter.apply(request)
        except DiskFull as error:
            reply(error.code, {}, b"")
            return
        body = {"promised": found.promised, "accepted": found.accepted, "value": found.value}
        reply("", {"ok": found.voted, **body}, b"")

    def _serve_append(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        file_id = fields["file_id"]

        def go(number: int) -> None:
            def answered(effect: Any) -> None:
                match effect:
                    case AnswerAppend():
                        self._check_copies((file_id, number), effect)
                        body = {"offset": effect.offset, "duplicate": effect.duplicate}
                        reply("", body, b"")
                    case Refuse(code=code, details=details):
                        reply(code, {} if details is None else message.encode(details), b"")

            self.post(
                AppendRequested(
                    answered,
                    (file_id, number),
                    fields["writer"],
                    fields["sequence"],
                    fields["if_offset"],
                    payload,
                )
            )

        if fields["number"] is not None:
            self._after_opening(file_id, lambda: go(fields["number"]))
        else:
            self._after_opening(file_id, lambda: self._open(fields, reply, go))

    def _check_copies(self, key: BlockKey, done: AnswerAppend) -> None:
        """H1 in the moment of the answer: so many copies are durable as were asked for.

        What a node that is down has is not looked at.
        """
        coordinator = self.core.coordinators.get(key)
        if coordinator is None or done.duplicate:
            return
        opened = coordinator.opened
        end = done.offset - opened.base + done.length
        hosts = [self.node.world.nodes[name].host for name in opened.replicas]
        short = [h for h in hosts if isinstance(h, StoreHost) and len(h.data.get(key, b"")) < end]
        needed = filetable.needed_acks(opened.ack, len(hosts))
        assert len(hosts) - len(short) >= needed, (
            f"H1: acknowledged with ack={opened.ack} up to {end} of {key}, but not on "
            f"{', '.join(host.node.name for host in short)}"
        )

    def _after_opening(self, file_id: str, action: Callable[[], None]) -> None:
        if file_id in self._opening:
            self._opening[file_id].append(action)
        else:
            action()

    def _open(self, fields: Fields, reply: Reply, go: Callable[[int], None]) -> None:
        name, file_id = fields["name"], fields["file_id"]
        self._opening[file_id] = []
        self._opened += 1
        me = self.node.name
        session = f"{me}/{self.node.generation}/{self._opened}"
        order = ring_of(tuple(self.names)).successors(
            block_token(file_id, fields["next"]), REPLICAS, fields["avoid"]
        )
        replicas = [me, *[node for node in order if node != me]][:REPLICAS]

        def settled(entry: FileEntry | None, error: RainStormError | None) -> None:
            waiting = self._opening.pop(file_id)
            block = entry.open_block if entry is not None and error is None else None
            if entry is None or block is None:
                reply(error.code if error is not None else "NOT_FOUND", {}, b"")
            else:
                if block.session == session:
                    writers = {} if self.bugs.forget_writers else dict(entry.writers or {})
                    key = (file_id, block.number)
                    self.post(
                        BlockOpened(
                            key, name, session, block.replicas, entry.ack, entry.sealed_length, writers, 0
                        )
                    )
                go(block.number)
            for action in waiting:
                self._after_opening(file_id, action)

        self.change(name, filetable.open_next(name, file_id, replicas, 0, session), settled)

    def _serve_tail(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        def answered(effect: Any) -> None:
            match effect:
                case AnswerTail(length=length):
                    reply("", {"length": length}, b"")
                case Refuse(code=code):
                    reply(code, {}, b"")

        key = (fields["file_id"], fields["number"])
        self._after_opening(key[0], lambda: self.post(TailRequested(answered, key)))

    def _serve_write(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        def answered(effect: AnswerWrite) -> None:
            reply(effect.code, {}, b"")

        record = msgspec.convert(fields["record"], Record)
        self.post(WriteReceived(answered, _key(fields), fields["name"], fields["session"], record, payload))

    def _serve_promise(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        def answered(effect: AnswerPromise | Refuse) -> None:
            if isinstance(effect, Refuse):
                reply(effect.code, {}, b"")
                return
            body = {
                "length": effect.length,
                "crc": effect.crc,
                "writers": {writer: list(mark) for writer, mark in effect.writers.items()},
                "doubtful": effect.doubtful,
            }
            reply("", body, b"")

        self.post(PromiseRequested(answered, _key(fields), fields["name"]))

    def _serve_seal(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        def settled(entry: FileEntry | None, error: RainStormError | None) -> None:
            if entry is None or error is not None:
                reply(error.code if error is not None else "NOT_FOUND", {}, b"")
            elif entry.open_block is None or entry.open_block.number != fields["number"]:
                reply("", {}, b"")
            else:
                self.sealing.take_over(
                    fields["name"], entry, fields["number"], lambda code: reply(code, {}, b"")
                )

        self.read(fields["name"], settled)

    def _serve_certify(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        self.sealing.certify(_key(fields), fields["name"], fields["length"], fields["crc"])
        reply("", {}, b"")

    def _serve_read(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        meta = self.index.get(_key(fields))
        if meta is None or meta.length < fields["length"]:
            reply("NOT_FOUND", {}, b"")
        else:
            reply("", {}, bytes(self.data[meta.key][: fields["length"]]))

    def _serve_store(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        key = _key(fields)
        if chain(payload, 0) != fields["crc"]:
            reply("CORRUPT", {}, b"")
            return
        self.adopt(key, fields["name"], payload, fields["crc"], lambda code: reply(code, {}, b""))

    def adopt(self, key: BlockKey, name: str, data: bytes, crc: int, done: Callable[[str], None]) -> None:
        """Makes a whole block this node's copy; ``done`` gets the code."""

        def written(code: str) -> None:
            if not code:
                self.post(BlockSealed(key, name, len(data), crc))
            done(code)

        if self.disk.has_room(len(data)):
            self.disk.adopt(key, name, data, crc, written)
        else:
            done("DISK_FULL")


def _key(fields: Fields) -> BlockKey:
    return (fields["key"][0], fields["key"][1])
