"""What is asked of a membership agent over a connection, and what it answers.

Who asks: operators and tools (``client``), the other agents of the node (``attachment``, ``follower``), and
the membership agents of other nodes, which compare tables. Datagrams have a codec of their own
(``datagrams``), because they must fit a packet. The events of the cluster are a closed union; a follower of
another release gets an event that it does not know as ``UnknownEvent``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import Counter, Done, Duration, Name, Number, OptionalName, Port, Request, Wall
from agent.membership.member import StateName
from agent.membership.settings import Settings
from agent.membership.view import View

# The largest group that is simulated. A table is bounded by it, because every holder of a gossip key can
# invent members; the answer of a node with this many is about four megabytes long.
MEMBERS_MAX = 20_000
# As many as an agent keeps of each: the log of events and the history of all members. A death leaves about
# ten entries in a history, so a cluster that flaps once a second is remembered for two minutes.
EVENTS_MAX = 1000
# The parts of a member table that are compared (``core.dissemination.exchange``), four bytes a digest.
TABLE_PARTS = 64
# More than the nodes of any cluster that one agent serves requests of in a second.
HEARD_MAX = 1000
REPORTERS_MAX = 64
KEYS_MAX = 16

ChangeKind = Literal["join", "suspect", "dead", "left", "refute", "services"]
UpOrDown = Literal["up", "down"]
KeyOperation = Literal["list", "install", "use", "remove"]
Names = Annotated[tuple[Name, ...], Meta(max_length=MEMBERS_MAX)]
Part = Annotated[int, Meta(ge=0, le=TABLE_PARTS - 1)]
Digests = Annotated[bytes, Meta(min_length=4 * TABLE_PARTS, max_length=4 * TABLE_PARTS)]


# What a node believes


@dataclass(frozen=True, slots=True)
class MemberReport:
    """What one node believes of another one; ``tcp`` is None when it was not tried."""

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
    history: Annotated[tuple[HistoryEntry, ...], Meta(max_length=EVENTS_MAX)] = ()


@dataclass(frozen=True, slots=True)
class Why(Request[WhyReply]):
    """Asks why a member is believed to be in its state."""

    kind: ClassVar[str] = "membership.why"
    reply: ClassVar[type[Any]] = WhyReply
    name: Name


# The view


@dataclass(frozen=True, slots=True)
class ViewReply:
    """The newest view that the node knows."""

    view: View


@dataclass(frozen=True, slots=True)
class GetView(Request[ViewReply]):
    """Asks for the view."""

    kind: ClassVar[str] = "membership.view"
    reply: ClassVar[type[Any]] = ViewReply


@dataclass(frozen=True, slots=True)
class WatchView(Request[ViewReply]):
    """Asks for the view as soon as its version is above ``version``, or after ``wait_s`` as it is."""

    kind: ClassVar[str] = "membership.watch"
    reply: ClassVar[type[Any]] = ViewReply
    version: Counter = 0
    wait_s: Duration = 0.0


@dataclass(frozen=True, slots=True)
class ReplaceVoter(Request[ViewReply]):
    """Orders that ``new`` votes in place of ``old``; with two empty names, to finish what was begun."""

    kind: ClassVar[str] = "membership.voters"
    reply: ClassVar[type[Any]] = ViewReply
    old: OptionalName = ""
    new: OptionalName = ""


# What happened, in order


@dataclass(frozen=True, slots=True)
class MemberChanged:
    """A member's state, life or services changed; ``by`` is who said so."""

    kind: ChangeKind
    name: Name
    node_id: Name
    state: StateName
    before: Literal["alive", "suspect", "dead", "left", "unknown"] = "unknown"
    services: Annotated[tuple[Name, ...], Meta(max_length=REPORTERS_MAX)] = ()
    by: OptionalName = ""
    sequence: Counter = 0
    wall_at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class IdentityConflict:
    """Two nodes claim one identity; ``refused`` is the second."""

    refused: Name
    address: Name
    holder: OptionalName
    kind: Literal["conflict"] = "conflict"
    sequence: Counter = 0
    wall_at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class ViewChanged:
    """The node learned a newer view."""

    version: Counter
    term: Counter
    leader: OptionalName
    up: Names
    kind: Literal["view"] = "view"
    sequence: Counter = 0
    wall_at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The cluster detects failures in another way from now on."""

    version: Counter
    detector: Name
    suspicion: bool
    kind: Literal["settings"] = "settings"
    sequence: Counter = 0
    wall_at: Wall = 0.0


@dataclass(frozen=True, slots=True)
class UnknownEvent:
    """An event of a kind that this release does not know."""

    kind: Name
    sequence: Counter = 0
    wall_at: Wall = 0.0


ClusterEvent = MemberChanged | IdentityConflict | ViewChanged | SettingsChanged
_EVENTS: Mapping[str, type[Any]] = {
    "conflict": IdentityConflict,
    "view": ViewChanged,
    "settings": SettingsChanged,
    **dict.fromkeys(("join", "suspect", "dead", "left", "refute", "services"), MemberChanged),
}


@dataclass(frozen=True, slots=True)
class EventsReply:
    """The events after the number asked for; ``missed`` tells whether older ones are gone already."""

    events: Annotated[tuple[dict[str, Any], ...], Meta(max_length=EVENTS_MAX)]
    last: Counter
    missed: bool = False

    def decoded(self) -> tuple[ClusterEvent | UnknownEvent, ...]:
        """Returns the events.

        Raises:
            InvalidMessage: one of them is malformed.
        """
        return tuple([_event(fields) for fields in self.events])


@dataclass(frozen=True, slots=True)
class GetEvents(Request[EventsReply]):
    """Asks for the events after number ``since``, waiting up to ``wait_s`` for one."""

    kind: ClassVar[str] = "membership.events"
    reply: ClassVar[type[Any]] = EventsReply
    since: Counter = 0
    wait_s: Duration = 0.0


def _event(fields: dict[str, Any]) -> ClusterEvent | UnknownEvent:
    kind = fields.get("kind")
    if not isinstance(kind, str):
        raise InvalidMessage("an event does not say what it is about")
    found: ClusterEvent | UnknownEvent = message.decode(_EVENTS.get(kind, UnknownEvent), fields)
    return found


# What other agents say


@dataclass(frozen=True, slots=True)
class Hint(Request[Done]):
    """Says that contact with the node ``name`` was lost, so that it is probed at once."""

    kind: ClassVar[str] = "membership.hint"
    reply: ClassVar[type[Any]] = Done
    name: Name


@dataclass(frozen=True, slots=True)
class Attach(Request[Done]):
    """Says that a service of this node lives, and which peers it heard how many seconds ago."""

    kind: ClassVar[str] = "membership.attach"
    reply: ClassVar[type[Any]] = Done
    service: Name
    heard: Annotated[tuple[tuple[Name, Duration], ...], Meta(max_length=HEARD_MAX)] = ()


@dataclass(frozen=True, slots=True)
class CompareReply:
    """The digest of each part of the table, or None when the whole tables have the same."""

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


# Orders


@dataclass(frozen=True, slots=True)
class Leave(Request[Done]):
    """Orders the node to leave the cluster."""

    kind: ClassVar[str] = "membership.leave"
    reply: ClassVar[type[Any]] = Done


@dataclass(frozen=True, slots=True)
class Join(Request[Done]):
    """Orders a node that has left to be a member again."""

    kind: ClassVar[str] = "membership.join"
    reply: ClassVar[type[Any]] = Done


@dataclass(frozen=True, slots=True)
class SwitchReply:
    """The settings that are in force now."""

    settings: SettingsReport


@dataclass(frozen=True, slots=True)
class Switch(Request[SwitchReply]):
    """Orders the whole cluster to detect failures in another way; None leaves a setting as it is."""

    kind: ClassVar[str] = "membership.switch"
    reply: ClassVar[type[Any]] = SwitchReply
    detector: Name | None = None
    suspicion: bool | None = None


@dataclass(frozen=True, slots=True)
class DropReply:
    """The share of incoming datagrams that is thrown away, and how many were so far."""

    percent: Number
    discarded: Counter = 0


@dataclass(frozen=True, slots=True)
class Drop(Request[DropReply]):
    """Orders the node to throw away a share of its incoming datagrams; None only asks for it."""

    kind: ClassVar[str] = "membership.drop"
    reply: ClassVar[type[Any]] = DropReply
    percent: Number | None = None
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class KeysReply:
    """The fingerprints of a node's gossip keys, that of the key which seals first."""

    fingerprints: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=KEYS_MAX)]


@dataclass(frozen=True, slots=True)
class ChangeKeys(Request[KeysReply]):
    """Orders a change of the node's ring of gossip keys, or lists it."""

    kind: ClassVar[str] = "membership.keys"
    reply: ClassVar[type[Any]] = KeysReply
    operation: KeyOperation
    key: Annotated[str, Meta(max_length=256)] = ""
    fingerprint: OptionalName = ""
