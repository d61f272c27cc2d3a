"""Partitions, lost power, killed processes and bad wires between simulated hosts."""

from __future__ import annotations

import errno
import socket
import ssl
from collections.abc import Callable
from typing import Any

import pytest

from agent.common.shell import network, threads
from tests.simulation.machine.both import equip
from tests.simulation.machine.process import Process
from tests.simulation.machine.scheduler import Scheduler
from tests.simulation.machine.tls import SimTls
from tests.simulation.machine.wires import Quality, Wires

A, B = "10.0.0.1", "10.0.0.2"
PORT = 7000


class Pair:
    """Two hosts, a process on each, and a connection between them."""

    def __init__(self, seed: int) -> None:
        self.scheduler = Scheduler(seed)
        self.wires = Wires(self.scheduler)
        self.a, self.b = (equip(self.scheduler, host, self.wires) for host in (A, B))
        self.listener = self.scheduler.call(self.b, network.listen_tcp, B, PORT)
        self.client = self.scheduler.call(self.a, network.dial_tcp, B, PORT, None)
        self.server, _ = self.scheduler.call(self.b, self.listener.accept)

    def __enter__(self) -> Pair:
        return self

    def __exit__(self, *_: object) -> None:
        self.scheduler.close()

    def outcome(self, process: Process, call: Callable[[], object]) -> list[object]:
        """Starts a call and returns the list that its result or exception will be in."""
        found: list[object] = []

        def body() -> None:
            try:
                found.append(call())
            except OSError as error:
                found.append(type(error))

        process.start("call", body)
        return found


def test_partition_holds_back_and_heals(seed: int) -> None:
    """Bytes in a partition are neither refused nor lost; the ends learn nothing until it heals."""
    with Pair(seed) as pair:
        pair.wires.cut(A, B)
        pair.scheduler.call(pair.a, pair.client.sendall, b"through")
        got = pair.outcome(pair.b, lambda: pair.server.recv(10))
        pair.scheduler.run_for(60)
        assert got == []
        pair.wires.heal(A, B)
        pair.scheduler.run_for(5)
        assert got == [b"through"]


def test_partition_blocks_a_writer_at_the_bound(seed: int) -> None:
    """A partition holds back a bounded number of bytes; then the writer waits, up to its time-out."""
    with Pair(seed) as pair:
        pair.wires.cut(A, B)
        pair.client.settimeout(5.0)
        with pytest.raises(TimeoutError):
            pair.scheduler.call(pair.a, pair.client.sendall, bytes(1 << 20))


def test_one_way_partition(seed: int) -> None:
    """Only one direction is cut."""
    with Pair(seed) as pair:
        pair.wires.cut(A, B, both=False)
        pair.scheduler.call(pair.b, pair.server.sendall, b"down")
        assert pair.scheduler.call(pair.a, lambda: pair.client.recv(10)) == b"down"
        pair.scheduler.call(pair.a, pair.client.sendall, b"up")
        got = pair.outcome(pair.b, lambda: pair.server.recv(10))
        pair.scheduler.run_for(10)
        assert got == []
        pair.wires.heal()
        pair.scheduler.run_for(5)
        assert got == [b"up"]


def test_half_open_after_a_lost_reset(seed: int) -> None:
    """A reset during a partition is lost; the other end learns of it when it next sends."""
    with Pair(seed) as pair:
        pair.scheduler.call(pair.b, pair.server.sendall, b"unread")
        pair.scheduler.run_for(1)
        pair.wires.cut(A, B)
        pair.scheduler.call(pair.a, pair.client.close)
        got = pair.outcome(pair.b, lambda: pair.server.recv(10))
        pair.scheduler.run_for(10)
        pair.wires.heal()
        pair.scheduler.run_for(60)
        assert got == []
        pair.scheduler.call(pair.b, pair.server.sendall, b"hello?")
        pair.scheduler.run_for(1)
        assert got == [ConnectionResetError]


def test_kill_closes_what_the_process_had(seed: int) -> None:
    """A killed process's connections end, its listeners refuse, and its address is free again."""
    with Pair(seed) as pair:
        got = pair.outcome(pair.a, lambda: pair.client.recv(10))
        inside = pair.outcome(pair.b, lambda: pair.server.recv(10))
        pair.scheduler.run_for(0.1)
        pair.scheduler.kill(pair.b)
        pair.scheduler.run_for(1)
        assert got == [b""]
        assert inside == []
        with pytest.raises(ConnectionRefusedError):
            pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 5.0)
        again = equip(pair.scheduler, B, pair.wires)
        pair.scheduler.call(again, network.listen_tcp, B, PORT)


def test_kill_with_unread_bytes_resets(seed: int) -> None:
    """If a killed process has unread bytes, its connections are reset."""
    with Pair(seed) as pair:
        pair.scheduler.call(pair.a, pair.client.sendall, b"unread")
        got = pair.outcome(pair.a, lambda: pair.client.recv(10))
        pair.scheduler.run_for(1)
        pair.scheduler.kill(pair.b)
        pair.scheduler.run_for(1)
        assert got == [ConnectionResetError]


