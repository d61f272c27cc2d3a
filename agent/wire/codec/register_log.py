"""The records of a voter's log: each holds one slot, and the latest record of a key counts."""

from __future__ import annotations

import msgpack

from agent.common.framedlog import Layout
from agent.common.register import Slot
from agent.wire.codec.framing import HEADER_BYTES_MAX

# A record is msgpack [key, promised, accepted, value]. Values travel in the headers of frames, so that a slot
# with its key and ballots is always shorter than two of them.
LAYOUT = Layout(lead=rb"\x94[\xa0-\xbf\xd9\xda\xdb]", body_bytes_max=2 * HEADER_BYTES_MAX)


def pack(key: str, slot: Slot) -> bytes:
    """Returns the body of a slot's record."""
    body: bytes = msgpack.packb([key, slot.promised, slot.accepted, slot.value], use_bin_type=True)
    return body


def unpack(body: bytes) -> tuple[str, Slot]:
    """Returns the key and the slot of a record that ``pack`` made."""
    key, promised, accepted, value = msgpack.unpackb(body, raw=False, strict_map_key=False)
    return key, Slot((promised[0], promised[1]), (accepted[0], accepted[1]), value)
