"""Frames: sizes are checked before anything is allocated, garbage is an error, never a crash."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import FrameTooLarge, ProtocolError
from agent.wire.codec.framing import (
    HEADER_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PREFIX,
    Frame,
    decode,
    decode_prefix,
    encode,
    encode_header,
)

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


OVERSIZE = [(HEADER_BYTES_MAX + 1, 0), (0, PAYLOAD_BYTES_MAX + 1), (2**32 - 1, 2**32 - 1)]


@given(st.dictionaries(st.text(max_size=10), PLAIN, max_size=5), st.binary(max_size=500))
def test_a_frame_comes_back_as_it_was_sent(header: dict[str, Any], payload: bytes) -> None:
    """Any plain header and any payload survive."""
    found = decode(encode(Frame(header, payload)))
    assert (found.header, bytes(found.payload)) == (header, payload)


@given(st.binary(max_size=200))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    """Any bytes give a value or a ProtocolError, and nothing else."""
    with contextlib.suppress(ProtocolError):
        decode(data)


@given(st.data())
def test_a_cut_or_longer_frame_is_refused(data: st.DataObject) -> None:
    """Bytes that are missing or left over are noticed."""
    whole = encode(Frame({"type": "x"}, b"payload"))
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        decode(whole[:end])
    with pytest.raises(ProtocolError):
        decode(whole + b"x")


@pytest.mark.parametrize("sizes", OVERSIZE)
def test_an_oversize_frame_is_refused_by_its_prefix(sizes: tuple[int, int]) -> None:
    """Its first eight bytes show the size, so nothing of that size is allocated."""
    with pytest.raises(FrameTooLarge):
        decode_prefix(PREFIX.pack(*sizes))


def test_an_oversize_payload_is_refused_at_the_sender() -> None:
    """The sender gets the error before a byte is sent."""
    with pytest.raises(FrameTooLarge):
        encode_header({}, PAYLOAD_BYTES_MAX + 1)


def test_a_header_that_is_no_map_is_refused() -> None:
    """A list is valid msgpack but not a header."""
    with pytest.raises(ProtocolError, match="not a map"):
        decode(PREFIX.pack(1, 0) + b"\x90")
