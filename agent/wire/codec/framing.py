"""Frames: a small msgpack header and a raw payload. The payload is never inside the msgpack.

Layout, big-endian: header length (4 bytes), payload length (4 bytes), header (a msgpack map), payload. Both
lengths are checked before anything is allocated. A stored or sent message is always a frame, so that the
simulator's network carries the same bytes as the sockets do.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack
import msgspec

from agent.common.errors import FrameTooLarge, InvalidMessage, ProtocolError

PROTOCOL_VERSION = 1
PREFIX = struct.Struct(">II")
# A header holds ids, offsets and short lists; the largest is a job's plan or a listing page.
HEADER_BYTES_MAX = 4 * 1024 * 1024
# Twice the default block, so that one frame can carry a whole block.
PAYLOAD_BYTES_MAX = 16 * 1024 * 1024

Buffer = bytes | bytearray | memoryview


class Frame(msgspec.Struct, frozen=True):
    """One message: ``header`` holds plain values, ``payload`` raw bytes.

    On a Unix socket an open file may come with it; the receiver closes ``descriptor``.
    """

    header: dict[str, Any]
    payload: Buffer = b""
    descriptor: int | None = None


def encode_header(header: dict[str, Any], payload_bytes: int) -> bytes:
    """Returns the prefix and header of a frame whose payload of ``payload_bytes`` follows.

    Raises:
        FrameTooLarge: header or payload is over the limit; nothing should be sent.
        InvalidMessage: the header holds something that msgpack cannot express.
    """
    try:
        packed: bytes = msgpack.packb(header, use_bin_type=True)
    except (ValueError, TypeError, OverflowError) as error:  # a lone surrogate, an object, a huge number
        raise InvalidMessage(f"frame header cannot be encoded: {error}") from None
    check_sizes(len(packed), payload_bytes)
    return PREFIX.pack(len(packed), payload_bytes) + packed


def encode(frame: Frame) -> bytes:
    """Returns the whole frame as bytes."""
    return encode_header(frame.header, len(frame.payload)) + bytes(frame.payload)


def check_sizes(header_bytes: int, payload_bytes: int) -> None:
    """Raises FrameTooLarge when a frame of these sizes must not be allocated."""
    if header_bytes > HEADER_BYTES_MAX or payload_bytes > PAYLOAD_BYTES_MAX:
        raise FrameTooLarge(
            f"frame of {header_bytes} + {payload_bytes} bytes is over the limit of "
            f"{HEADER_BYTES_MAX} + {PAYLOAD_BYTES_MAX}",
            hint="split the data into smaller requests",
        )


def decode_prefix(prefix: Buffer) -> tuple[int, int]:
    """Returns (header bytes, payload bytes) from the first eight bytes of a frame, both within the limits."""
    header_bytes, payload_bytes = PREFIX.unpack(prefix)
    check_sizes(header_bytes, payload_bytes)
    return header_bytes, payload_bytes


def decode_header(data: Buffer) -> dict[str, Any]:
    """Returns the header map.

    Raises:
        ProtocolError: the bytes are not a msgpack map.
    """
    try:
        header = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:  # TypeError: a list as key
        raise ProtocolError(f"frame header is not msgpack: {error}") from None
    if not isinstance(header, dict):
        raise ProtocolError(f"frame header is a {type(header).__name__}, not a map")
    return header


def decode(data: Buffer) -> Frame:
    """Returns the frame that ``data`` holds, exactly.

    Raises:
        ProtocolError: bytes are missing or left over.
    """
    view = memoryview(data)
    if len(view) < PREFIX.size:
        raise ProtocolError("truncated frame")
    header_bytes, payload_bytes = decode_prefix(view[: PREFIX.size])
    end = PREFIX.size + header_bytes
    if len(view) != end + payload_bytes:
        raise ProtocolError(f"frame of {len(view)} bytes, its prefix says {end + payload_bytes}")
    return Frame(decode_header(view[PREFIX.size : end]), bytes(view[end:]))
