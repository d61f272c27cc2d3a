"""Connections that have not said which task they are: refused, bounded, and never waited for."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pytest

from agent.common.shell import clock
from agent.rainstorm.task.shell import arrivals as module
from agent.wire.codec.framing import encode_header
from tests.unit.rainstorm.task.shell.receiver import IDENTITY, OTHER, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A task that others connect to."""
    made = Receiver()
    yield made
    made.close()


def test_another_generation_cannot_connect(receiver: Receiver) -> None:
    """It has another certificate; without an assignment no connection is expected."""
    thread, made = receiver.connect(OTHER)
    receiver.serve_until(lambda: not thread.is_alive(), "the handshake fails")
    assert made == []
    receiver.identity = None
    thread, made = receiver.connect()
    receiver.serve_until(lambda: not thread.is_alive(), "the connection is closed")
    assert receiver.welcomed == []


def test_a_hello_that_is_no_message_is_refused(receiver: Receiver) -> None:
    """The connection is closed silently."""

    def run() -> None:
        with socket.create_connection(("127.0.0.1", receiver.port)) as plain:
            try:
                with IDENTITY.client.wrap_socket(plain) as sock:
                    sock.sendall(encode_header({"from": ["0.0"], "generation": 1}, 0))
                    sock.recv(1)
            except (OSError, ssl.SSLError):
                return

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    receiver.serve_until(lambda: not thread.is_alive(), "the connection is closed")
    assert receiver.welcomed == []


def test_connections_that_say_nothing_are_bounded_in_number_and_time(
    receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest is closed first."""
    monkeypatch.setattr(module, "ARRIVALS_MAX", 2)
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(3)]
    receiver.serve_until(lambda: _closed(silent[0]), "the oldest connection is closed")
    left_s = receiver.arrivals.wait_s()
    assert left_s is not None
    assert 0 < left_s <= module.HELLO_TIMEOUT_S
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + module.HELLO_TIMEOUT_S + 1)
    receiver.serve_until(lambda: all(_closed(sock) for sock in silent), "late ones are closed")
    assert receiver.arrivals.wait_s() is None
    for sock in silent:
        sock.close()


def _closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        return sock.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
