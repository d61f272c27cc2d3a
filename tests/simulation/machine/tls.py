"""TLS without cryptography: certificates are names, records are bytes with a header.

It has every part of TLS that shells can get wrong: the handshake that waits for the peer, the name and the
authority that are checked, records that a selector cannot see once they are read, calls that a TLS socket
does not have, the client that learns only from its first read that the server refuses it.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tests.simulation.machine.sockets import StreamSocket
from tests.simulation.machine.thread import SimThread

HEAD = struct.Struct("!BI")
DATA, HANDSHAKE, ALERT = 1, 2, 3
# An OpenSSL record holds at most this much.
RECORD_BYTES_MAX = 16 * 1024
# More than any packet holds.
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class SimTls:
    """A TLS context: its own certificate, and the authority of the peer's (the same one by default)."""

    name: str
    authority: str = "cluster"
    accepts: str | None = None
    check_hostname: bool = True

    def wrap_socket(
        self,
        sock: Any,
        server_side: bool = False,
        do_handshake_on_connect: bool = True,
        suppress_ragged_eofs: bool = True,
        server_hostname: str | None = None,
    ) -> TlsSocket:
        """Returns a socket over ``sock`` after the handshake; it takes over the descriptor.

        Without ``do_handshake_on_connect`` the reads of a server perform the handshake.
        """
        wrapped = TlsSocket(sock)
        try:
            with wrapped.within_timeout():  # one time-out for all steps, as in OpenSSL's handshake
                if server_side:
                    wrapped.answer(self, at_once=do_handshake_on_connect)
                else:
                    wrapped.greet(self, server_hostname)
        except BaseException:
            wrapped.close()
            raise
        return wrapped


