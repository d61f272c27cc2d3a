"""The format of a voter's log: records, and what is to be made of a log found after a crash.

A record is length, CRC32 and msgpack [key, promised, accepted, value]. A torn record at the end was never
answered and is cut off; a bad record with good ones behind it means that the disk lies.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgpack

from agent.common.errors import Corrupt
from agent.common.register import Slot

RECORD = struct.Struct(">II")
# A record is much shorter than this, so a good one behind a bad one is found within it.
SEARCHED_BYTES = 65536


def pack(key: str, slot: Slot) -> bytes:
    """Returns the record of a slot."""
    body: bytes = msgpack.packb([key, slot.promised, slot.accepted, slot.value], use_bin_type=True)
    return RECORD.pack(len(body), zlib.crc32(body)) + body


def replay(data: bytes, where: str) -> tuple[dict[str, Slot], int]:
    """Returns the slots that a log holds and how many of its bytes are good; the rest is to be cut off.

    Raises:
        Corrupt: there are good records behind a bad one.
    """
    slots: dict[str, Slot] = {}
    offset = 0
    while offset < len(data):
        end, record = _unpack(data, offset)
        if record is None:
            last = min(len(data), offset + SEARCHED_BYTES)
            if any(_unpack(data, start)[1] for start in range(offset + 1, last)):
                raise Corrupt(
                    f"register log {where} is damaged at byte {offset}, with good records behind it",
                    hint="replace this node's disk and let it join as a new node",
                )
            break
        key, promised, accepted, value = record
        slots[key] = Slot((promised[0], promised[1]), (accepted[0], accepted[1]), value)
        offset = end
    return slots, offset


def _unpack(data: bytes, offset: int) -> tuple[int, list[Any] | None]:
    start = offset + RECORD.size
    if start > len(data):
        return offset, None
    length, crc = RECORD.unpack_from(data, offset)
    body = data[start : start + length]
    if length < 4 or len(body) != length or zlib.crc32(body) != crc:
        return offset, None
    return start + length, msgpack.unpackb(body, raw=False, strict_map_key=False)
