"""A store agent on a simulated node: ``NodeCore``, ``Takeover``, ``repair``, the journal format and a voter.

The shell around them has no thread; every message may be lost, doubled or overtaken.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgpack

from agent.common.core import Tick
from agent.common.errors import RainStormError
from agent.common.register import (
    Accept,
    Prepare,
    Read,
    Slot,
    VoterRequest,
    answer,
)
from agent.hydfs import filetable
from agent.hydfs.block import (
    OPEN,
    SEALED,
    BlockKey,
    DroppedEntry,
    PromiseEntry,
    RecordEntry,
    SealedEntry,
    chain,
    record_from_wire,
)
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
from agent.hydfs.filetable import FileEntry
from agent.hydfs.node import NodeCore
from agent.hydfs.ring import block_token, ring_of
from agent.hydfs.takeover import AskPromise, GiveUp, PromiseFailed, PromiseReceived, Takeover
from tests.simulation.hydfs_disk import Bugs, StoreDisk
from tests.simulation.hydfs_rpc import (
    ACK_TIMEOUT_S,
    BLOCK_BYTES,
    CALL_TIMEOUT_S,
    REPLICAS,
    Caller,
    Fields,
    Reply,
    ballot,
    ignore,
)
from tests.simulation.hydfs_tender import Tender
from tests.simulation.world import Node


class StoreHost(Caller):
    """One node of the store."""

    def __init__(self, node: Node, names: Sequence[str], bugs: Bugs) -> None:
        super().__init__(node, names)
        self.names = list(names)
        self.bugs = bugs
        self.disk = StoreDisk(node, bugs)
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

    def serve(self, kind: str, fields: Fields, payload: bytes, reply: Reply) -> None:
        getattr(self, f"_serve_{kind}")(fields, payload, reply)

    def _execute(self, effect: Any) -> None:
        match effect:
            case PersistRecord(key=key, record=record):
                entry = RecordEntry(key, effect.name, effect.session, record, bytes(effect.data))
                self.disk.persist(entry, lambda: self.post(RecordWritten(key, record.end)))
            case PersistPromise(key=key, name=name):
                if self.bugs.forget_promise:
                    self.node.after(0.0, lambda: self._pretend_promise(key))
                else:
                    self.disk.persist(PromiseEntry(key, name), lambda: self.post(PromiseWritten(key)))
            case SendWrite(peer=peer):
                self._send_write(peer, effect)
            case SealBlock():
                self._seal(effect, lambda error: None)
            case _:
                effect.token(effect)

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
            "record": effect.record.to_wire(),
        }

        def answered(code: str, fields: Fields, payload: bytes) -> None:
            self.post(WriteAnswered(peer, effect.key, effect.record.end, code))

        done: Reply = answered
        if self.bugs.ack_early:
            self.node.after(0.0, lambda: answered("", {}, b""))
            done = ignore
        self.call(peer, "write", fields, bytes(effect.data), ACK_TIMEOUT_S, done)

    def _seal(self, effect: SealBlock, done: Callable[[str], None]) -> None:
        file_id, number = effect.key

        def settled(entry: FileEntry | None, error: RainStormError | None) -> None:
            if entry is None or error is not None:
                code = error.code if error is not None else "NOT_FOUND"
                self.post(SealFailed(effect.key, code, "the file table could not be changed"))
                done(code)
                return
            block = entry.block(number)
            length, crc = (block.length, block.crc) if block is not None else (0, 0)
            self.certify(effect.key, effect.name, length, crc)
            told = block.replicas if block is not None else ()
            for node in dict.fromkeys((*told, *effect.holders, *effect.failed)):
                body = {"key": list(effect.key), "name": effect.name, "length": length, "crc": crc}
                if node != self.node.name:
                    self.call(node, "certify", body, b"", CALL_TIMEOUT_S, ignore)
            done("")

        change = filetable.seal(
            effect.name, file_id, number, effect.length, effect.crc, effect.holders, effect.writers
        )
        self.change(effect.name, change, settled)

    def certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        if self.disk.is_pending(key):  # the real one holds a lock while a copy's fate is being written
            self.node.after(0.001, lambda: self.certify(key, name, length, crc))
            return
        meta = self.index.get(key)
        if meta is not None and meta.state == SEALED and (meta.length, meta.crc) == (length, crc):
            self.post(BlockSealed(key, name, length, crc))
        elif (
            meta is not None and 0 < length <= meta.length and chain(bytes(self.data[key][:length]), 0) == crc
        ):
            self.post(BlockSealed(key, name, length, crc))
            self.disk.persist(SealedEntry(key, name, length, crc))
        else:
            self.post(BlockDropped(key))
            if meta is not None:
                self.disk.persist(DroppedEntry(key))

    def take_over(self, name: str, entry: FileEntry, number: int, done: Callable[[str], None]) -> None:
        block = entry.open_block
        assert block is not None
        key = (entry.file_id, number)
        takeover = Takeover(
            key, name, block.replicas, entry.ack, entry.sealed_length, timeout_s=ACK_TIMEOUT_S
        )

        def carry_out(effects: Sequence[Any]) -> None:
            for effect in effects:
                match effect:
                    case AskPromise(peer=peer):
                        ask(peer)
                    case SealBlock():
                        self._seal(effect, done)
                    case GiveUp(code=code):
                        done(code)

        def ask(peer: str) -> None:
            def answered(code: str, fields: Fields, payload: bytes) -> None:
                event: PromiseReceived | PromiseFailed = PromiseFailed(peer)
                if not code:
                    writers = {w: (m[0], m[1], m[2]) for w, m in fields["writers"].items()}
                    event = PromiseReceived(
                        peer, fields["length"], fields["crc"], writers, fields["doubtful"]
                    )
                carry_out(takeover.handle(self.node.now, event))

            body = {"key": list(key), "name": name}
            self.call(peer, "promise", body, b"", ACK_TIMEOUT_S, answered)

        carry_out(takeover.start(self.node.now))
        self.node.after(ACK_TIMEOUT_S * 1.01, lambda: carry_out(takeover.handle(self.node.now, None)))

    def _serve_voter(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        key = fields["key"]
        request: VoterRequest = Read(key)
        if fields["ask"] == "Prepare":
            request = Prepare(key, ballot(fields["ballot"]))
        elif fields["ask"] == "Accept":
            request = Accept(key, ballot(fields["ballot"]), fields["value"])
        before = self.disk.slots.get(key, Slot())
        slot, found = answer(before, request)
        if slot is not before:
            self.disk.slots[key] = slot
            record = [key, slot.promised, slot.accepted, slot.value]
            self.node.disk.append_durably("slots", msgpack.packb(record))
        reply(
            "",
            {
                "ok": found.ok,
                "promised": found.promised,
                "accepted": found.accepted,
                "value": found.value,
            },
            b"",
        )

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
                        reply(code, dict(details), b"")

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

        record = record_from_wire(fields["record"])
        self.post(WriteReceived(answered, _key(fields), fields["name"], fields["session"], record, payload))

    def _serve_promise(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        def answered(effect: AnswerPromise) -> None:
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
                self.take_over(fields["name"], entry, fields["number"], lambda code: reply(code, {}, b""))

        self.read(fields["name"], settled)

    def _serve_certify(self, fields: Fields, payload: bytes, reply: Reply) -> None:
        self.certify(_key(fields), fields["name"], fields["length"], fields["crc"])
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
        self.post(BlockSealed(key, fields["name"], len(payload), fields["crc"]))
        # The journal carries a copied block as one record and its certificate.
        self.adopt(key, fields["name"], payload, fields["crc"], lambda: reply("", {}, b""))

    def adopt(self, key: BlockKey, name: str, data: bytes, crc: int, done: Callable[[], None]) -> None:
        record = record_from_wire([0, len(data), crc, "", 0, 0])
        self.disk.persist(RecordEntry(key, name, "", record, data))
        self.disk.persist(SealedEntry(key, name, len(data), crc), done)


def _key(fields: Fields) -> BlockKey:
    return (fields["key"][0], fields["key"][1])
