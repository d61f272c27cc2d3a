"""The file table: the values that the register of a file name may hold, and the allowed changes.

Every file name is one CASPaxos register (agent/common/register.py). Its value is a ``FileEntry`` as plain
msgpack; the functions here are the only ones that make or change it. A value is checked before a voter votes
on it and again when it is read. A file is *creating* (a put that is not complete yet), *live*, or *deleted*
(a tombstone that keeps the file id, so that late blocks of a deleted file are recognised).

At most the last block of a chain is open. Its replica set and its session are fixed when it is opened, by the
node that will coordinate it; a session is one process's right to coordinate one block, so a restarted
coordinator never continues a block but seals it. Block numbers are never used twice within a file.

Each change is a function for ``Registers.change``, which raises a ``RainStormError`` to refuse. A change that
may be applied twice (after a lost reply) gives the same result again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, field
from msgspec.structs import replace

from agent.common import message
from agent.common.errors import (
    AlreadyExists,
    Conflict,
    Corrupt,
    Fenced,
    InvalidMessage,
    NameInvalid,
    NotFound,
    RainStormError,
)
from agent.common.ids import check_file_name
from agent.common.message import LIST_MAX, Counter, Crc, Name, OptionalName
from agent.hydfs.core.block import OPEN, SEALED, BlockNumber, FileId, WriterMark, Writers, note_writer

CREATING: Final = "creating"
LIVE: Final = "live"
DELETED: Final = "deleted"
# More copies than this of one block would be a mistake in the configuration.
REPLICAS_MAX = 64

Replicas = Annotated[tuple[Name, ...], Meta(min_length=1, max_length=REPLICAS_MAX)]


class BlockEntry(msgspec.Struct, frozen=True, array_like=True):
    """One block of a file's chain; a list in its encoded form, because a large file has many."""

    number: BlockNumber
    replicas: Replicas
    view: Counter
    state: Annotated[str, Meta(pattern=r"^(open|sealed)\Z")]
    length: Counter
    crc: Crc
    session: OptionalName


class FileEntry(msgspec.Struct, frozen=True):
    """The value of a file's register."""

    file_id: FileId
    state: Annotated[str, Meta(pattern=r"^(creating|live|deleted)\Z")]
    ack: Annotated[str, Meta(pattern=r"^(all|quorum)\Z")] = "all"
    owner: OptionalName = ""
    next_number: BlockNumber = field(default=0, name="next")
    blocks: Annotated[tuple[BlockEntry, ...], Meta(max_length=LIST_MAX)] = ()
    writers: Writers = field(default_factory=dict)

    @property
    def open_block(self) -> BlockEntry | None:
        """Returns the block that takes appends, when there is one."""
        return self.blocks[-1] if self.blocks and self.blocks[-1].state == OPEN else None

    @property
    def sealed_length(self) -> int:
        """Returns the length of the file without its open block."""
        return sum(block.length for block in self.blocks if block.state == SEALED)

    def block(self, number: int) -> BlockEntry | None:
        """Returns the block with this number."""
        return next((block for block in self.blocks if block.number == number), None)


@dataclass(frozen=True, slots=True)
class Reservation:
    """The details of an AlreadyExists from ``create``: the file that has the name."""

    file_id: FileId
    state: OptionalName
    owner: OptionalName

    @classmethod
    def of(cls, error: RainStormError) -> Reservation | None:
        """Returns the reservation in the details of ``error``, or None."""
        try:
            return message.decode(cls, error.details)
        except InvalidMessage:
            return None


Change = Callable[[Any], Any]


def to_value(entry: FileEntry) -> dict[str, Any]:
    """Returns the entry as plain values for the register."""
    return message.encode(entry)


def from_value(value: Any, name: str = "") -> FileEntry | None:
    """Returns the entry of a register's value, None when the name was never used.

    Raises:
        Corrupt: the value is no valid entry; voters of this release never accept one.
    """
    if value is None:
        return None
    try:
        return _checked(value)
    except InvalidMessage as error:
        raise Corrupt(f"the file table holds no valid entry for {name!r}: {error.message}") from None


