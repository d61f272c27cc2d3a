"""The events of the store's cores (past tense) and the effects that they ask for (imperative).

A *token* identifies a caller that waits for an answer; cores pass it back unread. ``code`` is the stable code
of an error, empty on success.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent.common.core import Tick
from agent.hydfs.core.block import BlockKey, Record, WriterMark
from agent.hydfs.core.errors import Details
from agent.wire.codec.framing import Buffer

# Cores only compare tokens; only the shell that made a token knows its meaning.
Token = Any


@dataclass(frozen=True, slots=True)
class BlockOpened:
    """Event: this process opened a block and coordinates it. ``base`` is the block's offset in the file,
    ``writers`` the marks of the file's earlier blocks.
    """

    key: BlockKey
    name: str
    session: str
    replicas: tuple[str, ...]
    ack: str
    base: int
    writers: dict[str, WriterMark]
    view: int


@dataclass(frozen=True, slots=True)
class AppendRequested:
    """Event: a client appends ``data`` to the file whose open block is ``key``."""

    token: Token
    key: BlockKey
    writer: str
    sequence: int
    if_offset: int | None
    data: Buffer


@dataclass(frozen=True, slots=True)
class TailRequested:
    """Event: a reader asks how far the open block is committed."""

    token: Token
    key: BlockKey


@dataclass(frozen=True, slots=True)
class WriteReceived:
    """Event: a coordinator sent a record to this replica."""

    token: Token
    key: BlockKey
    name: str
    session: str
    record: Record
    data: Buffer


@dataclass(frozen=True, slots=True)
class WriteAnswered:
    """Event: a replica has written all of the block up to ``end``, or refused to."""

    peer: str
    key: BlockKey
    end: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class RecordWritten:
    """Event: the record that ends at ``end`` is on stable storage here, or the disk refused it."""

    key: BlockKey
    end: int
    code: str = ""


@dataclass(frozen=True, slots=True)
class PromiseRequested:
    """Event: a node is sealing the block and asks this replica to take no more records of it.

    A promise is ``doubtful`` when the block is not here and the disk is new: the old disk may have held it.
    """

    token: Token
    key: BlockKey
    name: str
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class PromiseWritten:
    """Event: the promise is on stable storage, or the disk refused it."""

    key: BlockKey
    code: str = ""


@dataclass(frozen=True, slots=True)
class BlockSealed:
    """Event: the file table says that the block is final with this length."""

    key: BlockKey
    name: str
    length: int
    crc: int


@dataclass(frozen=True, slots=True)
class SealFailed:
    """Event: the file table could not be changed; the block may still be open there."""

    key: BlockKey
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class BlockDropped:
    """Event: this node must drop its copy of the block."""

    key: BlockKey


@dataclass(frozen=True, slots=True)
class NodeLost:
    """Event: the cluster view says that ``node`` is down."""

    node: str


@dataclass(frozen=True, slots=True)
class SealRequested:
    """Event: the block should be sealed; if this node coordinates it, its coordinator does that."""

    key: BlockKey


@dataclass(frozen=True, slots=True)
class CallerLeft:
    """Event: the caller behind ``token`` no longer waits for an answer about the block."""

    key: BlockKey
    token: Token


@dataclass(frozen=True, slots=True)
class SendWrite:
    """Effect: send the record to ``peer`` and report back with WriteAnswered."""

    peer: str
    key: BlockKey
    name: str
    session: str
    record: Record
    data: Buffer


@dataclass(frozen=True, slots=True)
class PersistRecord:
    """Effect: write the record, then report RecordWritten. Records of a block are written in order."""

    key: BlockKey
    name: str
    session: str
    record: Record
    data: Buffer


@dataclass(frozen=True, slots=True)
class PersistPromise:
    """Effect: write the promise, then report PromiseWritten."""

    key: BlockKey
    name: str
    doubtful: bool = False


@dataclass(frozen=True, slots=True)
class SealBlock:
    """Effect: make the block final in the file table, then report BlockSealed or SealFailed.

    ``holders`` have all of it; ``failed`` are the replicas that failed, to be avoided for the next block.
    """

    key: BlockKey
    name: str
    length: int
    crc: int
    holders: tuple[str, ...]
    writers: dict[str, WriterMark]
    failed: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class AnswerWrite:
    """Effect: tell a coordinator whether its record was written."""

    token: Token
    end: int
    code: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class AnswerAppend:
    """Effect: tell a client at which offset its append is."""

    token: Token
    offset: int
    length: int
    copies: int
    duplicate: bool


@dataclass(frozen=True, slots=True)
class AnswerTail:
    """Effect: tell a reader the committed length of the open block."""

    token: Token
    length: int


@dataclass(frozen=True, slots=True)
class AnswerPromise:
    """Effect: tell the sealing node what this replica holds; the replica takes nothing more."""

    token: Token
    length: int
    crc: int
    writers: dict[str, WriterMark]
    doubtful: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """Effect: answer with an error."""

    token: Token
    code: str
    message: str
    details: Details = None


# The events of a coordinator, and those of a replica.
CoordinatorEvent = AppendRequested | TailRequested | WriteAnswered | SealRequested | SealFailed | NodeLost
ReplicaEvent = WriteReceived | RecordWritten | PromiseRequested | PromiseWritten
Event = CoordinatorEvent | ReplicaEvent | BlockOpened | BlockSealed | BlockDropped | CallerLeft | Tick
# The effects that answer a request; each has the token of the caller.
Answer = AnswerWrite | AnswerAppend | AnswerTail | AnswerPromise | Refuse
Effect = SendWrite | PersistRecord | PersistPromise | SealBlock | Answer
