"""A pooled client: persistent connections to many addresses, a deadline on every request.

Addresses: ``Address(host, port, node)`` for TLS (``node`` is the name that the server's certificate must
carry) or the path of a Unix socket. TLS runs over TCP unless the client is given another dialer, such as one
that opens SSH channels: any connected socket will do. A request that fails on a connection from the pool is
retried once on a fresh one, because the peer may have closed the idle one. So every request type of the
project is idempotent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import msgspec

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    Overloaded,
    RainStormError,
    Unreachable,
)
from agent.common.message import R
from agent.common.shell import clock, network, threads
from agent.common.shell.network import Socket, TlsContext
from agent.wire.codec.framing import PROTOCOL_VERSION, Buffer, Frame
from agent.wire.connection import Connection, Payload, close_files
from agent.wire.messages import ErrorAnswer, Hello, Welcome

CONNECT_TIMEOUT_S = 2.0
IDLE_CONNECTIONS_MAX = 8
CONNECTIONS_MAX = 32
# Four agents on each of a hundred nodes, and room for the addresses of nodes that were replaced.
TARGETS_MAX = 1024


@dataclass(frozen=True, slots=True)
class Address:
    """A TLS end point; ``node`` must be the name in the server's certificate."""

    host: str
    port: int
    node: str

    def __str__(self) -> str:
        return f"{self.node} ({self.host}:{self.port})"


Target = Address | str
# Dial(address, timeout_s) returns a connected socket, or raises OSError or a RainStormError.
Dial = Callable[[Address, float], Socket]


def dial_tcp(address: Address, timeout_s: float) -> Socket:
    """Returns a TCP connection.

    Raises:
        OSError: no process listens there, or it does not answer in time.
    """
    return network.dial_tcp(address.host, address.port, timeout_s)


def dial_from(source: str) -> Dial:
    """Returns a dialer that connects from the address ``source``.

    Packet filters, for example, use that address to tell the nodes of one machine apart.
    """

    def dial(address: Address, timeout_s: float) -> Socket:
        return network.dial_tcp(address.host, address.port, timeout_s, source)

    return dial


class Answered(msgspec.Struct, Generic[R], frozen=True):
    """A reply, checked against its type; a caller that asked for an open file closes ``descriptor``."""

    message: R
    payload: Buffer
    descriptor: int | None = None


class _Place:
    """The part of a pool that a request holds: a place among the requests to the target, and a connection."""

    __slots__ = ("connection", "pool")

    def __init__(self, pool: _Pool, connection: Connection | None) -> None:
        self.pool = pool
        self.connection = connection

    def drop(self) -> None:
        """Closes the connection."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class _Pool:
    """The connections to one target, idle and busy; all of it is guarded by the client's lock."""

    __slots__ = ("busy", "freed", "idle", "waiting")

    def __init__(self, lock: threads.Lock) -> None:
        self.idle: deque[Connection] = deque()
        # A place for each request; in order of use, so that each repetition of a simulated run closes the
        # connections in the same order.
        self.busy: dict[_Place, None] = {}
        # How many requests wait for a place.
        self.waiting = 0
        self.freed = threads.condition(lock)

    @property
    def is_unused(self) -> bool:
        """Tells whether no request uses the pool or waits for a place."""
        return not self.busy and not self.waiting