def test_paused_process_keeps_its_connections(seed: int) -> None:
    """The kernel of a stopped process still takes connections and bytes; it answers when it continues."""
    with Pair(seed) as pair:
        served: list[bytes] = []

        def serve() -> None:
            while True:
                served.append(pair.server.recv(10))

        pair.b.start("serve", serve)
        pair.scheduler.pause(pair.b)
        pair.scheduler.call(pair.a, pair.client.sendall, b"hello")
        second = pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 1.0)
        pair.scheduler.run_for(5)
        assert served == []
        pair.scheduler.resume(pair.b)
        pair.scheduler.run_for(1)
        assert served == [b"hello"]
        pair.scheduler.call(pair.a, second.close)


def test_lost_power_is_silent(seed: int) -> None:
    """A host that loses power is silent; once it is back it knows nothing of its connections."""
    with Pair(seed) as pair:
        got = pair.outcome(pair.a, lambda: pair.client.recv(10))
        pair.wires.lose_power(B)
        pair.scheduler.kill(pair.b)
        pair.scheduler.run_for(60)
        with pytest.raises(TimeoutError):
            pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 2.0)
        pair.scheduler.call(pair.a, pair.client.sendall, b"hello?")
        pair.scheduler.run_for(60)
        assert got == []
        pair.wires.restore_power(B)
        pair.scheduler.run_for(5)
        assert got == [ConnectionResetError]


def test_connecting_through_a_partition(seed: int) -> None:
    """It waits, fails at its time-out, and succeeds when the partition heals in time."""
    with Pair(seed) as pair:
        pair.wires.cut(A, B)
        with pytest.raises(TimeoutError):
            pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 2.0)
        pair.scheduler.after(3.0, pair.wires.heal)
        pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 10.0)


def test_full_backlog_makes_wait(seed: int) -> None:
    """Without ``accept``, some connections are taken in; the next one waits until there is room."""
    with Scheduler(seed) as scheduler:
        process = equip(scheduler, A)

        def main() -> None:
            listener = network.listen_tcp(A, PORT, 1)
            clients = [network.dial_tcp(A, PORT, 1.0) for _ in range(2)]
            with pytest.raises(TimeoutError):
                network.dial_tcp(A, PORT, 3.0)
            late = threads.start("late", network.dial_tcp, A, PORT, 10.0)
            threads.sleep(0.5)
            listener.accept()
            late.join()
            assert len(clients) == 2

        scheduler.call(process, main)
        assert scheduler.rest() == []


def test_accept_errors(seed: int) -> None:
    """A process out of descriptors cannot accept; waiting connections are accepted later."""
    with Pair(seed) as pair:
        pair.scheduler.call(pair.a, network.dial_tcp, B, PORT, 1.0)
        pair.b.seam.network.accept_errors.append(errno.EMFILE)
        with pytest.raises(OSError, match="Too many open files"):
            pair.scheduler.call(pair.b, pair.listener.accept)
        pair.scheduler.call(pair.b, pair.listener.accept)


def test_datagrams_over_bad_wires(seed: int) -> None:
    """Datagrams are lost, doubled and overtaken, each share about as requested."""
    with Scheduler(seed) as scheduler:
        wires = Wires(scheduler, quality=Quality(0.001, 0.2, loss=0.2, duplication=0.2))
        a, b = equip(scheduler, A, wires), equip(scheduler, B, wires)
        sender = scheduler.call(a, network.datagram, A, PORT)
        receiver = scheduler.call(b, network.datagram, B, PORT)
        receiver.settimeout(5.0)
        got: list[int] = []

        def receive() -> None:
            try:
                while True:
                    got.append(int(receiver.recvfrom(100)[0]))
            except TimeoutError:
                return

        def send() -> None:
            for number in range(500):
                sender.sendto(str(number).encode(), (B, PORT))
                threads.sleep(0.01)

        thread = b.start("receive", receive)
        scheduler.call(a, send)
        scheduler.run(lambda: not thread.is_alive())
        assert 300 < len(set(got)) < 480
        assert len(got) > len(set(got)) + 20
        assert got != sorted(got)


def test_datagram_in_a_partition_is_lost(seed: int) -> None:
    """It does not arrive and no one is told, even if no process listens there."""
    with Scheduler(seed) as scheduler:
        wires = Wires(scheduler)
        a = equip(scheduler, A, wires)
        sock = scheduler.call(a, network.datagram, A, PORT)
        sock.settimeout(5.0)
        wires.cut(A, B)
        scheduler.call(a, sock.sendto, b"hello", (B, PORT))
        with pytest.raises(TimeoutError):
            scheduler.call(a, sock.recvfrom, 10)
        wires.heal()
        scheduler.call(a, sock.sendto, b"hello", (B, PORT))
        with pytest.raises(ConnectionRefusedError):
            scheduler.call(a, sock.recvfrom, 10)
        assert scheduler.call(a, network.take_refusal, sock) == (B, PORT)


