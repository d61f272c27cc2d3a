"""The interface of a platform of sockets, and the operating system's sockets.

The simulator provides a second platform, with the same methods and the same errors.
"""

from __future__ import annotations

import array
import contextlib
import errno
import math
import os
import select
import selectors
import socket
import ssl
import struct
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

Buffer = bytes | bytearray | memoryview

# linux/in.h; Python does not export it.
IP_RECVERR = 11
# The error number of a sock_extended_err.
EXTENDED_ERROR = struct.Struct("=I")
# A peer that is silent for half a minute is probed, and its connection dropped 20 s later: no partition worth
# waiting out lasts longer, and each connection to a dead peer costs a thread meanwhile.
KEEP_ALIVE_IDLE_S, KEEP_ALIVE_INTERVAL_S, KEEP_ALIVE_PROBES = 30, 5, 4


class Socket(Protocol):
    """What shells use of ``socket.socket`` and ``ssl.SSLSocket``."""

    def __enter__(self) -> Any: ...

    def __exit__(self, *args: Any) -> None:
        """Closes the descriptor."""

    @property
    def family(self) -> int: ...

    def accept(self) -> tuple[Any, Any]:
        """Returns the next connection and its origin; raises OSError once the listener is shut down."""

    def close(self) -> None:
        """Closes the descriptor. It does not wake a thread that waits in the socket: ``shutdown`` does."""

    def detach(self) -> int:
        """Hands over the descriptor: the caller closes it from now on."""

    def fileno(self) -> int:
        """Returns the descriptor, or -1 once it is closed."""

    def getpeername(self) -> Any:
        """Returns the address of the other end."""

    def getsockname(self) -> Any:
        """Returns the own address."""

    def gettimeout(self) -> float | None:
        """Returns the time-out of each call in seconds; None waits, 0 never does."""

    def settimeout(self, value: float | None, /) -> None:
        """Sets the time-out of each call."""

    def setblocking(self, flag: bool, /) -> None:
        """Sets no time-out (True) or a time-out of 0."""

    def recv(self, bufsize: int, flags: int = ..., /) -> bytes:
        """Returns up to ``bufsize`` bytes; none once the other end has finished."""

    def recv_into(self, buffer: Any, nbytes: int = ..., flags: int = ...) -> int:
        """Reads into a buffer and returns the number of bytes."""

    def recvfrom(self, bufsize: int, flags: int = ..., /) -> tuple[bytes, Any]:
        """Returns a datagram and where it comes from."""

    def send(self, data: Any, flags: int = ..., /) -> int:
        """Sends a part of the data and returns its length."""

    def sendall(self, data: Any, flags: int = ..., /) -> None:
        """Sends all of the data."""

    def sendmsg(self, buffers: Any, /) -> int:
        """Sends a part of several buffers; plain sockets only."""

    def sendto(self, data: Any, address: Any, /) -> int:
        """Sends a datagram."""

    def shutdown(self, how: int, /) -> None:
        """Ends the connection or the listener and wakes the threads that wait in it."""


class TlsContext(Protocol):
    """What shells use of ``ssl.SSLContext``."""

    def wrap_socket(
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
    ) -> Any:
        """Returns a socket with ``getpeercert`` after the handshake; raises OSError when it fails."""


class SelectorKey(Protocol):
    """What shells use of ``selectors.SelectorKey``."""

    @property
    def fileobj(self) -> Any: ...

    @property
    def data(self) -> Any: ...


class Selector(Protocol):
    """What shells use of ``selectors.DefaultSelector``."""

    def register(self, fileobj: Any, events: int, data: Any = None) -> Any:
        """Begins to watch a socket; KeyError when it is watched already."""

    def unregister(self, fileobj: Any) -> Any:
        """Ends watching a socket; KeyError when it is not watched."""

    def select(self, timeout: float | None = None) -> Sequence[tuple[Any, int]]:
        """Returns the keys and events of the ready sockets: none after a time-out."""

    def get_map(self) -> Mapping[Any, Any] | None:
        """Returns what is watched, by socket."""

    def close(self) -> None:
        """Ends watching."""