def check(key: str, value: object) -> None:
    """Refuses a value that a file's register must not hold; a voter calls this before it votes.

    Raises:
        InvalidMessage: ``key`` is no file name, or ``value`` is neither a valid entry nor None.
    """
    try:
        check_file_name(key)
    except NameInvalid as error:
        raise InvalidMessage(error.message) from None
    if value is not None:
        _checked(value)


def _checked(value: object) -> FileEntry:
    entry = message.decode(FileEntry, value, "file entry")
    problem = _problem(entry)
    if problem:
        raise InvalidMessage(f"file entry: {problem}")
    return entry


def _problem(entry: FileEntry) -> str:
    """Returns how an entry contradicts itself, or ''."""
    if entry.blocks and entry.state != LIVE:
        return f"a file that is {entry.state} has blocks"
    last = -1
    for block in entry.blocks:
        if block.number <= last:
            return f"block {block.number} follows block {last}"
        last = block.number
        if block.state == OPEN and (block is not entry.blocks[-1] or block.length):
            return f"block {block.number} is open, but has a length or a successor"
        if block.state == SEALED and not block.length:
            return f"block {block.number} is sealed and empty"
        if len(frozenset(block.replicas)) != len(block.replicas):
            return f"block {block.number} is on the same node twice"
    return (
        "" if last < entry.next_number else f"block {last} exists, but the next number is {entry.next_number}"
    )


def needed_acks(ack: str, replicas: int) -> int:
    """Returns how many durable copies an append waits for."""
    return replicas if ack == "all" else replicas // 2 + 1


def needed_promises(ack: str, replicas: int) -> int:
    """Returns how many replicas must promise before a node other than the coordinator seals a block.

    Any set of this size intersects every set that can acknowledge an append. So one of its members holds each
    acknowledged record and refuses the next one.
    """
    return replicas - needed_acks(ack, replicas) + 1


def live(name: str, value: Any) -> FileEntry:
    """Returns the entry of a file that can be used.

    Raises:
        NotFound: the file does not exist: not yet, or no longer.
    """
    entry = from_value(value, name)
    if entry is None or entry.state != LIVE:
        raise NotFound(f"file {name!r} does not exist", hint="see which files there are: fab list")
    return entry


def create(
    name: str, file_id: str, ack: str, *, state: str = LIVE, owner: str = "", instead_of: str = ""
) -> Change:
    """Returns the change that makes a new, empty file or reserves its name for a put.

    ``instead_of`` is the file id of a put that its gateway has abandoned; its reservation may be replaced.
    """

    def change(value: Any) -> Any:
        entry = from_value(value, name)
        if entry is not None and entry.state == CREATING and entry.file_id == instead_of:
            entry = None
        if entry is not None and entry.state != DELETED and entry.file_id != file_id:
            what = "exists" if entry.state == LIVE else "is being written by another put"
            raise AlreadyExists(
                f"file {name!r} {what}",
                hint="choose another name, append to it, or delete it first",
                details=message.encode(Reservation(entry.file_id, entry.state, entry.owner)),
            )
        if entry is None or entry.file_id != file_id:
            return to_value(FileEntry(file_id, state, ack, owner))
        if state == CREATING and entry.state != CREATING:
            raise Conflict(f"the put of {name!r} has ended already", hint="put it again")
        return value

    return change


def publish(name: str, file_id: str, blocks: Sequence[BlockEntry]) -> Change:
    """Returns the change that makes a complete put visible."""

    def change(value: Any) -> Any:
        entry = from_value(value, name)
        if entry is None or entry.file_id != file_id or entry.state == DELETED:
            raise Conflict(f"the put of {name!r} was aborted in the meantime", hint="put it again")
        if entry.state == LIVE:
            return value
        return to_value(replace(entry, state=LIVE, owner="", blocks=tuple(blocks), next_number=len(blocks)))

    return change


def put_id(name: str, key: str) -> str:
    """Returns the id of the file that a put makes: the same for the same key and name, otherwise another."""
    return hashlib.sha256(f"{key}/{name}".encode()).hexdigest()[:32]


