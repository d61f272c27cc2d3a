"""The contract of Unix sockets, and of the descriptors that travel through them, on both platforms."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.shell import network
from tests.simulation.machine.both import Run
from tests.unit.common.shell import sockets
from tests.unit.common.shell.sockets import PATIENCE_S, SHORT_S, closing, send_until_refused

run = sockets.run


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A path for a Unix socket, short enough for one."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/s"
    finally:
        os.close(folder)


def test_unix_stream(run: Run, path: str) -> None:
    """A Unix socket: nobody there, somebody there, a path that was left behind, and taken over."""

    def body() -> None:
        with pytest.raises(FileNotFoundError):
            network.dial_unix(path, PATIENCE_S)
        listener = network.listen_unix(path, 0o660)
        client = network.dial_unix(path, PATIENCE_S)
        server, _ = listener.accept()
        assert client.family == socket.AF_UNIX
        assert client.gettimeout() == PATIENCE_S
        assert not network.is_tls(client)
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"
        client.close()
        with pytest.raises(BrokenPipeError):
            server.sendall(b"x")
        closing(server, listener)
        with pytest.raises(ConnectionRefusedError):
            network.dial_unix(path, PATIENCE_S)
        again = network.listen_unix(path, 0o660)
        closing(network.dial_unix(path, PATIENCE_S), again)
        network.remove_unix(path)
        network.remove_unix(path)
        with pytest.raises(FileNotFoundError):
            network.dial_unix(path, PATIENCE_S)

    run(body)


def test_packets(run: Run, path: str) -> None:
    """Packets keep their bounds; sending alone can have a time-out."""

    def body() -> None:
        listener = network.listen_unix(path, 0o600, 1, packets=True)
        client = network.dial_unix(path, None, packets=True)
        server, _ = listener.accept()
        with pytest.raises(OSError, match="wrong type"):
            network.dial_unix(path, PATIENCE_S)
        client.send(b"one")
        client.send(b"two")
        assert server.recv(100) == b"one"
        assert server.recv(2) == b"tw"  # the rest of the packet is gone
        network.set_send_timeout(client, SHORT_S)
        assert send_until_refused(client, 1000) > 0
        assert client.gettimeout() is None
        closing(client, server, listener)
        network.remove_unix(path)

    run(body)


def test_descriptors_travel(run: Run) -> None:
    """A socket goes through a Unix socket; it ends when its last descriptor does."""

    def body() -> None:
        ours, theirs = network.pair()
        near, far = network.pair()
        handed = far.detach()
        assert far.fileno() == -1
        assert network.send_descriptors(ours, b"h", [handed]) == 1
        network.close_descriptor(handed)
        with pytest.raises(OSError, match="Bad file"):
            network.close_descriptor(handed)
        data, descriptors = network.receive_descriptors(theirs, 10, 1)
        assert data == b"h"
        taken = network.adopt(descriptors[0])
        near.sendall(b"through")
        assert taken.recv(20) == b"through"
        taken.close()
        assert near.recv(1) == b""
        ours.sendall(b"plain")
        assert network.receive_descriptors(theirs, 10, 1) == (b"plain", [])
        ours.close()
        assert network.receive_descriptors(theirs, 10, 1) == (b"", [])
        closing(theirs, near)

    run(body)


def test_descriptor_nobody_takes_is_closed(run: Run) -> None:
    """A socket in transit is closed together with the connection that carries it."""

    def body() -> None:
        ours, theirs = network.pair()
        near, far = network.pair()
        network.send_descriptors(ours, b"h", [far.fileno()])
        far.close()
        closing(theirs, ours)
        assert near.recv(1) == b""
        near.close()

    run(body)
