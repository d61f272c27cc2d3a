"""A node's beliefs about the others, and the reasons for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from agent.common.message import Counter, Duration, Name, Number, OptionalName, Port, Request, Wall
from agent.membership.member import StateName
from agent.membership.settings import Settings
from agent.membership.view import View

# The largest group that is simulated. A table is bounded by it, because every holder of a gossip key can
# invent members; the answer of a node with this many is about four megabytes long.
MEMBERS_MAX = 20_000
REPORTERS_MAX = 64
# As many as an agent keeps of all members. A death leaves about ten entries, so a cluster that flaps once a
# second is remembered for two minutes.
HISTORY_MAX = 1000

UpOrDown = Literal["up", "down"]
Names = Annotated[tuple[Name, ...], Meta(max_length=MEMBERS_MAX)]


@dataclass(frozen=True, slots=True)
class MemberReport:
    """One node's beliefs about another one; ``tcp`` is None when it was not tried."""

    name: Name
    node_id: Name
    address: Name
    port: Port
    state: StateName
    incarnation: Counter
    services: Mapping[Name, UpOrDown]
    last_heard_s: Duration | None = None
    udp: bool = False
    tcp: bool | None = None
    reporters: Annotated[tuple[Name, ...], Meta(max_length=REPORTERS_MAX)] = ()
    ring_id: OptionalName = ""


@dataclass(frozen=True, slots=True)
class SettingsReport:
    """How the cluster detects failures."""

    version: Counter
    detector: Name
    suspicion: bool

    @classmethod
    def of(cls, settings: Settings) -> SettingsReport:
        """Returns the report of these settings."""
        return cls(settings.version, settings.detector.label, settings.suspicion)


@dataclass(frozen=True, slots=True)
class Traffic:
    """The datagrams of a node since it started; ``discarded`` were thrown away on purpose."""

    sent: Counter = 0
    sent_bytes: Counter = 0
    received_bytes: Counter = 0
    dropped: Counter = 0
    discarded: Counter = 0
    drop_percent: Number = 0.0


@dataclass(frozen=True, slots=True)
class MembersReply:
    """What the node ``observer`` believes; two groups of ``voters`` while one of them is replaced."""

    members: Annotated[tuple[MemberReport, ...], Meta(max_length=MEMBERS_MAX)]
    view: View
    majority: bool
    voters: Annotated[tuple[Names, ...], Meta(max_length=2)]
    settings: SettingsReport
    observer: OptionalName = ""
    left: bool = False
    health: Counter = 0
    datagrams: Traffic = Traffic()


@dataclass(frozen=True, slots=True)
class GetMembers(Request[MembersReply]):
    """Asks what the node believes; with ``probe`` it also tries to reach each member by TCP."""

    kind: ClassVar[str] = "membership.members"
    reply: ClassVar[type[Any]] = MembersReply
    probe: bool = False


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing that a node saw happen to a member."""

    wall_at: Wall
    what: Name
    by: OptionalName = ""
    boot: Counter = 0
    incarnation: Counter = 0


@dataclass(frozen=True, slots=True)
class WhyReply:
    """What the node ``observer`` remembers of the member ``name``."""

    observer: Name
    name: Name
    state: Literal["alive", "suspect", "dead", "left", "unknown"]
    last_heard_s: Duration | None = None
    reporters: Annotated[tuple[Name, ...], Meta(max_length=REPORTERS_MAX)] = ()
    history: Annotated[tuple[HistoryEntry, ...], Meta(max_length=HISTORY_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Why(Request[WhyReply]):
    """Asks why a member is believed to be in its state."""

    kind: ClassVar[str] = "membership.why"
    reply: ClassVar[type[Any]] = WhyReply
    name: Name
