"""The pooled client against a server of the test's own: reuse, retries, bounds, and malformed answers."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import (
    AlreadyExists,
    Conflict,
    ConnectionLost,
    DeadlineExceeded,
    Internal,
    InvalidMessage,
    Overloaded,
    ProtocolError,
    Unreachable,
)
from agent.common.message import Counter, Request
from agent.common.shell import clock, network
from agent.wire import client as pooling
from agent.wire.client import Address, Client, dial_from, dial_tcp
from agent.wire.connection import Connection, FileSlice
from tests.support import wait_until


@dataclass(frozen=True, slots=True)
class Number:
    """The answer to ``AskNumber``."""

    value: Counter


@dataclass(frozen=True, slots=True)
class AskNumber(Request[Number]):
    """Asks for a number."""

    kind: ClassVar[str] = "number"
    reply: ClassVar[type[Any]] = Number


# The behaviour of a stub on a connection after the handshake.
Behave = Callable[[Connection], None]


def _later() -> Deadline:
    return Deadline(clock.monotonic(), 5.0)


def answer(*headers: dict[str, Any], payload: bytes = b"") -> Behave:
    """Answers each request with the next header, and all further ones with the last header."""

    def behave(connection: Connection) -> None:
        left = list(headers)
        while True:
            connection.receive(None)
            connection.send(left.pop(0) if len(left) > 1 else left[0], payload, _later())

    return behave


class Stub:
    """A listener on a Unix path that behaves as a test wants."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "stub.sock")
        self.welcome: dict[str, Any] = {"ok": True, "version": 1}
        self.behave: Behave = answer({"ok": True, "value": 7})
        self.connections: list[Connection] = []
        self._listener = network.listen_unix(self.path, 0o600)
        self._threads = [threading.Thread(target=self._accept, name="stub")]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            connection = Connection(sock, "caller")
            self.connections.append(connection)
            self._threads.append(threading.Thread(target=self._serve, args=(connection,), name="stub-serves"))
            self._threads[-1].start()

    def _serve(self, connection: Connection) -> None:
        with contextlib.suppress(ConnectionLost, ProtocolError, OSError):
            assert connection.receive(_later()).header == {"type": "hello", "version": 1}
            connection.send(self.welcome, b"", _later())
            self.behave(connection)
        connection.close()

    def drop(self) -> None:
        """Closes all connections, as a restart of the process would."""
        for connection in self.connections:
            connection.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.drop()
        for thread in self._threads:
            thread.join(5.0)
        network.remove_unix(self.path)


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    found = Stub(tmp_path)
    with contextlib.closing(found):
        yield found


@pytest.fixture
def client() -> Iterator[Client]:
    found = Client(None)
    with contextlib.closing(found):
        yield found


def test_a_connection_is_used_again(stub: Stub, client: Client) -> None:
    for _ in range(5):
        assert client.ask(stub.path, AskNumber()).message == Number(7)
    assert len(stub.connections) == 1


def test_a_pool_keeps_a_few_idle_connections(
    stub: Stub, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "IDLE_CONNECTIONS_MAX", 2)
    gate = threading.Barrier(4)

    def together(connection: Connection) -> None:
        while True:
            connection.receive(None)
            gate.wait(5.0)
            connection.send({"ok": True, "value": 1}, b"", _later())

    stub.behave = together
    threads = [
        threading.Thread(target=client.ask, args=(stub.path, AskNumber()), name=f"asks-{n}") for n in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5.0)
    (pool,) = client._pools.values()
    assert (len(pool.idle), len(pool.busy), client.busy) == (2, 0, 0)


def test_a_request_on_a_dead_idle_connection_is_sent_again(stub: Stub, client: Client) -> None:
    client.ask(stub.path, AskNumber())
    stub.drop()
    assert client.ask(stub.path, AskNumber(), b"payload").message == Number(7)
    assert len(stub.connections) == 2


def test_a_payload_that_is_used_up_is_not_sent_again(stub: Stub, client: Client) -> None:
    client.ask(stub.path, AskNumber())
    stub.drop()
    with pytest.raises(ConnectionLost):
        client.ask(stub.path, AskNumber(), [b"parts"])


