"""The contract of sockets, over the real and the simulated platform."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.both import Run, equip
from tests.simulation.machine.scheduler import Scheduler

HOST = "127.0.0.1"
PATIENCE_S = 10.0
SHORT_S = 0.05


@pytest.fixture(params=["real", "simulated"])
def run(request: pytest.FixtureRequest, seed: int) -> Iterator[Run]:
    """Runs a function in a thread of a process that has a network at ``HOST``."""
    if request.param == "real":
        yield lambda body: body()
        return
    with Scheduler(seed) as scheduler:
        process = equip(scheduler, HOST)
        yield lambda body: scheduler.call(process, body)
        leftover = process.seam.network.open_sockets()
        assert leftover == []


def connected() -> tuple[network.Socket, network.Socket]:
    """Returns both ends of a TCP connection."""
    with_listener = network.listen_tcp(HOST, 0)
    try:
        client = network.dial_tcp(HOST, with_listener.getsockname()[1], PATIENCE_S)
        server, origin = with_listener.accept()
        assert origin == client.getsockname()
        return client, server
    finally:
        with_listener.close()


def closing(*socks: network.Socket) -> None:
    """Closes sockets."""
    for sock in socks:
        sock.close()


def send_until_refused(sock: network.Socket, size: int) -> int:
    """Sends pieces until there is no room, and returns how much was sent."""
    sent = 0
    try:
        while sent < 1 << 26:
            sent += sock.send(bytes(size))
    except BlockingIOError:
        return sent
    raise AssertionError("the buffers have no bound")


def test_stream(run: Run) -> None:
    """Bytes arrive in order and whole; the end of one direction leaves the other."""

    def body() -> None:
        client, server = connected()
        assert client.family == socket.AF_INET
        assert client.getpeername() == server.getsockname()
        assert client.gettimeout() == PATIENCE_S
        assert server.gettimeout() is None
        client.sendall(b"one ")
        client.sendmsg([b"two ", bytearray(b"three")])
        client.shutdown(socket.SHUT_WR)
        got = bytearray()
        while part := server.recv(3):
            got += part
        assert got == b"one two three"
        assert server.recv(10) == b""
        server.sendall(b"answer")
        buffer = bytearray(10)
        count = client.recv_into(memoryview(buffer)[2:])
        assert buffer[2 : 2 + count] == b"answer"[:count]
        with pytest.raises(BrokenPipeError):
            client.sendall(b"more")
        closing(client, server)
        assert client.fileno() == -1
        client.close()
        with pytest.raises(OSError, match="Bad file") as caught:
            client.recv(1)
        assert caught.value.errno == errno.EBADF

    run(body)


def test_refused(run: Run) -> None:
    """Nobody listens."""

    def body() -> None:
        listener = network.listen_tcp(HOST, 0)
        port = listener.getsockname()[1]
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            network.dial_tcp(HOST, port, PATIENCE_S)

    run(body)


def test_address_in_use(run: Run) -> None:
    """One listener and one UDP socket per address."""

    def body() -> None:
        listener, port = network.listen_tcp(HOST, 0), network.datagram(HOST, 0)
        for make, taken in ((network.listen_tcp, listener), (network.datagram, port)):
            with pytest.raises(OSError, match=r"[Aa]ddress already in use") as caught:
                make(HOST, taken.getsockname()[1])
            assert caught.value.errno == errno.EADDRINUSE
        closing(listener, port)

    run(body)


def test_time_outs(run: Run) -> None:
    """Each call waits no longer than the time-out; without one it does not wait at all."""

    def body() -> None:
        listener = network.listen_tcp(HOST, 0)
        client, server = connected()
        for sock, call in ((listener, listener.accept), (server, lambda: server.recv(1))):
            sock.settimeout(SHORT_S)
            with pytest.raises(TimeoutError):
                call()
            sock.setblocking(False)
            assert sock.gettimeout() == 0
            with pytest.raises(BlockingIOError):
                call()
        with pytest.raises(ValueError, match="out of range"):
            client.settimeout(-1)
        closing(listener, client, server)

    run(body)


def test_stalled_reader_blocks_the_writer(run: Run) -> None:
    """A writer can send only a bounded amount; it continues when the reader does."""

    def body() -> None:
        client, server = connected()
        client.setblocking(False)
        sent = send_until_refused(client, 64 * 1024)
        client.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(1 << 26))
        assert client.gettimeout() == SHORT_S
        client.settimeout(None)
        seen = []

        def drain() -> None:
            while part := server.recv(1 << 20):
                seen.append(len(part))

        reader = threads.start("reader", drain)
        client.sendall(bytes(1 << 20))
        client.close()
        reader.join(PATIENCE_S)
        assert sum(seen) >= sent + (1 << 20)
        server.close()

    run(body)


def test_closed_peer(run: Run) -> None:
    """Reading ends; writing soon fails, because the peer's kernel answers with a reset."""

    def body() -> None:
        client, server = connected()
        client.close()
        assert server.recv(1) == b""

        def write() -> None:
            for _ in range(1000):
                server.send(b"x")
                threads.sleep(0.001)

        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            write()
        server.close()

    run(body)


