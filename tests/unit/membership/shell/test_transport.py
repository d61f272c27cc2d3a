"""The datagram socket: whatever is not a datagram of a member is dropped and counted, and hurts nobody."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.membership import messages
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.dissemination.seal import Sealer
from agent.membership.core.events import Contact
from agent.membership.messages import Datagram, Kind
from agent.membership.shell.transport import Transport
from tests.support import wait_until

KEY, OTHER = bytes(range(32)), bytes(32)
GOOD = messages.encode(Datagram(Kind.PING, 1, "n1"))


class Place:
    """A transport of n1 that receives, and a socket that sends to it from n2's address."""

    def __init__(self) -> None:
        self.received: list[tuple[str, int, Datagram]] = []
        self.impostors: list[tuple[str, str]] = []
        self.crashes: list[BaseException] = []
        self.transport = Transport(
            "n1",
            KeyRing((KEY,)),
            {"n2": "127.0.0.1", "n3": "127.0.0.77"},
            lambda sender, boot, datagram: self.received.append((sender, boot, datagram)),
            lambda address, port: None,
            lambda name, address, port: self.impostors.append((name, address)),
            self.crashes.append,
        )
        self.transport.bind("127.0.0.1", 0)
        assert self.transport._socket is not None
        self.address = self.transport._socket.getsockname()
        self.transport.set_boot(1)
        self.transport.start()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.sessions = 0

    def sealer(self, name: str = "n2", key: bytes = KEY) -> Sealer:
        self.sessions += 1
        return Sealer(key, name, self.sessions, self.sessions.to_bytes(16, "big"))

    def expect_dropped(self, packet: bytes) -> None:
        before, received = self.transport.dropped, len(self.received)
        self.socket.sendto(packet, self.address)
        wait_until(lambda: self.transport.dropped == before + 1, 5.0, "it is dropped and counted")
        assert (len(self.received), self.crashes) == (received, [])

    def expect_received(self, packet: bytes) -> None:
        received = len(self.received)
        self.socket.sendto(packet, self.address)
        wait_until(lambda: len(self.received) == received + 1, 5.0, "it arrives")


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    try:
        yield made
    finally:
        made.transport.stop(5.0)
        made.socket.close()


BAD: dict[str, Callable[[Place], bytes]] = {
    "empty": lambda place: b"",
    "truncated": lambda place: place.sealer().seal(GOOD)[:-1],
    "oversize": lambda place: place.sealer().seal(b"x" * 4000),
    "wrong key": lambda place: place.sealer(key=OTHER).seal(GOOD),
    "another format": lambda place: b"\x01" + place.sealer().seal(GOOD)[1:],
    "another release": lambda place: place.sealer().seal(b"\x99\x01" + GOOD[2:]),
    "sealed garbage": lambda place: place.sealer().seal(b"\xff" * 40),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_packets_are_dropped_and_counted_and_the_next_good_one_arrives(place: Place, kind: str) -> None:
    place.expect_dropped(BAD[kind](place))
    place.expect_received(place.sealer().seal(GOOD))


def test_a_replay_is_dropped(place: Place) -> None:
    packet = place.sealer().seal(GOOD)
    place.expect_received(packet)
    place.expect_dropped(packet)


def test_a_datagram_in_the_name_of_a_node_at_another_address_is_dropped_and_told(place: Place) -> None:
    place.expect_dropped(place.sealer("n3").seal(GOOD))
    assert place.impostors == [("n3", "127.0.0.1")]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=1500), sealed=st.booleans())
def test_no_bytes_whatever_get_through_or_end_the_receiver(place: Place, data: bytes, sealed: bool) -> None:
    place.expect_dropped(place.sealer().seal(data) if sealed else data)


def test_a_share_is_thrown_away_by_a_seeded_choice(place: Place) -> None:
    kept = []
    for _ in range(2):
        place.transport.set_drop(30.0, seed=5)
        source, before = place.sealer(), len(place.received)
        for number in range(40):
            seen = place.transport.discarded + len(place.received)
            place.socket.sendto(
                source.seal(messages.encode(Datagram(Kind.PING, number, "n1"))), place.address
            )
            wait_until(
                lambda seen=seen: place.transport.discarded + len(place.received) == seen + 1,  # type: ignore[misc]
                5.0,
                "it was looked at",
            )
        kept.append([datagram.sequence for _, _, datagram in place.received[before:]])
    assert kept[0] == kept[1]
    assert 20 <= len(kept[0]) <= 36
    place.transport.set_drop(0.0, None)
    place.expect_received(place.sealer().seal(GOOD))


def test_what_is_sent_arrives(place: Place) -> None:
    place.transport.send(Contact(*place.socket.getsockname()), Datagram(Kind.PING, 9, "n2"))
    assert len(place.socket.recv(2000)) == place.transport.sent_bytes