def test_a_request_that_fails_on_a_fresh_connection_is_not_sent_again(stub: Stub, client: Client) -> None:
    stub.behave = lambda connection: connection.close()
    with pytest.raises(ConnectionLost):
        client.ask(stub.path, AskNumber())
    assert len(stub.connections) == 1


def test_a_target_without_a_listener_is_unreachable(client: Client, tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="cannot connect to"):
        client.ask(str(tmp_path / "none.sock"), AskNumber())


def test_a_peer_that_never_answers_costs_the_time_limit(stub: Stub, client: Client) -> None:
    gate, has_closed = threading.Event(), threading.Event()

    def once(connection: Connection) -> None:
        connection.receive(None)
        connection.send({"ok": True, "value": 1}, b"", _later())
        gate.wait(10.0)
        has_closed.set()

    stub.behave = once
    client.ask(stub.path, AskNumber())  # a handshake that is late would be another error
    with pytest.raises(DeadlineExceeded):
        client.ask(stub.path, AskNumber(), timeout_s=0.1)
    assert not has_closed.is_set(), "it was the peer that ended the wait"
    gate.set()
    assert client.busy == 0


@pytest.mark.parametrize(
    ("welcome", "error"),
    [
        ({"error": {"code": "PROTOCOL_ERROR", "message": "another release"}}, ProtocolError),
        ({"error": {"code": "ALREADY_EXISTS", "message": "x"}}, AlreadyExists),
        ({"error": "broken"}, InvalidMessage),
        ({"ok": True}, InvalidMessage),
        ({"ok": True, "version": "one"}, InvalidMessage),
    ],
)
def test_a_handshake_that_is_refused_or_malformed_leaves_no_connection(
    stub: Stub, client: Client, welcome: dict[str, Any], error: type[Exception]
) -> None:
    stub.welcome = welcome
    with pytest.raises(error):
        client.ask(stub.path, AskNumber())
    (pool,) = client._pools.values()
    assert (len(pool.idle), len(pool.busy)) == (0, 0)


def test_a_handshake_that_breaks_is_unreachable(stub: Stub, client: Client) -> None:
    stub.welcome = {"value": "\udcff"}  # the stub closes the connection instead
    with pytest.raises(Unreachable, match="did not finish the handshake"):
        client.ask(stub.path, AskNumber())


@pytest.mark.parametrize(
    ("header", "error"),
    [
        ({"ok": True}, InvalidMessage),
        ({"ok": True, "value": -1}, InvalidMessage),
        ({"ok": True, "value": [1]}, InvalidMessage),
        ({"error": {"code": "ALREADY_EXISTS"}}, AlreadyExists),
        ({"error": {"code": "OF_A_NEWER_RELEASE", "message": "m"}}, Internal),
        ({"error": None}, InvalidMessage),
        ({"error": {"code": 5}}, InvalidMessage),
    ],
)
def test_a_malformed_answer_is_refused_and_the_connection_stays(
    stub: Stub, client: Client, header: dict[str, Any], error: type[Exception]
) -> None:
    stub.behave = answer(header, {"ok": True, "value": 3})
    with pytest.raises(error):
        client.ask(stub.path, AskNumber())
    assert client.ask(stub.path, AskNumber()).message == Number(3)
    assert len(stub.connections) == 1


@pytest.mark.parametrize("header", [{"ok": True, "value": "x"}, {"error": {"code": "CONFLICT"}}])
def test_the_open_file_of_an_answer_that_is_refused_is_closed(
    stub: Stub, client: Client, header: dict[str, Any]
) -> None:
    def behave(connection: Connection) -> None:
        connection.receive(None)
        connection.send({"ok": True, "value": 1}, b"", _later())
        connection.receive(None)
        connection.send(header, b"", _later(), 0)
        connection.receive(None)

    stub.behave = behave
    client.ask(stub.path, AskNumber())
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises((InvalidMessage, Conflict)):
        client.ask(stub.path, AskNumber())
    assert len(os.listdir("/proc/self/fd")) == before


