"""Anti-entropy: two nodes compare their member tables and swap the records of the parts that differ.

Every datagram carries the digest of its sender's table: five bytes over UDP find a difference within a second
and need no connection. The rest goes over an authenticated connection, which loses nothing and has room.
The asker sends its digest. If the other table has another digest, the answer holds a digest for each of
``TABLE_PARTS`` parts of that table. The records of the parts that differ are then swapped with one request.
So two tables of 10,000 records that differ in one record cost 300 bytes and 150 records.

Accusations of the receiver itself are left out. A node that datagrams do not reach must not refute what it
hears over a stream; otherwise a node behind a broken firewall rule would stay a member indefinitely.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import mmh3
import msgpack

from agent.common.errors import ProtocolError
from agent.membership import datagrams
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.beliefs.table import checksum
from agent.membership.datagrams import Update
from agent.membership.member import Member, State
from agent.membership.messages.agents import TABLE_PARTS

DIGESTS = struct.Struct(f">{TABLE_PARTS}I")
# About 200 KB each way; the rest is swapped next time.
RECORDS_MAX = 2500


def bucket_of(name: str) -> int:
    """Returns the part of the table that a name belongs to."""
    return int(mmh3.hash(name, signed=False)) % TABLE_PARTS


def digests(members: Iterable[Member]) -> bytes:
    """Returns the digest of each part of a table."""
    found = [0] * TABLE_PARTS
    for member in members:
        found[bucket_of(member.name)] ^= checksum(member)
    return DIGESTS.pack(*found)


def differing(mine: bytes, theirs: bytes) -> list[int]:
    """Returns the parts in which two tables differ.

    Both have the length of a result of ``digests``: the messages check that.
    """
    pairs = zip(DIGESTS.unpack(mine), DIGESTS.unpack(theirs), strict=True)
    return [index for index, (ours, other) in enumerate(pairs) if ours != other]


def records(roster: Roster, parts: Iterable[int], receiver: str) -> list[Update]:
    """Returns this node's records of some parts of the table for ``receiver``, at most ``RECORDS_MAX``."""
    wanted, found = frozenset(parts), list[Update]()
    for member in roster.table:
        against = member.name == receiver and member.state in (State.SUSPECT, State.DEAD)
        if bucket_of(member.name) in wanted and not against:
            found.append(roster.record(member))
            if len(found) == RECORDS_MAX:
                break
    return found


def pack(updates: Sequence[Update]) -> bytes:
    """Returns records as the payload of a request or an answer."""
    packed: bytes = msgpack.packb([datagrams.fields_of(update) for update in updates], use_bin_type=True)
    return packed


def unpack(payload: bytes | bytearray | memoryview) -> tuple[Update, ...]:
    """Returns the records in a payload.

    Raises:
        ProtocolError: it holds anything else, or more records than a node sends.
    """
    try:
        found = msgpack.unpackb(payload, raw=False)
    except (ValueError, msgpack.exceptions.UnpackException) as error:
        raise ProtocolError(f"records are not msgpack: {error}") from None
    if not isinstance(found, list) or len(found) > RECORDS_MAX:
        raise ProtocolError("records do not have the form of this release")
    return tuple([datagrams.update_of(entry) for entry in found])
