"""The orders of operators: leave and join, another detector, lost datagrams, keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from agent.common.message import Counter, Done, Name, Number, OptionalName, Request
from agent.membership.messages.members import SettingsReport

KEYS_MAX = 16

KeyOperation = Literal["list", "install", "use", "remove"]


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
    """Changes how the whole cluster detects failures; None leaves a setting as it is."""

    kind: ClassVar[str] = "membership.switch"
    reply: ClassVar[type[Any]] = SwitchReply
    detector: Name | None = None
    suspicion: bool | None = None


@dataclass(frozen=True, slots=True)
class DropReply:
    """The share of incoming datagrams that is thrown away, and the number of them so far."""

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
    """The fingerprints of a node's gossip keys; the key that seals comes first."""

    fingerprints: Annotated[tuple[Name, ...], Meta(min_length=1, max_length=KEYS_MAX)]


@dataclass(frozen=True, slots=True)
class ChangeKeys(Request[KeysReply]):
    """Changes the node's ring of gossip keys, or lists it."""

    kind: ClassVar[str] = "membership.keys"
    reply: ClassVar[type[Any]] = KeysReply
    operation: KeyOperation
    key: Annotated[str, Meta(max_length=256)] = ""
    fingerprint: OptionalName = ""
