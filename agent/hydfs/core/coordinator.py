"""The coordinator's rules: one open block, one order of its records.

The node that opened a block numbers its records, sends each to all replicas (itself included) in parallel and
answers the client when enough copies are durable: all of them under ``ack=all``, a majority under
``ack=quorum``. Records are answered in order. When a replica fails, or when the block is full, the
coordinator has the file table *seal* the block at the committed length (no other node can have acknowledged
more) and sends waiting clients to the next block. It never removes a replica from a block and never waits for
a repair. This is BookKeeper's ensemble change (Junqueira et al. 2013) with a new block instead of a new
ledger fragment.

A pair (writer, sequence) is appended once: the last append of each writer is known from the file's earlier
blocks and from the records of this one. A condition on the offset is decided in the order of the records, so
a refusal never depends on a record that could still be lost.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.hydfs.core.block import Record, WriterMark, chain, note_writer
from agent.hydfs.core.errors import MOVED, FoundLength, Moved
from agent.hydfs.core.events import (
    AnswerAppend,
    AnswerTail,
    AppendRequested,
    BlockOpened,
    Refuse,
    SealBlock,
    SealFailed,
    SendWrite,
    TailRequested,
    Token,
    WriteAnswered,
)
from agent.hydfs.core.filetable import needed_acks
from agent.wire.codec.framing import Buffer

Effect = SendWrite | SealBlock | AnswerAppend | AnswerTail | Refuse
# Records of a block in flight at once: enough to hide a round trip and a flush, few enough to redo.
WINDOW_RECORDS = 64
# Appends that wait for room in the window; each holds its payload in memory.
WAITING_MAX = 256
WAITING_BYTES_MAX = 16 * 1024 * 1024
ACTIVE, CLOSING, SEALING, RETIRED = "active", "closing", "sealing", "retired"


@dataclass(slots=True)
class _Flight:
    """A record in flight, or (``record`` None) a refused condition that waits for the records before it."""

    record: Record | None
    tokens: list[Token]
    sent_at: float
    acked: set[str] = field(default_factory=set)
    if_offset: int = 0
    found: int = 0


class Coordinator:
    """Coordinates one open block."""

    def __init__(self, opened: BlockOpened, *, block_size_bytes: int, ack_timeout_s: float) -> None:
        self.opened = opened
        self.state = ACTIVE
        self.committed = 0
        self._block_size = block_size_bytes
        self._ack_timeout = ack_timeout_s
        self._needed = needed_acks(opened.ack, len(opened.replicas))
        self._assigned = 0
        self._assigned_crc = 0
        self._committed_crc = 0
        self._flights: deque[_Flight] = deque()
        self._waiting: deque[AppendRequested] = deque()
        self._waiting_bytes = 0
        self._held = {replica: 0 for replica in opened.replicas}
        self._failed: dict[str, None] = {}
        self._cause = ""
        # Marks with offsets in the file: those of earlier blocks, then those committed here.
        self._writers: dict[str, WriterMark] = dict(opened.writers)
        self._fresh: dict[str, WriterMark] = {}

    def append(self, now: float, event: AppendRequested) -> list[Effect]:
        """Starts an append, or answers it when it is a duplicate."""
        if self.state in (SEALING, RETIRED):
            return self._wait(event) if self.state == SEALING else [self._move(event.token)]
        duplicate = self._duplicate(event)
        if duplicate is not None:
            return duplicate
        full = len(self._flights) >= WINDOW_RECORDS
        if self.state == CLOSING or self._waiting or full:
            return self._wait(event)
        return self._admit(now, event)

    def answered(self, now: float, event: WriteAnswered) -> list[Effect]:
        """Counts a durable copy, or seals the block because a replica failed."""
        if self.state in (SEALING, RETIRED):
            return []
        if event.code:
            self._failed[event.peer] = None
            self._cause = event.code
            return self._seal()
        self._held[event.peer] = max(self._held[event.peer], event.end)
        for flight in self._flights:
            if flight.record is not None and flight.record.end <= event.end:
                flight.acked.add(event.peer)
        return self._commit() + self._advance(now)

    def tail(self, event: TailRequested) -> list[Effect]:
        """Answers how far the block is committed."""
        return [AnswerTail(event.token, self.committed)]

    def close(self) -> list[Effect]:
        """Seals the block because a caller asked for it."""
        return self._seal() if self.state in (ACTIVE, CLOSING) else []

    def lose(self, peer: str) -> list[Effect]:
        """Seals the block because ``peer`` is down."""
        if peer not in self._held or self.state not in (ACTIVE, CLOSING):
            return []
        self._failed[peer] = None
        return self._seal()

    def sealed(self) -> list[Effect]:
        """Ends the coordination and sends all waiting clients to the next block."""
        return [self._move(token) for token in self._retire()]

    def seal_failed(self, event: SealFailed) -> list[Effect]:
        """Ends the coordination with an error for all clients; the next append tries to seal again."""
        return [Refuse(token, event.code, event.message) for token in self._retire()]

    def forget(self, token: Token) -> None:
        """Removes a token whose caller no longer waits. An append that was not started is dropped."""
        for flight in self._flights:
            flight.tokens = [other for other in flight.tokens if other is not token]
        for event in [event for event in self._waiting if event.token is token]:
            self._waiting.remove(event)
            self._waiting_bytes -= len(event.data)

    def tick(self, now: float) -> list[Effect]:
        """Seals the block when a replica has not answered in time."""
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return []
        late = next(flight.record for flight in self._flights if flight.record is not None)
        self._failed.update({replica: None for replica, held in self._held.items() if held < late.end})
        return self._seal()

    def next_deadline(self) -> float | None:
        """Returns when the oldest record in flight times out."""
        if self.state not in (ACTIVE, CLOSING):
            return None
        for flight in self._flights:
            if flight.record is not None:
                return flight.sent_at + self._ack_timeout
        return None

    def check_invariants(self) -> None:
        """Raises AssertionError when a rule is broken."""
        assert self.committed <= self._assigned
        holders = sum(1 for held in self._held.values() if held >= self.committed)
        assert holders >= self._needed, f"{self.opened.key}: {holders} copies of committed data"
        ends = [flight.record.end for flight in self._flights if flight.record is not None]
        assert ends == sorted(ends), "records in flight are out of order"

    def _retire(self) -> list[Token]:
        """Ends the coordination and returns the tokens of all waiting clients."""
        self.state = RETIRED
        tokens = [token for flight in self._flights for token in flight.tokens]
        tokens += [event.token for event in self._waiting]
        self._flights.clear()
        self._waiting.clear()
        self._waiting_bytes = 0
        return tokens

    def _duplicate(self, event: AppendRequested) -> list[Effect] | None:
        for flight in self._flights:
            record = flight.record
            if record is not None and (record.writer, record.sequence) == (event.writer, event.sequence):
                flight.tokens.append(event.token)
                return []
        mark = self._writers.get(event.writer)
        if mark is None or event.sequence > mark[0]:
            newest = max(
                (f.record.sequence for f in self._flights if f.record and f.record.writer == event.writer),
                default=-1,
            )
            if event.sequence > newest:
                return None
            # Older than one in flight: it can no longer be ordered before that one.
            return self._late(event)
        offset, length = (mark[1], mark[2]) if mark[0] == event.sequence else (-1, 0)
        return [AnswerAppend(event.token, offset, length, len(self.opened.replicas), True)]

    def _late(self, event: AppendRequested) -> list[Effect]:
        message = f"writer {event.writer} already sent a later sequence than {event.sequence}"
        return [Refuse(event.token, "CONFLICT", message)]

    def _admit(self, now: float, event: AppendRequested) -> list[Effect]:
        end_of_file = self.opened.base + self._assigned
        if event.if_offset is not None and event.if_offset != end_of_file:
            refused = _Flight(None, [event.token], now, if_offset=event.if_offset, found=end_of_file)
            self._flights.append(refused)
            return self._commit()
        size = len(event.data)
        if self._assigned and self._assigned + size > self._block_size:
            self.state = CLOSING
            return self._wait(event) + self._advance(now)
        crc = chain(event.data, self._assigned_crc)
        record = Record(self._assigned, size, crc, event.writer, event.sequence, self.opened.view)
        self._assigned, self._assigned_crc = record.end, crc
        self._flights.append(_Flight(record, [event.token], now))
        return self._send(record, event.data)

    def _send(self, record: Record, data: Buffer) -> list[Effect]:
        opened = self.opened
        return [
            SendWrite(replica, opened.key, opened.name, opened.session, record, data)
            for replica in opened.replicas
        ]

    def _wait(self, event: AppendRequested) -> list[Effect]:
        if len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(event.data) > WAITING_BYTES_MAX:
            message = f"{len(self._waiting)} appends are already waiting for this file"
            return [Refuse(event.token, "OVERLOADED", message)]
        self._waiting.append(event)
        self._waiting_bytes += len(event.data)
        return []

    def _commit(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._flights:
            flight = self._flights[0]
            if flight.record is None:
                effects += [self._conflict(flight, token) for token in flight.tokens]
            elif len(flight.acked) >= self._needed:
                effects += self._committed(flight, flight.record)
            else:
                break
            self._flights.popleft()
        return effects

    def _committed(self, flight: _Flight, record: Record) -> list[Effect]:
        self.committed, self._committed_crc = record.end, record.crc
        offset = self.opened.base + record.offset
        if record.writer:
            mark = (record.sequence, offset, record.length)
            note_writer(self._writers, record.writer, mark)
            note_writer(self._fresh, record.writer, mark)
        copies = len(flight.acked)
        return [
            AnswerAppend(token, offset, record.length, copies, index > 0)
            for index, token in enumerate(flight.tokens)
        ]

    def _advance(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        while self.state == ACTIVE and self._waiting and len(self._flights) < WINDOW_RECORDS:
            event = self._waiting.popleft()
            self._waiting_bytes -= len(event.data)
            effects += self._duplicate_or_admit(now, event)
        if self.state == CLOSING and not self._flights:
            effects += self._seal()
        return effects

    def _duplicate_or_admit(self, now: float, event: AppendRequested) -> list[Effect]:
        duplicate = self._duplicate(event)
        return self._admit(now, event) if duplicate is None else duplicate

    def _seal(self) -> list[Effect]:
        if self.state in (SEALING, RETIRED):
            return []
        self.state = SEALING
        holders = tuple(node for node, held in self._held.items() if held >= self.committed)
        opened = self.opened
        return [
            SealBlock(
                opened.key,
                opened.name,
                self.committed,
                self._committed_crc,
                holders,
                dict(self._fresh),
                tuple(self._failed),
            )
        ]

    def _conflict(self, flight: _Flight, token: Token) -> Refuse:
        message = f"append at offset {flight.if_offset} refused: the file has {flight.found} bytes"
        return Refuse(token, "CONFLICT", message, FoundLength(flight.found))

    def _move(self, token: Token) -> Refuse:
        message = "the block was sealed; the file continues in another one"
        return Refuse(token, MOVED, message, Moved(tuple(self._failed), self._cause))
