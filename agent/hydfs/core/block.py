"""Blocks and their records: the format, and what a journal entry does to a block's state.

A block is an append-only run of bytes; a record is one atomic append to it. The checksum of a record is the
running CRC-32 of the block's bytes up to the record's end: it proves at once that the payload is intact and
that everything before it is what the coordinator had before it (the chain check of
``reference``-style logs such as BookKeeper), and the last one is the checksum of the sealed block.

A journal entry is one msgpack list; ``apply`` is the only place that says how an entry changes a block, and
it serves the running node as well as recovery after a crash.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Any

import msgpack

from agent.wire.codec.framing import Buffer

# A block is named by the id of its file and its number in the file's chain.
BlockKey = tuple[str, int]
# A writer's last append: sequence, offset in the file, length.
WriterMark = tuple[int, int, int]

OPEN, PROMISED, SEALED = "open", "promised", "sealed"


@dataclass(frozen=True, slots=True)
class Record:
    """One append inside a block; ``offset`` counts from the start of the block."""

    offset: int
    length: int
    crc: int
    writer: str
    sequence: int
    view: int

    @property
    def end(self) -> int:
        """Returns the offset behind the record."""
        return self.offset + self.length

    def to_wire(self) -> list[Any]:
        """Returns the record as plain values."""
        return [self.offset, self.length, self.crc, self.writer, self.sequence, self.view]


def record_from_wire(value: Any) -> Record:
    """Returns the record that ``to_wire`` made."""
    offset, length, crc, writer, sequence, view = value
    return Record(int(offset), int(length), int(crc), str(writer), int(sequence), int(view))


def chain(data: Buffer, crc: int) -> int:
    """Returns the running checksum after ``data`` when it was ``crc`` before."""
    return zlib.crc32(data, crc)


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """What a node durably knows about its copy of a block.

    ``writers`` maps each writer seen in this block to (sequence, offset in the block, length) of its last
    record. ``doubtful`` marks a copy whose tail may have been cut by damage to the journal.
    """

    key: BlockKey
    name: str
    session: str
    length: int = 0
    crc: int = 0
    state: str = OPEN
    writers: dict[str, WriterMark] = field(default_factory=dict)
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class RecordEntry:
    """A record was appended; ``data`` is None when the payload went to the block file alone."""

    key: BlockKey
    name: str
    session: str
    record: Record
    data: Buffer | None


@dataclass(frozen=True, slots=True)
class PromiseEntry:
    """The block takes no more records here, whoever sends them."""

    key: BlockKey
    name: str


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """The block is final: the file table says this length and checksum."""

    key: BlockKey
    name: str
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class DroppedEntry:
    """This node's copy is gone."""

    key: BlockKey


@dataclass(frozen=True, slots=True)
class StateEntry:
    """The whole state of a copy, written when the journal starts a new segment."""

    meta: BlockMeta


Entry = RecordEntry | PromiseEntry | SealedEntry | DroppedEntry | StateEntry


class Broken:
    """The copies of which the disk refused a record: nothing behind it may be written.

    Records of a copy follow each other through the writer's queue, and the disk may have room again for a
    later one; written, it would stand behind a hole.
    """

    def __init__(self) -> None:
        self._keys: set[BlockKey] = set()

    def admits(self, entry: Entry) -> bool:
        """Tells whether the entry does not follow a refused one."""
        return not (isinstance(entry, RecordEntry) and entry.key in self._keys)

    def refused(self, entry: Entry) -> None:
        """Remembers that the disk had no room for the entry."""
        if isinstance(entry, RecordEntry):
            self._keys.add(entry.key)

    def written(self, entry: Entry) -> None:
        """Forgets a copy that is final or gone by now."""
        if isinstance(entry, (SealedEntry, DroppedEntry)):
            self._keys.discard(entry.key)


def pack_entry(entry: Entry) -> bytes:
    """Returns the entry as bytes."""
    values: list[Any]
    match entry:
        case RecordEntry():
            values = ["record", *entry.key, entry.name, entry.session, entry.record.to_wire(), entry.data]
        case PromiseEntry():
            values = ["promise", *entry.key, entry.name]
        case SealedEntry():
            values = ["sealed", *entry.key, entry.name, entry.length, entry.crc]
        case DroppedEntry():
            values = ["dropped", *entry.key]
        case StateEntry(meta=m):
            values = ["state", *m.key, m.name, m.session, m.length, m.crc, m.state, m.writers, m.doubtful]
    packed: bytes = msgpack.packb(values, use_bin_type=True)
    return packed


def unpack_entry(data: Buffer) -> Entry:
    """Returns the entry that ``pack_entry`` made."""
    kind, file_id, number, *rest = msgpack.unpackb(data, raw=False, strict_map_key=False)
    key = (file_id, number)
    match kind:
        case "record":
            name, session, record, payload = rest
            return RecordEntry(key, name, session, record_from_wire(record), payload)
        case "promise":
            return PromiseEntry(key, rest[0])
        case "sealed":
            return SealedEntry(key, *rest)
        case "dropped":
            return DroppedEntry(key)
        case "state":
            name, session, length, crc, state, writers, doubtful = rest
            marks = {writer: (mark[0], mark[1], mark[2]) for writer, mark in writers.items()}
            return StateEntry(BlockMeta(key, name, session, length, crc, state, marks, doubtful))
        case _:
            raise ValueError(f"unknown journal entry {kind!r}")


def apply(index: dict[BlockKey, BlockMeta], entry: Entry) -> None:
    """Changes ``index`` as ``entry`` says."""
    match entry:
        case RecordEntry(key=key, name=name, session=session, record=record):
            meta = index.get(key) or BlockMeta(key, name, session)
            if record.writer:
                meta.writers[record.writer] = (record.sequence, record.offset, record.length)
            index[key] = replace(meta, session=session, length=record.end, crc=record.crc)
        case PromiseEntry(key=key, name=name):
            meta = index.get(key) or BlockMeta(key, name, "")
            if meta.state == OPEN:
                index[key] = replace(meta, state=PROMISED)
        case SealedEntry(key=key, name=name, length=length, crc=crc):
            meta = index.get(key) or BlockMeta(key, name, "")
            index[key] = replace(meta, length=length, crc=crc, state=SEALED, writers={}, doubtful=False)
        case DroppedEntry(key=key):
            index.pop(key, None)
        case StateEntry(meta=meta):
            index[meta.key] = meta
