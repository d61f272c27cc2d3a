"""The replica's rules: the records that a copy of a block takes, and the meaning of its promise.

A record is taken when the block is open here, comes from the block's one session and continues the copy
exactly: same offset, and the running checksum over our bytes and the new ones equals the coordinator's. A
record that arrives early is held until its predecessors arrive. After a promise (which is durable before it
is answered) the copy takes no more records, so the node that holds the promise knows its final length. This
is the fencing of BookKeeper's ledgers (Junqueira et al. 2013, section 3.2) for a block that is never
reopened.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.hydfs.core.block import (
    OPEN,
    PROMISED,
    SEALED,
    BlockKey,
    BlockMeta,
    WriterMark,
    chain,
    note_writer,
)
from agent.hydfs.core.events import (
    AnswerPromise,
    AnswerWrite,
    BlockDropped,
    BlockSealed,
    PersistPromise,
    PersistRecord,
    PromiseRequested,
    PromiseWritten,
    RecordWritten,
    Refuse,
    Token,
    WriteReceived,
)

Effect = PersistRecord | PersistPromise | AnswerWrite | AnswerPromise | Refuse
# A coordinator keeps at most this many records of a block under way, so no more can be early.
HELD_MAX = 64
# Dropped blocks that are remembered. One is forgotten too early only if its coordinator is cut off while
# this many others are dropped.
GONE_MAX = 65536


@dataclass(slots=True)
class _Copy:
    """The state of one copy: ``received`` bytes were taken, and ``durable`` ones of them are on the disk."""

    session: str
    state: str
    received: int = 0
    received_crc: int = 0
    durable: int = 0
    durable_crc: int = 0
    broken: str = ""
    doubtful: bool = False
    durable_promise: bool = False
    writers: dict[str, WriterMark] = field(default_factory=dict)
    crcs: dict[int, int] = field(default_factory=dict)
    marks: dict[int, tuple[str, int, int, int]] = field(default_factory=dict)
    held: dict[int, WriteReceived] = field(default_factory=dict)
    waiting: list[tuple[int, Token]] = field(default_factory=list)
    sealers: list[Token] = field(default_factory=list)


class Replica:
    """All copies of blocks on one node."""

    def __init__(self, metas: Iterable[BlockMeta] = ()) -> None:
        self._copies: dict[BlockKey, _Copy] = {}
        self._sealed: dict[BlockKey, int] = {}
        # A block that was sealed empty leaves no copy, but its coordinator may not know that yet.
        self._gone: dict[BlockKey, None] = {}
        for meta in metas:
            if meta.state == SEALED:
                self._sealed[meta.key] = meta.length
                continue
            copy = _Copy(meta.session, meta.state, meta.length, meta.crc, meta.length, meta.crc)
            copy.doubtful = meta.doubtful
            copy.durable_promise = meta.state == PROMISED
            copy.writers = dict(meta.writers)
            self._copies[meta.key] = copy

    def write(self, event: WriteReceived) -> list[Effect]:
        """Takes a record, holds it, or refuses it."""
        if event.key in self._sealed:
            return [AnswerWrite(event.token, 0, "FENCED", "the block is sealed")]
        if event.key in self._gone:
            return [AnswerWrite(event.token, 0, "FENCED", "the block was dropped")]
        copy = self._copies.get(event.key)
        if copy is None:
            copy = self._copies[event.key] = _Copy(event.session, OPEN)
        refusal = self._refusal(copy, event)
        if refusal is not None:
            return [refusal]
        if event.record.offset > copy.received:
            if len(copy.held) >= HELD_MAX:
                return [AnswerWrite(event.token, 0, "OVERLOADED", "too many records arrived early")]
            copy.held[event.record.offset] = event
            return []
        effects = self._take(copy, event)
        while copy.received in copy.held:
            effects += self._take(copy, copy.held.pop(copy.received))
        return effects

    def written(self, event: RecordWritten) -> list[Effect]:
        """Answers the coordinator once the record is durable."""
        copy = self._copies.get(event.key)
        if copy is None:
            return []
        if event.code:
            return self._broke(copy, event)
        copy.durable = max(copy.durable, event.end)
        copy.durable_crc = copy.crcs.pop(event.end, copy.durable_crc)
        mark = copy.marks.pop(event.end, None)
        if mark is not None:
            note_writer(copy.writers, mark[0], mark[1:])
        effects: list[Effect] = [AnswerWrite(t, end) for end, t in copy.waiting if end <= copy.durable]
        copy.waiting = [(end, token) for end, token in copy.waiting if end > copy.durable]
        return effects + self._promised(copy)

    def promise(self, event: PromiseRequested) -> list[Effect]:
        """Stops taking records, durably, and answers with the state of the copy."""
        if event.key in self._sealed:
            return [AnswerPromise(event.token, self._sealed[event.key], 0, {}, True)]
        copy = self._copies.get(event.key)
        if copy is None:
            copy = self._copies[event.key] = _Copy("", OPEN)
        copy.sealers.append(event.token)
        copy.doubtful = copy.doubtful or event.doubtful
        if copy.state == OPEN:
            copy.state = PROMISED
            held, copy.held = copy.held, {}
            refused: list[Effect] = [
                AnswerWrite(early.token, 0, "FENCED", "the block is being sealed") for early in held.values()
            ]
            return [*refused, PersistPromise(event.key, event.name, copy.doubtful)]
        return self._promised(copy)

    def promise_written(self, event: PromiseWritten) -> list[Effect]:
        """Answers the sealing nodes once the promise would survive a restart."""
        copy = self._copies.get(event.key)
        if copy is None:
            return []
        if event.code:
            copy.state = OPEN
            tokens, copy.sealers = copy.sealers, []
            message = "the disk of this replica refused the promise"
            return [Refuse(token, event.code, message) for token in tokens]
        copy.durable_promise = True
        return self._promised(copy)

    def sealed(self, event: BlockSealed) -> list[Effect]:
        """Forgets the open copy: what is on disk is final."""
        copy = self._copies.pop(event.key, None)
        self._sealed[event.key] = event.length
        self._gone.pop(event.key, None)
        if copy is None:
            return []
        tokens = [token for _, token in copy.waiting] + [early.token for early in copy.held.values()]
        effects: list[Effect] = [AnswerWrite(token, 0, "FENCED", "the block is sealed") for token in tokens]
        return effects + [AnswerPromise(token, event.length, 0, {}, True) for token in copy.sealers]

    def dropped(self, event: BlockDropped) -> list[Effect]:
        """Forgets the copy but remembers that there was one: records in flight and later ones are refused."""
        self._sealed.pop(event.key, None)
        self._gone[event.key] = None
        if len(self._gone) > GONE_MAX:
            self._gone.pop(next(iter(self._gone)))
        copy = self._copies.pop(event.key, None)
        if copy is None:
            return []
        tokens = [token for _, token in copy.waiting] + [early.token for early in copy.held.values()]
        effects: list[Effect] = [
            AnswerWrite(token, 0, "NOT_FOUND", "the copy was dropped") for token in tokens
        ]
        return effects + [Refuse(token, "NOT_FOUND", "the copy was dropped") for token in copy.sealers]

    def forget(self, key: BlockKey, token: Token) -> None:
        """Removes a token whose caller no longer waits, and its record if that was held back."""
        copy = self._copies.get(key)
        if copy is not None:
            copy.waiting = [(end, other) for end, other in copy.waiting if other is not token]
            copy.sealers = [other for other in copy.sealers if other is not token]
            copy.held = {offset: early for offset, early in copy.held.items() if early.token is not token}

    def check_invariants(self) -> None:
        """Raises AssertionError when a copy breaks a rule."""
        for key, copy in self._copies.items():
            assert copy.durable <= copy.received, f"{key}: durable {copy.durable} > received {copy.received}"
            assert not (copy.durable_promise and copy.state == OPEN), f"{key}: promised but open"
            assert key not in self._sealed, f"{key}: open and sealed"

    def _refusal(self, copy: _Copy, event: WriteReceived) -> AnswerWrite | None:
        record = event.record
        if copy.state != OPEN:
            return AnswerWrite(event.token, 0, "FENCED", "the block is being sealed")
        if copy.session != event.session:
            return AnswerWrite(event.token, 0, "FENCED", "another session writes this block")
        if copy.broken:
            return AnswerWrite(event.token, 0, copy.broken, "an earlier record could not be written")
        if record.length != len(event.data) or record.length <= 0:
            return AnswerWrite(event.token, 0, "CORRUPT", "the record's length is wrong")
        if record.offset < copy.received and record.end > copy.received:
            return AnswerWrite(event.token, 0, "CORRUPT", "the record overlaps what is here")
        return None

    def _take(self, copy: _Copy, event: WriteReceived) -> list[Effect]:
        record = event.record
        if record.end <= copy.received:  # sent again: one session never sends two records for one place
            if record.end <= copy.durable:
                return [AnswerWrite(event.token, record.end)]
            copy.waiting.append((record.end, event.token))
            return []
        if chain(event.data, copy.received_crc) != record.crc:
            return [AnswerWrite(event.token, 0, "CORRUPT", "the checksum does not continue this copy")]
        copy.received, copy.received_crc = record.end, record.crc
        copy.crcs[record.end] = record.crc
        if record.writer:
            copy.marks[record.end] = (record.writer, record.sequence, record.offset, record.length)
        copy.waiting.append((record.end, event.token))
        return [PersistRecord(event.key, event.name, event.session, record, event.data)]

    def _broke(self, copy: _Copy, event: RecordWritten) -> list[Effect]:
        # The disk refused a record, so nothing behind it can be kept. The coordinator goes to other nodes.
        copy.broken = event.code
        copy.received, copy.received_crc = copy.durable, copy.durable_crc
        copy.crcs.clear()
        copy.marks.clear()
        tokens = [token for _, token in copy.waiting] + [early.token for early in copy.held.values()]
        copy.waiting, copy.held = [], {}
        effects: list[Effect] = [
            AnswerWrite(token, 0, event.code, "the disk of this replica refused the record")
            for token in tokens
        ]
        return effects + self._promised(copy)

    def _promised(self, copy: _Copy) -> list[Effect]:
        if not copy.durable_promise or copy.durable < copy.received:
            return []
        tokens, copy.sealers = copy.sealers, []
        return [
            AnswerPromise(token, copy.durable, copy.durable_crc, dict(copy.writers), copy.doubtful)
            for token in tokens
        ]
