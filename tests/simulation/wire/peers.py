"""Peers that stall, break off, flood and lie; each visit is a thread of a process that finally dies."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.common.errors import RainStormError
from agent.common.shell import network, threads
from agent.wire.codec import framing
from agent.wire.codec.framing import Frame
from tests.simulation.machine.tls import SimTls

CONNECT_S = 1.0
DRIP_S = 0.05
FLOOD = 24
HELLO = framing.encode(Frame({"type": "hello", "version": framing.PROTOCOL_VERSION}))
# The frames of a server in a conversation with one request.
ANSWERS = framing.encode(Frame({"ok": True, "version": framing.PROTOCOL_VERSION})) + framing.encode(
    Frame({"ok": True, "number": 1}, b"x" * 40)
)


@dataclass(frozen=True, slots=True)
class Door:
    """The target of a visit, by its address or its path, and the length of the visit."""

    address: str
    port: int
    path: str
    seconds: float


Visit = Callable[[Door, random.Random], None]


def run(visit: Visit, door: Door) -> None:
    """Makes one visit, which ends at the first error."""
    with contextlib.suppress(OSError, RainStormError):
        visit(door, threads.random_source())


def connect(door: Door, *, greet: bool = True) -> Any:
    """Returns a connection to the agent, after the greeting if requested."""
    sock: Any
    if door.path:
        sock = network.dial_unix(door.path, CONNECT_S)
    else:
        plain = network.dial_tcp(door.address, door.port, CONNECT_S)
        sock = SimTls("operator", check_hostname=False).wrap_socket(plain)
    if greet:
        sock.sendall(HELLO)
        _take_frame(sock)
    sock.settimeout(door.seconds)
    return sock


def _take_frame(sock: Any) -> None:
    sock.settimeout(CONNECT_S)
    prefix = b""
    while len(prefix) < framing.PREFIX.size:
        prefix += _some(sock, framing.PREFIX.size - len(prefix))
    left = sum(framing.decode_prefix(prefix))
    while left:
        left -= len(_some(sock, left))


def _some(sock: Any, size: int) -> bytes:
    data: bytes = sock.recv(size)
    if not data:
        raise ConnectionResetError("the server closed the connection")
    return data


def request(number: int, times: int, size: int) -> bytes:
    """Returns the frame of a request."""
    header = {"type": "echo", "number": number, "times": times, "timeout_s": 1.0}
    frame: bytes = framing.encode(Frame(header, b"x" * size))
    return frame


def never_read(door: Door, chance: random.Random) -> None:
    """Asks for large answers and reads nothing."""
    with connect(door) as sock:
        for number in range(3):
            sock.sendall(request(number, 10, 50_000))
        threads.sleep(door.seconds)


def drip(door: Door, chance: random.Random) -> None:
    """Sends a request byte by byte, and breaks off at some byte."""
    data = request(1, 1, 20)
    with connect(door) as sock:
        for index in range(chance.randrange(len(data))):
            sock.sendall(data[index : index + 1])
            threads.sleep(DRIP_S)


def break_off(door: Door, chance: random.Random) -> None:
    """Stops at any byte of its request, and closes the connection or keeps it open silently."""
    data = HELLO + request(1, 1, 200)
    for _ in range(6):
        with connect(door, greet=False) as sock:
            sock.sendall(data[: chance.randrange(len(data))])
            if chance.random() < 0.3:
                threads.sleep(door.seconds / 6)


def say_nothing(door: Door, chance: random.Random) -> None:
    """Connects, perhaps greets, and is silent."""
    with connect(door, greet=chance.random() < 0.5):
        threads.sleep(door.seconds)


def say_nothing_at_all(door: Door, chance: random.Random) -> None:
    """Connects and does not even begin the handshake."""
    if not door.path:
        with contextlib.closing(network.dial_tcp(door.address, door.port, CONNECT_S)):
            threads.sleep(door.seconds)


def lie(door: Door, chance: random.Random) -> None:
    """Sends bytes that are not a frame, announces impossible sizes, or answers instead of asking."""
    broken = (
        chance.randbytes(50),
        struct.pack(">II", (1 << 32) - 1, (1 << 32) - 1),
        struct.pack(">II", 5, framing.PAYLOAD_BYTES_MAX) + b"\x81\xa1a\x01",
        framing.encode(Frame({"type": 5, "timeout_s": "x"})),
        framing.encode(Frame({"type": "echo", "number": -1})),
        framing.encode(Frame({"error": {"code": "X"}})),
    )
    for data in broken:
        with contextlib.suppress(OSError), connect(door) as sock:
            sock.sendall(data)
            sock.recv(100)


def flood(door: Door, chance: random.Random) -> None:
    """Opens many connections at once."""
    opened: list[Any] = []
    try:
        for _ in range(FLOOD):
            opened.append(connect(door, greet=False))
        threads.sleep(min(door.seconds, 0.5))
    finally:
        for sock in opened:
            sock.close()


VISITS: tuple[Visit, ...] = (never_read, drip, break_off, say_nothing, say_nothing_at_all, lie, flood)
