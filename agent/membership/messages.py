"""Datagrams between membership agents, and their msgpack codec.

A datagram is one array: format version, kind, sequence, target, view version, table digest, updates. Every
kind carries updates (piggy-backed gossip, SWIM section 4.1), the version of the newest view the sender knows,
and the digest of its member table. The decoder checks every type and range and raises ``ProtocolError`` for
anything else: bytes that pass authentication may still come from another release.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from agent.common.errors import ProtocolError
from agent.membership.table import Member, State

FORMAT = 1
# Fits any path's MTU with room for IP, UDP and the seal; a longer one would be dropped silently somewhere.
DATAGRAM_BYTES_MAX = 1200
# Kind, sequence, digest, view version and the longest target name.
OVERHEAD_BYTES = 100
NAME_BYTES_MAX = 63
COUNTER_MAX = 1 << 62


class Kind(IntEnum):
    """What a datagram asks or answers."""

    PING = 1
    ACK = 2
    NACK = 3
    INDIRECT_PING = 4
    GOSSIP = 5
    SYNC_REQUEST = 6
    SYNC_REPLY = 7


@dataclass(frozen=True, slots=True)
class Update:
    """A record to pass on; ``accuser`` is who suspects or declares dead, empty otherwise."""

    member: Member
    accuser: str = ""


@dataclass(frozen=True, slots=True)
class Datagram:
    """One message; ``target`` is who is to be pinged, ``sequence`` pairs an answer with its question."""

    kind: Kind
    sequence: int = 0
    target: str = ""
    view_version: int = 0
    digest: int = 0
    updates: tuple[Update, ...] = ()


def encode(datagram: Datagram) -> bytes:
    """Returns the bytes of a datagram."""
    packed: bytes = msgpack.packb(
        [
            FORMAT,
            int(datagram.kind),
            datagram.sequence,
            datagram.target,
            datagram.view_version,
            datagram.digest,
            [_fields(update) for update in datagram.updates],
        ],
        use_bin_type=True,
    )
    return packed


def update_bytes(update: Update) -> int:
    """Returns how much room an update takes in a datagram."""
    return len(msgpack.packb(_fields(update), use_bin_type=True))


def split(updates: Sequence[Update]) -> list[tuple[Update, ...]]:
    """Returns the updates in as many groups as it takes to keep each within one datagram."""
    groups: list[tuple[Update, ...]] = []
    group: list[Update] = []
    room = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES
    for update in updates:
        size = update_bytes(update)
        if group and size > room:
            groups.append(tuple(group))
            group, room = [], DATAGRAM_BYTES_MAX - OVERHEAD_BYTES
        group.append(update)
        room -= size
    groups.append(tuple(group))
    return groups


def decode(data: bytes) -> Datagram:
    """Returns the datagram that ``data`` holds.

    Raises:
        ProtocolError: the bytes are not a datagram of this format.
    """
    try:
        found = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"datagram is not msgpack: {error}") from None
    match found:
        case [int(version), int(kind), int(sequence), str(target), int(view), int(digest), list(updates)]:
            if version != FORMAT or not Kind.PING <= kind <= Kind.SYNC_REPLY:
                raise ProtocolError(f"datagram of format {version}, kind {kind} is unknown")
            _check_counters(sequence, view, digest)
            _check_name(target, may_be_empty=True)
            return Datagram(Kind(kind), sequence, target, view, digest, tuple(map(_update, updates)))
    raise ProtocolError("datagram does not have the fields of this format")


def _fields(update: Update) -> list[Any]:
    member = update.member
    return [
        member.name,
        bytes.fromhex(member.uuid),
        member.boot,
        member.incarnation,
        int(member.state),
        member.address,
        member.port,
        update.accuser,
    ]


def _update(fields: Any) -> Update:
    match fields:
        case [
            str(name),
            bytes(uuid),
            int(boot),
            int(incarnation),
            int(state),
            str(address),
            int(port),
            str(by),
        ]:
            _check_counters(boot, incarnation)
            _check_name(name)
            _check_name(address)
            _check_name(by, may_be_empty=True)
            if len(uuid) != 16 or not 0 <= state <= 3 or not 0 < port < 65536:
                raise ProtocolError(f"update about {name!r} is out of range")
            return Update(Member(name, uuid.hex(), boot, incarnation, State(state), address, port), by)
    raise ProtocolError("update does not have the fields of this format")


def _check_counters(*counters: int) -> None:
    for counter in counters:
        if isinstance(counter, bool) or not 0 <= counter <= COUNTER_MAX:
            raise ProtocolError(f"counter {counter!r} is out of range")


def _check_name(name: str, *, may_be_empty: bool = False) -> None:
    if len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX or not (name or may_be_empty):
        raise ProtocolError(f"name {name[:80]!r} is empty or too long")
