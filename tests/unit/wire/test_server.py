"""Server and client on real sockets: admission, answers, and the effects of a misbehaving side."""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path

import pytest

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
from agent.common.shell import clock, network
from agent.wire import auth
from agent.wire.client import Client
from agent.wire.connection import Connection
from agent.wire.messages import Ping
from agent.wire.server import Server
from tests.support import wait_until
from tests.unit.wire import echoing
from tests.unit.wire.echoing import ENDPOINTS, GATE, Echo, Place, Unknown, tls_of

place = echoing.place


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


def test_when_a_peer_was_heard_is_noted_by_name(place: Place) -> None:
    place.client.ask(place.unix, Echo())
    assert place.server.heard_at == {}
    place.client.ask(place.address, Echo())
    assert list(place.server.heard_at) == ["vm2"]


def test_a_request_that_was_answered_is_not_in_progress_any_more(place: Place) -> None:
    """A server that stops waits only for requests in progress."""
    for want in ("", "missing", "defect"):
        with contextlib.suppress(RainStormError):
            place.client.ask(place.unix, Echo(want))
    wait_until(lambda: place.server.in_progress == 0, 5.0, "all requests have ended")
