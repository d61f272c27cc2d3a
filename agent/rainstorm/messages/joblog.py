"""The records of the job log and of the index of jobs, and their format in the files.

A record is its length in four bytes and a msgpack map. ``at`` is the wall-clock time at which the leader
appended it. In the files two fields have short names, ``e`` and ``g``, because every commit has them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgpack
from msgspec import Meta

from agent.common.errors import Corrupt, InvalidMessage
from agent.common.failure import Failure
from agent.common.message import Counter, Message, Name, OptionalName, Text, Vocabulary, Wall
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.names import TASKS_MAX, JobName, TaskName
from agent.rainstorm.messages.fields import (
    CountsByTask,
    JobFile,
    Placement,
    Positions,
    ReferencesByTask,
)
from agent.rainstorm.messages.status import JobStatus
from agent.wire.codec.framing import Buffer

LENGTH = struct.Struct(">I")
SHORT_NAMES = {"epoch": "e", "generation": "g"}
LONG_NAMES = {short: long for long, short in SHORT_NAMES.items()}


@dataclass(frozen=True, slots=True)
class JobRecord(Message):
    """The first record of a job's log: the submitted job."""

    kind: ClassVar[str] = "job"
    job: JobName
    spec: JobFile
    header: SourceHeader
    sink: Name
    at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class TermRecord(Message):
    """A leader has taken over: from here on, appends of a leader of an older term are refused."""

    kind: ClassVar[str] = "term"
    term: Counter
    node: OptionalName = ""
    at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class GenerationRecord(Message):
    """A new generation: the placement of its tasks, its cause, and the highest epoch ever triggered."""

    kind: ClassVar[str] = "generation"
    generation: Counter
    placement: Placement
    cause: Text
    epoch_max: Counter
    at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class CommitRecord(Message):
    """An epoch happened. ``published`` is the last epoch whose output is known to be published completely."""

    kind: ClassVar[str] = "commit"
    epoch: Counter
    generation: Counter
    positions: Positions
    base: ReferencesByTask
    delta: ReferencesByTask
    sink: ReferencesByTask
    done: Annotated[tuple[TaskName, ...], Meta(max_length=TASKS_MAX)]
    counts: CountsByTask
    published: Counter
    at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class OutcomeRecord(Message):
    """The job has ended."""

    kind: ClassVar[str] = "outcome"
    outcome: Literal["finished", "failed", "cancelled"]
    error: Failure | None = None
    at: Wall = 0.0


JobLogRecord = JobRecord | TermRecord | GenerationRecord | CommitRecord | OutcomeRecord
JOB_LOG: Vocabulary[JobLogRecord] = Vocabulary(
    "job log", JobRecord, TermRecord, GenerationRecord, CommitRecord, OutcomeRecord, tag="t"
)


@dataclass(frozen=True, slots=True)
class SubmittedRecord(Message):
    """A job was submitted; it has a log."""

    kind: ClassVar[str] = "submitted"
    job: JobName
    at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class EndedRecord(Message):
    """A job has ended, as ``summary`` says."""

    kind: ClassVar[str] = "ended"
    job: JobName
    summary: JobStatus


IndexRecord = SubmittedRecord | EndedRecord | TermRecord
INDEX: Vocabulary[IndexRecord] = Vocabulary(
    "index of jobs", SubmittedRecord, EndedRecord, TermRecord, tag="t"
)

R = TypeVar("R", bound=Message)


def encode(vocabulary: Vocabulary[R], records: Iterable[R]) -> bytes:
    """Returns records as bytes of a log.

    Raises:
        InvalidMessage: a record could not be read back; nothing may be written.
    """
    parts = []
    for record in records:
        fields = vocabulary.encode(record)
        vocabulary.decode(fields)
        stored = {SHORT_NAMES.get(name, name): value for name, value in fields.items()}
        body: bytes = msgpack.packb(stored, use_bin_type=True)
        parts.append(LENGTH.pack(len(body)) + body)
    return b"".join(parts)


def decode(vocabulary: Vocabulary[R], data: Buffer) -> Iterator[R]:
    """Yields the records of a whole log.

    Raises:
        Corrupt: the bytes are not a sequence of records.
        InvalidMessage: a record is malformed.
    """
    for body in bodies(data):
        yield decode_body(vocabulary, body)


def bodies(data: Buffer) -> Iterator[memoryview]:
    """Yields the bytes of each record of a log.

    Raises:
        Corrupt: the log ends inside a record.
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        begin = at + LENGTH.size
        length = LENGTH.unpack_from(view, at)[0] if begin <= len(view) else 0
        at = begin + length
        if at > len(view):
            raise Corrupt("the log ends inside a record")
        yield view[begin:at]


def decode_body(vocabulary: Vocabulary[R], body: Buffer) -> R:
    """Returns the record that the bytes hold.

    Raises:
        InvalidMessage: they hold something else.
    """
    try:
        fields: Any = msgpack.unpackb(body, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise InvalidMessage(f"{vocabulary.name}: a record is not msgpack: {error}") from None
    if isinstance(fields, dict):
        fields = {LONG_NAMES.get(name, name): value for name, value in fields.items()}
    return vocabulary.decode(fields)