def test_unread_bytes_reset(run: Run) -> None:
    """A peer that closes without having read everything resets; what it sent before is still there."""

    def body() -> None:
        client, server = connected()
        client.sendall(b"never read")
        assert network.wait([server], timeout_s=PATIENCE_S) == [server]
        server.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert client.recv(1) == b""
        with pytest.raises(BrokenPipeError):
            client.send(b"x")
        client.close()

    run(body)


def test_shutdown_wakes_who_reads(run: Run) -> None:
    """``shutdown`` in one thread ends the read of another."""

    def body() -> None:
        client, server = connected()
        got: list[bytes] = []
        reader = threads.start("reader", lambda: got.append(server.recv(1)))
        reader.join(SHORT_S)
        assert reader.is_alive()
        server.shutdown(socket.SHUT_RDWR)
        reader.join(PATIENCE_S)
        assert got == [b""]
        assert client.recv(1) == b""
        closing(client, server)

    run(body)


def test_close_wakes_nobody(run: Run) -> None:
    """``close`` in one thread does not end the read of another, which still gets later bytes."""

    def body() -> None:
        client, server = connected()
        got: list[bytes] = []
        begun = threads.event()

        def read() -> None:
            begun.set()
            got.append(server.recv(5))

        reader = threads.start("reader", read)
        assert begun.wait(PATIENCE_S)
        reader.join(4 * SHORT_S)  # nothing outside shows that it is in the call by then
        server.close()
        reader.join(SHORT_S)
        assert reader.is_alive()
        client.sendall(b"hello")
        reader.join(PATIENCE_S)
        assert got == [b"hello"]
        assert client.recv(1) == b""  # now the other end is closed
        client.close()

    run(body)


def test_shutdown_wakes_who_accepts(run: Run) -> None:
    """``shutdown`` of a listener ends ``accept``; waiting connections are reset."""

    def body() -> None:
        listener = network.listen_tcp(HOST, 0)
        errors: list[int | None] = []

        def accept() -> None:
            try:
                listener.accept()
            except OSError as error:
                errors.append(error.errno)

        acceptor = threads.start("acceptor", accept)
        acceptor.join(SHORT_S)
        assert acceptor.is_alive()
        listener.shutdown(socket.SHUT_RDWR)
        acceptor.join(PATIENCE_S)
        assert errors == [errno.EINVAL]
        listener.close()
        accept()
        assert errors == [errno.EINVAL, errno.EBADF]

    run(body)


