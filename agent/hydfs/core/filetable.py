"""The file table: what the register of a file name may hold, and the changes that are allowed.

Every file name is one CASPaxos register (agent/common/register.py). Its value is plain msgpack; the functions
here are the only ones that make or change it. A file is *creating* (a put that is not whole yet), *live*, or
*deleted* (a tombstone that keeps the file id, so that late blocks of a deleted file are known as such).

At most the last block of a chain is open. Its replica set and its session are fixed when it is opened, by the
node that will coordinate it; a session is one process's right to coordinate one block, so a restarted
coordinator never continues a block but seals it. Block numbers are never used twice within a file.

Each change is a function that raises a ``RainStormError`` to refuse, made to be passed to
``Registers.change``; changes that may be applied twice (a lost reply) give the same result again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.common.errors import AlreadyExists, Conflict, Fenced, NotFound
from agent.hydfs.core.block import OPEN, SEALED, WriterMark

CREATING, LIVE, DELETED = "creating", "live", "deleted"
# A writer not heard of while this many others wrote to the same file is forgotten: a retry of its last append
# would then be taken for a new one. A stream job has a few dozen writers a file.
WRITERS_MAX = 1024


@dataclass(frozen=True, slots=True)
class BlockEntry:
    """One block of a file's chain."""

    number: int
    replicas: tuple[str, ...]
    view: int
    state: str
    length: int
    crc: int
    session: str


@dataclass(frozen=True, slots=True)
class FileEntry:
    """The value of a file's register."""

    file_id: str
    state: str
    ack: str = "all"
    owner: str = ""
    next_number: int = 0
    blocks: tuple[BlockEntry, ...] = ()
    writers: Mapping[str, WriterMark] | None = None

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


Change = Callable[[Any], Any]


def to_value(entry: FileEntry) -> dict[str, Any]:
    """Returns the entry as plain values for the register."""
    return {
        "file_id": entry.file_id,
        "state": entry.state,
        "ack": entry.ack,
        "owner": entry.owner,
        "next": entry.next_number,
        "blocks": [
            [b.number, list(b.replicas), b.view, b.state, b.length, b.crc, b.session] for b in entry.blocks
        ],
        "writers": {writer: list(mark) for writer, mark in (entry.writers or {}).items()},
    }


def from_value(value: Any) -> FileEntry | None:
    """Returns the entry of a register's value, None when the name was never used."""
    if value is None:
        return None
    blocks = tuple(BlockEntry(b[0], tuple(b[1]), b[2], b[3], b[4], b[5], b[6]) for b in value["blocks"])
    writers = {writer: (mark[0], mark[1], mark[2]) for writer, mark in value["writers"].items()}
    return FileEntry(
        value["file_id"], value["state"], value["ack"], value["owner"], value["next"], blocks, writers
    )


def needed_acks(ack: str, replicas: int) -> int:
    """Returns how many durable copies an append waits for."""
    return replicas if ack == "all" else replicas // 2 + 1


def needed_promises(ack: str, replicas: int) -> int:
    """Returns how many replicas must promise before somebody else than the coordinator seals a block.

    Any set of this size meets every set that can acknowledge an append, so one of it holds each acked record
    and refuses the next one.
    """
    return replicas - needed_acks(ack, replicas) + 1


def live(name: str, value: Any) -> FileEntry:
    """Returns the entry of a file that can be used.

    Raises:
        NotFound: there is no such file, or not yet, or no more.
    """
    entry = from_value(value)
    if entry is None or entry.state != LIVE:
        raise NotFound(f"file {name!r} does not exist", hint="see which files there are: fab list")
    return entry


def create(
    name: str, file_id: str, ack: str, *, state: str = LIVE, owner: str = "", instead_of: str = ""
) -> Change:
    """Returns the change that makes a new, empty file or reserves its name for a put.

    ``instead_of`` is the file id of a put that was found to be dead; its reservation may be taken over.
    """

    def change(value: Any) -> Any:
        entry = from_value(value)
        if entry is not None and entry.state == CREATING and entry.file_id == instead_of:
            entry = None
        if entry is not None and entry.state != DELETED and entry.file_id != file_id:
            what = "exists" if entry.state == LIVE else "is being written by another put"
            raise AlreadyExists(
                f"file {name!r} {what}",
                hint="choose another name, append to it, or delete it first",
                details={"file_id": entry.file_id, "state": entry.state, "owner": entry.owner},
            )
        if entry is not None and entry.file_id == file_id:
            return value
        return to_value(FileEntry(file_id, state, ack, owner))

    return change


def publish(name: str, file_id: str, blocks: Sequence[BlockEntry]) -> Change:
    """Returns the change that makes a put visible, whole."""

    def change(value: Any) -> Any:
        entry = from_value(value)
        if entry is None or entry.file_id != file_id or entry.state == DELETED:
            raise Conflict(f"the put of {name!r} was given up meanwhile", hint="put it again")
        if entry.state == LIVE:
            return value
        return to_value(replace(entry, state=LIVE, owner="", blocks=tuple(blocks), next_number=len(blocks)))

    return change


def remove(name: str, file_id: str) -> Change:
    """Returns the change that deletes a file; its open block must have been sealed, so that no coordinator
    can acknowledge an append to a deleted file.
    """

    def change(value: Any) -> Any:
        entry = from_value(value)
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

    A block that is open already stays: the caller compares its session to learn who coordinates.
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
    block leaves the chain. A block that somebody else sealed stays as it is.
    """

    def change(value: Any) -> Any:
        entry = from_value(value)
        if entry is None or entry.file_id != file_id or entry.state != LIVE:
            raise NotFound(f"file {name!r} does not exist any more")
        block = entry.open_block
        if block is None or block.number != number:
            return value
        kept = entry.blocks[:-1]
        if length:
            kept = (*kept, replace(block, state=SEALED, length=length, crc=crc, replicas=tuple(replicas)))
        marks = {**(entry.writers or {})}
        for writer, mark in writers.items():
            marks.pop(writer, None)  # the latest go last, the oldest are forgotten first
            marks[writer] = mark
        while len(marks) > WRITERS_MAX:
            marks.pop(next(iter(marks)))
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
            raise Fenced(f"block {number} of {name!r} is not what it was")
        holders = [node for node in block.replicas if node not in drop]
        holders += [node for node in add if node not in holders]
        if not holders:
            raise Conflict(f"block {number} of {name!r} would have no replica left")
        blocks = tuple(replace(b, replicas=tuple(holders)) if b.number == number else b for b in entry.blocks)
        return to_value(replace(entry, blocks=blocks))

    return change
