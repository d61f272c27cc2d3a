"""Visitors that must not harm any agent: silent, malformed, cut off, of another cluster, forged.

Each visit is a thread of a machine that is not a node. The answers to it do not matter: the checks are that
no agent crashes, believes anything that it says, or keeps anything for it when it is gone.
"""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.common.errors import RainStormError
from agent.common.shell import network, threads
from agent.membership import datagrams
from agent.membership.core.dissemination.seal import SESSION_BYTES, Sealer
from agent.membership.datagrams import Datagram, Kind, Update
from agent.membership.member import Member, State
from agent.wire import auth
from agent.wire.client import Address, Client
from agent.wire.codec import framing
from tests import untyped
from tests.simulation.machine.cluster import OPERATOR
from tests.simulation.machine.tls import SimTls

CONNECT_S = 1.0
GOSSIP_KEY = bytes(32)
# Values of types and sizes that must not break any handler.
WRONG: tuple[Any, ...] = (None, -1, 1 << 62, 1e308, "x" * 1000, b"\xff", [[[]]], {"a": {"b": 1}}, True)
KINDS = (
    "membership.members",
    "membership.watch",
    "membership.events",
    "membership.why",
    "membership.hint",
    "membership.attach",
    "membership.compare",
    "membership.swap",
    "view.prepare",
    "view.accept",
    "view.read",
    "view.keys",
    "view.memory",
    "no.such.request",
)
FIELDS = tuple("version wait_s since name service heard digest parts key ballot value".split())


@dataclass(frozen=True, slots=True)
class Door:
    """The target of a stranger, and the identity that it claims."""

    node: str
    address: str
    port: int
    own_address: str
    impersonated: str
    # How long a visit may last.
    seconds: float


Visit = Callable[[Door], None]


def run(visit: Visit, door: Door) -> None:
    """Makes one visit, which ends at the first error."""
    with contextlib.suppress(OSError, RainStormError):
        visit(door)


def _chance() -> random.Random:
    return threads.random_source()


def stay_silent(door: Door) -> None:
    """Connects and sends nothing."""
    with network.dial_tcp(door.address, door.port, CONNECT_S):
        threads.sleep(door.seconds)


def speak_no_tls(door: Door) -> None:
    """Sends bytes that are not a handshake."""
    chance = _chance()
    with network.dial_tcp(door.address, door.port, CONNECT_S) as sock:
        sock.sendall(struct.pack("!BI", chance.choice((0, 1, 2, 3)), 40) + chance.randbytes(40))
        threads.sleep(door.seconds)


def show_foreign_certificate(door: Door) -> None:
    """Shows the certificate of another cluster with the name of a node."""
    context = SimTls(door.impersonated, "another cluster", accepts="cluster", check_hostname=False)
    with context.wrap_socket(network.dial_tcp(door.address, door.port, CONNECT_S)) as sock:
        sock.sendall(framing.encode(framing.Frame({"type": "hello", "version": 1})))
        sock.recv(100)


def break_frames(door: Door) -> None:
    """Shows a good certificate and sends bytes that are not a frame, or only a part of one."""
    chance = _chance()
    context = SimTls("operator", check_hostname=False)
    hello = framing.encode(framing.Frame({"type": "hello", "version": framing.PROTOCOL_VERSION}))
    broken = [
        chance.randbytes(60),
        struct.pack(">II", 1 << 31, 1 << 31),
        hello[: chance.randrange(len(hello))],
        framing.encode(framing.Frame({"type": "hello", "version": 99})),
        hello + struct.pack(">II", 3, 0) + b"\x93\x01\x02",
        hello + framing.encode(framing.Frame({"type": "ping", "timeout_s": -1.0}))[:-2],
    ]
    for data in broken:
        with context.wrap_socket(network.dial_tcp(door.address, door.port, CONNECT_S)) as sock:
            sock.settimeout(0.5)
            with contextlib.suppress(OSError):
                sock.sendall(data)
                sock.recv(100)


def ask_nonsense(door: Door) -> None:
    """Makes well-formed requests with fields of wrong types."""
    chance = _chance()
    client = Client(auth.client_context(OPERATOR))
    try:
        for kind in KINDS:
            chosen = chance.sample(FIELDS, 3)
            with contextlib.suppress(RainStormError):
                untyped.send(
                    client,
                    Address(door.address, door.port, door.node),
                    kind,
                    {name: chance.choice(WRONG) for name in chosen},
                    chance.randbytes(20),
                    timeout_s=1.0,
                )
    finally:
        client.close()


def send_junk(door: Door) -> None:
    """Sends datagrams that do not open, and one that is sealed with the right key and names a node."""
    chance = _chance()
    with network.datagram(door.own_address, 0) as sock:
        for size in (0, 1, 2, 40, 200, 1400):
            sock.sendto(chance.randbytes(size), (door.address, door.port))
        sealer = Sealer(GOSSIP_KEY, door.impersonated, 1 << 40, chance.randbytes(SESSION_BYTES))
        lie = Member(door.impersonated, "f" * 32, 1 << 40, 1 << 30, State.LEFT, door.own_address, door.port)
        for kind in Kind:
            forged = Datagram(kind, 1, updates=(Update(lie),))
            packet = sealer.seal(datagrams.encode(forged))
            sock.sendto(packet, (door.address, door.port))
            sock.sendto(packet, (door.address, door.port))
        threads.sleep(min(0.1, door.seconds))


VISITS: tuple[Visit, ...] = (
    stay_silent,
    speak_no_tls,
    show_foreign_certificate,
    break_frames,
    ask_nonsense,
    send_junk,
)
