"""The format of framed logs: what is read back, what is a torn tail, and what is damage."""

from __future__ import annotations

import random
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common import framedlog
from agent.common.errors import Corrupt, RecordTooLarge
from agent.common.framedlog import Layout, Read, check_tail, find_behind, records

PLAIN = Layout(rb"\x93[ab]", body_bytes_max=5000)
KINDS = Layout(rb"[sra]", body_bytes_max=5000, uncounted_bytes=1)


def reader(data: bytes) -> Read:
    return lambda offset, length: data[offset : offset + length]


def bodies(layout: Layout, data: bytes) -> tuple[list[bytes], int]:
    """Returns the bodies of the good records and where they end."""
    found = list(records(layout, reader(data), len(data)))
    return [record.body for record in found], found[-1].end if found else 0


def behind(layout: Layout, data: bytes, bad: int, limit: int = framedlog.SEARCH_BYTES_MAX) -> int | None:
    return find_behind(layout, reader(data), bad, len(data), limit)


def test_the_formats_of_earlier_releases_are_read_and_written() -> None:
    body = b"\x93abc"
    assert PLAIN.record(body) == struct.pack(">II", 4, zlib.crc32(body)) + body
    assert KINDS.record(b"rabc") == struct.pack(">IIc", 3, zlib.crc32(b"rabc"), b"r") + b"abc"


@given(st.lists(st.binary(max_size=400)), st.sampled_from([PLAIN, KINDS]))
def test_what_was_written_is_read_back(payloads: list[bytes], layout: Layout) -> None:
    lead = b"\x93a" if layout is PLAIN else b"r."
    written = [lead + payload for payload in payloads]
    data = b"".join(layout.record(body) for body in written)
    assert bodies(layout, data) == (written, len(data))


def test_records_longer_than_a_window_and_across_its_edge(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framedlog, "WINDOW_BYTES", 300)
    written = [b"\x93a" + bytes([n % 256]) * (n * 37 % 2000) for n in range(60)]
    data = b"".join(PLAIN.record(body) for body in written)
    assert bodies(PLAIN, data) == (written, len(data))


def test_a_record_that_could_not_be_read_back_is_refused() -> None:
    PLAIN.record(b"\x93a" + bytes(4998))
    with pytest.raises(RecordTooLarge, match="5001 bytes"):
        PLAIN.record(b"\x93a" + bytes(4999))
    with pytest.raises(ValueError, match="does not know"):
        PLAIN.record(b"\x93c")
    with pytest.raises(ValueError, match="does not know"):
        PLAIN.record(b"")


@pytest.mark.parametrize("layout", [PLAIN, KINDS])
def test_a_tail_is_torn_at_every_length(layout: Layout) -> None:
    lead = b"\x93a" if layout is PLAIN else b"r."
    good = layout.record(lead + b"good")
    last = layout.record(lead + bytes(range(100)))
    for cut in range(len(last)):
        for junk in (b"", bytes(50), b"\x93a" * 20):
            data = good + last[:cut] + junk
            assert bodies(layout, data)[1] == len(good)
            check_tail(layout, reader(data), len(good), len(data), "x")


@pytest.mark.parametrize("layout", [PLAIN, KINDS])
def test_a_flipped_bit_before_a_good_record_is_damage(layout: Layout) -> None:
    lead = b"\x93a" if layout is PLAIN else b"r."
    first, second = layout.record(lead + bytes(range(100))), layout.record(lead + b"second")
    for at in range(len(first)):
        for bit in range(8):
            damaged = bytearray(first + second)
            damaged[at] ^= 1 << bit
            data = bytes(damaged)
            assert bodies(layout, data) == ([], 0)
            with pytest.raises(Corrupt, match=f"x is damaged at byte 0, .*at byte {len(first)}"):
                check_tail(layout, reader(data), 0, len(data), "x")


@pytest.mark.parametrize("distance", [0, 1, 100, 65_536, 300_000, 1024 * 1024 - 70, 1024 * 1024, 5_000_000])
def test_a_good_record_is_found_however_far_behind(distance: int, seed: int) -> None:
    filler = random.Random(seed).randbytes(distance)
    data = b"\0\0\0\7bad!" + filler + PLAIN.record(b"\x93bfound") + bytes(100)
    assert behind(PLAIN, data, 0) == 8 + distance


def test_a_good_record_is_found_across_the_edge_of_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framedlog, "WINDOW_BYTES", 200)
    record = PLAIN.record(b"\x93b" + bytes(range(256)) * 3)
    for distance in range(1, 500):
        data = bytes(distance) + record
        assert behind(PLAIN, data, 0) == distance


def test_zeros_text_and_chance_hold_no_records(seed: int) -> None:
    rng = random.Random(seed)
    for filler in (bytes(3_000_000), b"\x93a" * 500_000, b"\0\0\0\x10" * 500_000, rng.randbytes(3_000_000)):
        assert behind(PLAIN, b"bad" + filler, 0) is None


def test_a_search_that_would_take_too_long_counts_as_damage() -> None:
    """A payload may consist only of beginnings of long records."""
    planted = struct.pack(">II", 4900, 1) + b"\x93a"
    data = b"bad" + planted * 2000
    assert behind(PLAIN, data, 0) is None
    found = behind(PLAIN, data, 0, limit=1_000_000)
    assert found is not None
    assert 0 < found < 1_000_000


def test_headers_that_announce_nonsense_are_no_records() -> None:
    for header in (b"", b"\0\0\0\1", bytes(8), struct.pack(">II", 5001, 0), b"\xff" * 8):
        assert PLAIN.body_bytes(header) == 0
        assert not PLAIN.matches(header, b"")
    assert KINDS.body_bytes(struct.pack(">II", 0, 0)) == 0
