"""Channels from task to task: one TLS connection each, newly made for every generation.

Sockets do not block: a task waits for all its channels and its agent at once, and a full channel never keeps
it from hearing its agent.
"""

from __future__ import annotations

import ssl
from typing import Any

import pyarrow as pa

from agent.common.errors import ConnectionLost, FrameTooLarge, ProtocolError
from agent.common.shell import network
from agent.rainstorm.messages.channel import Hello
from agent.rainstorm.task.shell.identity import Identity
from agent.wire.codec.framing import (
    HEADER_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    PREFIX,
    Frame,
    decode_header,
    decode_prefix,
    encode_header,
)

CONNECT_TIMEOUT_S = 5.0


class Channel:
    """One end of a connection between two tasks."""

    def __init__(self, sock: network.Socket, peer: str) -> None:
        self.peer = peer
        self.sock = sock
        # The largest frame that is read.
        self.frame_bytes_max = HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX
        network.set_no_delay(sock)
        sock.setblocking(False)
        self._buffer = bytearray(PREFIX.size)
        self._filled = 0
        self._sizes: tuple[int, int] | None = None

    def accepted_from(self, peer: str) -> None:
        """Notes which task the other end is; from now on its frames may be of full size."""
        self.peer = peer
        self.frame_bytes_max = HEADER_BYTES_MAX + PAYLOAD_BYTES_MAX

    def read(self) -> Frame | None:
        """Returns the next complete frame, or None when more bytes are needed.

        Raises:
            ConnectionLost: the peer is gone.
            ProtocolError: the bytes are not a frame.
        """
        while True:
            while self._filled < len(self._buffer):
                if not self._fill():
                    return None
            if self._sizes is None:
                self._sizes = decode_prefix(self._buffer)
                if sum(self._sizes) > self.frame_bytes_max:
                    raise FrameTooLarge(f"task {self.peer} sent a frame of {sum(self._sizes)} bytes")
                self._expect(sum(self._sizes))
                continue
            header_bytes, _ = self._sizes
            view = memoryview(self._buffer)
            frame = Frame(decode_header(view[:header_bytes]), view[header_bytes:])
            self._sizes = None
            self._expect(PREFIX.size)
            return frame

    def write_some(self, data: memoryview) -> int:
        """Sends as much as the channel takes now and returns the number of bytes.

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


def connect(source: str, host: str, port: int, peer: str, hello: Hello, identity: Identity) -> Channel:
    """Returns a channel from the address ``source`` to a task that listens at ``host:port``.

    Raises:
        ConnectionLost: the task cannot be reached or does not know this generation.
    """
    try:
        plain = network.dial_tcp(host, port, CONNECT_TIMEOUT_S, source)
        try:
            sock: network.Socket = identity.client.wrap_socket(plain)
        except BaseException:
            plain.close()
            raise
        try:
            sock.sendall(encode_header(hello.encode(), 0))
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise ConnectionLost(f"cannot connect to task {peer} at {host}:{port}: {error}") from None
    return Channel(sock, peer)


def encode_batch(batch: pa.RecordBatch) -> pa.Buffer:
    """Returns a batch with its schema as Arrow IPC bytes."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_batch(data: Any) -> pa.RecordBatch:
    """Returns the batch that ``encode_batch`` wrote.

    Raises:
        ProtocolError: the bytes are not an Arrow stream.
    """
    try:
        return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()
    except (pa.ArrowInvalid, StopIteration) as error:
        raise ProtocolError(f"not an Arrow batch: {error}") from None
