"""Typed requests over a real socket: decoded before the handler, refused and counted otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.common.deadline import Deadline
from agent.common.message import Counter, Name, Request
from agent.common.shell import clock, network
from agent.wire.client import Client
from agent.wire.connection import Connection
from agent.wire.endpoint import Answer, Call, by_kind, endpoint
from agent.wire.messages import REQUEST_TIMEOUT_S_MAX
from agent.wire.server import Server


@dataclass(frozen=True, slots=True)
class Doubled:
    """The answer to ``Double``."""

    value: Counter


@dataclass(frozen=True, slots=True)
class Double(Request[Doubled]):
    """Asks for a number twice as large."""

    kind: ClassVar[str] = "test.double"
    reply: ClassVar[type[Any]] = Doubled
    value: Counter
    note: Name = "-"


class Place:
    """A server on a Unix socket, a client, and the calls that reached the handler."""

    def __init__(self, folder: Path) -> None:
        self.calls: list[tuple[Double, Call]] = []
        self.server = Server("test", by_kind(endpoint(Double, self._double)))
        self.path = str(folder / "run" / "test.sock")
        self.server.listen_unix(self.path)
        self.client = Client(None)

    def _double(self, request: Double, call: Call) -> Doubled | Answer[Doubled]:
        self.calls.append((request, call))
        answer = Doubled(2 * request.value)
        return Answer(answer, b"paid") if request.note == "payload" else answer


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A running server and its client."""
    found = Place(tmp_path)
    try:
        yield found
    finally:
        found.client.close()
        found.server.stop()


def test_a_typed_request_is_answered(place: Place) -> None:
    """The handler sees a message and a call, the client a message and a payload."""
    assert place.client.ask(place.path, Double(21), view=7).message == Doubled(42)
    found = place.client.ask(place.path, Double(1, "payload"), b"in")
    assert (found.message, bytes(found.payload)) == (Doubled(2), b"paid")
    (_, first), (_, second) = place.calls
    assert (first.peer, first.view, second.view, bytes(second.payload)) == ("local", 7, 0, b"in")


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"value": "x"},
        {"value": -1},
        {"value": 1, "note": ""},
        {"value": 1, "view": "x"},
        {"value": 1, "view": -1},
        {"value": [[[]]]},
    ],
)
def test_an_invalid_request_never_reaches_its_handler(place: Place, fields: dict[str, Any]) -> None:
    """It is refused by name and counted; the connection stays open."""
    connection = _connected(place)
    connection.send({**fields, "type": Double.kind}, b"", _deadline())
    assert connection.receive(_deadline()).header["error"]["code"] == "INVALID_MESSAGE"
    connection.close()
    assert place.calls == []
    assert sum(place.server.refused.values()) == 1
    assert place.client.ask(place.path, Double(1)).message == Doubled(2)


@pytest.mark.parametrize("timeout", ["soon", float("nan"), -1.0, None, [1], 1e300])
def test_an_invalid_envelope_is_refused(place: Place, timeout: Any) -> None:
    """The caller's time limit must be a number of seconds."""
    connection = _connected(place)
    connection.send({"type": Double.kind, "value": 1, "timeout_s": timeout}, b"", _deadline())
    assert connection.receive(_deadline()).header["error"]["code"] == "INVALID_MESSAGE"
    connection.close()
    assert place.calls == []
    assert place.server.refused["unknown"] == 1


def _connected(place: Place) -> Connection:
    """Returns a connection that has said hello."""
    connection = Connection(network.dial_unix(place.path, 5.0), "server")
    connection.send({"type": "hello", "version": 1}, b"", _deadline())
    assert connection.receive(_deadline()).header == {"ok": True, "version": 1}
    return connection


def _deadline() -> Deadline:
    return Deadline(clock.monotonic(), 5.0)


def test_a_request_that_would_wait_too_long_gets_less_time(place: Place) -> None:
    """A request can hold an agent's resources only for a bounded time, whatever its caller asks for."""
    place.client.ask(place.path, Double(1), timeout_s=1e6)
    ((_, call),) = place.calls
    assert 0.0 < call.deadline.remaining(clock.monotonic()) <= REQUEST_TIMEOUT_S_MAX
