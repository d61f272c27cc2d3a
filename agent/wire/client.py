"""A pooled client: persistent connections to many addresses, a deadline on every request.

Addresses: ``Address(host, port, node)`` for TLS (``node`` is the name that the server's certificate must
carry) or a path of a Unix socket. Beneath TLS is TCP unless the client is given a dialer of its own, such as
one that opens channels of SSH: any connected socket serves. A request that fails on a connection taken from
the pool is tried once more on a fresh one, because the peer may have closed the idle one: hence every request
type of the project is idempotent.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    InvalidMessage,
    Overloaded,
    RainStormError,
    Unreachable,
    from_wire,
)
from agent.common.message import R
from agent.common.shell import clock
from agent.wire.codec.framing import PROTOCOL_VERSION, Buffer
from agent.wire.connection import Connection, Payload

CONNECT_TIMEOUT_S = 2.0
IDLE_CONNECTIONS_MAX = 8
CONNECTIONS_MAX = 32


@dataclass(frozen=True, slots=True)
class Address:
    """A TLS end point; ``node`` must be the name in the server's certificate."""

    host: str
    port: int
    node: str

    def __str__(self) -> str:
        return f"{self.node} ({self.host}:{self.port})"


Target = Address | str
# Returns a socket connected to the address within so many seconds, or raises OSError or a RainStormError.
Dial = Callable[[Address, float], socket.socket]


def dial_tcp(address: Address, timeout_s: float) -> socket.socket:
    """Returns a TCP connection.

    Raises:
        OSError: nobody listens there, or does not answer in time.
    """
    return socket.create_connection((address.host, address.port), timeout=timeout_s)


def dial_from(source: str) -> Dial:
    """Returns a way to connect from the address ``source``, by which packet filters and others can tell the
    nodes of one machine apart.
    """

    def dial(address: Address, timeout_s: float) -> socket.socket:
        return socket.create_connection((address.host, address.port), timeout_s, (source, 0))

    return dial


@dataclass(frozen=True, slots=True)
class Response:
    """A successful answer; whoever asked for an open file closes ``descriptor``."""

    fields: dict[str, Any]
    payload: Buffer
    descriptor: int | None = None


@dataclass(frozen=True, slots=True)
class Answered(Generic[R]):
    """A reply, checked against its type; whoever asked for an open file closes ``descriptor``."""

    message: R
    payload: Buffer
    descriptor: int | None = None


class _Pool:
    """The connections to one target, idle and busy, and a bound on all of them."""

    __slots__ = ("busy", "idle", "lock", "slots")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        self.busy: set[Connection] = set()
        self.lock = threading.Lock()
        self.slots = threading.BoundedSemaphore(CONNECTIONS_MAX)


