"""A server that echoes or misbehaves on request, and a client of it, for tests of the wire."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.common.config import TlsConfig
from agent.common.errors import (
    NotFound,
)
from agent.common.message import Done, Request, Text
from agent.wire import auth
from agent.wire.authority import Authority
from agent.wire.client import Address, Client
from agent.wire.connection import FileSlice
from agent.wire.endpoint import Answer, Call, by_kind, endpoint
from agent.wire.server import Server

# What the handlers wait for: a gate that a test opens, and the end of a test.
GATE, HANG = threading.Event(), threading.Event()


def tls_of(folder: Path, name: str, authority: str = "ca") -> TlsConfig:
    """Returns a certificate of a node, issued by a new authority."""
    issuer = Authority(folder / authority)
    issuer.create("test")
    issuer.issue(name, folder / authority)
    return TlsConfig(
        str(folder / authority / "ca.pem"),
        str(folder / authority / f"{name}.pem"),
        str(folder / authority / f"{name}.key"),
    )


@dataclass(frozen=True, slots=True)
class Echoed:
    """The answer to ``Echo``."""

    peer: Text
    value: Any = None


@dataclass(frozen=True, slots=True)
class Echo(Request[Echoed]):
    """Asks for its own payload, or for unusual behaviour."""

    kind: ClassVar[str] = "echo"
    reply: ClassVar[type[Any]] = Echoed
    want: Text = ""
    path: Text = ""
    peer: Text = ""


@dataclass(frozen=True, slots=True)
class Unknown(Request[Done]):
    """A request that no server answers."""

    kind: ClassVar[str] = "unknown-kind"
    reply: ClassVar[type[Any]] = Done


def _echo(request: Echo, call: Call) -> Answer[Echoed]:
    value: Any = None
    match request.want:
        case "missing":
            raise NotFound("no such thing", hint="look elsewhere", details={"name": "x"})
        case "defect":
            raise ZeroDivisionError
        case "file":
            descriptor = os.open(request.path, os.O_RDONLY)
            return Answer(Echoed(call.peer), FileSlice(descriptor, 2, 1_000_000))
        case "hang":
            HANG.wait(20)
        case "gate":
            GATE.wait(5)
        case "large":
            value = "x" * 5_000_000
        case "surrogate":
            value = "\udcff"
        case "object":
            value = object()
        case "bad error":
            raise NotFound("file \udcff", details={"name": "\udcff"})
    return Answer(Echoed(call.peer, value), call.payload)


ENDPOINTS = by_kind(endpoint(Echo, _echo))


class Place:
    """One server on TLS and on a Unix socket, and a client of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.left: list[str] = []
        self.server = Server("test", ENDPOINTS, on_disconnect=lambda peer, _: self.left.append(peer))
        self.context = auth.server_context(tls_of(folder, "vm1"))
        self.port = self.server.listen_tls("127.0.0.1", 0, self.context)
        self.unix = str(folder / "run" / "test.sock")
        self.server.listen_unix(self.unix)
        self.address = Address("127.0.0.1", self.port, "vm1")
        self.client = Client(auth.client_context(tls_of(folder, "vm2")))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A running server."""
    found = Place(tmp_path)
    HANG.clear()
    yield found
    HANG.set()
    found.client.close()
    found.server.stop()
