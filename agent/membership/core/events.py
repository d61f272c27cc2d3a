"""The events of the membership core (past tense) and the effects that it asks for (imperative)."""

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
    """The configured address of a node, used before anything is known about the node."""

    address: str
    port: int


@dataclass(frozen=True, slots=True)
class Started:
    """Event: the agent is ready to send and receive."""


@dataclass(frozen=True, slots=True)
class DatagramReceived:
    """Event: an authenticated datagram arrived."""

    sender: str
    boot: int
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class TableReceived:
    """Event: a node sent, over TCP, the records that may differ from this node's."""

    sender: str
    updates: tuple[Update, ...]


@dataclass(frozen=True, slots=True)
class PeerHeard:
    """Event: a peer made an authenticated request over TCP to any agent of this node, ``age_s`` ago."""

    name: str
    age_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ContactRefused:
    """Event: the machine of a member answered that no process listens on the member's port."""

    name: str


@dataclass(frozen=True, slots=True)
class HintReceived:
    """Event: another agent lost contact with a member."""

    name: str


@dataclass(frozen=True, slots=True)
class LeaveRequested:
    """Event: an operator wants this node to leave the cluster."""


@dataclass(frozen=True, slots=True)
class JoinRequested:
    """Event: an operator wants this node, which has left, to join again."""


@dataclass(frozen=True, slots=True)
class SwitchRequested:
    """Event: an operator changes how the whole cluster detects failures."""

    detector: DetectorKind
    suspicion: bool


@dataclass(frozen=True, slots=True)
class ServiceAttached:
    """Event: a service of this node reports over its local connection that it is alive."""

    service: str
    connection: int


@dataclass(frozen=True, slots=True)
class ServiceDetached:
    """Event: a local connection was closed; the process at its other end may be gone."""

    connection: int


@dataclass(frozen=True, slots=True)
class ImpostorDetected:
    """Event: a datagram that names a configured node came from an address other than that node's."""

    name: str
    contact: Contact


@dataclass(frozen=True, slots=True)
class EarlierBootDetected:
    """Event: a datagram of a node came from a boot before ``boot``, the newest known one."""

    name: str
    boot: int


@dataclass(frozen=True, slots=True)
class ViewLearned:
    """Event: the register was read or changed; ``view`` is None while there is none."""

    view: View | None


@dataclass(frozen=True, slots=True)
class RegisterFailed:
    """Event: the view could not be read or changed."""

    error: RainStormError


@dataclass(frozen=True, slots=True)
class SendDatagram:
    """Effect: send ``datagram`` to the node called ``target``."""

    target: str
    contact: Contact
    datagram: Datagram


@dataclass(frozen=True, slots=True)
class CompareTables:
    """Effect: compare tables with ``target`` over TCP; report ``TableReceived`` if they differ."""

    target: str


@dataclass(frozen=True, slots=True)
class AnnounceMember:
    """Effect: log and publish that a member's state, boot or services changed."""

    member: Member
    before: Member | None
    accuser: str = ""


@dataclass(frozen=True, slots=True)
class AnnounceSettings:
    """Effect: log and publish that the cluster has changed how it detects failures."""

    settings: Settings


@dataclass(frozen=True, slots=True)
class AnnounceConflict:
    """Effect: log and publish that two nodes claim one identity; ``refused`` is the second."""

    refused: str
    address: str
    holder: str


@dataclass(frozen=True, slots=True)
class StopAgent:
    """Effect: stop this agent: another node with its identity was first."""

    error: RainStormError


@dataclass(frozen=True, slots=True)
class AdoptBoot:
    """Effect: the cluster knows a later boot of this name; store ``boot`` before sending anything else."""

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
    """Effect: publish a newer view."""

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
    | ImpostorDetected
    | EarlierBootDetected
    | ViewLearned
    | RegisterFailed
)
Effect = (
    SendDatagram
    | CompareTables
    | AnnounceMember
    | AnnounceSettings
    | AnnounceConflict
    | StopAgent
    | AdoptBoot
    | ReadView
    | ChangeView
    | AnnounceView
)
