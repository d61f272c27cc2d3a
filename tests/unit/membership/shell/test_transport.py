"""The datagram socket: anything but a datagram of a member is dropped and counted, and does no harm."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.common.errors import PortInUse
from agent.membership import datagrams
from agent.membership.core.dissemination.keyring import KeyRing
from agent.membership.core.dissemination.seal import Opener, Sealer
from agent.membership.core.events import Contact
from agent.membership.datagrams import Datagram, Kind
from agent.membership.shell.transport import Transport
from tests.properties import examples
from tests.support import wait_until

KEY, OTHER = bytes(range(32)), bytes(32)
GOOD = datagrams.encode(Datagram(Kind.PING, 1, "n1"))


class Place:
    """A transport of n1 that receives, and a socket that sends to it from n2's address."""

    def __init__(self, *, start: bool = True) -> None:
        self.refused: list[tuple[str, int]] = []
        self.received: list[tuple[str, int, Datagram]] = []
        self.impostors: list[tuple[str, str]] = []
        self.stale: list[tuple[str, int]] = []
        self.crashes: list[BaseException] = []
        self.transport = Transport(
            "n1",
            KeyRing((KEY,)),
            {"n2": "127.0.0.1", "n3": "127.0.0.77"},
            lambda sender, boot, datagram: self.received.append((sender, boot, datagram)),
            lambda address, port: self.refused.append((address, port)),
            lambda name, address, port: self.impostors.append((name, address)),
            lambda name, boot: self.stale.append((name, boot)),
            self.crashes.append,
        )
        self.transport.bind("127.0.0.1", 0)
        assert self.transport._socket is not None
        self.address = self.transport._socket.getsockname()
        self.transport.set_boot(1)
        if start:
            self.transport.start()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.sessions = 0

    def close(self) -> None:
        self.transport.stop(5.0)
        self.socket.close()

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
        made.close()


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


def test_impostor_does_not_make_the_real_node_look_old(place: Place) -> None:
    place.transport._addresses = {"n2": "127.0.0.2"}
    place.expect_dropped(Sealer(KEY, "n2", 9, b"i" * 16).seal(GOOD))
    place.transport._addresses = {"n2": "127.0.0.1"}
    place.expect_received(Sealer(KEY, "n2", 1, b"r" * 16).seal(GOOD))


def test_datagram_of_an_earlier_boot_is_dropped_and_reported(place: Place) -> None:
    place.expect_received(Sealer(KEY, "n2", 5, b"a" * 16).seal(GOOD))
    place.expect_dropped(Sealer(KEY, "n2", 4, b"b" * 16).seal(GOOD))
    assert place.stale == [("n2", 5)]


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=1500), sealed=st.booleans())
def test_arbitrary_bytes_do_not_get_through_nor_end_the_receiver(
    place: Place, data: bytes, sealed: bool
) -> None:
    place.expect_dropped(place.sealer().seal(data) if sealed else data)


def test_share_of_datagrams_is_discarded_by_a_seeded_choice(place: Place) -> None:
    kept = []
    for _ in range(2):
        place.transport.set_drop(30.0, seed=5)
        source, before = place.sealer(), len(place.received)
        for number in range(40):
            seen = place.transport.discarded + len(place.received)
            place.socket.sendto(
                source.seal(datagrams.encode(Datagram(Kind.PING, number, "n1"))), place.address
            )
            wait_until(
                lambda seen=seen: place.transport.discarded + len(place.received) == seen + 1,  # type: ignore[misc]
                5.0,
                "it was processed",
            )
        kept.append([datagram.sequence for _, _, datagram in place.received[before:]])
    assert kept[0] == kept[1]
    assert 20 <= len(kept[0]) <= 36
    place.transport.set_drop(0.0, None)
    place.expect_received(place.sealer().seal(GOOD))


class Haunted(socket.socket):
    """A socket whose next calls fail as they do after the network has answered an earlier datagram."""

    errors: list[int]

    @classmethod
    def takes_over(cls, transport: Transport, errors: list[int]) -> Haunted:
        assert transport._socket is not None
        made = cls(fileno=transport._socket.detach())
        made.errors = errors
        transport._socket = made
        return made

    def recvfrom(self, *args: Any) -> Any:
        self._fail()
        return super().recvfrom(*args)

    def sendto(self, *args: Any) -> int:
        self._fail()
        return super().sendto(*args)

    def _fail(self) -> None:
        if self.errors:
            code = self.errors.pop(0)
            raise OSError(code, errno.errorcode[code])


# The errors that Linux reports for the codes of ICMP's "destination unreachable" and a few other answers.
NETWORK_ERRORS = [
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,
    errno.ENOPROTOOPT,
    errno.ECONNREFUSED,
    errno.EMSGSIZE,
    errno.EOPNOTSUPP,
    errno.EHOSTDOWN,
    errno.ENONET,
    errno.EPROTO,
    errno.EPERM,
]


@pytest.mark.parametrize("code", NETWORK_ERRORS, ids=errno.errorcode.__getitem__)
def test_no_answer_of_the_network_ends_the_receiver(code: int) -> None:
    place = Place(start=False)
    haunted = Haunted.takes_over(place.transport, [code] * 3)
    place.transport.start()
    try:
        place.expect_received(place.sealer().seal(GOOD))
        assert (haunted.errors, place.crashes) == ([], [])
        haunted.errors = [code]
        place.transport.send(Contact(*place.socket.getsockname()), Datagram(Kind.PING, 9, "n2"))
        assert place.socket.recv(2000), "a datagram that met the answer to another one is sent again"
    finally:
        place.close()


def test_a_socket_that_is_gone_ends_the_agent() -> None:
    place = Place(start=False)
    Haunted.takes_over(place.transport, [errno.EBADF])
    place.transport.start()
    try:
        wait_until(lambda: place.crashes, 5.0, "the crash is reported")
    finally:
        place.close()


def test_a_flood_of_refusals_does_not_keep_the_receiver_from_stopping() -> None:
    place = Place(start=False)
    haunted = Haunted.takes_over(place.transport, [errno.ECONNREFUSED] * 100_000)
    place.transport.start()
    place.close()
    assert len(haunted.errors) > 90_000, "after the first hundred it pauses"
    assert place.crashes == []


def test_an_address_in_use_is_refused_by_name(place: Place) -> None:
    other = Transport("n9", KeyRing((KEY,)), {}, *[lambda *_: None] * 5)
    with pytest.raises(PortInUse, match="in use"):
        other.bind(*place.address)
    other.stop(1.0)


def test_a_port_where_nobody_listens_is_reported(place: Place) -> None:
    gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    gone.bind(("127.0.0.1", 0))
    address = gone.getsockname()
    gone.close()
    place.transport.send(Contact(*address), Datagram(Kind.PING, 9, "n2"))
    wait_until(lambda: place.refused, 5.0, "the refusal is reported")
    assert place.refused == [address]


def test_with_another_ring_it_seals_and_opens_with_the_new_keys(place: Place) -> None:
    place.transport.set_ring(KeyRing((OTHER, KEY)))
    place.expect_received(place.sealer(key=OTHER).seal(GOOD))
    place.expect_received(place.sealer("n2", KEY).seal(GOOD))
    place.transport.send(Contact(*place.socket.getsockname()), Datagram(Kind.PING, 9, "n2"))
    assert Opener(OTHER).open(place.socket.recv(2000)).sender == "n1"


def test_what_is_sent_arrives(place: Place) -> None:
    place.transport.send(Contact(*place.socket.getsockname()), Datagram(Kind.PING, 9, "n2"))
    assert len(place.socket.recv(2000)) == place.transport.sent_bytes
