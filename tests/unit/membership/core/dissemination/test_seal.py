"""Sealed datagrams: which are accepted, and which are refused."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import ProtocolError
from agent.membership.core.dissemination import seal
from agent.membership.core.dissemination.seal import Opener, ReplayWindow, Sealer

KEY = bytes(range(32))
SESSION = b"s" * 16


def sealer(boot: int = 1, session: bytes = SESSION, key: bytes = KEY, name: str = "n1") -> Sealer:
    return Sealer(key, name, boot, session)


def test_what_was_sealed_opens_and_names_its_sender() -> None:
    opened = Opener(KEY).open(sealer(boot=7).seal(b"hello"))
    assert (opened.sender, opened.boot, opened.data) == ("n1", 7, b"hello")


def test_every_flipped_bit_is_noticed() -> None:
    packet = sealer().seal(b"hello")
    for index in range(len(packet)):
        for bit in (1, 128):
            forged = bytearray(packet)
            forged[index] ^= bit
            with pytest.raises(ProtocolError):
                Opener(KEY).open(bytes(forged))
    for size in range(len(packet)):
        with pytest.raises(ProtocolError):
            Opener(KEY).open(packet[:size])


def test_another_key_does_not_open() -> None:
    with pytest.raises(ProtocolError, match="not in the ring"):
        Opener(KEY).open(sealer(key=bytes(32)).seal(b"hello"))


def test_a_replay_is_dropped_and_disorder_is_not() -> None:
    source, opener = sealer(), Opener(KEY)
    packets = [source.seal(bytes([index])) for index in range(70)]
    order = list(range(10, 70))
    random.Random(1).shuffle(order)
    assert opener.open(packets[9]).data == b"\x09"
    for index in sorted(order, key=lambda index: index // 8):
        assert opener.open(packets[index]).data == bytes([index])
    for index in range(9, 70):
        with pytest.raises(ProtocolError, match="replayed"):
            opener.open(packets[index])
    with pytest.raises(ProtocolError, match="replayed"):
        opener.open(packets[0])  # never seen, but older than the window: it cannot be told from a replay


def test_an_earlier_boot_is_refused_and_a_forged_later_one_does_not_lock_the_sender_out() -> None:
    opener = Opener(KEY)
    old, new = sealer(boot=1), sealer(boot=2, session=b"t" * 16)
    late = old.seal(b"late")
    opener.open(old.seal(b"a"))
    with pytest.raises(ProtocolError):
        opener.open(sealer(boot=9, key=bytes(32)).seal(b"forged"))
    opener.open(new.seal(b"b"))
    with pytest.raises(ProtocolError, match="from a boot before"):
        opener.open(late)
    with pytest.raises(ProtocolError, match="two sessions"):
        opener.open(sealer(boot=2, session=b"u" * 16).seal(b"c"))


@given(st.binary(max_size=120))
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Opener(KEY).open(data)


@given(st.lists(st.integers(1, 200), max_size=300))
def test_the_window_never_accepts_twice_and_always_accepts_the_new(counters: list[int]) -> None:
    window = ReplayWindow()
    accepted: set[int] = set()
    for counter in counters:
        highest = max(accepted, default=0)
        expected = counter not in accepted and counter > highest - 64
        assert window.accept(counter) == expected
        if expected:
            accepted.add(counter)


def test_only_keys_of_the_ring_open() -> None:
    old, new = KEY, bytes(32)
    source, opener = sealer(), Opener(old, new)
    first = source.seal(b"1")
    source.use(new)
    second = source.seal(b"2")
    assert [opener.open(packet).data for packet in (second, first)] == [b"2", b"1"]
    for packet in (first, second):
        with pytest.raises(ProtocolError, match="replayed"):
            opener.open(packet)
    opener.replace_keys([new])
    source.use(old)
    with pytest.raises(ProtocolError, match="not in the ring"):
        opener.open(source.seal(b"3"))
    source.use(new)
    assert opener.open(source.seal(b"4")).data == b"4"


def test_a_packet_under_another_name_boot_or_key_mark_does_not_open() -> None:
    packet = sealer(name="n1").seal(b"hello")
    assert packet[2:4] == b"n1"
    for start, forged in ((2, b"n2"), (4, (2).to_bytes(8, "big"))):
        changed = packet[:start] + forged + packet[start + len(forged) :]
        with pytest.raises(ProtocolError, match="not sealed"):
            Opener(KEY).open(changed)


def test_what_a_holder_of_the_key_can_make_a_receiver_store_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seal, "SENDERS_MAX", 3)
    opener = Opener(KEY)
    for number in range(3):
        opener.open(sealer(name=f"n{number}").seal(b"x"))
    with pytest.raises(ProtocolError, match="too many senders"):
        opener.open(sealer(name="n3").seal(b"x"))
    assert opener.open(sealer(name="n1", boot=2).seal(b"again")).data == b"again", "a known node may restart"
