"""The requests of clients to a store agent. Tasks, operators and other agents of the node are clients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from agent.common.message import (
    LIST_MAX,
    NAME_CHARS_MAX,
    Counter,
    Done,
    Name,
    OptionalName,
    Request,
    Text,
)
from agent.hydfs.core.block import BlockNumber, BlockState, FileId
from agent.hydfs.core.filetable import REPLICAS_MAX

# ``agent.common.ids`` checks file names, and its error says what is wrong with one; this limit only bounds
# the text that it has to check.
FileName = Text
Prefix = Annotated[str, Meta(max_length=NAME_CHARS_MAX)]
# The offset of a duplicate append that is not its writer's last one is unknown.
UNKNOWN_OFFSET = -1
AppendOffset = Annotated[int, Meta(ge=UNKNOWN_OFFSET, le=(1 << 63) - 1)]
RingId = Annotated[str, Meta(max_length=8)]


@dataclass(frozen=True, slots=True)
class BlockStat:
    """One block of a file; ``offset`` is where it begins in the file."""

    number: BlockNumber
    offset: Counter
    length: Counter
    replicas: Annotated[tuple[Name, ...], Meta(max_length=REPLICAS_MAX)]
    state: BlockState
    ring_id: RingId = ""


@dataclass(frozen=True, slots=True)
class FileStat:
    """A file: its id changes when it is deleted and made again."""

    name: FileName
    file_id: FileId
    length: Counter
    blocks: Annotated[tuple[BlockStat, ...], Meta(max_length=LIST_MAX)]


@dataclass(frozen=True, slots=True)
class Described:
    """Answer: a file, its length and its blocks; whether ``more`` blocks follow the last of these."""

    stat: FileStat
    more: bool = False


@dataclass(frozen=True, slots=True)
class Create(Request[Described]):
    """Makes an empty file."""

    kind: ClassVar = "hydfs.create"
    reply: ClassVar = Described
    name: FileName


@dataclass(frozen=True, slots=True)
class Stat(Request[Described]):
    """Asks for a file with its linearizable length: a page of its blocks, those behind number ``after``.

    With a ``file_id`` it is about that very file. A client of an earlier release does not ask for a page
    (``paged``): all blocks must fit into one answer.
    """

    kind: ClassVar = "hydfs.stat"
    reply: ClassVar = Described
    name: FileName
    file_id: FileId | None = None
    after: BlockNumber | None = None
    paged: bool = False


@dataclass(frozen=True, slots=True)
class AppendResult:
    """Answer: the offset of an append; -1 for a duplicate that is not its writer's last append."""

    offset: AppendOffset
    length: Counter
    copies: Counter
    duplicate: bool


@dataclass(frozen=True, slots=True)
class Append(Request[AppendResult]):
    """Appends the payload once for each (writer, sequence); with ``if_offset``, only if the file has that
    length.
    """

    kind: ClassVar = "hydfs.append"
    reply: ClassVar = AppendResult
    name: FileName
    writer: Name
    sequence: Counter
    if_offset: Counter | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """Answer: bytes of a file as the payload, or ``end`` when there are none at that offset."""

    end: bool
    file_id: FileId


@dataclass(frozen=True, slots=True)
class Read(Request[Part]):
    """Asks for up to ``length`` bytes from ``offset`` on, of the file with ``file_id`` if one is given."""

    kind: ClassVar = "hydfs.read"
    reply: ClassVar = Part
    name: FileName
    offset: Counter
    length: Counter
    file_id: FileId | None = None


@dataclass(frozen=True, slots=True)
class OpenedBlock:
    """Answer: an open file that holds the bytes [start, start + length) of the file."""

    start: Counter
    length: Counter


@dataclass(frozen=True, slots=True)
class OpenBlock(Request[OpenedBlock]):
    """Asks for the sealed block that holds byte ``offset``, if it is on this node; Unix socket only."""

    kind: ClassVar = "hydfs.open_block"
    reply: ClassVar = OpenedBlock
    name: FileName
    offset: Counter
    file_id: FileId


@dataclass(frozen=True, slots=True)
class Listed:
    """Answer: files, sorted by name. ``damaged`` are names whose entry in the file table is not valid.

    Unless ``next`` is empty, more files follow: those after this name. With ``more_blocks`` the last file has
    more blocks than it is shown with; a ``Stat`` tells of them.
    """

    files: Annotated[tuple[FileStat, ...], Meta(max_length=LIST_MAX)]
    damaged: Annotated[tuple[str, ...], Meta(max_length=LIST_MAX)] = ()
    next: OptionalName = ""
    more_blocks: bool = False


