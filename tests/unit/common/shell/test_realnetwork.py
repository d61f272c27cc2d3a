"""What only the real sockets can show: options of the kernel."""

from __future__ import annotations

import socket

from agent.common.shell.realnetwork import RealNetwork

NETWORK = RealNetwork()


def test_silent_peer_is_asked_and_given_up_within_a_minute() -> None:
    """What the kernel is told (only a machine without power shows the rest)."""
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other, socket.socket(socket.AF_INET) as tcp:
        NETWORK.keep_alive(one)
        NETWORK.keep_alive(tcp)
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle_s, interval_s, probes = (tcp.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle_s + interval_s * probes <= 60