def secured(pair: Pair, client: SimTls, server: SimTls, name: str | None = "b") -> list[Any]:
    """Returns both wrapped ends, or the error that ended the handshake of each."""
    found: dict[str, object] = {}

    def wrap(end: str, context: SimTls, sock: Any, **options: Any) -> None:
        try:
            found[end] = context.wrap_socket(sock, **options)
        except OSError as error:
            found[end] = error

    pair.a.start("client", lambda: wrap("client", client, pair.client, server_hostname=name))
    pair.b.start("server", lambda: wrap("server", server, pair.server, server_side=True))
    pair.scheduler.run(lambda: len(found) == 2, timeout_s=60)
    return [found["client"], found["server"]]


def test_tls(seed: int) -> None:
    """Both ends know each other's name; large data goes through; the plain sockets can no longer be used."""
    with Pair(seed) as pair:
        client, server = secured(pair, SimTls("a"), SimTls("b"))
        assert client.getpeercert() == {"subjectAltName": (("DNS", "b"),)}
        assert server.getpeercert() == {"subjectAltName": (("DNS", "a"),)}
        assert network.is_tls(client)
        assert pair.client.fileno() == -1
        data = bytes(range(256)) * 2000
        got = bytearray()

        def read() -> None:
            while part := server.recv(5000):
                got.extend(part)

        reader = pair.b.start("reader", read)
        pair.scheduler.call(pair.a, client.sendall, data)
        pair.scheduler.call(pair.a, client.close)
        pair.scheduler.run(lambda: not reader.is_alive())
        assert bytes(got) == data
        with pytest.raises(NotImplementedError):
            client.sendmsg([b"x"])


def test_tls_hides_what_was_read(seed: int) -> None:
    """``wait`` no longer sees a record that was read in part."""
    with Pair(seed) as pair:
        client, server = secured(pair, SimTls("a"), SimTls("b"))
        pair.scheduler.call(pair.a, client.sendall, b"hello")

        def look() -> None:
            assert network.wait([server], timeout_s=1.0) == [server]
            assert server.recv(2) == b"he"
            assert network.wait([server], timeout_s=1.0) == []
            assert server.pending() == 3
            server.setblocking(False)
            assert server.recv(10) == b"llo"
            with pytest.raises(ssl.SSLWantReadError):
                server.recv(10)

        pair.scheduler.call(pair.b, look)


def test_tls_refuses(seed: int) -> None:
    """A wrong name, a wrong authority on either side, a peer that goes away during the handshake."""
    with Pair(seed) as pair:
        client, server = secured(pair, SimTls("a"), SimTls("b"), "c")
        assert isinstance(client, ssl.SSLCertVerificationError)
        assert isinstance(server, ssl.SSLError)
    with Pair(seed) as pair:
        client, server = secured(pair, SimTls("a"), SimTls("b", "another"))
        assert isinstance(client, ssl.SSLCertVerificationError)
    with Pair(seed) as pair:
        # The client has already finished when the server refuses it: its first read reports that.
        client, server = secured(pair, SimTls("a", "another", accepts="cluster"), SimTls("b"))
        assert isinstance(server, ssl.SSLCertVerificationError)
        with pytest.raises(ssl.SSLError, match="unknown authority"):
            pair.scheduler.call(pair.a, client.recv, 1)
    with Pair(seed) as pair:
        pair.scheduler.call(pair.a, pair.client.close)
        with pytest.raises(ssl.SSLEOFError):
            pair.scheduler.call(pair.b, lambda: SimTls("b").wrap_socket(pair.server, server_side=True))


def test_handshake_that_stalls_has_a_time_out(seed: int) -> None:
    """A silent peer holds the server's thread no longer than the time-out."""
    with Pair(seed) as pair:
        pair.server.settimeout(5.0)
        began = pair.scheduler.now
        with pytest.raises(TimeoutError):
            pair.scheduler.call(pair.b, lambda: SimTls("b").wrap_socket(pair.server, server_side=True))
        assert pair.scheduler.now - began == pytest.approx(5.0, abs=0.1)
        assert pair.server.fileno() == -1


def test_same_seed_same_network(seed: int) -> None:
    """Two runs of one seed are equal, with latencies, partitions and kills."""

    def play() -> tuple[int, float, list[bytes]]:
        with Pair(seed) as pair:
            got: list[bytes] = []

            def serve() -> None:
                while part := pair.server.recv(100):
                    got.append(part)

            pair.b.start("serve", serve)

            def talk() -> None:
                for number in range(50):
                    pair.client.sendall(str(number).encode())
                    threads.sleep(0.01)
                pair.client.shutdown(socket.SHUT_WR)

            pair.a.start("talk", talk)
            pair.scheduler.after(0.1, lambda: pair.wires.cut(A, B))
            pair.scheduler.after(0.9, pair.wires.heal)
            pair.scheduler.run_for(10)
            assert b"".join(got) == b"".join(str(number).encode() for number in range(50))
            return pair.scheduler.fingerprint, pair.scheduler.steps, got

    assert play() == play()
