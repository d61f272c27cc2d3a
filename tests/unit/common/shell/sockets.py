"""Shared parts of the tests of sockets: the machine that they run on, connections, and waiting times."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.common.shell import network
from tests.simulation.machine.both import Run, equip
from tests.simulation.machine.scheduler import Scheduler

HOST = "127.0.0.1"
PATIENCE_S = 10.0
SHORT_S = 0.05


@pytest.fixture(params=["real", "simulated"])
def run(request: pytest.FixtureRequest, seed: int) -> Iterator[Run]:
    """Runs a function in a thread of a process that has a network at ``HOST``."""
    if request.param == "real":
        yield lambda body: body()
        return
    with Scheduler(seed) as scheduler:
        process = equip(scheduler, HOST)
        yield lambda body: scheduler.call(process, body)
        leftover = process.seam.network.open_sockets()
        assert leftover == []


def connected() -> tuple[network.Socket, network.Socket]:
    """Returns both ends of a TCP connection."""
    with_listener = network.listen_tcp(HOST, 0)
    try:
        client = network.dial_tcp(HOST, with_listener.getsockname()[1], PATIENCE_S)
        server, origin = with_listener.accept()
        assert origin == client.getsockname()
        return client, server
    finally:
        with_listener.close()


def closing(*socks: network.Socket) -> None:
    """Closes sockets."""
    for sock in socks:
        sock.close()


def send_until_refused(sock: network.Socket, size: int) -> int:
    """Sends pieces until there is no room, and returns how much was sent."""
    sent = 0
    try:
        while sent < 1 << 26:
            sent += sock.send(bytes(size))
    except BlockingIOError:
        return sent
    raise AssertionError("the buffers have no bound")
