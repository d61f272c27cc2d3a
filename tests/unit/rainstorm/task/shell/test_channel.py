"""Channels between tasks, the identity of both ends, and connections that have not said who they are."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator

import pyarrow as pa
import pytest

from agent.common.errors import ConnectionLost, FrameTooLarge, ProtocolError
from agent.rainstorm.messages.channel import CHANNEL, Barrier, Hello
from agent.rainstorm.task.shell.channel import Channel, connect, decode_batch, encode_batch
from agent.wire.codec.framing import Frame, encode_header
from tests.support import wait_until
from tests.unit.rainstorm.task.shell.receiver import IDENTITY, Receiver


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A task that others connect to."""
    made = Receiver()
    yield made
    made.close()


def pair(receiver: Receiver) -> tuple[Channel, Channel]:
    """Returns the two ends of a channel."""
    thread, made = receiver.connect()
    receiver.serve_until(lambda: receiver.welcomed, "the hello arrives")
    thread.join(5.0)
    return made[0], receiver.welcomed[0][0]


def test_frames_arrive_whole(receiver: Receiver) -> None:
    """They do, however they are cut on the way; a channel without bytes reports that."""
    sender, taken = pair(receiver)
    assert receiver.welcomed[0][1] == Hello("0.0", 1)
    taken.accepted_from("0.0")
    assert taken.read() is None
    data = encode_header(CHANNEL.encode(Barrier(7)), 3) + b"abc"
    for byte in data[:-1]:
        assert sender.write_some(memoryview(bytes([byte]))) == 1
    receiver.serve_until(lambda: taken.read() is None, "most of it arrives")
    sender.write_some(memoryview(data[-1:]))
    found: list[Frame] = []

    def arrived() -> bool:
        frame = taken.read()
        found.extend([] if frame is None else [frame])
        return bool(found)

    wait_until(arrived, 5, "the frame arrives")
    assert CHANNEL.decode(found[0].header) == Barrier(7)
    assert bytes(found[0].payload) == b"abc"
    sender.close()
    with pytest.raises(ConnectionLost):
        wait_until(lambda: taken.read() is not None, 5, "the end is noticed")


def test_a_full_channel_takes_nothing_and_a_closed_one_is_lost(receiver: Receiver) -> None:
    """Sending never blocks."""
    sender, taken = pair(receiver)
    data = memoryview(bytes(1 << 20))
    for _ in range(100):
        if sender.write_some(data) == 0:
            break
    else:
        raise AssertionError("it takes everything")
    taken.close()

    def broken() -> bool:
        try:
            sender.write_some(data)
        except ConnectionLost:
            return True
        return False

    wait_until(broken, 5, "the lost channel is noticed")
    sender.close()


def test_a_hello_that_is_too_large_is_not_read(receiver: Receiver) -> None:
    """Before a connection has said which task it is, nothing is allocated for it."""
    with socket.create_connection(("127.0.0.1", receiver.port)) as plain:
        thread = threading.Thread(target=_send_large, args=(plain,), daemon=True)
        thread.start()
        receiver.serve_until(lambda: not thread.is_alive(), "the connection is closed")
    assert receiver.welcomed == []
    assert receiver.arrivals.wait_s() is None


def _send_large(plain: socket.socket) -> None:
    try:
        with IDENTITY.client.wrap_socket(plain) as sock:
            sock.sendall(encode_header({"from": "0.0", "generation": 1}, 5000))
            sock.recv(1)
    except (OSError, ssl.SSLError):
        return


@pytest.mark.parametrize("size", [0, 2000])
def test_the_largest_frame_is_a_parameter(receiver: Receiver, size: int) -> None:
    """A frame that is larger ends the channel."""
    sender, taken = pair(receiver)
    sender.write_some(memoryview(encode_header({"t": "batch"}, size) + bytes(size)))
    if size:
        with pytest.raises(FrameTooLarge):
            wait_until(taken.read, 5, "the frame arrives")
    else:
        wait_until(taken.read, 5, "the frame arrives")
    sender.close()


def test_a_task_that_does_not_listen_is_lost() -> None:
    """The error names the task and its address."""
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(ConnectionLost, match=rf"task 1\.0 at 127\.0\.0\.1:{port}"):
        connect("127.0.0.1", "127.0.0.1", port, "1.0", Hello("0.0", 1), IDENTITY)


def test_a_batch_survives_the_channel() -> None:
    """Bytes that are not a batch are refused."""
    batch = pa.RecordBatch.from_pydict({"a": pa.array([b"x", b"y"], pa.binary())})
    assert decode_batch(encode_batch(batch)).equals(batch)
    with pytest.raises(ProtocolError, match="not an Arrow batch"):
        decode_batch(b"nonsense")