def test_too_many_requests_to_one_target_are_refused(stub: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "CONNECTIONS_MAX", 1)
    client = Client(None)
    waiting = threading.Event()

    def hold(connection: Connection) -> None:
        connection.receive(None)
        waiting.wait(5.0)
        connection.send({"ok": True, "value": 1}, b"", _later())

    stub.behave = hold
    first = threading.Thread(target=client.ask, args=(stub.path, AskNumber()), name="asks")
    first.start()
    wait_until(lambda: client.busy == 1, 5.0, "the first request is in progress")
    with pytest.raises(Overloaded, match="1 requests"):
        client.ask(stub.path, AskNumber(), timeout_s=0.01)
    waiting.set()
    first.join(5.0)
    assert client.ask(stub.path, AskNumber()).message == Number(1)
    client.close()


def test_a_request_that_waits_for_a_place_ends_when_the_client_is_closed(
    stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "CONNECTIONS_MAX", 1)
    client = Client(None)
    ended: list[str] = []

    def say_nothing(connection: Connection) -> None:
        while True:
            connection.receive(None)

    stub.behave = say_nothing

    def ask() -> None:
        try:
            client.ask(stub.path, AskNumber(), timeout_s=20.0)
        except (ConnectionLost, Unreachable) as error:
            ended.append(error.code)

    threads = [threading.Thread(target=ask, name=f"asks-{number}") for number in range(2)]
    for thread in threads:
        thread.start()
    wait_until(lambda: any(pool.waiting for pool in client._pools.values()), 5.0, "one of them waits")
    client.close()
    for thread in threads:
        thread.join(5.0)
    assert len(ended) == 2
    assert (client.busy, any(pool.waiting for pool in client._pools.values())) == (0, False)


def test_a_closed_client_makes_no_request(stub: Stub, client: Client) -> None:
    client.close()
    with pytest.raises((ConnectionLost, Unreachable), match="closed"):
        client.ask(stub.path, AskNumber())
    assert client.busy == 0


def test_the_pools_of_targets_that_are_not_used_any_more_go(
    stub: Stub, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pooling, "TARGETS_MAX", 3)
    client.ask(stub.path, AskNumber())
    for number in range(10):
        with pytest.raises(Unreachable):
            client.ask(str(tmp_path / f"{number}.sock"), AskNumber())
    assert len(client._pools) <= 3
    assert stub.path not in client._pools
    assert client.ask(stub.path, AskNumber()).message == Number(7)
    assert len(stub.connections) == 2


def _part(folder: Path) -> FileSlice:
    (folder / "data").write_bytes(b"0123456789")
    return FileSlice(os.open(folder / "data", os.O_RDONLY), 0, 10)


def _is_closed(part: FileSlice) -> bool:
    try:
        os.fstat(part.descriptor)
    except OSError:
        return True
    return False


def test_the_file_of_a_request_is_closed_whether_or_not_it_is_sent(
    stub: Stub, client: Client, tmp_path: Path
) -> None:
    part = _part(tmp_path)
    assert client.ask(stub.path, AskNumber(), part).message == Number(7)
    assert _is_closed(part)
    part = _part(tmp_path)
    with pytest.raises(Unreachable):
        client.ask(str(tmp_path / "none.sock"), AskNumber(), part)
    assert _is_closed(part)


def test_a_dialer_may_choose_the_own_address() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1], "vm1")
        for dial, source in ((dial_tcp, "127.0.0.1"), (dial_from("127.0.0.9"), "127.0.0.9")):
            sock = dial(address, 5.0)
            peer, origin = listener.accept()
            assert origin[0] == source
            sock.close()
            peer.close()


def test_a_node_that_accepts_and_does_not_answer_is_unreachable() -> None:
    class Context:
        def wrap_socket(self, *arguments: Any, **options: Any) -> Any:
            raise TimeoutError("timed out")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = Client(Context())
        with pytest.raises(Unreachable, match=r"vm1 .* does not answer"):
            found.ask(Address("127.0.0.1", listener.getsockname()[1], "vm1"), AskNumber())
        found.close()
