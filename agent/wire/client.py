"""A pooled client: persistent connections to many addresses, a deadline on every request.

Addresses: ``Address(host, port, node)`` for TLS (``node`` is the name that the server's certificate must
carry) or the path of a Unix socket. TLS runs over TCP unless the client is given another dialer, such as one
that opens SSH channels: any connected socket will do. A request that fails on a connection from the pool is
retried once on a fresh one, because the peer may have closed the idle one. So every request type of the
project is idempotent.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic

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


@dataclass(frozen=True, slots=True)
class Answered(Generic[R]):
    """A reply, checked against its type; a caller that asked for an open file closes ``descriptor``."""

    message: R
    payload: Buffer
    descriptor: int | None = None


class _Pool:
    """The connections to one target, idle and busy, and a bound on all of them."""

    __slots__ = ("busy", "idle", "lock", "slots", "users")

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()
        # In order of use, so that each repetition of a simulated run closes them in the same order.
        self.busy: dict[Connection, None] = {}
        self.lock = threads.lock()
        self.slots = threads.semaphore(CONNECTIONS_MAX)
        # How many requests use the pool or wait for a slot; guarded by the client's lock.
        self.users = 0

    def drop_idle(self) -> None:
        """Closes the connections that no request uses."""
        with self.lock:
            while self.idle:
                self.idle.pop().close()


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
        with self._pool(target) as pool:
            if not pool.slots.acquire(timeout=deadline.remaining(clock.monotonic())):
                raise Overloaded(
                    f"{CONNECTIONS_MAX} requests to {target} are already in progress", hint="try again later"
                )
            try:
                return self._call(pool, target, header, payload, deadline)
            finally:
                pool.slots.release()

    @property
    def busy(self) -> int:
        """Returns how many requests are in progress."""
        return sum(len(pool.busy) for pool in list(self._pools.values()))

    def close(self) -> None:
        """Closes all connections; requests in progress end with ConnectionLost, and so does any later one."""
        with self._lock:
            self._closed = True
            pools = list(self._pools.values())
        for pool in pools:
            pool.drop_idle()
            with pool.lock:
                for connection in pool.busy:
                    connection.close()

    @contextlib.contextmanager
    def _pool(self, target: Target) -> Iterator[_Pool]:
        """Yields the pool of a target, which is kept at least as long as a request uses it."""
        with self._lock:
            pool = self._pools.pop(target, None) or _Pool()
            self._pools[target] = pool
            pool.users += 1
            unused = []
            if len(self._pools) > TARGETS_MAX:
                unused = [each for each, other in self._pools.items() if not other.users][:1]
            dropped = [self._pools.pop(each) for each in unused]
        try:
            for other in dropped:
                other.drop_idle()
            yield pool
        finally:
            with self._lock:
                pool.users -= 1

    def _call(
        self, pool: _Pool, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
    ) -> Frame:
        with pool.lock:
            connection = pool.idle.pop() if pool.idle else None
        if connection is not None:
            try:
                return self._exchange(pool, connection, header, payload, deadline)
            except ConnectionLost:
                if self._closed or not isinstance(payload, bytes | bytearray | memoryview):
                    raise  # a file slice or an iterator is used up
                # One idle connection was dead, so the peer has restarted: the other idle ones are dead too.
                pool.drop_idle()
        connection = self._connect(pool, target, deadline)
        return self._exchange(pool, connection, header, payload, deadline)

    def _exchange(
        self,
        pool: _Pool,
        connection: Connection,
        header: dict[str, Any],
        payload: Payload,
        deadline: Deadline,
    ) -> Frame:
        with self._busy(pool, connection):
            header["timeout_s"] = deadline.require(clock.monotonic(), f"request to {connection.peer}")
            connection.send(header, payload, deadline)
            frame = connection.receive(deadline)
        with pool.lock:
            keep = not self._closed and len(pool.idle) < IDLE_CONNECTIONS_MAX
            if keep:
                pool.idle.append(connection)
        if not keep:
            connection.close()
        return frame

    @contextlib.contextmanager
    def _busy(self, pool: _Pool, connection: Connection) -> Iterator[None]:
        """Lets ``close`` end the request that uses the connection; an error inside closes the connection."""
        try:
            with pool.lock:
                if self._closed:
                    raise ConnectionLost(f"connection to {connection.peer}: the client was closed")
                pool.busy[connection] = None
            yield
        except BaseException:
            connection.close()
            raise
        finally:
            with pool.lock:
                pool.busy.pop(connection, None)

    def _connect(self, pool: _Pool, target: Target, deadline: Deadline) -> Connection:
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
        with self._busy(pool, connection):
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