@dataclass(frozen=True, slots=True)
class ListFiles(Request[Listed]):
    """Asks for the files whose names begin with ``prefix``: a page of those after ``after``.

    A client of an earlier release does not ask for a page (``paged``): it gets all, or is refused.
    """

    kind: ClassVar = "hydfs.list"
    reply: ClassVar = Listed
    prefix: Prefix = ""
    after: OptionalName = ""
    paged: bool = False


@dataclass(frozen=True, slots=True)
class Delete(Request[Done]):
    """Deletes a file."""

    kind: ClassVar = "hydfs.delete"
    reply: ClassVar = Done
    name: FileName


@dataclass(frozen=True, slots=True)
class Deleted:
    """Answer: the names of the files that were deleted; unless ``next`` is empty, those after it were not."""

    deleted: Annotated[tuple[str, ...], Meta(max_length=LIST_MAX)]
    next: OptionalName = ""


@dataclass(frozen=True, slots=True)
class DeletePrefix(Request[Deleted]):
    """Deletes the files whose names begin with ``prefix`` (never empty), page by page as in ``ListFiles``."""

    kind: ClassVar = "hydfs.delete_prefix"
    reply: ClassVar = Deleted
    prefix: Name
    after: OptionalName = ""
    paged: bool = False


# The name, file id and number of a copy.
StoredPlace = tuple[OptionalName, FileId, BlockNumber]


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """One copy of a block on a node."""

    name: OptionalName
    file_id: FileId
    number: BlockNumber
    length: Counter
    state: BlockState
    ring_id: RingId

    @property
    def place(self) -> StoredPlace:
        """Returns its place in a listing."""
        return self.name, self.file_id, self.number


@dataclass(frozen=True, slots=True)
class StoredBlocks:
    """Answer: the copies on ``node``, whose place on the ring is ``ring_id``, and whether ``more`` follow.

    They are sorted by name, file id and number.
    """

    blocks: Annotated[tuple[StoredBlock, ...], Meta(max_length=LIST_MAX)]
    node: OptionalName = ""
    ring_id: RingId = ""
    more: bool = False


@dataclass(frozen=True, slots=True)
class ListStored(Request[StoredBlocks]):
    """Asks for the copies on ``node``, or on the agent's own node: a page of those after ``after``.

    A client of an earlier release does not ask for a page (``paged``): all must fit into one answer.
    """

    kind: ClassVar = "hydfs.store"
    reply: ClassVar = StoredBlocks
    node: OptionalName = ""
    after: StoredPlace | None = None
    paged: bool = False


@dataclass(frozen=True, slots=True)
class PutBegun:
    """Answer: the id of the new file, and the size of the pieces to send."""

    file_id: FileId
    piece_bytes: Annotated[int, Meta(ge=1, le=16 * 1024 * 1024)]


@dataclass(frozen=True, slots=True)
class BeginPut(Request[PutBegun]):
    """Reserves the name of a file that is going to be put.

    With a ``key``, drawn by the client, the same request again finds the put that the first one began.
    """

    kind: ClassVar = "hydfs.put_begin"
    reply: ClassVar = PutBegun
    name: FileName
    key: OptionalName = ""


@dataclass(frozen=True, slots=True)
class PutPiece(Request[Done]):
    """Brings the next piece of a put as the payload."""

    kind: ClassVar = "hydfs.put_piece"
    reply: ClassVar = Done
    file_id: FileId
    offset: Counter


@dataclass(frozen=True, slots=True)
class CommitPut(Request[Described]):
    """Makes a put of ``length`` bytes visible.

    With the ``name`` the request may be repeated: the answer stays the same after the put has been committed.
    It has a page of the file's blocks, or all if the client does not know of pages, as with ``Stat``.
    """

    kind: ClassVar = "hydfs.put_commit"
    reply: ClassVar = Described
    file_id: FileId
    length: Counter
    name: FileName = ""
    paged: bool = False


@dataclass(frozen=True, slots=True)
class AbortPut(Request[Done]):
    """Aborts a put."""

    kind: ClassVar = "hydfs.put_abort"
    reply: ClassVar = Done
    file_id: FileId


@dataclass(frozen=True, slots=True)
class StoreHealth:
    """Answer: one agent's blocks (``stored_bytes`` in total), and the state of its repair: the number of
    ``under_replicated`` blocks, the number of file names ``waiting`` for repair, and whether everything has
    been ``checked`` since a node came or went. The counts of all agents add up. Nothing is left to do when
    all agents have checked and both counts are 0.
    """

    view_version: Counter
    checked: bool
    under_replicated: Counter
    waiting: Counter
    blocks: Counter
    stored_bytes: Counter


@dataclass(frozen=True, slots=True)
class Health(Request[StoreHealth]):
    """Asks how much an agent stores and how much its repair still has to do."""

    kind: ClassVar = "hydfs.health"
    reply: ClassVar = StoreHealth
