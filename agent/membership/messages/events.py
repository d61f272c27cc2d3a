"""The events that one agent saw, in order.

The events are a closed union; a follower of another release gets one that it does not know as
``UnknownEvent``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import Counter, Duration, Name, OptionalName, Request, Wall
from agent.membership.member import StateName
from agent.membership.messages.members import REPORTERS_MAX, Names

# As many as an agent keeps.
EVENTS_MAX = 1000

ChangeKind = Literal["join", "suspect", "dead", "left", "refute", "services"]


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
    """The cluster has changed how it detects failures."""

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
    """The events after the requested number; ``missed`` tells whether older ones are already gone."""

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
        raise InvalidMessage("an event does not name its subject")
    found: ClusterEvent | UnknownEvent = message.decode(_EVENTS.get(kind, UnknownEvent), fields)
    return found
