"""Datagrams between membership agents, and their msgpack codec.

A datagram is one array: format version, kind, sequence, target, view version, table digest, updates,
settings, heartbeats. Every kind carries updates (piggy-backed gossip, SWIM section 4.1), the version of the
newest view that the sender knows, the digest of its member table, and the cluster's settings once somebody
has changed them. The decoder checks every type and range and raises ``ProtocolError`` for anything else:
bytes that pass authentication may still come from another release.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import msgpack

from agent.common.errors import FrameTooLarge, ProtocolError
from agent.membership.member import Member, State
from agent.membership.settings import DetectorKind, Settings

FORMAT = 3
# Fits the MTU of any path, with room for IP, UDP and the seal; some path would drop a longer one silently.
DATAGRAM_BYTES_MAX = 1200
# Kind, sequence, digest, view version, settings and the longest target name.
OVERHEAD_BYTES = 120
# Heartbeat counters leave room for gossip.
BEATS_BYTES_MAX = 700
NAME_BYTES_MAX = 63
COUNTER_MAX = 1 << 62
BEAT_COUNTER_END = 1 << 32
# A boot counter has 18 digits at most in a node id (``view``), even after some nodes adopted a later boot.
BOOT_MAX = 1 << 59


class Kind(IntEnum):
    """The kinds of datagram; a node says HELLO to a contact that has not answered it yet."""

    PING = 1
    ACK = 2
    NACK = 3
    INDIRECT_PING = 4
    GOSSIP = 5
    HELLO = 6
    HELLO_REPLY = 7
    HEARTBEAT = 8
    REFUSAL = 9
    # The receiver sends from a boot before ``sequence``, in which it is known: it must adopt a later one.
    STALE_BOOT = 10


KINDS = {int(kind): kind for kind in Kind}
STATES = {int(state): state for state in State}
UPDATE_TYPES = (str, bytes, int, int, int, str, int, int, str)
BEAT_TYPES = (str, int, int)
# With settings and without.
DATAGRAM_TYPES = tuple((int, int, int, str, int, int, list, kind, list) for kind in (type(None), list))


@dataclass(frozen=True, slots=True)
class Update:
    """A record to pass on; ``accuser`` names the node that suspects the member or declares it dead."""

    member: Member
    accuser: str = ""


@dataclass(frozen=True, slots=True)
class Beat:
    """The newest heartbeat counter known of one life of a node."""

    name: str
    boot: int
    counter: int

    def newer_than(self, other: Beat) -> bool:
        """Tells whether this counter shows progress over another one."""
        return (self.boot, self.counter) > (other.boot, other.counter)


@dataclass(frozen=True, slots=True)
class Datagram:
    """One message; ``target`` names the node to ping, ``sequence`` pairs an answer with its question."""

    kind: Kind
    sequence: int = 0
    target: str = ""
    view_version: int = 0
    digest: int = 0
    updates: tuple[Update, ...] = ()
    settings: Settings | None = None
    beats: tuple[Beat, ...] = ()


def encode(datagram: Datagram) -> bytes:
    """Returns the bytes of a datagram.

    Raises:
        FrameTooLarge: it does not fit the MTU of every path.
    """
    settings = datagram.settings
    packed: bytes = msgpack.packb(
        [
            FORMAT,
            int(datagram.kind),
            datagram.sequence,
            datagram.target,
            datagram.view_version,
            datagram.digest,
            [fields_of(update) for update in datagram.updates],
            None if settings is None else [settings.version, int(settings.detector), settings.suspicion],
            [[beat.name, beat.boot, beat.counter] for beat in datagram.beats],
        ],
        use_bin_type=True,
    )
    if len(packed) > DATAGRAM_BYTES_MAX:
        raise FrameTooLarge(
            f"a {datagram.kind.name} datagram takes {len(packed)} bytes, the limit is {DATAGRAM_BYTES_MAX}"
        )
    return packed


def update_bytes(update: Update) -> int:
    """Returns how many bytes an update takes in a datagram."""
    return len(msgpack.packb(fields_of(update), use_bin_type=True))


def beat_bytes(name: str) -> int:
    """Returns the bytes that the counter of ``name`` takes at most (boot and counter below 2^32)."""
    return len(name.encode()) + 13


def decode(data: bytes) -> Datagram:
    """Returns the datagram that ``data`` holds.

    Raises:
        ProtocolError: the bytes are not a datagram of this format.
    """
    try:
        found = msgpack.unpackb(data, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"datagram is not msgpack: {error}") from None
    # Comparing types is three times as fast as a match statement, and every datagram passes through here.
    if type(found) is list and found and type(found[0]) is int and found[0] != FORMAT:
        raise ProtocolError(f"datagram of format {found[0]}: another release sent it")
    if type(found) is not list or tuple(map(type, found)) not in DATAGRAM_TYPES:
        raise ProtocolError("datagram does not have the fields of this format")
    _, number, sequence, target, view, digest, updates, settings, beats = found
    kind = KINDS.get(number)
    if kind is None:
        raise ProtocolError(f"datagram of kind {number} is unknown")
    if not (0 <= sequence <= COUNTER_MAX and 0 <= view <= COUNTER_MAX and 0 <= digest <= COUNTER_MAX):
        raise ProtocolError("a counter of a datagram is out of range")
    if kind is Kind.STALE_BOOT and sequence > BOOT_MAX:
        raise ProtocolError("a boot counter is out of range")
    _check_name(target, may_be_empty=True)
    return Datagram(
        kind,
        sequence,
        target,
        view,
        digest,
        tuple([update_of(update) for update in updates]),
        None if settings is None else _settings(settings),
        tuple([_beat(beat) for beat in beats]) if beats else (),
    )


def _settings(fields: Any) -> Settings:
    match fields:
        case [int(version), int(detector), bool(suspicion)] if detector in tuple(DetectorKind):
            _check_counters(version)
            return Settings(version, DetectorKind(detector), suspicion)
    raise ProtocolError("settings do not have the fields of this format")


def _beat(fields: Any) -> Beat:
    if type(fields) is not list or tuple(map(type, fields)) != BEAT_TYPES:
        raise ProtocolError("heartbeat does not have the fields of this format")
    name, boot, counter = fields
    _check_name(name)
    if not 0 <= boot < BEAT_COUNTER_END or not 0 <= counter < BEAT_COUNTER_END:
        raise ProtocolError(f"heartbeat of {name!r} is out of range")
    return Beat(name, boot, counter)


def fields_of(update: Update) -> list[Any]:
    """Returns the plain values of an update."""
    member = update.member
    return [
        member.name,
        bytes.fromhex(member.uuid),
        member.boot,
        member.incarnation,
        int(member.state),
        member.address,
        member.port,
        member.services,
        update.accuser,
    ]


def update_of(fields: Any) -> Update:
    """Returns the update that plain values hold.

    Raises:
        ProtocolError: they are not those of an update.
    """
    if type(fields) is not list or tuple(map(type, fields)) != UPDATE_TYPES:
        raise ProtocolError("update does not have the fields of this format")
    name, uuid, boot, incarnation, number, address, port, services, by = fields
    _check_name(name)
    _check_name(address)
    _check_name(by, may_be_empty=True)
    state = STATES.get(number)
    known = 0 <= boot <= BOOT_MAX and 0 <= incarnation <= COUNTER_MAX and len(uuid) == 16
    if state is None or not known or not 0 < port < 65536 or not 0 <= services < 256:
        raise ProtocolError(f"update about {name!r} is out of range")
    return Update(Member(name, uuid.hex(), boot, incarnation, state, address, port, services), by)


def _check_counters(*counters: int) -> None:
    for counter in counters:
        if isinstance(counter, bool) or not 0 <= counter <= COUNTER_MAX:
            raise ProtocolError(f"counter {counter!r} is out of range")


def _check_name(name: str, *, may_be_empty: bool = False) -> None:
    # A character takes four bytes at most.
    too_long = len(name) > NAME_BYTES_MAX // 4 and len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX
    if too_long or not (name or may_be_empty):
        raise ProtocolError(f"name {name[:80]!r} is empty or too long")