class TlsSocket(StreamSocket):
    """What ``ssl.SSLSocket`` does."""

    def __init__(self, plain: StreamSocket) -> None:
        timeout_s = plain.gettimeout()
        super().__init__(plain.network, plain.kernel, plain.detach())
        self.settimeout(timeout_s)
        self._peer: str | None = None
        # The deadline of the call in progress.
        self._ends_at: float | None = None
        # An unfinished handshake of a server: its own certificate, and whether it was shown.
        self._context: SimTls | None = None
        self._has_shown = False
        # The bytes of the record that is being read, and the rest of one that was read but not yet taken.
        self._record = b""
        self._left = b""

    def getpeercert(self) -> dict[str, Any] | None:
        """Returns the certificate that the peer showed."""
        return None if self._peer is None else {"subjectAltName": (("DNS", self._peer),)}

    def pending(self) -> int:
        """Returns the number of bytes that were read from the kernel but not yet taken."""
        return len(self._left)

    # -- the handshake --------------------------------------------------------------------------------

    def greet(self, context: SimTls, server_hostname: str | None) -> None:
        """Performs the client's part of the handshake."""
        if context.check_hostname and not server_hostname:
            raise ValueError("check_hostname requires server_hostname")
        self._put(HANDSHAKE, b"{}")
        name, authority = self._take_certificate()
        wanted = server_hostname if context.check_hostname else name
        if authority != (context.accepts or context.authority) or name != wanted:
            self._put(ALERT, b"bad certificate")
            raise ssl.SSLCertVerificationError(1, f"certificate of {name!r} by {authority!r} is not accepted")
        self._show(context)
        self._peer = name

    def answer(self, context: SimTls, *, at_once: bool) -> None:
        """Performs the server's part of the handshake, or leaves it to the reads."""
        self._context = context
        if at_once:
            self._go_on(context)

    def _go_on(self, context: SimTls) -> None:
        if not self._has_shown:
            self._take_record(HANDSHAKE)
            self._show(context)
            self._has_shown = True
        name, authority = self._take_certificate()
        if authority != (context.accepts or context.authority):
            self._put(ALERT, b"unknown authority")
            raise ssl.SSLCertVerificationError(1, f"certificate of {name!r} by {authority!r} is not accepted")
        self._peer = name
        self._context = None

    def _show(self, context: SimTls) -> None:
        self._put(HANDSHAKE, json.dumps([context.name, context.authority]).encode())

    def _take_certificate(self) -> tuple[str, str]:
        name, authority = json.loads(self._take_record(HANDSHAKE))
        return name, authority

    def _take_record(self, kind: int) -> bytes:
        found = self._read_record()
        if found is None:
            raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
        if found[0] != kind:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"unexpected record: {found[1]!r}")
        return found[1]

    # -- data -----------------------------------------------------------------------------------------

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Returns up to ``bufsize`` bytes of one record; none when the other end has finished."""
        if flags:
            raise ValueError("non-zero flags not allowed in calls to recv() on SSLSocket")
        if self._left:
            data, self._left = self._left[:bufsize], self._left[bufsize:]
            return data
        self._ends_at = self.scheduler.now + self._timeout if self._timeout else None
        try:
            if self._context is not None:
                self._go_on(self._context)
            found = self._read_record()
        finally:
            self._ends_at = None
        if found is None:
            return b""
        if found[0] != DATA:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, f"alert of the peer: {found[1].decode()}")
        data = found[1]
        if len(data) > bufsize:
            data, self._left = data[:bufsize], data[bufsize:]
        return data

    def send(self, data: Any, flags: int = 0) -> int:
        """Sends a record with a part of the data and returns its length."""
        part = data if type(data) is bytes else memoryview(data).cast("B")
        if len(part) > RECORD_BYTES_MAX:
            part = part[:RECORD_BYTES_MAX]
        try:
            self._put(DATA, part)
        except BlockingIOError:
            raise ssl.SSLWantWriteError(ssl.SSL_ERROR_WANT_WRITE, "the socket has no room") from None
        return len(part)

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        """Does not exist over TLS."""
        raise NotImplementedError("sendmsg not allowed on instances of TlsSocket")

    def receive(self, size: int) -> tuple[bytes, Sequence[Any]]:
        """Does not exist over TLS, which cannot carry open files."""
        raise NotImplementedError("recvmsg not allowed on instances of TlsSocket")

    @contextlib.contextmanager
    def within_timeout(self) -> Iterator[None]:
        """Limits several reads and writes together by the time-out of one call."""
        self._ends_at = self.scheduler.now + self._timeout if self._timeout else None
        try:
            yield
        finally:
            self._ends_at = None

    def enter(self, waiters: list[SimThread], is_ready: Callable[[], bool], timeout_s: float | None) -> None:
        """Begins one of the reads and writes of a call."""
        if self._ends_at is not None:
            timeout_s = self._ends_at - self.scheduler.now
            if timeout_s <= 0:
                raise TimeoutError("timed out")
        super().enter(waiters, is_ready, timeout_s)

    # -- records --------------------------------------------------------------------------------------

    def _put(self, kind: int, data: bytes | memoryview) -> None:
        # The kernel takes a whole record: OpenSSL keeps the rest that has no room, and sends it first.
        record = b"".join((HEAD.pack(kind, len(data)), data))
        sent = super().transmit(record, ())
        if sent < len(record):
            self.kernel.force(record[sent:])

    def _read_record(self) -> tuple[int, bytes] | None:
        # A record arrives in one packet or two, and a packet holds nothing of another record: whatever the
        # kernel hands out belongs to this one, unless the peer speaks no TLS.
        record = self._record
        while True:
            if len(record) >= HEAD.size:
                kind, size = HEAD.unpack_from(record)
                end = HEAD.size + size
                if len(record) >= end:
                    self._record = record[end:]
                    return kind, record[HEAD.size : end]
            try:
                part, _ = super().receive(READ_BYTES)
            except BlockingIOError:
                raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the record is not whole") from None
            if not part:
                return None
            self._record = record = record + part