def test_connection_nobody_accepts(run: Run) -> None:
    """A connection is there before it is accepted, and is reset when the listener ends."""

    def body() -> None:
        listener = network.listen_tcp(HOST, 0)
        client = network.dial_tcp(HOST, listener.getsockname()[1], PATIENCE_S)
        client.sendall(b"early")
        listener.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()

    run(body)


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    """A path for a Unix socket, short enough for one."""
    folder = os.open(tmp_path, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{folder}/s"
    finally:
        os.close(folder)


def test_unix_stream(run: Run, path: str) -> None:
    """A Unix socket without a listener, with one, and on a path that was left behind and is taken over."""

    def body() -> None:
        with pytest.raises(FileNotFoundError):
            network.dial_unix(path, PATIENCE_S)
        listener = network.listen_unix(path, 0o660)
        client = network.dial_unix(path, PATIENCE_S)
        server, _ = listener.accept()
        assert client.family == socket.AF_UNIX
        assert client.gettimeout() == PATIENCE_S
        assert not network.is_tls(client)
        client.sendall(b"hello")
        assert server.recv(10) == b"hello"
        client.close()
        with pytest.raises(BrokenPipeError):
            server.sendall(b"x")
        closing(server, listener)
        with pytest.raises(ConnectionRefusedError):
            network.dial_unix(path, PATIENCE_S)
        again = network.listen_unix(path, 0o660)
        closing(network.dial_unix(path, PATIENCE_S), again)
        network.remove_unix(path)
        network.remove_unix(path)
        with pytest.raises(FileNotFoundError):
            network.dial_unix(path, PATIENCE_S)

    run(body)


def test_packets(run: Run, path: str) -> None:
    """Packets keep their bounds; sending can have a separate time-out."""

    def body() -> None:
        listener = network.listen_unix(path, 0o600, 1, packets=True)
        client = network.dial_unix(path, None, packets=True)
        server, _ = listener.accept()
        with pytest.raises(OSError, match="wrong type"):
            network.dial_unix(path, PATIENCE_S)
        client.send(b"one")
        client.send(b"two")
        assert server.recv(100) == b"one"
        assert server.recv(2) == b"tw"  # the rest of the packet is gone
        network.set_send_timeout(client, SHORT_S)
        assert send_until_refused(client, 1000) > 0
        assert client.gettimeout() is None
        closing(client, server, listener)
        network.remove_unix(path)

    run(body)


def test_descriptors_travel(run: Run) -> None:
    """A socket goes through a Unix socket; it ends when its last descriptor does."""

    def body() -> None:
        ours, theirs = network.pair()
        near, far = network.pair()
        handed = far.detach()
        assert far.fileno() == -1
        assert network.send_descriptors(ours, b"h", [handed]) == 1
        network.close_descriptor(handed)
        with pytest.raises(OSError, match="Bad file"):
            network.close_descriptor(handed)
        data, descriptors = network.receive_descriptors(theirs, 10, 1)
        assert data == b"h"
        taken = network.adopt(descriptors[0])
        near.sendall(b"through")
        assert taken.recv(20) == b"through"
        taken.close()
        assert near.recv(1) == b""
        ours.sendall(b"plain")
        assert network.receive_descriptors(theirs, 10, 1) == (b"plain", [])
        ours.close()
        assert network.receive_descriptors(theirs, 10, 1) == (b"", [])
        closing(theirs, near)

    run(body)


def test_descriptor_nobody_takes_is_closed(run: Run) -> None:
    """Descriptors in a connection that ends, or more of them than requested, are closed with it."""

    def body() -> None:
        ours, theirs = network.pair()
        near, far = network.pair()
        network.send_descriptors(ours, b"h", [far.fileno()])
        far.close()
        closing(theirs, ours)
        assert near.recv(1) == b""
        near.close()

    run(body)


def test_wait_for_several(run: Run) -> None:
    """``wait`` tells which sockets are ready, to be read or written, or that the time has passed."""

    def body() -> None:
        one, other = network.pair()
        quiet, silent = network.pair()
        assert network.wait([other, silent], timeout_s=SHORT_S) == []
        assert network.wait([other], [one], timeout_s=PATIENCE_S) == [one]
        assert network.wait([other], [other], 0) == [other]
        threads.start("writer", one.sendall, b"x")
        assert network.wait([silent, other], timeout_s=PATIENCE_S) == [other]
        quiet.close()
        assert set(network.wait([silent, other], timeout_s=PATIENCE_S)) == {other, silent}
        closing(one, other, silent)

    run(body)


def test_selector(run: Run) -> None:
    """A selector watches sockets, with data of its own for each."""

    def body() -> None:
        selector = network.selector()
        one, other = network.pair()
        listener = network.listen_tcp(HOST, 0)
        selector.register(other, network.EVENT_READ, "other")
        selector.register(listener, network.EVENT_READ, "listener")
        with pytest.raises(KeyError):
            selector.register(other, network.EVENT_READ)
        assert other in (selector.get_map() or {})
        assert selector.select(0) == []
        assert selector.select(SHORT_S) == []
        client = network.dial_tcp(HOST, listener.getsockname()[1], PATIENCE_S)
        ((key, events),) = selector.select(PATIENCE_S)
        assert (key.data, key.fileobj, events) == ("listener", listener, network.EVENT_READ)
        selector.unregister(listener)
        one.sendall(b"x")
        assert [key.data for key, _ in selector.select(PATIENCE_S)] == ["other"]
        selector.unregister(other)
        with pytest.raises(KeyError):
            selector.unregister(other)
        assert dict(selector.get_map() or {}) == {}
        selector.close()
        closing(one, other, listener, client)

    run(body)


def test_datagrams(run: Run) -> None:
    """Datagrams have a source and a bound of their own; too long ones are cut off, or not sent."""

    def body() -> None:
        one, other = network.datagram(HOST, 0), network.datagram(HOST, 0)
        assert one.sendto(b"hello", other.getsockname()) == 5
        assert other.recvfrom(100) == (b"hello", one.getsockname())
        one.sendto(b"a long one", other.getsockname())
        assert other.recvfrom(6)[0] == b"a long"
        with pytest.raises(OSError, match="long") as caught:
            one.sendto(bytes(70_000), other.getsockname())
        assert caught.value.errno == errno.EMSGSIZE
        one.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            one.recvfrom(100)
        closing(one, other)

    run(body)


def test_datagram_to_oneself_wakes(run: Run) -> None:
    """An empty datagram to a socket's own address ends the wait of another thread."""

    def body() -> None:
        sock = network.datagram(HOST, 0)
        got: list[bytes] = []
        reader = threads.start("reader", lambda: got.append(sock.recvfrom(10)[0]))
        reader.join(SHORT_S)
        sock.sendto(b"", sock.getsockname())
        reader.join(PATIENCE_S)
        assert got == [b""]
        sock.close()

    run(body)


def test_datagram_refused(run: Run) -> None:
    """The next call after a datagram without a receiver fails, and the refusals name the target."""

    def body() -> None:
        sock, gone = network.datagram(HOST, 0), network.datagram(HOST, 0)
        target = gone.getsockname()
        gone.close()
        assert network.take_refusal(sock) is None
        sock.sendto(b"hello", target)
        with pytest.raises(ConnectionRefusedError):
            sock.recvfrom(10)
        assert network.take_refusal(sock) == target
        assert network.take_refusal(sock) is None
        sock.settimeout(SHORT_S)
        with pytest.raises(TimeoutError):
            sock.recvfrom(10)
        sock.close()

    run(body)


def test_no_delay_and_keep_alive_are_for_tcp(run: Run) -> None:
    """Both may be called for any socket."""

    def body() -> None:
        everything = [*connected(), *network.pair()]
        for sock in everything:
            network.set_no_delay(sock)
            network.keep_alive(sock)
        closing(*everything)

    run(body)
