"""A threaded request server: one acceptor for each listening socket, one thread for each connection.

A request frame is answered by exactly one reply frame on the same connection, in order. Handlers run in the
connection's thread, so a slow handler delays its own connection only. Errors become reply frames with the
error's code; any exception that is not a ``RainStormError`` is a defect of ours: it is logged with its
traceback and answered as INTERNAL.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import ssl
from collections import Counter as Counted
from collections.abc import Callable, Mapping
from typing import Any

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    FrameTooLarge,
    Internal,
    InvalidMessage,
    PortInUse,
    ProtocolError,
    RainStormError,
)
from agent.common.failure import Failure
from agent.common.shell import clock, network, threads
from agent.common.shell.network import Socket, TlsContext
from agent.wire import auth
from agent.wire.codec.framing import PROTOCOL_VERSION, Frame, encode_header
from agent.wire.connection import Connection, close_files
from agent.wire.endpoint import Answer, Call, Endpoint, endpoint
from agent.wire.messages import REQUEST_TIMEOUT_S_MAX, Envelope, ErrorAnswer, Hello, Ping, Pong, Welcome

logger = logging.getLogger("agent.wire.server")

# Ten nodes hold a handful of connections each; beyond this a peer is misbehaving and is refused.
CONNECTIONS_MAX = 256
HANDSHAKE_TIMEOUT_S = 5.0
BACKLOG = 128
# The pause when descriptors or threads run out: connections end meanwhile; one log line a second is enough.
ACCEPT_RETRY_S = 1.0
# A stopping server finishes the requests in progress, but waits no longer than this for one.
DRAIN_S = 1.0
# A caller may use its reply even a little after the request's deadline.
REPLY_TIMEOUT_S_MIN = 5.0
# The name of every caller on the Unix socket.
LOCAL = "local"


class Server:
    """Listens on a TLS address and, when asked, on a Unix socket."""

    def __init__(
        self,
        name: str,
        endpoints: Mapping[str, Endpoint],
        *,
        on_disconnect: Callable[[str, int], None] | None = None,
        on_request: Callable[[str], None] | None = None,
    ) -> None:
        """Prepares to answer requests; ``on_request`` is told the caller of each one that is handled."""
        self.name = name
        # The monotonic time of each authenticated peer's last request: one entry for each certificate of the
        # cluster.
        self.heard_at: dict[str, float] = {}
        # Every server answers a ping, so that anybody can ask whether the agent behind it is alive.
        self._endpoints: dict[str, Endpoint] = {Ping.kind: endpoint(Ping, self._ping), **endpoints}
        # The number of requests of each kind that were refused because their fields were invalid.
        self.refused: Counted[str] = Counted()
        self._on_disconnect = on_disconnect
        self._on_request = on_request
        self._listeners: list[Socket] = []
        self._threads: list[threads.Thread] = []
        self._connections: dict[int, tuple[Connection, threads.Thread]] = {}
        self._accepted = 0
        self._lock = threads.lock()
        # The connections whose requests are being answered. Each thread adds and discards its own alone, so
        # that an answer costs no lock; once the server stops, the thread that waits for the last one is told.
        self._answering: set[int] = set()
        self._answered = threads.condition()
        self._stopping = threads.event()
        self._unix_paths: list[str] = []

    def add(self, endpoints: Mapping[str, Endpoint]) -> None:
        """Adds request types to answer; call it before the server listens."""
        assert not self._listeners, f"{self.name} listens already"
        self._endpoints.update(endpoints)

    def listen_tls(self, address: str, port: int, context: TlsContext) -> int:
        """Binds the TLS address and returns the port (useful when ``port`` is 0).

        Raises:
            PortInUse: another process listens there.
        """
        try:
            listener = network.listen_tcp(address, port, BACKLOG)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise PortInUse(
                    f"{self.name}: {address}:{port} is in use by another process",
                    hint=f"find it with: ss -ltnp 'sport = :{port}'; stop it or choose another port",
                ) from None
            raise
        self._accept_on(listener, context, f"{address}:{port}")
        return int(listener.getsockname()[1])

    def listen_unix(self, path: str) -> None:
        """Binds a Unix socket that only the owner and group of the data folder may use.

        A socket that a killed process left is replaced: the TLS port is the lock against a second agent.
        """
        listener = network.listen_unix(path, 0o660, BACKLOG)
        self._unix_paths.append(path)
        self._accept_on(listener, None, path)

    def stop(self, timeout_s: float = 5.0) -> None:
        """Closes the listeners, finishes the requests in progress, closes connections, ends the threads."""
        self._stopping.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):  # "not connected", but on Linux this still wakes the acceptor
                listener.shutdown(network.SHUT_RDWR)
            listener.close()
        with self._answered:
            self._answered.wait_for(lambda: not self._answering, min(DRAIN_S, timeout_s))
        with self._lock:
            open_now = list(self._connections.values())
        for connection, _ in open_now:
            connection.close()
        deadline = Deadline(clock.monotonic(), timeout_s)
        me = threads.current()
        for thread in [*self._threads, *(thread for _, thread in open_now)]:
            if thread is not me:
                thread.join(deadline.remaining(clock.monotonic()))
        for path in self._unix_paths:
            network.remove_unix(path)

    @property
    def in_progress(self) -> int:
        """Returns how many requests are being answered."""
        return len(self._answering)

    def _ping(self, request: Ping, call: Call) -> Pong:
        return Pong(self.name, os.getpid())

    def _accept_on(self, listener: Socket, context: TlsContext | None, where: str) -> None:
        self._listeners.append(listener)
        self._threads.append(threads.start(f"{self.name}-accept-{where}", self._accept, listener, context))

    def _accept(self, listener: Socket, context: TlsContext | None) -> None:
        while not self._stopping.is_set():
            try:
                sock, _ = listener.accept()
            except OSError as error:
                if self._stopping.is_set() or error.errno == errno.EBADF:
                    return
                logger.warning("accept_failed server=%s error=%s", self.name, error)
                self._stopping.wait(ACCEPT_RETRY_S)
                continue
            if not self._admit(sock, context):
                sock.close()

    def _admit(self, sock: Socket, context: TlsContext | None) -> bool:
        """Starts the thread of a new connection; returns False when there is no room for it."""
        try:
            connection = Connection(sock, "handshaking")
        except OSError:
            return False  # the caller has already gone
        with self._lock:
            if self._stopping.is_set():
                return False
            if len(self._connections) >= CONNECTIONS_MAX:
                logger.warning("connection_refused server=%s reason=too_many", self.name)
                return False
            self._accepted += 1
            key = self._accepted
            thread = threads.thread(f"{self.name}-connection-{key}", self._serve, key, sock, context)
            self._connections[key] = connection, thread
        try:
            thread.start()
        except RuntimeError as error:  # the process or the machine has too many threads
            with self._lock:
                del self._connections[key]
            logger.error("connection_refused server=%s reason=no_thread error=%s", self.name, error)
            self._stopping.wait(ACCEPT_RETRY_S)
            return False
        return True

    def _serve(self, key: int, sock: Socket, context: TlsContext | None) -> None:
        peer = ""
        try:
            connection = self._handshake(key, sock, context)
            peer = connection.peer
            stopping = self._stopping.is_set()
            while not stopping:
                stopping = self._answer(key, connection)
        except ConnectionLost:
            pass  # the usual end of a connection
        except (OSError, RainStormError) as error:
            if not self._stopping.is_set():
                # A caller that leaves without sending a byte was only checking whether the port is open.
                silent = not peer and isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
                line = "connection_dropped server=%s peer=%s error=%s"
                logger.log(logging.DEBUG if silent else logging.INFO, line, self.name, peer or "?", error)
        except Exception:  # a defect of ours costs this connection, not the agent
            logger.exception("connection_failed server=%s peer=%s", self.name, peer or "?")
        finally:
            self._forget(key, peer)

    def _forget(self, key: int, peer: str) -> None:
        with self._lock:
            connection, _ = self._connections.pop(key)
        connection.close()
        if not peer or self._on_disconnect is None or self._stopping.is_set():
            return
        try:
            self._on_disconnect(peer, key)
        except Exception:
            logger.exception("disconnect_handler_failed server=%s peer=%s", self.name, peer)

    def _handshake(self, key: int, sock: Socket, context: TlsContext | None) -> Connection:
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
        header = connection.receive(deadline).header
        try:
            hello = message.decode(Hello, header, "handshake")
            if hello.type != Hello.kind or hello.version != PROTOCOL_VERSION:
                raise ProtocolError(
                    f"{self.name} speaks protocol {PROTOCOL_VERSION}, the caller {hello.version}",
                    hint="run the same release on every node",
                )
        except ProtocolError as error:
            connection.send(_error(error), b"", deadline)
            raise
        connection.send({"ok": True, **message.encode(Welcome(PROTOCOL_VERSION))}, b"", deadline)
        return connection

    def _answer(self, key: int, connection: Connection) -> bool:
        """Answers the next request and returns whether the server is stopping."""
        frame = connection.receive(None)
        self._answering.add(key)
        try:
            self._reply_to(frame, key, connection)
        finally:
            # In this order: either this thread sees that the server stops, or ``stop`` that it has answered.
            self._answering.discard(key)
            stopping = self._stopping.is_set()
            if stopping:
                with self._answered:
                    self._answered.notify_all()
        return stopping

    def _reply_to(self, frame: Frame, key: int, connection: Connection) -> None:
        close_files(b"", frame.descriptor)  # no request brings a file
        kind, timeout_s = "", REQUEST_TIMEOUT_S_MAX
        answer: Answer[Any] = Answer(None)
        reply: Answer[Any] = answer
        try:
            envelope = message.decode(Envelope, frame.header, "request")
            kind, timeout_s = envelope.type, min(envelope.timeout_s, REQUEST_TIMEOUT_S_MAX)
            answer = self._handle(envelope, timeout_s, frame, key, connection.peer)
            header, reply = {"ok": True, **message.encode(answer.message)}, answer
        except RainStormError as error:
            if isinstance(error, InvalidMessage):
                self._count_refusal(kind, connection.peer, error)
            header = _error(error)
        except Exception as error:
            logger.exception("handler_failed server=%s type=%s peer=%s", self.name, kind, connection.peer)
            header = _error(Internal(f"{self.name}: {kind} failed: {error!r}"))
        limit = Deadline(clock.monotonic(), max(REPLY_TIMEOUT_S_MIN, timeout_s))
        try:
            connection.send(header, reply.payload, limit, reply.descriptor)
        except (FrameTooLarge, InvalidMessage) as error:  # none of it was sent
            logger.error("reply_not_sent server=%s type=%s error=%s", self.name, kind, error)
            connection.send(_error(error), b"", limit)
        finally:
            close_files(answer.payload, answer.descriptor)

    def _handle(self, envelope: Envelope, timeout_s: float, frame: Frame, key: int, peer: str) -> Answer[Any]:
        found = self._endpoints.get(envelope.type)
        if found is None:
            raise ProtocolError(f"{self.name} does not know requests of type {envelope.type!r}")
        now = clock.monotonic()
        if peer != LOCAL:
            self.heard_at[peer] = now
        if self._on_request is not None:
            self._on_request(peer)
        deadline = Deadline(now, timeout_s)
        return found.answer(frame.header, Call(peer, deadline, frame.payload, envelope.view, key))

    def _count_refusal(self, kind: str, peer: str, error: InvalidMessage) -> None:
        """Counts a refused message; a flood of them is logged once for each doubling of the count."""
        known = kind if kind in self._endpoints else "unknown"
        with self._lock:
            self.refused[known] += 1
            count = self.refused[known]
        if count & (count - 1) == 0:
            line = "message_refused server=%s type=%s peer=%s count=%d error=%s"
            logger.warning(line, self.name, known, peer, count, error)


def _error(error: RainStormError) -> dict[str, Any]:
    """Returns the header of an error answer; details that no frame can hold are left out."""
    header = message.encode(ErrorAnswer(Failure.of(error)))
    if error.details:
        try:
            encode_header(header, 0)
        except RainStormError:
            header["error"]["details"] = {}
    return header
