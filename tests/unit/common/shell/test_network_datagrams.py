"""The contract of UDP sockets, over the real and the simulated platform."""

from __future__ import annotations

import errno

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.both import Run
from tests.unit.common.shell import sockets
from tests.unit.common.shell.sockets import HOST, PATIENCE_S, SHORT_S, closing

run = sockets.run


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
    """An empty datagram to the own address ends the wait of another thread."""

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
    """The next call after a datagram to nobody fails, and the refusals name the target."""

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
