"""A threaded request server: one acceptor for each listening socket, one thread for each connection.

A request frame is answered by exactly one reply frame on the same connection, in order. Handlers run in the
connection's thread, so a slow handler delays its own connection only. Errors become reply frames with the
error's code; what is not a ``RainStormError`` is a defect of ours, is logged with its traceback and answered
as INTERNAL.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import ssl
import threading
from collections import Counter as Counted
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    Internal,
    InvalidMessage,
    PortInUse,
    ProtocolError,
    RainStormError,
)
from agent.common.shell import clock
from agent.wire import auth
from agent.wire.codec.framing import PROTOCOL_VERSION, Buffer, Frame
from agent.wire.connection import Connection, Payload
from agent.wire.endpoint import REQUEST_TIMEOUT_S_MAX, Answer, Call, Endpoint, Envelope

logger = logging.getLogger("agent.wire.server")

# Ten nodes hold a handful of connections each; beyond this a peer is misbehaving and is turned away.
CONNECTIONS_MAX = 256
HANDSHAKE_TIMEOUT_S = 5.0
BACKLOG = 128
# A stopping server answers what it has in hand; a request that only waits is not worth more than this.
DRAIN_S = 1.0
# The name of whoever calls over the Unix socket.
LOCAL = "local"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as its handler sees it; ``peer`` is the authenticated name of the caller, ``local`` on a Unix
    socket.
    """

    type: str
    fields: dict[str, Any]
    payload: Buffer
    peer: str
    deadline: Deadline
    # Which connection it came by: a number that is never used twice.
    connection: int = 0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a handler returns; ``descriptor`` hands an open file to a caller on the Unix socket."""

    fields: dict[str, Any] = field(default_factory=dict)
    payload: Payload = b""
    descriptor: int | None = None


Handler = Callable[[Request], Reply]


class Server:
    """Listens on a TLS address and, when asked, on a Unix socket."""

    def __init__(
        self,
        name: str,
        handlers: Mapping[str, Handler | Endpoint],
        *,
        on_disconnect: Callable[[str, int], None] | None = None,
    ) -> None:
        self.name = name
        # When each authenticated peer made its last request, on the monotonic clock.
        self.heard_at: dict[str, float] = {}
        # Every server answers a ping, so that anybody can ask whether the agent behind it is alive.
        self._handlers: dict[str, Handler | Endpoint] = {"ping": self._ping, **handlers}
        # How many requests of each kind were refused because their fields were not as they must be.
        self.refused: Counted[str] = Counted()
        self._on_disconnect = on_disconnect
        self._listeners: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._connections: dict[int, tuple[Connection, threading.Thread]] = {}
        self._accepted = 0
        self._lock = threading.Lock()
        self._in_hand = 0
        self._answered = threading.Condition()
        self._stopping = threading.Event()
        self._unix_paths: list[str] = []

    def listen_tls(self, address: str, port: int, context: ssl.SSLContext) -> int:
        """Binds the TLS address and returns the port (useful when ``port`` is 0).

        Raises:
            PortInUse: another process listens there.
        """
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((address, port))
        except OSError as error:
            listener.close()
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"{self.name}: {address}:{port} is in use by another process",
                    hint=f"find it with: ss -ltnp 'sport = :{port}'; stop it or choose another port",
                ) from None
            raise
        self._accept_on(listener, context, f"{address}:{port}")
        return int(listener.getsockname()[1])

    def listen_unix(self, path: str) -> None:
        """Binds a Unix socket that only the owner and group of the data folder may use."""
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        if os.path.exists(path):
            os.unlink(path)  # left by a killed process; the TLS port is the lock against a second agent
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        os.chmod(path, 0o660)
        self._unix_paths.append(path)
        self._accept_on(listener, None, path)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Closes listeners, answers what is in hand, closes connections and waits for their threads."""
        self._stopping.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # not connected; on Linux this wakes the acceptor all the same
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._answered:
            self._answered.wait_for(lambda: not self._in_hand, min(DRAIN_S, timeout_s))
        with self._lock:
            open_now = list(self._connections.values())
        for connection, _ in open_now:
            connection.close()
        deadline = Deadline(clock.monotonic(), timeout_s)
        for thread in [*self._threads, *(thread for _, thread in open_now)]:
            if thread is not threading.current_thread():
                thread.join(deadline.remaining(clock.monotonic()))
        for path in self._unix_paths:
            if os.path.exists(path):
                os.unlink(path)

    @property
    def in_hand(self) -> int:
        """Returns how many requests are being answered."""
        return self._in_hand

    def _ping(self, request: Request) -> Reply:
        return Reply({"server": self.name, "pid": os.getpid()})

    def _accept_on(self, listener: socket.socket, context: ssl.SSLContext | None, where: str) -> None:
        listener.listen(BACKLOG)
        self._listeners.append(listener)
        thread = threading.Thread(
            target=self._accept, args=(listener, context), name=f"{self.name}-accept-{where}", daemon=True
        )
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, context: ssl.SSLContext | None) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if self._stopping.is_set() or error.errno == errno.EBADF:
                    return
                logger.warning("accept_failed server=%s error=%s", self.name, error)
                self._stopping.wait(0.1)  # out of descriptors: let connections end before the next try
                continue
            with self._lock:
                if len(self._connections) >= CONNECTIONS_MAX:
                    logger.warning("connection_refused server=%s reason=too_many", self.name)
                    sock.close()
                    continue
                self._accepted += 1
                key = self._accepted
                thread = threading.Thread(
                    target=self._serve, args=(key, sock, context), name=f"{self.name}-connection", daemon=True
                )
                self._connections[key] = (Connection(sock, "handshaking"), thread)
            thread.start()

    def _serve(self, key: int, sock: socket.socket, context: ssl.SSLContext | None) -> None:
        peer = ""
        try:
            connection = self._handshake(key, sock, context)
            peer = connection.peer
            while not self._stopping.is_set():
                self._answer(key, connection)
        except ConnectionLost:
            pass  # the usual end of a connection
        except (OSError, ssl.SSLError, RainStormError) as error:
            if not self._stopping.is_set():
                # Who goes without a word only looked whether the port is open.
                silent = not peer and isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
                line = "connection_dropped server=%s peer=%s error=%s"
                logger.log(logging.DEBUG if silent else logging.INFO, line, self.name, peer or "?", error)
        finally:
            with self._lock:
                connection, _ = self._connections.pop(key)
            connection.close()
            if peer and self._on_disconnect is not None and not self._stopping.is_set():
                self._on_disconnect(peer, key)

    def _handshake(self, key: int, sock: socket.socket, context: ssl.SSLContext | None) -> Connection:
        deadline = Deadline(clock.monotonic(), HANDSHAKE_TIMEOUT_S)
        peer = LOCAL
        if context is not None:
            sock.settimeout(HANDSHAKE_TIMEOUT_S)
            sock = context.wrap_socket(sock, server_side=True)
            peer = auth.peer_name(sock)
        connection = Connection(sock, peer)
        with self._lock:
            _, thread = self._connections[key]
            self._connections[key] = (connection, thread)
        hello = connection.receive(deadline).header
        if hello.get("type") != "hello" or hello.get("version") != PROTOCOL_VERSION:
            error = ProtocolError(
                f"{self.name} speaks protocol {PROTOCOL_VERSION}, the caller {hello.get('version')!r}",
                hint="run the same release on every node",
            )
            connection.send({"error": error.to_wire()}, b"", deadline)
            raise error
        connection.send({"ok": True, "version": PROTOCOL_VERSION}, b"", deadline)
        return connection

    def _answer(self, key: int, connection: Connection) -> None:
        frame = connection.receive(None)
        with self._answered:
            self._in_hand += 1
        try:
            self._reply_to(frame, key, connection)
        finally:
            with self._answered:
                self._in_hand -= 1
                self._answered.notify_all()

    def _reply_to(self, frame: Frame, key: int, connection: Connection) -> None:
        if frame.descriptor is not None:
            os.close(frame.descriptor)  # no request brings a file
        kind, timeout_s = "", REQUEST_TIMEOUT_S_MAX
        answer: Answer[Any] = Answer(None)
        try:
            envelope = message.decode(Envelope, frame.header, "request")
            kind, timeout_s = envelope.type, min(envelope.timeout_s, REQUEST_TIMEOUT_S_MAX)
            header, answer = self._handle(envelope, timeout_s, frame, key, connection.peer)
        except RainStormError as error:
            if isinstance(error, InvalidMessage):
                self._count_refusal(kind, connection.peer, error)
            header = {"error": error.to_wire()}
        except Exception as error:
            logger.exception("handler_failed server=%s type=%s peer=%s", self.name, kind, connection.peer)
            header = {"error": Internal(f"{self.name}: {kind} failed: {error!r}").to_wire()}
        # The reply may go out a little after the request's deadline: the caller decides what it is worth.
        limit = Deadline(clock.monotonic(), max(5.0, timeout_s))
        connection.send(header, answer.payload, limit, answer.descriptor)

    def _handle(
        self, envelope: Envelope, timeout_s: float, frame: Frame, key: int, peer: str
    ) -> tuple[dict[str, Any], Answer[Any]]:
        """Returns the header of the reply, and the answer for its payload and open file."""
        handler = self._handlers.get(envelope.type)
        if handler is None:
            raise ProtocolError(f"{self.name} does not know requests of type {envelope.type!r}")
        now = clock.monotonic()
        if peer != LOCAL:
            self.heard_at[peer] = now
        deadline = Deadline(now, timeout_s)
        if isinstance(handler, Endpoint):
            call = Call(peer, deadline, frame.payload, envelope.view, key)
            answer = handler.answer(frame.header, call)
            return {"ok": True, **message.encode(answer.message)}, answer
        reply = handler(Request(envelope.type, frame.header, frame.payload, peer, deadline, key))
        return {"ok": True, **reply.fields}, Answer(None, reply.payload, reply.descriptor)

    def _count_refusal(self, kind: str, peer: str, error: InvalidMessage) -> None:
        """Counts a message that was refused; a flood of them costs a line for each doubling."""
        known = kind if kind in self._handlers else "unknown"
        with self._lock:
            self.refused[known] += 1
            count = self.refused[known]
        if count & (count - 1) == 0:
            line = "message_refused server=%s type=%s peer=%s count=%d error=%s"
            logger.warning(line, self.name, known, peer, count, error)
