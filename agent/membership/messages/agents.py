"""The messages of other agents: those of the same node, and the membership agents of other nodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from msgspec import Meta

from agent.common.message import Counter, Done, Duration, Name, Request

# The number of compared parts of a member table (``core.dissemination.exchange``); a digest has four bytes.
TABLE_PARTS = 64
# More than the number of nodes whose requests one agent serves in a second.
HEARD_MAX = 1000

Part = Annotated[int, Meta(ge=0, le=TABLE_PARTS - 1)]
Digests = Annotated[bytes, Meta(min_length=4 * TABLE_PARTS, max_length=4 * TABLE_PARTS)]


@dataclass(frozen=True, slots=True)
class Hint(Request[Done]):
    """Says that contact with the node ``name`` was lost, so that it is probed at once."""

    kind: ClassVar[str] = "membership.hint"
    reply: ClassVar[type[Any]] = Done
    name: Name


@dataclass(frozen=True, slots=True)
class Attach(Request[Done]):
    """Says that a service of this node is alive, and how many seconds ago it heard each peer."""

    kind: ClassVar[str] = "membership.attach"
    reply: ClassVar[type[Any]] = Done
    service: Name
    heard: Annotated[tuple[tuple[Name, Duration], ...], Meta(max_length=HEARD_MAX)] = ()


@dataclass(frozen=True, slots=True)
class CompareReply:
    """The digest of each part of the table, or None when the digests of the whole tables are equal."""

    digests: Digests | None = None


@dataclass(frozen=True, slots=True)
class CompareTables(Request[CompareReply]):
    """Asks whether the table of another node has this digest."""

    kind: ClassVar[str] = "membership.compare"
    reply: ClassVar[type[Any]] = CompareReply
    digest: Counter


@dataclass(frozen=True, slots=True)
class SwapRecords(Request[Done]):
    """Brings records of some parts of a table as the payload, and asks for those of the other node."""

    kind: ClassVar[str] = "membership.swap"
    reply: ClassVar[type[Any]] = Done
    parts: Annotated[tuple[Part, ...], Meta(max_length=TABLE_PARTS)]
