"""Server and client on real sockets: admission, answers, and the effects of a misbehaving side."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.config import TlsConfig
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConfigError,
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    Internal,
    InvalidMessage,
    NotFound,
    PortInUse,
    ProtocolError,
    RainStormError,
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
from tests.unit.wire.echoing import ENDPOINTS, GATE, HANG, Echo, Place, Unknown, tls_of


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A running server."""
    found = Place(tmp_path)
    HANG.clear()
    yield found
    HANG.set()
    found.client.close()
    found.server.stop()


def test_the_unix_socket_is_for_the_user_and_the_group_of_the_agent(place: Place) -> None:
    """There is no other protection: whoever can connect counts as this machine."""
    assert stat.S_IMODE(os.stat(place.unix).st_mode) == 0o660


def test_both_sides_know_each_other_by_certificate(place: Place) -> None:
    """The server learns the caller's name from its certificate, not from its messages."""
    assert place.client.ask(place.address, Echo(peer="vm9")).message.peer == "vm2"
    assert place.client.ask(place.unix, Echo()).message.peer == "local"


@pytest.mark.parametrize("size", [0, 1, 65_537, 3_000_000])
def test_payloads_of_any_size_come_back(place: Place, size: int) -> None:
    """On TLS and on the Unix socket."""
    payload = os.urandom(size)
    for target in (place.address, place.unix):
        assert bytes(place.client.ask(target, Echo(), payload).payload) == payload
        parts = [payload[: size // 3], payload[size // 3 :]]
        assert bytes(place.client.ask(target, Echo(), parts).payload) == payload


def test_a_part_of_a_file_is_sent_from_the_file(place: Place, tmp_path: Path) -> None:
    """A file slice arrives byte for byte, and its descriptor is closed."""
    data = os.urandom(1_000_002)
    (tmp_path / "data").write_bytes(data)
    for target in (place.address, place.unix):
        reply = place.client.ask(target, Echo("file", str(tmp_path / "data")))
        assert bytes(reply.payload) == data[2:]


def test_errors_come_back_as_themselves_and_the_connection_stays(place: Place) -> None:
    """A refused request, an unknown one and a defect each have their code."""
    with pytest.raises(NotFound, match="no such thing") as refused:
        place.client.ask(place.address, Echo("missing"))
    assert (refused.value.hint, refused.value.details) == ("look elsewhere", {"name": "x"})
    with pytest.raises(ProtocolError, match="unknown-kind"):
        place.client.ask(place.address, Unknown())
    with pytest.raises(Internal):
        place.client.ask(place.address, Echo("defect"))
    assert place.client.ask(place.address, Echo()).message.peer


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


def test_a_time_limit_is_kept_and_the_next_request_is_answered(place: Place) -> None:
    """A stalled handler costs its caller the time limit, and does not affect the connections of others."""
    place.client.ask(place.address, Echo())  # a handshake that is late would be another error
    with pytest.raises(DeadlineExceeded):
        place.client.ask(place.address, Echo("hang"), timeout_s=0.1)
    assert place.client.ask(place.address, Echo()).message.peer


@pytest.mark.parametrize("local", [False, True])
def test_closing_a_client_ends_the_request_that_waits(place: Place, local: bool) -> None:
    """An agent that stops does not wait for its own long requests to others."""
    target = place.unix if local else place.address
    place.client.ask(target, Echo())  # the stalled connection comes from the pool
    ended: list[str] = []

    def ask() -> None:
        with pytest.raises(ConnectionLost):
            place.client.ask(target, Echo("hang"))
        ended.append("lost")

    thread = threading.Thread(target=ask, name="asks")
    thread.start()
    wait_until(lambda: place.client.busy == 1, 5.0, "the request is in progress")
    place.client.close()
    thread.join(5.0)
    assert ended == ["lost"]


def test_a_stopping_server_finishes_the_requests_in_progress(place: Place) -> None:
    GATE.clear()
    answers: list[object] = []

    def ask() -> None:
        answers.append(place.client.ask(place.address, Echo("gate")).message.peer)

    asking = threading.Thread(target=ask, name="asks")
    stopping = threading.Thread(target=place.server.stop, name="stops")
    asking.start()
    wait_until(lambda: place.server.in_progress == 1, 5.0, "the request is being handled")
    stopping.start()
    stopping.join(0.05)
    GATE.set()
    for thread in (asking, stopping):
        thread.join(5.0)
    assert answers == ["vm2"]
    assert not stopping.is_alive()


def test_a_restarted_server_is_found_again(place: Place) -> None:
    """An idle connection that died meanwhile is replaced without the caller noticing."""
    place.client.ask(place.address, Echo())
    place.server.stop()
    with pytest.raises((Unreachable, ConnectionLost)):
        place.client.ask(place.address, Echo())
    again = Server("test", ENDPOINTS)
    again.listen_tls("127.0.0.1", place.port, place.context)
    try:
        assert place.client.ask(place.address, Echo()).message.peer
    finally:
        again.stop()


def test_a_taken_port_is_named(place: Place) -> None:
    """The error says which address and how to find who has it."""
    with pytest.raises(PortInUse, match=str(place.port)) as refused:
        Server("second", {}).listen_tls("127.0.0.1", place.port, place.context)
    assert "ss -ltnp" in refused.value.hint


def test_the_server_learns_when_a_peer_leaves(place: Place) -> None:
    """The callback gets the name of the peer."""
    place.client.ask(place.address, Echo())
    place.client.close()
    wait_until(lambda: place.left == ["vm2"], 5, "the disconnect is noticed")


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


def test_unreadable_certificates_are_a_configuration_error(tmp_path: Path) -> None:
    """The files are named."""
    tls = tls_of(tmp_path, "vm1")
    Path(tls.key).write_text("no key")
    with pytest.raises(ConfigError, match=r"vm1\.key"):
        auth.server_context(tls)


def test_private_keys_are_for_their_owner_only(tmp_path: Path) -> None:
    """There is no moment at which another user could read them."""
    tls = tls_of(tmp_path, "vm1")
    assert os.stat(tls.key).st_mode & 0o777 == 0o600
    assert os.stat(tmp_path / "ca" / "ca.key").st_mode & 0o777 == 0o600


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


@pytest.mark.parametrize("want", ["large", "surrogate", "object"])
def test_a_reply_that_is_no_frame_is_answered_with_an_error(place: Place, want: str) -> None:
    """The caller learns why, and the connection stays."""
    place.client.ask(place.unix, Echo())
    with pytest.raises((FrameTooLarge, InvalidMessage, Internal)):
        place.client.ask(place.unix, Echo(want))
    assert place.client.ask(place.unix, Echo()).message.peer
    assert place.left == []


def test_an_error_whose_text_or_details_no_frame_can_hold_still_arrives(place: Place) -> None:
    with pytest.raises(NotFound, match=r"file \?") as refused:
        place.client.ask(place.unix, Echo("bad error"))
    assert refused.value.details == {}


def test_the_caller_of_each_handled_request_is_reported(tmp_path: Path) -> None:
    callers: list[str] = []
    server, client = Server("test", {}, on_request=callers.append), Client(None)
    path = str(tmp_path / "test.sock")
    server.add(ENDPOINTS)
    server.listen_unix(path)
    client.ask(path, Echo())
    with pytest.raises(ProtocolError):
        client.ask(path, Unknown())
    client.ask(path, Ping())
    assert callers == ["local", "local"]
    client.close()
    server.stop()


def test_a_request_that_brings_a_file_does_not_use_up_descriptors(place: Place) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with contextlib.closing(Connection(network.dial_unix(place.unix, 5.0), "server")) as connection:
        limit = Deadline(clock.monotonic(), 5.0)
        connection.send({"type": "hello", "version": 1}, b"", limit)
        connection.receive(limit)
        for _ in range(3):
            connection.send({"type": "echo"}, b"", limit, 0)
            assert connection.receive(limit).header["ok"]
    wait_until(lambda: len(os.listdir("/proc/self/fd")) <= before, 5.0, "the connection is closed")


@pytest.mark.parametrize("hello", [{"type": "ping"}, {"type": "hello", "version": "1"}, {}, {"version": 1}])
def test_a_malformed_handshake_is_refused_with_a_code(place: Place, hello: dict[str, Any]) -> None:
    with contextlib.closing(Connection(network.dial_unix(place.unix, 5.0), "server")) as connection:
        limit = Deadline(clock.monotonic(), 5.0)
        connection.send(hello, b"", limit)
        assert connection.receive(limit).header["error"]["code"] in ("PROTOCOL_ERROR", "INVALID_MESSAGE")
        with pytest.raises(ConnectionLost):
            connection.receive(limit)


def test_when_a_peer_was_heard_is_noted_by_name(place: Place) -> None:
    place.client.ask(place.unix, Echo())
    assert place.server.heard_at == {}
    place.client.ask(place.address, Echo())
    assert list(place.server.heard_at) == ["vm2"]


def test_a_caller_that_does_not_finish_its_handshake_is_dropped(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a few silent callers would take all places of the server."""
    monkeypatch.setattr(serving, "HANDSHAKE_TIMEOUT_S", 0.1)
    with contextlib.closing(network.dial_unix(place.unix, 5.0)) as silent:
        assert silent.recv(1) == b"", "the server has closed the connection"


def test_a_request_that_was_answered_is_not_in_progress_any_more(place: Place) -> None:
    """A server that stops waits only for requests in progress."""
    for want in ("", "missing", "defect"):
        with contextlib.suppress(RainStormError):
            place.client.ask(place.unix, Echo(want))
    wait_until(lambda: place.server.in_progress == 0, 5.0, "all requests have ended")
