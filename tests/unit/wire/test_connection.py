"""Frames over a pair of sockets: parts, files, descriptors, deadlines, and what a broken peer causes."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import (
    ConnectionLost,
    DeadlineExceeded,
    FrameTooLarge,
    InvalidMessage,
    ProtocolError,
)
from agent.common.shell import clock, network
from agent.wire.codec.framing import PAYLOAD_BYTES_MAX, Frame, encode
from agent.wire.connection import Connection, FileSlice, close_files, payload_bytes


def _soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(clock.monotonic(), timeout_s)


class Ends:
    """The two ends of a stream; ``far`` is a plain socket."""

    def __init__(self) -> None:
        near, self.far = socket.socketpair()
        self.near = Connection(near, "vm2")

    def close(self) -> None:
        self.near.close()
        self.far.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    found = Ends()
    with contextlib.closing(found):
        yield found


@pytest.mark.parametrize(
    ("payload", "sent"),
    [
        (b"", b""),
        (b"one", b"one"),
        (bytearray(b"two"), b"two"),
        (memoryview(b"three"), b"three"),
        ([b"four", b"", memoryview(b"five")], b"fourfive"),
        ([], b""),
    ],
)
def test_a_payload_of_any_form_arrives_whole(ends: Ends, payload: object, sent: bytes) -> None:
    ends.near.send({"n": 1}, payload, _soon())  # type: ignore[arg-type]
    assert payload_bytes(payload) == len(sent)  # type: ignore[arg-type]
    frame = Connection(ends.far, "vm1").receive(_soon())
    assert (frame.header, bytes(frame.payload), frame.descriptor) == ({"n": 1}, sent, None)


def test_a_socket_that_takes_no_options_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: object) -> None:
        raise OSError(errno.EINVAL, "the peer has gone")

    monkeypatch.setattr(network, "keep_alive", refuse)
    near, far = socket.socketpair()
    with far, pytest.raises(OSError, match="the peer has gone"):
        Connection(near, "vm2")
    assert near.fileno() == -1


def test_parts_larger_than_the_buffers_of_the_kernel_arrive_whole(ends: Ends) -> None:
    parts = [os.urandom(700_000), os.urandom(3), os.urandom(900_000)]
    frames: list[Frame] = []
    receiver = threading.Thread(
        target=lambda: frames.append(Connection(ends.far, "vm1").receive(_soon())), name="receives"
    )
    receiver.start()
    ends.near.send({}, parts, _soon())
    receiver.join(5.0)
    assert bytes(frames[0].payload) == b"".join(parts)


def test_a_slice_of_a_file_arrives_and_the_file_stays_open(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"0123456789")
    part = FileSlice(os.open(tmp_path / "data", os.O_RDONLY), 3, 4)
    ends.near.send({}, part, _soon())
    assert bytes(Connection(ends.far, "vm1").receive(_soon()).payload) == b"3456"
    os.fstat(part.descriptor)
    close_files(part)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(part.descriptor)


def test_a_file_that_is_shorter_than_announced_breaks_the_connection(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"0123456789")
    part = FileSlice(os.open(tmp_path / "data", os.O_RDONLY), 8, 4)
    with pytest.raises(ConnectionLost, match="shorter than announced"):
        ends.near.send({}, part, _soon())
    close_files(part)


def test_an_open_file_comes_with_a_frame(ends: Ends, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"content")
    descriptor = os.open(tmp_path / "data", os.O_RDONLY)
    ends.near.send({"open": True}, b"p", _soon(), descriptor)
    close_files(b"", descriptor)
    frame = Connection(ends.far, "vm1").receive(_soon())
    assert frame.descriptor is not None
    with os.fdopen(frame.descriptor, "rb") as file:
        assert file.read() == b"content"
    assert (frame.header, bytes(frame.payload)) == ({"open": True}, b"p")


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_more_open_files_than_one_are_closed(ends: Ends) -> None:
    """The kernel may deliver a second one: a local caller must not use up the descriptors."""
    before = _open_files()
    data = encode(Frame({"n": 1}))
    for _ in range(3):
        socket.send_fds(ends.far, [data], [0, 1, 2])
        frame = ends.near.receive(_soon())
        assert frame.descriptor is not None
        os.close(frame.descriptor)
    assert _open_files() == before


@pytest.mark.parametrize("data", [struct.pack(">II", 1, 0) + b"\xc1", struct.pack(">II", 1 << 30, 0)])
def test_the_open_file_of_a_frame_that_is_none_is_closed(ends: Ends, data: bytes) -> None:
    before = _open_files()
    socket.send_fds(ends.far, [data], [0])
    with pytest.raises(ProtocolError):
        ends.near.receive(_soon())
    assert _open_files() == before


def test_what_is_no_frame_is_refused_before_a_byte_is_sent(ends: Ends) -> None:
    with pytest.raises(FrameTooLarge):
        ends.near.send({}, bytes(PAYLOAD_BYTES_MAX + 1), _soon())
    for value in ("\udcff", 1 << 64, object(), {"deep": [[{1, 2}]]}):
        with pytest.raises(InvalidMessage):
            ends.near.send({"value": value}, b"", _soon())
    ends.near.send({"fine": True}, b"", _soon())
    assert Connection(ends.far, "vm1").receive(_soon()).header == {"fine": True}


def test_each_step_has_what_is_left_of_the_deadline(ends: Ends) -> None:
    deadline = _soon()
    ends.near.send({}, b"", deadline)
    first = ends.near.sock.gettimeout()
    ends.far.sendall(encode(Frame({"n": 1}, b"payload")))
    ends.near.receive(deadline)
    last = ends.near.sock.gettimeout()
    assert first is not None
    assert last is not None
    assert 5.0 >= first > last > 0.0


def test_a_peer_that_sends_nothing_or_half_a_frame_costs_the_time_limit(ends: Ends) -> None:
    with pytest.raises(DeadlineExceeded, match="vm2 did not answer in time"):
        ends.near.receive(_soon(0.2))
    ends.far.sendall(encode(Frame({"n": 1}, b"payload"))[:-3])
    with pytest.raises(DeadlineExceeded):
        ends.near.receive(_soon(0.05))
    with pytest.raises(DeadlineExceeded):
        ends.near.receive(Deadline(clock.monotonic() - 1.0, 0.5))


def test_a_peer_that_takes_nothing_costs_the_time_limit(ends: Ends) -> None:
    with pytest.raises(DeadlineExceeded, match="did not take a request in time"):
        ends.near.send({}, bytes(4_000_000), _soon(0.2))


@pytest.mark.parametrize("sent", [0, 1, 8, 12])
def test_a_peer_that_leaves_ends_the_wait(ends: Ends, sent: int) -> None:
    ends.far.sendall(encode(Frame({"number": 1}, b"payload"))[:sent])
    ends.far.close()
    with pytest.raises(ConnectionLost, match="vm2"):
        ends.near.receive(None)
    with pytest.raises(ConnectionLost, match="vm2"):
        ends.near.send({}, bytes(100_000), _soon())


def test_closing_wakes_a_thread_that_receives(ends: Ends) -> None:
    lost: list[str] = []

    def receive() -> None:
        with pytest.raises(ConnectionLost):
            ends.near.receive(None)
        lost.append("lost")

    thread = threading.Thread(target=receive, name="receives")
    thread.start()
    ends.near.close()
    thread.join(5.0)
    assert lost == ["lost"]
    ends.near.close()


class _GivenUp(socket.socket):
    """A socket whose connection the kernel has dropped, because keep-alive got no answer."""

    def recv_into(self, *_: object) -> int:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))

    def sendmsg(self, *_: object) -> int:
        raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def test_peer_that_the_kernel_gave_up_is_lost_and_not_late() -> None:
    with _GivenUp(socket.AF_INET, socket.SOCK_STREAM) as sock:
        connection = Connection(sock, "vm2")
        with pytest.raises(ConnectionLost, match="timed out"):
            connection.send({"type": "ping"}, b"", _soon())
        with pytest.raises(ConnectionLost, match="timed out"):
            connection.receive(_soon())