class Client:
    """Makes requests; one instance serves many threads."""

    def __init__(
        self,
        context: ssl.SSLContext | None,
        *,
        dial: Dial = dial_tcp,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._context = context
        self._dial = dial
        self._connect_timeout_s = connect_timeout_s
        self._pools: dict[Target, _Pool] = {}
        self._lock = threading.Lock()
        self._closed = False

    def call(
        self,
        target: Target,
        kind: str,
        fields: dict[str, Any] | None = None,
        payload: Payload = b"",
        *,
        timeout_s: float = 10.0,
    ) -> Response:
        """Sends a request and returns the answer.

        Raises:
            Unreachable: nobody listens at the target.
            ConnectionLost: the connection broke; the outcome is unknown.
            DeadlineExceeded: no answer within ``timeout_s``; the outcome is unknown.
            RainStormError: the error that the peer answered with.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        pool = self._pool(target)
        if not pool.slots.acquire(timeout=timeout_s):
            raise Overloaded(
                f"{CONNECTIONS_MAX} requests to {target} are under way already", hint="try again later"
            )
        try:
            return self._call(pool, target, {**(fields or {}), "type": kind}, payload, deadline)
        finally:
            pool.slots.release()

    def ask(
        self,
        target: Target,
        request: message.Request[R],
        payload: Payload = b"",
        *,
        view: int = 0,
        timeout_s: float = 10.0,
    ) -> Answered[R]:
        """Sends a request and returns its answer; ``view`` is the version of the view that the caller knows.

        Raises:
            InvalidMessage: the answer is not of the request's reply type.
            RainStormError: as ``call`` does.
        """
        fields = {**message.encode(request), "view": view} if view else message.encode(request)
        found = self.call(target, request.kind, fields, payload, timeout_s=timeout_s)
        return self._checked(target, request, found)

    @staticmethod
    def _checked(target: Target, request: message.Request[R], found: Response) -> Answered[R]:
        try:
            reply: R = message.decode(request.reply, found.fields, f"answer of {target} to {request.kind}")
        except InvalidMessage:
            if found.descriptor is not None:
                os.close(found.descriptor)
            raise
        return Answered(reply, found.payload, found.descriptor)

    @property
    def busy(self) -> int:
        """Returns how many requests are under way."""
        return sum(len(pool.busy) for pool in list(self._pools.values()))

    def close(self) -> None:
        """Closes all connections; requests under way end with ConnectionLost."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool in pools:
            with pool.lock:
                while pool.idle:
                    pool.idle.pop().close()
                for connection in pool.busy:
                    connection.close()

    def _pool(self, target: Target) -> _Pool:
        with self._lock:
            return self._pools.setdefault(target, _Pool())

    def _call(
        self, pool: _Pool, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
    ) -> Response:
        with pool.lock:
            connection = pool.idle.pop() if pool.idle else None
        if connection is not None:
            try:
                return self._exchange(pool, connection, header, payload, deadline)
            except ConnectionLost:
                if self._closed or not isinstance(payload, bytes | bytearray | memoryview):
                    raise  # a file slice or an iterator is used up
                self._drop_idle(pool)
        connection = self._connect(target, deadline)
        return self._exchange(pool, connection, header, payload, deadline)

    def _drop_idle(self, pool: _Pool) -> None:
        # One idle connection was dead, so the peer restarted: the others are dead too.
        with pool.lock:
            while pool.idle:
                pool.idle.pop().close()

    def _exchange(
        self,
        pool: _Pool,
        connection: Connection,
        header: dict[str, Any],
        payload: Payload,
        deadline: Deadline,
    ) -> Response:
        with pool.lock:
            pool.busy.add(connection)
        try:
            header["timeout_s"] = deadline.require(clock.monotonic(), f"request to {connection.peer}")
            connection.send(header, payload, deadline)
            frame = connection.receive(deadline)
        except BaseException:
            connection.close()
            raise
        finally:
            with pool.lock:
                pool.busy.discard(connection)
        with pool.lock:
            keep = not self._closed and len(pool.idle) < IDLE_CONNECTIONS_MAX
            if keep:
                pool.idle.append(connection)
        if not keep:
            connection.close()
        if "error" in frame.header:
            raise from_wire(frame.header["error"])
        return Response(frame.header, frame.payload, frame.descriptor)

    def _connect(self, target: Target, deadline: Deadline) -> Connection:
        left = min(self._connect_timeout_s, deadline.require(clock.monotonic(), f"connect to {target}"))
        try:
            sock = self._open(target, left)
        except TimeoutError:
            raise Unreachable(f"{target} does not answer", hint="is the node up? try: fab status") from None
        except (OSError, ssl.SSLError) as error:
            raise Unreachable(
                f"cannot connect to {target}: {error}", hint="is the agent up? try: fab status"
            ) from None
        connection = Connection(sock, str(target))
        try:
            connection.send({"type": "hello", "version": PROTOCOL_VERSION}, b"", deadline)
            answer = connection.receive(deadline).header
        except (ConnectionLost, DeadlineExceeded) as error:
            connection.close()
            raise Unreachable(f"{target} did not finish the handshake: {error}") from None
        except RainStormError:
            connection.close()
            raise
        if "error" in answer:
            connection.close()
            raise from_wire(answer["error"])
        return connection

    def _open(self, target: Target, timeout_s: float) -> socket.socket:
        if isinstance(target, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout_s)
            try:
                sock.connect(target)
            except BaseException:
                sock.close()
                raise
            return sock
        assert self._context is not None, "a TLS target needs a client context"
        plain = self._dial(target, timeout_s)
        try:
            plain.settimeout(timeout_s)
            return self._context.wrap_socket(plain, server_hostname=target.node)
        except BaseException:
            plain.close()
            raise
