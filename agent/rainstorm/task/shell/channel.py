"""Channels from task to task: one TLS connection each, made anew for every generation.

Both ends show the job's own certificate, which the leader makes for one generation and hands to its tasks
only; it is the only one that either end accepts. So tasks hold no key of the cluster, and a task of an older
generation cannot connect at all. Sockets do not block: a task waits for all its channels and its agent at
once, and a full channel never keeps it from hearing its agent.
"""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

import pyarrow as pa

from agent.common.errors import ConnectionLost, ProtocolError
from agent.wire.codec.framing import PREFIX, Frame, decode_header, decode_prefix, encode_header

CONNECT_TIMEOUT_S = 5.0


class JobIdentity:
    """The certificate and key of one generation of a job, as TLS contexts."""

    def __init__(self, pem: bytes) -> None:
        self.server = self._context(ssl.PROTOCOL_TLS_SERVER, pem)
        self.client = self._context(ssl.PROTOCOL_TLS_CLIENT, pem)

    @staticmethod
    def _context(purpose: int, pem: bytes) -> ssl.SSLContext:
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        # The certificate itself is the trust anchor, so its name says nothing that needs checking.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        # load_cert_chain reads files only; a memory file never touches a disk.
        descriptor = os.memfd_create("job-identity")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        begin = pem.index(b"-----BEGIN CERTIFICATE-----")
        context.load_verify_locations(cadata=pem[begin:].decode("ascii"))
        return context


class Channel:
    """One end of a connection between two tasks."""

    def __init__(self, sock: ssl.SSLSocket, peer: str) -> None:
        self.peer = peer
        self.sock = sock
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        self._buffer = bytearray(PREFIX.size)
        self._filled = 0
        self._sizes: tuple[int, int] | None = None

    def read(self) -> Frame | None:
        """Returns the next frame that has come in whole, or None when more bytes are needed.

        Raises:
            ConnectionLost: the peer is gone.
        """
        while True:
            while self._filled < len(self._buffer):
                if not self._fill():
                    return None
            if self._sizes is None:
                self._sizes = decode_prefix(self._buffer)
                self._expect(sum(self._sizes))
                continue
            header_bytes, _ = self._sizes
            view = memoryview(self._buffer)
            frame = Frame(decode_header(view[:header_bytes]), view[header_bytes:])
            self._sizes = None
            self._expect(PREFIX.size)
            return frame

    def write_some(self, data: memoryview) -> int:
        """Sends what the channel takes now and returns how much that was.

        Raises:
            ConnectionLost: the peer is gone.
        """
        try:
            return self.sock.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0
        except OSError as error:
            raise ConnectionLost(f"channel to task {self.peer} broke: {error}") from None

    def close(self) -> None:
        """Closes the connection."""
        self.sock.close()

    def _expect(self, size: int) -> None:
        self._buffer = bytearray(size)
        self._filled = 0

    def _fill(self) -> bool:
        try:
            count = self.sock.recv_into(memoryview(self._buffer)[self._filled :])
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return False
        except OSError as error:
            raise ConnectionLost(f"channel from task {self.peer} broke: {error}") from None
        if count == 0:
            raise ConnectionLost(f"task {self.peer} closed its channel")
        self._filled += count
        return True


def connect(
    source: str, host: str, port: int, peer: str, hello: dict[str, Any], identity: JobIdentity
) -> Channel:
    """Returns a channel from the address ``source`` to a task that listens at ``host:port``.

    Raises:
        ConnectionLost: the task cannot be reached or does not know this generation.
    """
    try:
        plain = socket.create_connection((host, port), CONNECT_TIMEOUT_S, (source, 0))
        try:
            sock = identity.client.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        sock.sendall(encode_header(hello, 0))
    except OSError as error:
        raise ConnectionLost(f"cannot connect to task {peer} at {host}:{port}: {error}") from None
    return Channel(sock, peer)


def accept(listener: socket.socket, identity: JobIdentity) -> ssl.SSLSocket | None:
    """Returns the next connection once its TLS handshake is done, or None when the peer is not of this
    generation.
    """
    plain, _ = listener.accept()
    plain.settimeout(CONNECT_TIMEOUT_S)
    try:
        return identity.server.wrap_socket(plain, server_side=True)
    except OSError:
        plain.close()
        return None


def encode_batch(batch: pa.RecordBatch) -> pa.Buffer:
    """Returns a batch with its schema as Arrow IPC bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_batch(data: Any) -> pa.RecordBatch:
    """Returns the batch that ``encode_batch`` wrote.

    Raises:
        ProtocolError: the bytes are no Arrow stream.
    """
    try:
        return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()
    except (pa.ArrowInvalid, StopIteration) as error:
        raise ProtocolError(f"not an Arrow batch: {error}") from None
