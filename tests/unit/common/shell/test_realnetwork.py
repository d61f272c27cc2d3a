"""Tests that need real sockets: options of the kernel, and TLS of the standard library."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

from agent.common.shell import realnetwork
from agent.common.shell.realnetwork import RealNetwork, TlsContext
from agent.wire.authority import Authority

NETWORK = RealNetwork()
HOST = "127.0.0.1"
PATIENCE_S = 10.0
# No lingering: ``close`` resets the connection.
RESET = struct.pack("ii", 1, 0)


def test_silent_peer_is_asked_and_given_up_within_a_minute() -> None:
    """The options that the kernel gets (only a machine without power could show their effect)."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, socket.socket(socket.AF_INET) as tcp:
        NETWORK.keep_alive(one)
        NETWORK.keep_alive(tcp)
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle_s, interval_s, probes = (tcp.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle_s + interval_s * probes <= 60


def make_context(folder: Path, *, server_side: bool) -> TlsContext:
    if not (folder / "vm1.pem").exists():
        authority = Authority(folder)
        authority.create("test")
        authority.issue("vm1", folder)
    files = [str(folder / name) for name in ("vm1.pem", "vm1.key", "ca.pem")]
    return NETWORK.tls_context(*files, server_side=server_side)


@pytest.fixture(params=["client", "server"])
def context(request: pytest.FixtureRequest, tmp_path: Path) -> TlsContext:
    return make_context(tmp_path, server_side=request.param == "server")


def test_a_connection_that_was_reset_is_refused_and_closed_by_tls(
    request: pytest.FixtureRequest, context: TlsContext
) -> None:
    """Python 3.11 takes the descriptor, finds no peer, raises, and leaves it to the garbage collector."""
    server_side = request.node.callspec.params["context"] == "server"
    with NETWORK.listen_tcp(HOST, 0, 1) as listener:
        plain = NETWORK.dial_tcp(HOST, listener.getsockname()[1], PATIENCE_S, None)
        accepted, _ = listener.accept()
    accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    accepted.close()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ConnectionError):
            context.wrap_socket(plain, server_side, server_hostname=None if server_side else "vm1")
    assert [str(each.message) for each in caught] == []
    assert plain.fileno() == -1


def test_no_tickets_are_made_for_sessions_that_nobody_resumes(tmp_path: Path) -> None:
    """They cost each side of a connection memory, and the server two messages."""
    with NETWORK.listen_tcp(HOST, 0, 1) as listener:
        plain = NETWORK.dial_tcp(HOST, listener.getsockname()[1], PATIENCE_S, None)
        accepted, _ = listener.accept()
    server, client = (make_context(tmp_path, server_side=side) for side in (True, False))

    def serve() -> None:
        with server.wrap_socket(accepted, server_side=True) as sock:
            sock.sendall(b"x")

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(plain, server_hostname="vm1") as sock:
        assert sock.recv(1) == b"x"
        assert not sock.session.has_ticket
    thread.join(PATIENCE_S)


class ErrorQueue(socket.socket):
    """A socket whose error queue holds what the test puts there."""

    def __init__(self, *queued: tuple[list[tuple[int, int, bytes]], tuple[str, int]]) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_DGRAM)
        self.queued = list(queued)

    def recvmsg(self, *_: int) -> Any:
        """Returns the next message."""
        if not self.queued:
            raise BlockingIOError
        notes, target = self.queued.pop(0)
        return b"", notes, socket.MSG_ERRQUEUE, target


def note(number: int, *, kind: int = realnetwork.IP_RECVERR) -> tuple[int, int, bytes]:
    return socket.IPPROTO_IP, kind, struct.pack("=IBBBBII", number, 2, 3, 3, 0, 0, 0)


def test_only_a_refused_datagram_is_a_refusal() -> None:
    """A path that is cut or has too small an MTU does not mean that the process is dead."""
    others = [
        ([note(number)], (f"10.0.0.{place}", 1))
        for place, number in enumerate((errno.EMSGSIZE, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EPROTO))
    ]
    odd: list[Any] = [
        ([], ("10.0.1.1", 1)),
        ([note(errno.ECONNREFUSED, kind=8)], ("10.0.1.2", 1)),
        ([(socket.IPPROTO_IP, realnetwork.IP_RECVERR, b"\x6f")], ("10.0.1.3", 1)),
        ([note(errno.ECONNREFUSED)], b""),
    ]
    refused: Any = ([note(errno.ECONNREFUSED)], ("10.0.2.1", 7))
    with ErrorQueue(*others, *odd, refused) as sock:
        assert NETWORK.take_refusal(sock) == ("10.0.2.1", 7)
        assert NETWORK.take_refusal(sock) is None
