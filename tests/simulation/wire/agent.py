"""A small agent whose only purpose is its server, with a handler of each kind.

There is a handler that echoes, one that waits in a bounded number of slots, one that sends a part of a file,
one that hands over an open file, one that takes and returns large payloads, one that refuses, and one with a
defect.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from agent.common.config import NodeConfig
from agent.common.errors import NotFound, Overloaded
from agent.common.message import Counter, Duration, Request
from agent.common.shell import clock, disk, threads
from agent.wire import auth
from agent.wire.connection import FileSlice
from agent.wire.endpoint import Answer, Call, Endpoint, by_kind, endpoint
from agent.wire.server import Server

WIRE: Final = "wire"
FILE = "/srv/file"
# More than a connection can buffer, so that a slow reader matters.
FILE_BYTES = 150_000
WAITING_MAX = 3
STOP_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer that names its question."""

    number: Counter


@dataclass(frozen=True, slots=True)
class Echo(Request[Reply]):
    """Asks for the payload, ``times`` times over."""

    kind: ClassVar[str] = "echo"
    reply: ClassVar[type[Any]] = Reply
    number: Counter
    times: Counter = 1


@dataclass(frozen=True, slots=True)
class Wait(Request[Reply]):
    """Asks for an answer after a while."""

    kind: ClassVar[str] = "wait"
    reply: ClassVar[type[Any]] = Reply
    number: Counter
    seconds: Duration


@dataclass(frozen=True, slots=True)
class ReadFile(Request[Reply]):
    """Asks for a part of the file."""

    kind: ClassVar[str] = "read"
    reply: ClassVar[type[Any]] = Reply
    number: Counter
    offset: Counter
    length: Counter


@dataclass(frozen=True, slots=True)
class OpenFile(Request[Reply]):
    """Asks for the open file."""

    kind: ClassVar[str] = "open"
    reply: ClassVar[type[Any]] = Reply
    number: Counter


@dataclass(frozen=True, slots=True)
class Fail(Request[Reply]):
    """Asks for an error, or meets a defect."""

    kind: ClassVar[str] = "fail"
    reply: ClassVar[type[Any]] = Reply
    number: Counter
    defect: bool


CONTENT = bytes(32 + index % 89 for index in range(FILE_BYTES))


class WireAgent:
    """The agent under test."""

    def __init__(self, config: NodeConfig, on_crash: Callable[[BaseException], None]) -> None:
        self.config = config
        self.slots = threads.semaphore(WAITING_MAX)
        self.stopping = threads.event()
        self.left: list[tuple[str, int]] = []
        self.server = Server(WIRE, self._endpoints(), on_disconnect=self._on_disconnect)

    def start(self) -> None:
        """Begins to answer."""
        me = self.config.me
        self.server.listen_tls(me.address, me.hydfs_port, auth.server_context(self.config.tls))
        self.server.listen_unix(self.config.socket_path(WIRE))

    def stop(self, timeout_s: float) -> None:
        """Ends the server."""
        self.stopping.set()
        self.server.stop(min(timeout_s, STOP_TIMEOUT_S))

    def _endpoints(self) -> dict[str, Endpoint]:
        return by_kind(
            endpoint(Echo, self._echo),
            endpoint(Wait, self._wait),
            endpoint(ReadFile, self._read),
            endpoint(OpenFile, self._open),
            endpoint(Fail, self._fail),
        )

    def _on_disconnect(self, peer: str, connection: int) -> None:
        self.left.append((peer, self.server.in_progress))

    def _echo(self, request: Echo, call: Call) -> Answer[Reply]:
        return Answer(Reply(request.number), [call.payload] * request.times)

    def _wait(self, request: Wait, call: Call) -> Reply:
        if not self.slots.acquire(timeout=call.deadline.remaining(clock.monotonic())):
            raise Overloaded(f"{WAITING_MAX} requests wait already")
        try:
            self.stopping.wait(min(request.seconds, call.deadline.remaining(clock.monotonic())))
        finally:
            self.slots.release()
        return Reply(request.number)

    def _read(self, request: ReadFile, call: Call) -> Answer[Reply]:
        part = FileSlice(disk.open(FILE, os.O_RDONLY), request.offset, request.length)
        return Answer(Reply(request.number), part)

    def _open(self, request: OpenFile, call: Call) -> Answer[Reply]:
        return Answer(Reply(request.number), descriptor=disk.open(FILE, os.O_RDONLY))

    def _fail(self, request: Fail, call: Call) -> Reply:
        if request.defect:
            raise ZeroDivisionError("planned")
        raise NotFound(f"{request.number} is not here")
