"""The one source of sockets, and of ways to wait for several of them, for every shell.

These functions return the classes of ``socket`` and ``selectors``, so that using them costs nothing
extra; only their creation, waiting and descriptors pass through the seam. A simulator returns classes with
the same contract that raise the same errors. TLS contexts (``tls_context``) are ``ssl.SSLContext`` in
production; the simulator's have a ``wrap_socket`` with the same meaning.
"""

from __future__ import annotations

import selectors
import socket
from collections.abc import Sequence

from agent.common.shell import seam
from agent.common.shell.realnetwork import Buffer as Buffer
from agent.common.shell.realnetwork import Platform, RealNetwork
from agent.common.shell.realnetwork import Selector as Selector
from agent.common.shell.realnetwork import Socket as Socket
from agent.common.shell.realnetwork import TlsContext as TlsContext

EVENT_READ, EVENT_WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
# Ends both directions of a connection.
SHUT_RDWR = socket.SHUT_RDWR

REAL: Platform = RealNetwork()


def _platform() -> Platform:
    found: Platform | None = seam.current().network
    return REAL if found is None else found


def dial_tcp(host: str, port: int, timeout_s: float | None, source: str | None = None) -> Socket:
    """Returns a TCP connection, from the address ``source`` if one is given.

    Raises:
        TimeoutError: nobody answers in time.
        OSError: nobody listens there.
    """
    return _platform().dial_tcp(host, port, timeout_s, source)


def dial_unix(path: str, timeout_s: float | None, *, packets: bool = False) -> Socket:
    """Returns a connection to a Unix socket, of whole packets or of a stream.

    Raises:
        OSError: nobody listens there.
    """
    return _platform().dial_unix(path, timeout_s, packets)


def listen_tcp(host: str, port: int, backlog: int = 128) -> Socket:
    """Returns a listener; port 0 takes a free one.

    Raises:
        OSError: EADDRINUSE, another process listens there.
    """
    return _platform().listen_tcp(host, port, backlog)


def listen_unix(path: str, mode: int, backlog: int = 128, *, packets: bool = False) -> Socket:
    """Returns a listener on ``path`` with these permissions; what a killed process left there is replaced."""
    return _platform().listen_unix(path, mode, backlog, packets)


def remove_unix(path: str) -> None:
    """Removes the path of a Unix listener, if it is still there."""
    _platform().remove_unix(path)


def datagram(host: str, port: int) -> Socket:
    """Returns a bound UDP socket; ``take_refusal`` names the addresses that refused its datagrams.

    Raises:
        OSError: EADDRINUSE, another process has the address.
    """
    return _platform().datagram(host, port)


def pair() -> tuple[Socket, Socket]:
    """Returns the two ends of a Unix stream."""
    return _platform().pair()


def tls_context(certificate: str, key: str, authority: str, *, server_side: bool) -> TlsContext:
    """Returns a TLS 1.3 context made from a certificate's files; the peer must show a certificate too.

    A client checks that the server's certificate carries the name that it asks for.

    Raises:
        OSError: a file is missing, or is not what it should be.
    """
    return _platform().tls_context(certificate, key, authority, server_side=server_side)


def adopt(descriptor: int) -> Socket:
    """Returns the socket that a descriptor stands for; it owns the descriptor."""
    return _platform().adopt(descriptor)


def close_descriptor(descriptor: int) -> None:
    """Closes a descriptor of a socket or a file."""
    _platform().close_descriptor(descriptor)


def set_send_timeout(sock: Socket, seconds: float) -> None:
    """Limits only sending: a sender gets BlockingIOError after ``seconds``; receiving waits as before."""
    _platform().set_send_timeout(sock, seconds)


def set_no_delay(sock: Socket) -> None:
    """Makes a TCP connection send small parts at once; does nothing to other sockets."""
    _platform().set_no_delay(sock)


def keep_alive(sock: Socket) -> None:
    """Ends a TCP connection within a minute when its other end has vanished without closing it.

    If a machine loses power, or the network loses its last packet, the other end and the thread that waits
    there would otherwise stay as long as nothing is to be sent. On other sockets the kernel reports the end.
    """
    _platform().keep_alive(sock)


def wait(
    readable: Sequence[Socket] = (), writable: Sequence[Socket] = (), timeout_s: float | None = None
) -> list[Socket]:
    """Waits until one of the sockets is ready and returns the ready ones: none after a time-out.

    A socket whose other end is gone is ready for both.
    """
    return _platform().wait(readable, writable, timeout_s)


def selector() -> Selector:
    """Returns a selector, for a thread that waits for the same sockets again and again."""
    return _platform().selector()


def send_descriptors(sock: Socket, data: Buffer, descriptors: Sequence[int]) -> int:
    """Sends bytes and copies of descriptors over a Unix socket; the caller still closes its own."""
    return _platform().send_descriptors(sock, data, descriptors)


def receive_descriptors(sock: Socket, size: int, count_max: int) -> tuple[bytes, list[int]]:
    """Returns up to ``size`` bytes and the descriptors that came with them, which the caller closes."""
    return _platform().receive_descriptors(sock, size, count_max)


def send_file(sock: Socket, descriptor: int, offset: int, length: int) -> int:
    """Sends a part of a file over a plain socket under its time-out.

    Returns the number of bytes sent; 0 when the file is shorter.
    """
    return _platform().send_file(sock, descriptor, offset, length)


def take_refusal(sock: Socket) -> tuple[str, int] | None:
    """Returns the next address that refused a datagram of this socket, or None when no more are known.

    The socket must have no time-out: with one, Python would wait that long before it looks.
    """
    return _platform().take_refusal(sock)


def is_tls(sock: Socket) -> bool:
    """Tells whether a TLS context made this socket."""
    return hasattr(sock, "getpeercert")


def is_unix(sock: Socket) -> bool:
    """Tells whether descriptors can come with the bytes of this socket."""
    return sock.family == socket.AF_UNIX and not is_tls(sock)