class Platform(Protocol):
    """Makes sockets, waits for them, and moves descriptors between processes."""

    def dial_tcp(self, host: str, port: int, timeout_s: float | None, source: str | None) -> Socket: ...

    def dial_unix(self, path: str, timeout_s: float | None, packets: bool) -> Socket: ...

    def listen_tcp(self, host: str, port: int, backlog: int) -> Socket: ...

    def listen_unix(self, path: str, mode: int, backlog: int, packets: bool) -> Socket: ...

    def remove_unix(self, path: str) -> None: ...

    def datagram(self, host: str, port: int) -> Socket: ...

    def pair(self) -> tuple[Socket, Socket]: ...

    def tls_context(self, certificate: str, key: str, authority: str, *, server_side: bool) -> TlsContext: ...

    def adopt(self, descriptor: int) -> Socket: ...

    def close_descriptor(self, descriptor: int) -> None: ...

    def set_send_timeout(self, sock: Socket, seconds: float) -> None: ...

    def set_no_delay(self, sock: Socket) -> None: ...

    def keep_alive(self, sock: Socket) -> None: ...

    def wait(
        self, readable: Sequence[Socket], writable: Sequence[Socket], timeout_s: float | None
    ) -> list[Socket]: ...

    def selector(self) -> Selector: ...

    def send_descriptors(self, sock: Socket, data: Buffer, descriptors: Sequence[int]) -> int: ...

    def receive_descriptors(self, sock: Socket, size: int, count_max: int) -> tuple[bytes, list[int]]: ...

    def send_file(self, sock: Socket, descriptor: int, offset: int, length: int) -> int: ...

    def take_refusal(self, sock: Socket) -> tuple[str, int] | None: ...


class _TlsSocket(ssl.SSLSocket):
    """A TLS socket that closes itself if its connection was reset before the socket was made.

    ``wrap_socket`` takes over the descriptor and then asks for the peer's address. If that fails, Python 3.11
    leaves the descriptor open for the garbage collector, and a connection without a peer may become a
    socket without TLS.
    """

    def getpeername(self) -> Any:
        """Returns the address of the other end; closes the socket when there is none."""
        try:
            return super().getpeername()
        except OSError as error:
            self.close()
            raise ConnectionResetError(errno.ECONNRESET, "the peer closed the connection") from error


