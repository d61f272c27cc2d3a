"""What the membership core is told (events, past tense) and what it asks for (effects, imperative)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.common.errors import RainStormError
from agent.membership.datagrams import Datagram, Update
from agent.membership.member import Member
from agent.membership.settings import DetectorKind, Settings
from agent.membership.view import View


@dataclass(frozen=True, slots=True)
class Contact:
    """Where a configured node can be found before anything is known of it."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Started:
    """Event: the agent is ready to send and receive."""


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """Event: an authenticated datagram came in."""

    sender: str
    boot: int
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class TableReceived:
    """Event: a node told over TCP those of its records that may differ from this node's."""

    sender: str
    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """Event: a peer made an authenticated request over TCP to any agent of this node, ``age_s`` ago."""

    name: str
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ContactRefused:
    """Event: the machine of a member answered that nobody listens on the member's port."""

    name: str


@dataclass(frozen=True, slots=True)
class HintReceived:
    """Event: another agent lost contact with a member."""

    name: str


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Event: this node is to leave the cluster."""


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """Event: this node, which has left, is to be a member again."""


@dataclass(frozen=True, slots=True)
class SwitchRequested:
    """Event: the whole cluster is to detect failures in another way."""

    detector: DetectorKind
    suspicion: bool


@dataclass(frozen=True, slots=True)
class ServiceAttached:
    """Event: a service of this node says over its local connection that it lives."""

    service: str
    connection: int


@dataclass(frozen=True, slots=True)
class ServiceDetached:
    """Event: a local connection is closed; the process at its other end may be gone."""

    connection: int


@dataclass(frozen=True, slots=True)
class ImpostorHeard:
    """Event: a datagram in the name of a configured node came from another address than the node's."""

    name: str
    contact: Contact


@dataclass(frozen=True, slots=True)
class ViewLearned:
    """Event: the register was read or changed; ``view`` is None when it was never written."""

    view: View | None


@dataclass(frozen=True, slots=True)
class RegisterFailed:
    """Event: reading or changing the view did not work."""

    error: RainStormError


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Effect: send ``datagram`` to the node called ``target``."""

    target: str
    contact: Contact
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class CompareTables:
    """Effect: compare tables with the node called ``target`` over TCP; report ``TableReceived`` if any."""

    target: str


@dataclass(frozen=True, slots=True)
class AnnounceMember:
    """Effect: tell the log and the watchers that a member's state, life or services changed."""

    member: Member
    before: Member | None
    accuser: str = ""


@dataclass(frozen=True, slots=True)
class AnnounceSettings:
    """Effect: tell the log and the watchers that the cluster now detects failures in another way."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class AnnounceConflict:
    """Effect: tell the log and the watchers that two nodes claim one identity; ``refused`` is the second."""

    refused: str
    address: str
    holder: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Effect: end this agent: another node with its identity was there first."""

    error: RainStormError


@dataclass(frozen=True, slots=True)
class AdoptBoot:
    """Effect: another life of this name is known; store ``boot`` as this node's own before sending more."""

    boot: int


@dataclass(frozen=True, slots=True)
class ReadView:
    """Effect: read the view register and report ``ViewLearned`` or ``RegisterFailed``."""


@dataclass(frozen=True, slots=True)
class ChangeView:
    """Effect: change the register by ``view.propose(current, members, reporters)``; report as for
    ``ReadView``.
    """

    members: Mapping[str, Member]
    reporters: Mapping[str, Sequence[str]]


@dataclass(frozen=True, slots=True)
class AnnounceView:
    """Effect: wake whoever waits for a newer view."""

    view: View


Event = (
    Started
    | DatagramReceived
    | TableReceived
    | PeerHeard
    | ContactRefused
    | HintReceived
    | LeaveRequested
    | JoinRequested
    | SwitchRequested
    | ServiceAttached
    | ServiceDetached
    | ImpostorHeard
    | ViewLearned
    | RegisterFailed
)
Effect = (
    SendDatagram
    | CompareTables
    | AnnounceMember
    | AnnounceSettings
    | AnnounceConflict
    | GiveUp
    | AdoptBoot
    | ReadView
    | ChangeView
    | AnnounceView
)