def as_put(name: str, value: Any, file_id: str, length: int) -> FileEntry | None:
    """Returns a live file as its put of ``length`` bytes left it, or None."""
    entry = from_value(value, name)
    if entry is None or entry.file_id != file_id or entry.state != LIVE:
        return None
    count, left = 0, length
    while left > 0 and count < len(entry.blocks):
        left -= entry.blocks[count].length
        count += 1
    return replace(entry, blocks=entry.blocks[:count]) if left == 0 else None


def abandon(name: str, file_id: str) -> Change:
    """Returns the change that removes the reservation of a put; a file that the put has made stays.

    A put whose commit got no answer may have made a file, and others may have appended to it since.
    """
    removing = remove(name, file_id)

    def change(value: Any) -> Any:
        entry = from_value(value, name)
        if entry is not None and entry.file_id == file_id and entry.state == LIVE:
            raise Conflict(f"the put of {name!r} is complete", hint="delete the file")
        return removing(value)

    return change


def remove(name: str, file_id: str) -> Change:
    """Returns the change that deletes a file; its open block must have been sealed, so that no coordinator
    can acknowledge an append to a deleted file.
    """

    def change(value: Any) -> Any:
        entry = from_value(value, name)
        if entry is None or entry.file_id != file_id or entry.state == DELETED:
            if entry is not None and entry.file_id == file_id:
                return value
            raise NotFound(f"file {name!r} does not exist", hint="see which files there are: fab list")
        if entry.open_block is not None:
            raise Conflict(f"file {name!r} still takes appends", details={"open": True})
        return to_value(FileEntry(file_id, DELETED, entry.ack))

    return change


def open_next(name: str, file_id: str, replicas: Sequence[str], view: int, session: str) -> Change:
    """Returns the change that opens the next block, coordinated by ``replicas[0]`` under ``session``.

    A block that is already open stays: the caller compares its session to learn which node coordinates it.
    """

    def change(value: Any) -> Any:
        entry = live(name, value)
        if entry.file_id != file_id:
            raise NotFound(f"file {name!r} was deleted and made again", details={"file_id": entry.file_id})
        if entry.open_block is not None:
            return value
        block = BlockEntry(entry.next_number, tuple(replicas), view, OPEN, 0, 0, session)
        return to_value(replace(entry, blocks=(*entry.blocks, block), next_number=entry.next_number + 1))

    return change


def seal(
    name: str,
    file_id: str,
    number: int,
    length: int,
    crc: int,
    replicas: Sequence[str],
    writers: Mapping[str, WriterMark],
) -> Change:
    """Returns the change that makes the open block final.

    ``replicas`` are those known to hold all of it. ``writers`` are the marks of its records with offsets in
    the file; they join those of the earlier blocks, which is how duplicates are known across blocks. An empty
    block leaves the chain. A block that another node sealed stays as it is.
    """

    def change(value: Any) -> Any:
        entry = from_value(value, name)
        if entry is None or entry.file_id != file_id or entry.state != LIVE:
            raise NotFound(f"file {name!r} does not exist any more")
        block = entry.open_block
        if block is None or block.number != number:
            return value
        kept = entry.blocks[:-1]
        if length:
            kept = (*kept, replace(block, state=SEALED, length=length, crc=crc, replicas=tuple(replicas)))
        marks = dict(entry.writers)
        for writer, mark in writers.items():
            note_writer(marks, writer, mark)
        return to_value(replace(entry, blocks=kept, writers=marks))

    return change


def set_replicas(
    name: str, file_id: str, number: int, *, add: Sequence[str] = (), drop: Sequence[str] = ()
) -> Change:
    """Returns the change that records new holders of a sealed block and forgets lost ones."""

    def change(value: Any) -> Any:
        entry = live(name, value)
        block = entry.block(number)
        if entry.file_id != file_id or block is None or block.state != SEALED:
            raise Fenced(f"block {number} of {name!r} was changed in the meantime")
        holders = [node for node in block.replicas if node not in drop]
        holders += [node for node in add if node not in holders]
        if not holders:
            raise Conflict(f"block {number} of {name!r} would have no replica left")
        blocks = tuple(replace(b, replicas=tuple(holders)) if b.number == number else b for b in entry.blocks)
        return to_value(replace(entry, blocks=blocks))

    return change
