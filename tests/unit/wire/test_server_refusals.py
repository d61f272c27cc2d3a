"""What a server refuses and survives: foreign callers, garbage, malformed handshakes, defects of its own."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.common.config import TlsConfig
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    Unreachable,
)
from agent.common.shell import clock, network, threads
from agent.wire import auth
from agent.wire import server as serving
from agent.wire.client import Address, Client
from agent.wire.connection import Connection
from agent.wire.messages import Ping
from agent.wire.server import Server
from tests.support import wait_until
from tests.unit.wire import echoing
from tests.unit.wire.echoing import ENDPOINTS, Echo, Place, tls_of

place = echoing.place


def test_a_certificate_of_another_authority_is_refused(place: Place) -> None:
    """A certificate of another authority opens no connection, in neither direction."""
    stranger = Client(auth.client_context(tls_of(place.folder, "vm3", "other")))
    with pytest.raises(Unreachable):
        stranger.ask(place.address, Echo())
    mixed = tls_of(place.folder, "vm3", "other")
    knows_ca = TlsConfig(str(place.folder / "ca" / "ca.pem"), mixed.certificate, mixed.key)
    pretender = Client(auth.client_context(knows_ca))
    with pytest.raises(Unreachable):
        pretender.ask(place.address, Echo())


def test_a_node_with_another_name_is_refused(place: Place) -> None:
    """The name in the server's certificate must be the one asked for."""
    with pytest.raises(Unreachable, match="vm7"):
        place.client.ask(Address("127.0.0.1", place.port, "vm7"), Echo())


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n" * 10,
        struct.pack(">II", 2**31, 0),
        struct.pack(">II", 2, 0) + b"\xc1\xc1",
        b"\0",
    ],
    ids=["http", "oversize", "no msgpack", "one byte"],
)
def test_garbage_closes_its_own_connection_only(place: Place, data: bytes) -> None:
    """A peer that sends garbage is disconnected; others do not notice."""
    with socket.socket(socket.AF_UNIX) as rogue:
        rogue.connect(place.unix)
        rogue.sendall(data)
        rogue.shutdown(socket.SHUT_WR)
        rogue.settimeout(5)
        with contextlib.suppress(ConnectionResetError):  # a reset is a close as well
            assert rogue.recv(1) == b""
    assert place.client.ask(place.unix, Echo()).message.peer


def test_another_protocol_version_is_refused_by_name(place: Place) -> None:
    """Both versions are in the error, so that an operator knows which node to upgrade."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(place.unix)
        connection = Connection(sock, "server")
        limit = Deadline(clock.monotonic(), 5.0)
        connection.send({"type": "hello", "version": 99}, b"", limit)
        error = connection.receive(limit).header["error"]
    assert error["code"] == "PROTOCOL_ERROR"
    assert "99" in error["message"]


def test_an_acceptor_whose_thread_cannot_be_started_goes_on(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process with too many threads refuses this connection, says so, and takes the next one."""
    monkeypatch.setattr(serving, "ACCEPT_RETRY_S", 0.01)
    failing = threading.Event()
    failing.set()
    start = threading.Thread.start

    def cannot(self: threading.Thread) -> None:
        if failing.is_set() and "-connection-" in self.name:
            failing.clear()
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", cannot)
    with pytest.raises(Unreachable):
        place.client.ask(place.unix, Echo())
    assert "connection_refused server=test reason=no_thread" in caplog.text
    assert place.client.ask(place.unix, Echo()).message.peer


def test_one_connection_too_many_is_refused(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving, "CONNECTIONS_MAX", 1)
    assert place.client.ask(place.unix, Echo()).message.peer
    other = Client(None)
    with pytest.raises(Unreachable):
        other.ask(place.unix, Echo())
    assert "reason=too_many" in caplog.text
    place.client.close()
    wait_until(lambda: _answers(other, place.unix), 5.0, "the slot of the connection that ended is free")
    other.close()


def _answers(client: Client, target: str) -> bool:
    try:
        return bool(client.ask(target, Echo()).message.peer)
    except (Unreachable, ConnectionLost):
        return False


def test_a_failed_accept_is_logged_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Out of descriptors: the acceptor must outlive it."""
    monkeypatch.setattr(serving, "ACCEPT_RETRY_S", 0.01)
    accept = socket.socket.accept
    errors = [OSError(errno.EMFILE, "too many open files")]

    def failing(self: socket.socket) -> Any:
        if errors:
            raise errors.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "accept", failing)
    server, client = Server("test", ENDPOINTS), Client(None)
    server.listen_unix(str(tmp_path / "test.sock"))
    assert client.ask(str(tmp_path / "test.sock"), Echo()).message.peer
    assert "accept_failed server=test" in caplog.text
    client.close()
    server.stop()


def test_a_defect_in_a_connection_s_thread_leaves_a_line_and_ends_that_connection_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = threads.deaths()
    monkeypatch.setattr(place.server, "_answer", lambda key, connection: 1 / 0)
    with pytest.raises(ConnectionLost):
        place.client.ask(place.unix, Echo())
    wait_until(lambda: "connection_failed server=test peer=local" in caplog.text, 5.0, "it is logged")
    assert "ZeroDivisionError" in caplog.text
    monkeypatch.undo()
    assert place.client.ask(place.unix, Echo()).message.peer
    assert threads.deaths() == before


def test_a_defect_in_the_disconnect_callback_leaves_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(peer: str, key: int) -> None:
        raise ZeroDivisionError

    server, client = Server("test", {}, on_disconnect=fail), Client(None)
    path = str(tmp_path / "test.sock")
    server.listen_unix(path)
    client.ask(path, Ping())
    client.close()
    wait_until(lambda: "disconnect_handler_failed" in caplog.text, 5.0, "it is logged")
    server.stop()


@pytest.mark.parametrize("hello", [{"type": "ping"}, {"type": "hello", "version": "1"}, {}, {"version": 1}])
def test_a_malformed_handshake_is_refused_with_a_code(place: Place, hello: dict[str, Any]) -> None:
    with contextlib.closing(Connection(network.dial_unix(place.unix, 5.0), "server")) as connection:
        limit = Deadline(clock.monotonic(), 5.0)
        connection.send(hello, b"", limit)
        assert connection.receive(limit).header["error"]["code"] in ("PROTOCOL_ERROR", "INVALID_MESSAGE")
        with pytest.raises(ConnectionLost):
            connection.receive(limit)


def test_a_caller_that_does_not_finish_its_handshake_is_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few silent callers would take all places of the server."""
    monkeypatch.setattr(serving, "HANDSHAKE_TIMEOUT_S", 0.1)
    with contextlib.closing(network.dial_unix(place.unix, 5.0)) as silent:
        assert silent.recv(1) == b"", "the server has closed the connection"
