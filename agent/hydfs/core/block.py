"""Blocks and their records, and how a journal entry changes a copy of a block.

A block is an append-only run of bytes; a record is one atomic append to it. The checksum of a record is the
running CRC-32 of the block's bytes up to the record's end. It proves that the payload is intact and that
everything before it is what the coordinator had (BookKeeper checks its logs the same way). The last one is
the checksum of the sealed block.

A journal entry is one msgpack list whose first element is its kind. It may be longer than this release knows
(if a newer one wrote it) or lack the last elements (if an older one did). Each is checked when it is read.
``apply`` is the only place that decides how an entry changes a copy, both in a running node and in recovery
after a crash.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, assert_never

import msgpack
import msgspec
from msgspec import Meta

from agent.common.errors import InvalidMessage
from agent.common.message import Counter, Crc, Name, OptionalName
from agent.wire.codec.framing import Buffer

# A file id is part of the names of files on disk, so it must not lead out of their folder.
FileId = Annotated[str, Meta(pattern=r"^[0-9A-Za-z_-]{1,64}\Z")]
# Ten million blocks of the usual 8 MiB are 80 TB in one file.
BlockNumber = Annotated[int, Meta(ge=0, le=10_000_000)]
BlockState = Annotated[str, Meta(pattern=r"^(open|promised|sealed)\Z")]
# A block is named by the id of its file and its number in the file's chain.
BlockKey = tuple[FileId, BlockNumber]
# A writer's last append: sequence, offset, length.
WriterMark = tuple[Counter, Counter, Counter]
# After appends of this many other writers a writer is forgotten, and a retry of its last append would be
# taken for a new one. A stream job has a few dozen writers for each file.
WRITERS_MAX = 1024
# A sender may exceed its own bound by the records of one block.
Writers = Annotated[dict[Name, WriterMark], Meta(max_length=2 * WRITERS_MAX)]

OPEN: Final = "open"
PROMISED: Final = "promised"
SEALED: Final = "sealed"


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One append inside a block; ``offset`` counts from the start of the block. A list when it is encoded."""

    offset: Counter
    length: Counter
    crc: Crc
    writer: OptionalName
    sequence: Counter
    view: Counter

    @property
    def end(self) -> int:
        """Returns the offset behind the record."""
        return self.offset + self.length


def note_writer(marks: dict[str, WriterMark], writer: str, mark: WriterMark) -> None:
    """Remembers a writer's last append; the writer that has been silent the longest is forgotten."""
    marks.pop(writer, None)
    marks[writer] = mark
    if len(marks) > WRITERS_MAX:
        marks.pop(next(iter(marks)))