class Client:
    """Makes requests; one instance serves many threads."""

    def __init__(
        self,
        context: TlsContext | None,
        *,
        dial: Dial = dial_tcp,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
    ) -> None:
        self._context = context
        self._dial = dial
        self._connect_timeout_s = connect_timeout_s
        # The target that was used last stands at the end.
        self._pools: dict[Target, _Pool] = {}
        self._lock = threads.lock()
        self._closed = False

    def ask(
        self,
        target: Target,
        request: message.Request[R],
        payload: Payload = b"",
        *,
        kind: str = "",
        view: int = 0,
        timeout_s: float = 10.0,
    ) -> Answered[R]:
        """Sends a request and returns its answer; the file of a ``FileSlice`` is closed whatever happens.

        ``view`` is the version of the view that the caller knows. ``kind`` is the name of the request, if the
        server answers it under a name other than its own.

        Raises:
            Unreachable: no process listens at the target.
            ConnectionLost: the connection broke; the outcome is unknown.
            DeadlineExceeded: no answer within ``timeout_s``; the outcome is unknown.
            Overloaded: too many requests to the target are in progress.
            InvalidMessage: the answer is not of the request's reply type.
            RainStormError: the error that the peer answered with.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        try:
            header = {**message.encode(request), "type": kind or request.kind}
            if view:
                header["view"] = view
            frame = self._send(target, header, payload, deadline)
        finally:
            close_files(payload)
        return Answered(_decoded(request.reply, frame, target, request.kind), frame.payload, frame.descriptor)

    def _send(self, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline) -> Frame:
        place = self._take(target, deadline)
        is_good = False
        try:
            frame = self._call(place, target, header, payload, deadline)
            is_good = True
        finally:
            self._give_back(place, is_good=is_good)
        return frame

    @property
    def busy(self) -> int:
        """Returns how many requests are in progress."""
        return sum(len(pool.busy) for pool in list(self._pools.values()))

    def close(self) -> None:
        """Closes all connections; requests in progress end with ConnectionLost, and so does any later one."""
        with self._lock:
            self._closed = True
            ended: list[Connection] = []
            for pool in self._pools.values():
                ended += pool.idle
                ended += [place.connection for place in pool.busy if place.connection is not None]
                pool.idle.clear()
                pool.freed.notify_all()
        for connection in ended:
            connection.close()

    # One pass of the lock before a request and one after it, so that asking costs next to nothing.

    def _take(self, target: Target, deadline: Deadline) -> _Place:
        """Takes a place among the requests to a target, and an idle connection if there is one.

        Raises:
            Overloaded: no place is free in time.
            ConnectionLost: the client was closed.
        """
        with self._lock:
            pool = self._pools.pop(target, None) or _Pool(self._lock)
            self._pools[target] = pool
            if len(pool.busy) >= CONNECTIONS_MAX:
                self._await_place(pool, target, deadline)
            self._require_open(target)
            place = _Place(pool, pool.idle.pop() if pool.idle else None)
            pool.busy[place] = None
            unused = self._forget_unused() if len(self._pools) > TARGETS_MAX else ()
        for connection in unused:
            connection.close()
        return place

    def _await_place(self, pool: _Pool, target: Target, deadline: Deadline) -> None:
        pool.waiting += 1
        try:
            found = pool.freed.wait_for(
                lambda: self._closed or len(pool.busy) < CONNECTIONS_MAX,
                deadline.remaining(clock.monotonic()),
            )
        finally:
            pool.waiting -= 1
        if not found:
            raise Overloaded(
                f"{CONNECTIONS_MAX} requests to {target} are already in progress", hint="try again later"
            )

    def _forget_unused(self) -> Sequence[Connection]:
        """Forgets the least recently used target without a request; returns its idle connections."""
        for target, pool in self._pools.items():
            if pool.is_unused:
                del self._pools[target]
                return pool.idle
        return ()

    def _give_back(self, place: _Place, *, is_good: bool) -> None:
        """Frees a place; its connection serves others if it ``is_good``, and is closed otherwise."""
        pool = place.pool
        with self._lock:
            del pool.busy[place]
            has_room = not self._closed and len(pool.idle) < IDLE_CONNECTIONS_MAX
            if is_good and has_room and place.connection is not None:
                pool.idle.append(place.connection)
                place.connection = None
            if pool.waiting:
                pool.freed.notify()
        place.drop()

    def _require_open(self, target: Target) -> None:
        if self._closed:
            raise ConnectionLost(f"connection to {target}: the client was closed")

    def _call(
        self, place: _Place, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
    ) -> Frame:
        connection = place.connection
        if connection is not None:
            try:
                return self._exchange(connection, header, payload, deadline)
            except ConnectionLost:
                if self._closed or not isinstance(payload, bytes | bytearray | memoryview):
                    raise  # a file slice or an iterator is used up
                # One idle connection was dead, so the peer has restarted: the other idle ones are dead too.
                place.drop()
                self._drop_idle(place.pool)
        connection = self._connect(place, target, deadline)
        return self._exchange(connection, header, payload, deadline)

    def _drop_idle(self, pool: _Pool) -> None:
        with self._lock:
            dead = list(pool.idle)
            pool.idle.clear()
        for connection in dead:
            connection.close()

    def _exchange(
        self, connection: Connection, header: dict[str, Any], payload: Payload, deadline: Deadline
    ) -> Frame:
        header["timeout_s"] = deadline.require(clock.monotonic(), f"request to {connection.peer}")
        connection.send(header, payload, deadline)
        return connection.receive(deadline)

    def _connect(self, place: _Place, target: Target, deadline: Deadline) -> Connection:
        """Returns a new connection, which belongs to ``place`` from its first byte: ``close`` ends it."""
        now = clock.monotonic()
        left_s = min(self._connect_timeout_s, deadline.require(now, f"connect to {target}"))
        try:
            connection = Connection(self._open(target, Deadline(now, left_s)), str(target))
        except TimeoutError:
            raise Unreachable(f"{target} does not answer", hint="is the node up? try: fab status") from None
        except OSError as error:
            raise Unreachable(
                f"cannot connect to {target}: {error}", hint="is the agent up? try: fab status"
            ) from None
        try:
            with self._lock:
                self._require_open(target)
                place.connection = connection
        except BaseException:
            connection.close()
            raise
        try:
            connection.send(message.encode(Hello(Hello.kind, PROTOCOL_VERSION)), b"", deadline)
            frame = connection.receive(deadline)
        except (ConnectionLost, DeadlineExceeded) as error:
            raise Unreachable(f"{target} did not finish the handshake: {error}") from None
        _decoded(Welcome, frame, target, Hello.kind)
        close_files(b"", frame.descriptor)
        return connection

    def _open(self, target: Target, limit: Deadline) -> Socket:
        if isinstance(target, str):
            return network.dial_unix(target, limit.remaining(clock.monotonic()))
        assert self._context is not None, "a TLS target needs a client context"
        plain = self._dial(target, limit.remaining(clock.monotonic()))
        try:
            left_s = limit.remaining(clock.monotonic())
            if left_s <= 0:
                raise TimeoutError  # a socket takes a time-out of 0 to mean that it must not block
            plain.settimeout(left_s)
            found: Socket = self._context.wrap_socket(plain, server_hostname=target.node)
        except BaseException:
            plain.close()
            raise
        return found


def _decoded(cls: type[R], frame: Frame, target: Target, kind: str) -> R:
    """Returns the answer that a frame holds, or raises the error that it holds and closes its open file."""
    try:
        if "error" in frame.header:
            answer = message.decode(ErrorAnswer, frame.header, f"error answer of {target} to {kind}")
            raise answer.error.error()
        return message.decode(cls, frame.header, f"answer of {target} to {kind}")
    except RainStormError:
        close_files(b"", frame.descriptor)
        raise