class RealNetwork:
    """The sockets of the operating system."""

    def dial_tcp(self, host: str, port: int, timeout_s: float | None, source: str | None) -> Socket:
        """Returns a TCP connection, from the address ``source`` if one is given."""
        return socket.create_connection((host, port), timeout_s, (source, 0) if source else None)

    def dial_unix(self, path: str, timeout_s: float | None, packets: bool) -> Socket:
        """Returns a connection to a Unix socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
        try:
            sock.settimeout(timeout_s)
            sock.connect(path)
        except BaseException:
            sock.close()
            raise
        return sock

    def listen_tcp(self, host: str, port: int, backlog: int) -> Socket:
        """Returns a listener; once it is closed, its address is free again at once."""
        return socket.create_server((host, port), backlog=backlog)

    def listen_unix(self, path: str, mode: int, backlog: int, packets: bool) -> Socket:
        """Returns a listener on a path and makes its folder; replaces what a killed process left."""
        os.makedirs(os.path.dirname(path), mode=0o750, exist_ok=True)
        self.remove_unix(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if packets else socket.SOCK_STREAM)
        try:
            sock.bind(path)
            os.chmod(path, mode)
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def remove_unix(self, path: str) -> None:
        """Removes the path of a listener."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)

    def datagram(self, host: str, port: int) -> Socket:
        """Returns a bound UDP socket that notes who refuses its datagrams."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVERR, 1)
            sock.bind((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def pair(self) -> tuple[Socket, Socket]:
        """Returns two ends of a Unix stream."""
        return socket.socketpair()

    def tls_context(self, certificate: str, key: str, authority: str, *, server_side: bool) -> TlsContext:
        """Returns a TLS 1.3 context of the files of a certificate; the peer must show one as well."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        context.sslsocket_class = _TlsSocket
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        if server_side:
            context.num_tickets = 0  # nobody resumes a session; by default each connection makes two tickets
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authority)
        return context

    def adopt(self, descriptor: int) -> Socket:
        """Returns the socket that a descriptor stands for; it owns the descriptor."""
        return socket.socket(fileno=descriptor)

    def close_descriptor(self, descriptor: int) -> None:
        """Closes a descriptor of a socket or a file."""
        os.close(descriptor)

    def set_send_timeout(self, sock: Socket, seconds: float) -> None:
        """Limits only sending: a sender then gets ``BlockingIOError``."""
        whole = int(seconds)
        value = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
        _real(sock).setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def set_no_delay(self, sock: Socket) -> None:
        """Sends small parts of a TCP connection at once; nothing on other sockets."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            _real(sock).setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def keep_alive(self, sock: Socket) -> None:
        """Has the kernel probe a silent peer; does nothing to sockets other than TCP."""
        if sock.family in (socket.AF_INET, socket.AF_INET6):
            real = _real(sock)
            real.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            real.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEP_ALIVE_IDLE_S)
            real.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEP_ALIVE_INTERVAL_S)
            real.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEP_ALIVE_PROBES)

    def wait(
        self, readable: Sequence[Socket], writable: Sequence[Socket], timeout_s: float | None
    ) -> list[Socket]:
        """Waits until one of the sockets is ready and returns those that are."""
        watched = {sock.fileno(): sock for sock in (*readable, *writable)}
        events = dict.fromkeys(watched, 0)
        for sock in readable:
            events[sock.fileno()] |= select.POLLIN
        for sock in writable:
            events[sock.fileno()] |= select.POLLOUT
        poller = select.poll()
        for descriptor, wanted in events.items():
            poller.register(descriptor, wanted)
        # poll(2) counts whole milliseconds: a shorter wait must not become a busy loop.
        found = poller.poll(None if timeout_s is None else math.ceil(max(0.0, timeout_s) * 1000))
        return [watched[descriptor] for descriptor, _ in found]

    def selector(self) -> Selector:
        """Returns a selector."""
        return selectors.DefaultSelector()

    def send_descriptors(self, sock: Socket, data: Buffer, descriptors: Sequence[int]) -> int:
        """Sends bytes and copies of descriptors over a Unix socket; the caller still closes its own."""
        return socket.send_fds(_real(sock), [data], list(descriptors))

    def receive_descriptors(self, sock: Socket, size: int, count_max: int) -> tuple[bytes, list[int]]:
        """Returns bytes and the descriptors that came with them, which no child inherits."""
        room = socket.CMSG_SPACE(count_max * array.array("i").itemsize)
        data, ancillary, _, _ = _real(sock).recvmsg(size, room, socket.MSG_CMSG_CLOEXEC)
        found = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                found.frombytes(content[: len(content) - len(content) % found.itemsize])
        return data, list(found)

    def send_file(self, sock: Socket, descriptor: int, offset: int, length: int) -> int:
        """Sends a part of a file over a plain socket under its time-out; returns the number of bytes sent."""
        timeout_s = sock.gettimeout()
        while True:
            try:
                return os.sendfile(sock.fileno(), descriptor, offset, length)
            except BlockingIOError:
                # A socket with a time-out is non-blocking underneath.
                if timeout_s == 0:
                    raise
                if not self.wait([], [sock], timeout_s):
                    raise TimeoutError("timed out") from None

    def take_refusal(self, sock: Socket) -> tuple[str, int] | None:
        """Returns the next address at which no process took a datagram of this socket, or None."""
        while True:
            try:
                _, notes, _, target = _real(sock).recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
            except OSError:
                return None  # the queue is empty
            if isinstance(target, tuple) and errno.ECONNREFUSED in _errors(notes):
                return str(target[0]), int(target[1])


def _errors(notes: Sequence[tuple[int, int, bytes]]) -> list[int]:
    """Returns the error numbers of a message from an error queue.

    Each entry begins with a ``sock_extended_err`` (ip(7)), whose first field is the number. An unreachable
    host or network, or a datagram that is too large for the path, says nothing about the process.
    """
    return [
        EXTENDED_ERROR.unpack_from(data)[0]
        for level, kind, data in notes
        if (level, kind) == (socket.IPPROTO_IP, IP_RECVERR) and len(data) >= EXTENDED_ERROR.size
    ]


def _real(sock: Socket) -> socket.socket:
    assert isinstance(sock, socket.socket), f"{sock!r} does not belong to this platform"
    return sock