def chain(data: Buffer, crc: int) -> int:
    """Returns the running checksum after ``data`` when it was ``crc`` before."""
    return zlib.crc32(data, crc)


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """The state of a node's copy of a block, as it is on disk.

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
    """This copy takes no more records from any sender.

    It is ``doubtful`` when it may have had records before: the disk was new and did not hold the block.
    """

    key: BlockKey
    name: str
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class SealedEntry:
    """The block is final, with this length and checksum in the file table."""

    key: BlockKey
    name: str
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class DroppedEntry:
    """This node no longer has a copy."""

    key: BlockKey


@dataclass(frozen=True, slots=True)
class StateEntry:
    """The whole state of a copy, written when the journal starts a new segment."""

    meta: BlockMeta


Entry = RecordEntry | PromiseEntry | SealedEntry | DroppedEntry | StateEntry


class RefusedCopies:
    """The copies for which the disk refused a record: no later record of such a copy may be written.

    Records of a copy follow each other through the writer's queue, and the disk may have room again for a
    later one; if it were written, it would stand behind a hole.
    """

    def __init__(self) -> None:
        self._keys: set[BlockKey] = set()

    def admits(self, entry: Entry) -> bool:
        """Tells whether the entry may be written: no earlier record of its copy was refused."""
        return not (isinstance(entry, RecordEntry) and entry.key in self._keys)

    def refused(self, entry: Entry) -> None:
        """Notes that the disk had no room for the entry."""
        if isinstance(entry, RecordEntry):
            self._keys.add(entry.key)

    def written(self, entry: Entry) -> None:
        """Forgets a copy that is now sealed or dropped."""
        if isinstance(entry, (SealedEntry, DroppedEntry)):
            self._keys.discard(entry.key)


class _Row(msgspec.Struct, frozen=True, array_like=True, tag_field="kind"):
    """The fields that every entry begins with."""

    file_id: FileId
    number: BlockNumber

    def entry(self) -> Entry:
        raise NotImplementedError


class _RecordRow(_Row, frozen=True, tag="record"):
    name: OptionalName
    session: OptionalName
    record: Record
    data: bytes | None = None

    def entry(self) -> Entry:
        return RecordEntry((self.file_id, self.number), self.name, self.session, self.record, self.data)


class _PromiseRow(_Row, frozen=True, tag="promise"):
    name: OptionalName
    doubtful: bool = False

    def entry(self) -> Entry:
        return PromiseEntry((self.file_id, self.number), self.name, self.doubtful)


class _SealedRow(_Row, frozen=True, tag="sealed"):
    name: OptionalName
    length: Counter
    crc: Crc

    def entry(self) -> Entry:
        return SealedEntry((self.file_id, self.number), self.name, self.length, self.crc)


class _DroppedRow(_Row, frozen=True, tag="dropped"):
    def entry(self) -> Entry:
        return DroppedEntry((self.file_id, self.number))


class _StateRow(_Row, frozen=True, tag="state"):
    name: OptionalName
    session: OptionalName
    length: Counter
    crc: Crc
    state: BlockState
    writers: Writers
    doubtful: bool = False

    def entry(self) -> Entry:
        key = (self.file_id, self.number)
        return StateEntry(
            BlockMeta(
                key, self.name, self.session, self.length, self.crc, self.state, self.writers, self.doubtful
            )
        )


_DECODER = msgspec.msgpack.Decoder(_RecordRow | _PromiseRow | _SealedRow | _DroppedRow | _StateRow)


def pack_entry(entry: Entry) -> bytes:
    """Returns the entry as bytes."""
    values: list[Any]
    match entry:
        case RecordEntry(record=r):
            record = [r.offset, r.length, r.crc, r.writer, r.sequence, r.view]
            values = ["record", *entry.key, entry.name, entry.session, record, entry.data]
        case PromiseEntry():
            # A release that does not know the mark reads the entry without it.
            values = ["promise", *entry.key, entry.name, *([True] if entry.doubtful else [])]
        case SealedEntry():
            values = ["sealed", *entry.key, entry.name, entry.length, entry.crc]
        case DroppedEntry():
            values = ["dropped", *entry.key]
        case StateEntry(meta=m):
            values = ["state", *m.key, m.name, m.session, m.length, m.crc, m.state, m.writers, m.doubtful]
        case _:
            assert_never(entry)
    packed: bytes = msgpack.packb(values, use_bin_type=True)
    return packed


def unpack_entry(data: Buffer) -> Entry:
    """Returns the entry that ``pack_entry`` made.

    Raises:
        InvalidMessage: the bytes are no entry of a kind that this release knows.
    """
    try:
        row: _Row = _DECODER.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidMessage(f"journal entry: {error}") from None
    return row.entry()


def apply(index: dict[BlockKey, BlockMeta], entry: Entry) -> None:
    """Applies ``entry`` to ``index``."""
    match entry:
        case RecordEntry(key=key, name=name, session=session, record=record):
            meta = index.get(key) or BlockMeta(key, name, session)
            if record.writer:
                mark = (record.sequence, record.offset, record.length)
                note_writer(meta.writers, record.writer, mark)
            index[key] = replace(meta, session=session, length=record.end, crc=record.crc)
        case PromiseEntry(key=key, name=name, doubtful=doubtful):
            meta = index.get(key) or BlockMeta(key, name, "")
            if meta.state == OPEN:
                index[key] = replace(meta, state=PROMISED, doubtful=meta.doubtful or doubtful)
        case SealedEntry(key=key, name=name, length=length, crc=crc):
            meta = index.get(key) or BlockMeta(key, name, "")
            index[key] = replace(meta, length=length, crc=crc, state=SEALED, writers={}, doubtful=False)
        case DroppedEntry(key=key):
            index.pop(key, None)
        case StateEntry(meta=meta):
            index[meta.key] = meta
        case _:
            assert_never(entry)
