"""The contract of TCP sockets, over the real and the simulated platform."""

from __future__ import annotations

import errno
import socket

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.both import Run
from tests.unit.common.shell import sockets
from tests.unit.common.shell.sockets import HOST, PATIENCE_S, SHORT_S, closing, connected, send_until_refused

run = sockets.run


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


def test_no_delay_and_keep_alive_are_for_tcp(run: Run) -> None:
    """Both may be called for any socket."""

    def body() -> None:
        everything = [*connected(), *network.pair()]
        for sock in everything:
            network.set_no_delay(sock)
            network.keep_alive(sock)
        closing(*everything)

    run(body)
