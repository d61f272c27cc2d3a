"""The messages that all connections share: the handshake, the envelope of a request, errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from agent.common.failure import Failure
from agent.common.message import Counter, Duration, Message, Name, Request, Text

# A caller that wants to wait longer than this repeats its request.
REQUEST_TIMEOUT_S_MAX = 120.0


@dataclass(frozen=True, slots=True)
class Hello(Message):
    """The first message of a caller: the version of the protocol that it uses."""

    kind: ClassVar[str] = "hello"
    type: Name
    version: Counter


@dataclass(frozen=True, slots=True)
class Welcome:
    """The answer to ``Hello``: the connection may be used."""

    version: Counter


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every request carries besides its message: its kind, the caller's time-out and view."""

    type: Name
    timeout_s: Duration = REQUEST_TIMEOUT_S_MAX
    view: Counter = 0


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The answer to a request that failed or was refused."""

    error: Failure


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to ``Ping``."""

    server: Text
    pid: Counter


@dataclass(frozen=True, slots=True)
class Ping(Request[Pong]):
    """Asks a server for a sign of life; every server answers."""

    kind: ClassVar[str] = "ping"
    reply: ClassVar[type[Any]] = Pong
