"""The requests and answers of the logs agent, and the formats that it keeps on disk.

Shapes, ranges and sizes are checked here. The meaning of a search or a name is checked where it is used, with
errors for people. Positions and records are lists, as in earlier releases.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from agent.common.message import (
    COUNTER_MAX,
    Counter,
    Crc,
    Done,
    Duration,
    Name,
    Number,
    OptionalName,
    Request,
    Text,
)

# Linux accepts 128 KiB for one argument; no pattern that a person types comes near 32 KiB.
PATTERN_BYTES_MAX = 32 * 1024
# Up to this length a pattern that is too long is refused with a hint. A command line is at most 2 MiB.
SENT_BYTES_MAX = 2 * 1024 * 1024
NAMES_MAX = 64
POSITIONS_MAX = 1024
# Files that are gone are remembered, so that a compressed copy of one is not taken for a new file.
GONE_MAX = 1024
CURSOR_CHARS_MAX = 512
# Log lines begin with their time: two files that share their first kibibyte are copies.
HEAD_BYTES = 1024
# A short random id that the caller chooses.
ID_CHARS_MAX = 64
PROBLEMS_MAX = 10_000

SearchId = Annotated[str, Meta(min_length=1, max_length=ID_CHARS_MAX)]
Pattern = Annotated[bytes, Meta(max_length=SENT_BYTES_MAX)]
# ``query`` checks names and patterns of names, with errors that name the option; this bounds its input.
Patterns = Annotated[tuple[str, ...], Meta(max_length=16 * NAMES_MAX)]
# An option's number as it was typed; ``query`` checks its range.
Typed = Annotated[int, Meta(ge=-COUNTER_MAX, le=COUNTER_MAX)]
# Up to 64 bits without a sign, which is what msgpack can carry.
Device = Annotated[int, Meta(ge=-1)]
HeadBytes = Annotated[int, Meta(ge=0, le=HEAD_BYTES)]
FileNumber = Annotated[int, Meta(ge=-1, le=COUNTER_MAX)]
Cursor = Annotated[str, Meta(max_length=CURSOR_CHARS_MAX)]
# Log, device, inode, number, offset, head bytes, checksum of the head, cursor of the journal.
PositionFields = tuple[Name, Device, Device, FileNumber, Counter, HeadBytes, Crc, Cursor]
# Number, day and size of the HyDFS file that a log is appended to.
TargetFields = tuple[Counter, Annotated[str, Meta(max_length=8)], Counter]


@dataclass(frozen=True, slots=True)
class SearchStarted:
    """The answer to ``StartSearch``: how many logs the search goes through."""

    sources: Counter


@dataclass(frozen=True, slots=True)
class StartSearch(Request[SearchStarted]):
    """Starts a search under an id of the caller's; the same request again starts nothing."""

    kind: ClassVar[str] = "logs.search"
    reply: ClassVar[type[Any]] = SearchStarted
    search: SearchId
    pattern: Pattern
    ignore_case: bool = False
    invert: bool = False
    extended: bool = False
    fixed: bool = False
    count: bool = False
    line_numbers: bool = False
    after: Typed | None = None
    before: Typed | None = None
    context: Typed | None = None
    max_count: Typed | None = None
    files: Patterns = ()
    system: Patterns = ()
    since: Number | None = None
    until: Number | None = None
    collected_of: OptionalName = ""
    output_bytes_max: Typed | None = None
    time_limit_s: Number | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of a search; ``cut`` says why it ended early, ``problems`` which logs were left out."""

    matches: Counter = 0
    lines: Counter = 0
    files: Counter = 0
    searched_bytes: Counter = 0
    seconds: Duration = 0.0
    cut: Text = ""
    problems: Annotated[tuple[Text, ...], Meta(max_length=PROBLEMS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the output, which is the payload; ``number`` is 0 while there is nothing yet."""

    number: Counter
    done: bool = False
    summary: Summary | None = None


@dataclass(frozen=True, slots=True)
class TakePiece(Request[Piece]):
    """Asks for the next piece of a search's output, or again for the last one."""

    kind: ClassVar[str] = "logs.search_piece"
    reply: ClassVar[type[Any]] = Piece
    search: SearchId
    number: Annotated[int, Meta(ge=1, le=COUNTER_MAX)]


@dataclass(frozen=True, slots=True)
class EndSearch(Request[Done]):
    """Ends a search whose output is no longer wanted."""

    kind: ClassVar[str] = "logs.search_end"
    reply: ClassVar[type[Any]] = Done
    search: SearchId


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file of the log folder."""

    name: Name
    bytes: Counter
    modified_at: Number


@dataclass(frozen=True, slots=True)
class LogList:
    """The logs that a node has, and those of the system that it lets operators read."""

    files: tuple[FileInfo, ...] = ()
    units: tuple[Name, ...] = ()
    system_files: tuple[str, ...] = ()
    system_units: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ListLogs(Request[LogList]):
    """Asks which logs a node has."""

    kind: ClassVar[str] = "logs.files"
    reply: ClassVar[type[Any]] = LogList
    files: Patterns = ()


@dataclass(frozen=True, slots=True)
class Followed:
    """The lines after the positions of a request: (file, number of bytes) for each part of the payload."""

    positions: Annotated[tuple[PositionFields, ...], Meta(max_length=POSITIONS_MAX)]
    pieces: tuple[tuple[Name, Counter], ...] = ()


@dataclass(frozen=True, slots=True)
class Follow(Request[Followed]):
    """Asks for the lines after some positions; without any, asks where the last lines or a time begin."""

    kind: ClassVar[str] = "logs.follow"
    reply: ClassVar[type[Any]] = Followed
    positions: Annotated[tuple[PositionFields, ...], Meta(max_length=POSITIONS_MAX)] | None = None
    files: Patterns = ()
    tail: Typed | None = None
    since: Number | None = None
    wait_s: Number | None = None


@dataclass(frozen=True, slots=True)
class CollectionStatus:
    """The progress of a node's collection into HyDFS."""

    collects: bool
    waiting_records: Counter = 0
    waiting_bytes: Counter = 0
    unread_bytes: Counter = 0
    # Negative while copies of files that were counted as lost are being read.
    lost_bytes: Typed = 0
    sent_bytes: Counter = 0
    spool_full: bool = False
    trouble: Text = ""


@dataclass(frozen=True, slots=True)
class AskCollection(Request[CollectionStatus]):
    """Asks for the progress of a node's collection."""

    kind: ClassVar[str] = "logs.collection"
    reply: ClassVar[type[Any]] = CollectionStatus


# On disk, in the spool


@dataclass(frozen=True, slots=True)
class CollectorState:
    """All of the collector's state that must outlive a crash."""

    next: Counter
    positions: tuple[PositionFields, ...] = ()
    current: tuple[FileNumber, ...] = ()
    targets: dict[Name, TargetFields] = field(default_factory=dict)
    # Of the logs whose last record ends within a line: the number of its file.
    torn: dict[Name, FileNumber] = field(default_factory=dict)


# The position behind the lines of a record, the file they go to, and the lines.
RecordFields = tuple[PositionFields, TargetFields, bytes]


@dataclass(frozen=True, slots=True)
class SpooledRecord:
    """Lines on their way to HyDFS."""

    record: RecordFields
