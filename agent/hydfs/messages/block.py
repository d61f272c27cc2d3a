"""The messages between store agents. Only the cluster's own nodes may send these requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from agent.common.message import Counter, Crc, Done, Name, OptionalName, Request
from agent.hydfs.core.block import BlockNumber, FileId, Record, Writers
from agent.hydfs.core.filetable import REPLICAS_MAX, FileEntry
from agent.hydfs.messages.file import AppendOffset, FileName, StoredBlocks, StoredPlace

# A node and its activity, as in "n1/repair": it keeps the pieces of two senders apart.
Sender = Annotated[str, Meta(min_length=1, max_length=300)]


@dataclass(frozen=True, slots=True)
class BlockAppended:
    """Answer: where an append is, and (``value``) the file's entry when a block was opened for it."""

    offset: AppendOffset
    length: Counter
    copies: Counter
    duplicate: bool
    value: FileEntry | None = None


@dataclass(frozen=True, slots=True)
class AppendToBlock(Request[BlockAppended]):
    """Asks the coordinator of block ``number`` to append the payload. None asks the node to open the block
    that the table calls ``next``, and to avoid the nodes in ``avoid`` if there are enough others.
    """

    kind: ClassVar = "hydfs.block.append"
    reply: ClassVar = BlockAppended
    name: FileName
    file_id: FileId
    number: BlockNumber | None
    writer: Name
    sequence: Counter
    next: BlockNumber = 0
    avoid: Annotated[tuple[Name, ...], Meta(max_length=REPLICAS_MAX)] = ()
    if_offset: Counter | None = None


@dataclass(frozen=True, slots=True)
class TailLength:
    """Answer: the committed length of an open block."""

    length: Counter


@dataclass(frozen=True, slots=True)
class AskTail(Request[TailLength]):
    """Asks a coordinator how far its block is committed."""

    kind: ClassVar = "hydfs.block.tail"
    reply: ClassVar = TailLength
    file_id: FileId
    number: BlockNumber


@dataclass(frozen=True, slots=True)
class WriteRecord(Request[Done]):
    """Brings a replica a record; the payload is its data. Answered once it is durable."""

    kind: ClassVar = "hydfs.block.write"
    reply: ClassVar = Done
    file_id: FileId
    number: BlockNumber
    name: FileName
    session: Name
    record: Record


@dataclass(frozen=True, slots=True)
class Promised:
    """Answer: the state of a copy that takes no more records. ``doubtful``: it may have lost its tail."""

    length: Counter
    crc: Crc
    writers: Writers
    doubtful: bool


@dataclass(frozen=True, slots=True)
class AskPromise(Request[Promised]):
    """Asks a replica to take no more records of a block."""

    kind: ClassVar = "hydfs.block.promise"
    reply: ClassVar = Promised
    file_id: FileId
    number: BlockNumber
    name: FileName


@dataclass(frozen=True, slots=True)
class Seal(Request[Done]):
    """Asks a replica to make an open block final."""

    kind: ClassVar = "hydfs.block.seal"
    reply: ClassVar = Done
    file_id: FileId
    number: BlockNumber
    name: FileName


@dataclass(frozen=True, slots=True)
class Certify(Request[Done]):
    """Tells a replica the final length and checksum of a block; length 0 means that it left the chain."""

    kind: ClassVar = "hydfs.block.certify"
    reply: ClassVar = Done
    file_id: FileId
    number: BlockNumber
    name: FileName
    length: Counter
    crc: Crc


@dataclass(frozen=True, slots=True)
class ReadBlock(Request[Done]):
    """Asks for bytes of a copy; they are the payload of the answer."""

    kind: ClassVar = "hydfs.block.read"
    reply: ClassVar = Done
    file_id: FileId
    number: BlockNumber
    offset: Counter
    length: Counter
    name: OptionalName = ""


@dataclass(frozen=True, slots=True)
class StorePiece(Request[Done]):
    """Brings the next piece of a whole block as the payload; ``length`` and ``crc`` are the block's."""

    kind: ClassVar = "hydfs.block.store"
    reply: ClassVar = Done
    file_id: FileId
    number: BlockNumber
    name: FileName
    sender: Sender
    offset: Counter
    last: bool
    length: Counter
    crc: Crc


@dataclass(frozen=True, slots=True)
class DropFile(Request[Done]):
    """Tells a node that a file was deleted: it may drop its copies of the file's blocks."""

    kind: ClassVar = "hydfs.block.drop"
    reply: ClassVar = Done
    file_id: FileId
    name: FileName


@dataclass(frozen=True, slots=True)
class ListOwnStored(Request[StoredBlocks]):
    """Asks a node for the copies that it keeps: a page of those after ``after``, or all."""

    kind: ClassVar = "hydfs.store_local"
    reply: ClassVar = StoredBlocks
    after: StoredPlace | None = None
    paged: bool = False


@dataclass(frozen=True, slots=True)
class PutLife:
    """Answer: whether the gateway still works on the put."""

    alive: bool


@dataclass(frozen=True, slots=True)
class AskPut(Request[PutLife]):
    """Asks the gateway of a put whether it still works on it."""

    kind: ClassVar = "hydfs.put_alive"
    reply: ClassVar = PutLife
    file_id: FileId
