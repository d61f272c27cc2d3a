"""The datagram codec: round trips, and garbage of every kind is a ProtocolError and nothing else."""

from __future__ import annotations

import contextlib

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import FrameTooLarge, ProtocolError
from agent.membership.datagrams import (
    BOOT_MAX,
    COUNTER_MAX,
    FORMAT,
    Beat,
    Datagram,
    Kind,
    Update,
    decode,
    encode,
)
from agent.membership.member import Member, State
from agent.membership.settings import DetectorKind, Settings

names = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=63)
counters = st.integers(0, COUNTER_MAX)
members = st.builds(
    Member,
    names,
    st.binary(min_size=16, max_size=16).map(bytes.hex),
    st.integers(0, BOOT_MAX),
    counters,
    st.sampled_from(State),
    names,
    st.integers(1, 65535),
    st.integers(0, 255),
)
beats = st.builds(Beat, names, st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
settings = st.builds(Settings, counters, st.sampled_from(DetectorKind), st.booleans())
updates = st.builds(Update, members, st.just("") | names)
datagrams = st.builds(
    Datagram,
    st.sampled_from(Kind),
    counters,
    st.just("") | names,
    counters,
    counters,
    st.lists(updates, max_size=3).map(tuple),
    st.none() | settings,
    st.lists(beats, max_size=4).map(tuple),
).filter(lambda datagram: datagram.kind is not Kind.STALE_BOOT or datagram.sequence <= BOOT_MAX)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=9) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=30,
)


@given(datagrams)
def test_round_trip(datagram: Datagram) -> None:
    assert decode(encode(datagram)) == datagram


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_by_name(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data)


@pytest.mark.slow
@given(plain)
def test_other_msgpack_is_refused_by_name(value: object) -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(value))


@pytest.mark.slow
@given(datagrams, st.data())
def test_a_changed_field_is_refused_or_read_as_what_it_says(datagram: Datagram, data: st.DataObject) -> None:
    fields = msgpack.unpackb(encode(datagram))
    index = data.draw(st.integers(0, len(fields) - 1))
    fields[index] = data.draw(plain)
    with contextlib.suppress(ProtocolError):
        found = decode(msgpack.packb(fields))
        assert msgpack.unpackb(encode(found)) == fields


@given(datagrams)
def test_another_format_is_refused_by_its_number(datagram: Datagram) -> None:
    fields = msgpack.unpackb(encode(datagram))
    fields[0] = 1
    with pytest.raises(ProtocolError, match="format 1: another release"):
        decode(msgpack.packb(fields))


def test_datagram_beyond_the_mtu_is_an_error_at_the_sender() -> None:
    member = Member("n" * 63, "ab" * 16, 1, 0, State.ALIVE, "a" * 63, 7100)
    with pytest.raises(FrameTooLarge, match="GOSSIP datagram takes"):
        encode(Datagram(Kind.GOSSIP, updates=(Update(member),) * 10))


GOOD = [FORMAT, 1, 7, "n1", 3, 4, [], None, []]
RECORD = ["n2", bytes(16), 1, 0, 0, "10.0.0.2", 7100, 0, ""]


def spoilt(index: int, value: object) -> list[object]:
    return [*RECORD[:index], value, *RECORD[index + 1 :]]


BAD: dict[str, list[object]] = {
    "unknown kind": [FORMAT, 99, *GOOD[2:]],
    "negative sequence": [FORMAT, 1, -1, *GOOD[3:]],
    "huge view version": [*GOOD[:4], COUNTER_MAX + 1, *GOOD[5:]],
    "long target": [*GOOD[:3], "x" * 64, *GOOD[4:]],
    "settings of another form": [*GOOD[:7], [1, 0], []],
    "settings of an unknown detector": [*GOOD[:7], [1, 9, True], []],
    "settings with a negative version": [*GOOD[:7], [-1, 0, True], []],
    "heartbeat of another form": [*GOOD[:8], [["n1", 1]]],
    "heartbeat out of range": [*GOOD[:8], [["n1", 1, 1 << 32]]],
    "heartbeat without a name": [*GOOD[:8], [["", 1, 1]]],
    "record of another form": [*GOOD[:6], [["n2"]], None, []],
    "record with a short uuid": [*GOOD[:6], [spoilt(1, b"x")], None, []],
    "record with a negative boot": [*GOOD[:6], [spoilt(2, -1)], None, []],
    "record with a huge boot": [*GOOD[:6], [spoilt(2, BOOT_MAX + 1)], None, []],
    "stale boot that is huge": [FORMAT, 10, BOOT_MAX + 1, *GOOD[3:]],
    "record in an unknown state": [*GOOD[:6], [spoilt(4, 7)], None, []],
    "record without a port": [*GOOD[:6], [spoilt(6, 0)], None, []],
    "record with unknown services": [*GOOD[:6], [spoilt(7, 256)], None, []],
    "record of many bytes": [*GOOD[:6], [spoilt(0, "\N{SNOWMAN}" * 22)], None, []],
}


@pytest.mark.parametrize("kind", BAD)
def test_field_out_of_range_is_refused(kind: str) -> None:
    assert decode(msgpack.packb(GOOD)).sequence == 7
    with pytest.raises(ProtocolError):
        decode(msgpack.packb(BAD[kind], use_bin_type=True))
