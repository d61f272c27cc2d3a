"""A connection that carries frames over a blocking socket, each step under the caller's deadline.

The payload moves without copies where the transport allows it: ``recv_into`` one buffer of the announced
size, ``sendfile`` for parts of files, ``sendmsg`` for several buffers. One thread sends and one receives at a
time; the callers ensure this.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, DeadlineExceeded
from agent.common.shell import clock, disk, network
from agent.common.shell.network import Socket
from agent.wire.codec.framing import PREFIX, Buffer, Frame, decode_header, decode_prefix, encode_header

# OpenSSL returns at most one 16 KiB record per call; larger reads save calls only on plain sockets.
FILE_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class FileSlice:
    """A part of an open file that is sent as a payload; client and server close ``descriptor`` afterwards."""

    descriptor: int
    offset: int
    length: int


Payload = Buffer | FileSlice | Sequence[Buffer]


def payload_bytes(payload: Payload) -> int:
    """Returns the number of bytes that sending ``payload`` will take."""
    if isinstance(payload, FileSlice):
        return payload.length
    if isinstance(payload, bytes | bytearray | memoryview):
        return len(payload)
    return sum(len(part) for part in payload)


def close_files(payload: Payload, descriptor: int | None = None) -> None:
    """Closes the files of a frame that was sent or will never be sent."""
    if isinstance(payload, FileSlice):
        network.close_descriptor(payload.descriptor)
    if descriptor is not None:
        network.close_descriptor(descriptor)


class Connection:
    """Frames over one socket, which the connection owns from the beginning.

    Raises:
        OSError: the peer has gone; the socket is closed.
    """

    def __init__(self, sock: Socket, peer: str) -> None:
        self.sock = sock
        self.peer = peer
        try:
            network.set_no_delay(sock)
            network.keep_alive(sock)
        except OSError:
            sock.close()
            raise

    def send(
        self, header: dict[str, Any], payload: Payload, deadline: Deadline, descriptor: int | None = None
    ) -> None:
        """Sends one frame, on a Unix socket together with an open file if one is given.

        The files (``descriptor``, that of a ``FileSlice``) stay open: the caller closes them.

        Raises:
            FrameTooLarge, InvalidMessage: it is no frame; nothing was sent.
            ConnectionLost: the peer is gone.
            DeadlineExceeded: the peer does not take the bytes in time; the connection is of no more use.
        """
        head = encode_header(header, payload_bytes(payload))
        try:
            self._arm(deadline, "send")
            if descriptor is not None:
                # The file goes with the first byte; the kernel takes a small head completely or not at all.
                network.send_descriptors(self.sock, head[:1], [descriptor])
                head = head[1:]
            if isinstance(payload, FileSlice):
                self.sock.sendall(head)
                self._send_file(payload, deadline)
            elif isinstance(payload, bytes | bytearray | memoryview):
                self._send_parts([head, payload], deadline)
            else:
                self._send_parts([head, *payload], deadline)
        except OSError as error:
            if _is_late(error):
                raise DeadlineExceeded(f"{self.peer} did not take a request in time") from None
            raise ConnectionLost(f"connection to {self.peer} broke while sending: {error}") from None

    def receive(self, deadline: Deadline | None) -> Frame:
        """Returns the next frame; without a deadline it waits as long as the peer stays connected.

        Raises:
            ConnectionLost: the peer closed the connection or it broke.
            ProtocolError: the peer sent something that is not a frame.
        """
        try:
            first, descriptor = self._receive_first(deadline)
            try:
                prefix = first + self._receive_exactly(PREFIX.size - len(first), deadline)
                header_bytes, size = decode_prefix(prefix)
                header = decode_header(self._receive_exactly(header_bytes, deadline))
                return Frame(header, self._receive_exactly(size, deadline), descriptor)
            except BaseException:
                if descriptor is not None:
                    network.close_descriptor(descriptor)
                raise
        except OSError as error:
            if _is_late(error):
                raise DeadlineExceeded(f"{self.peer} did not answer in time") from None
            raise ConnectionLost(f"connection to {self.peer} broke: {error}") from None

    def close(self) -> None:
        """Closes the socket; a thread blocked in ``receive`` returns with ConnectionLost."""
        with contextlib.suppress(OSError):  # the peer may have closed it already
            self.sock.shutdown(network.SHUT_RDWR)
        self.sock.close()

    def _arm(self, deadline: Deadline | None, step: str) -> None:
        if deadline is None:
            self.sock.settimeout(None)
        else:
            self.sock.settimeout(deadline.require(clock.monotonic(), f"{step} to {self.peer}"))

    def _receive_first(self, deadline: Deadline | None) -> tuple[bytes, int | None]:
        """Returns the first bytes of a frame and the open file that came with them."""
        if not network.is_unix(self.sock):
            return b"", None
        self._arm(deadline, "receive")
        data, descriptors = network.receive_descriptors(self.sock, PREFIX.size, 1)
        # The kernel may deliver more descriptors than were asked for: it rounds the space for them up.
        for superfluous in descriptors[1:]:
            network.close_descriptor(superfluous)
        if not data:
            raise ConnectionLost(f"{self.peer} closed the connection")
        return data, descriptors[0] if descriptors else None

    def _receive_exactly(self, size: int, deadline: Deadline | None) -> bytearray:
        buffer = bytearray(size)
        view = memoryview(buffer)
        got = 0
        while got < size:
            self._arm(deadline, "receive")
            count = self.sock.recv_into(view[got:])
            if count == 0:
                raise ConnectionLost(f"{self.peer} closed the connection")
            got += count
        return buffer

    # A socket's time-out applies to one call: each call gets what is left of the deadline.

    def _send_parts(self, parts: list[Buffer], deadline: Deadline) -> None:
        if network.is_tls(self.sock):
            # sendmsg does not exist over TLS: join what is small, so that a request is one record.
            if sum(len(part) for part in parts) <= 16 * 1024:
                self.sock.sendall(b"".join(parts))
            else:
                for part in parts:
                    self._arm(deadline, "send")
                    self.sock.sendall(part)
            return
        views = [memoryview(part).cast("B") for part in parts if len(part)]
        while views:
            self._arm(deadline, "send")
            sent = self.sock.sendmsg(views)
            while views and sent >= len(views[0]):
                sent -= len(views.pop(0))
            if sent:
                views[0] = views[0][sent:]

    def _send_file(self, part: FileSlice, deadline: Deadline) -> None:
        offset, left = part.offset, part.length
        while left:
            self._arm(deadline, "send")
            if network.is_tls(self.sock):
                chunk = disk.pread(part.descriptor, min(left, FILE_CHUNK_BYTES), offset)
                if not chunk:
                    raise OSError("file is shorter than announced")
                self.sock.sendall(chunk)
                sent = len(chunk)
            else:
                sent = network.send_file(self.sock, part.descriptor, offset, left)
                if not sent:
                    raise OSError("file is shorter than announced")
            offset += sent
            left -= sent


def _is_late(error: OSError) -> bool:
    """Tells whether a call has timed out, and not the kernel dropped the connection to a vanished peer.

    Both are a ``TimeoutError``; only the kernel's has a number, ETIMEDOUT.
    """
    return isinstance(error, TimeoutError) and error.errno is None
