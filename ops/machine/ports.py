"""Checks that the addresses that the agents of a local node need are free, or finds what uses them."""

from __future__ import annotations

import contextlib
import errno
import os
import socket

import psutil

from agent.common.config import PeerConfig
from agent.common.errors import PortInUse, Unavailable


def refuse_taken_ports(peer: PeerConfig) -> None:
    """Checks that the agents of a node can listen on their addresses.

    Raises:
        PortInUse: another process uses one of them.
        Unavailable: an address does not belong to this machine.
    """
    wanted = [
        (peer.membership_port, socket.SOCK_STREAM),
        (peer.membership_port, socket.SOCK_DGRAM),
        (peer.hydfs_port, socket.SOCK_STREAM),
        (peer.rainstorm_port, socket.SOCK_STREAM),
        (peer.logs_port, socket.SOCK_STREAM),
    ]
    for port, kind in wanted:
        with socket.socket(socket.AF_INET, kind) as probe:
            if kind == socket.SOCK_STREAM:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((peer.address, port))
            except OSError as error:
                _refuse_port(peer, port, kind, error)


def _refuse_port(peer: PeerConfig, port: int, kind: int, error: OSError) -> None:
    protocol = "TCP" if kind == socket.SOCK_STREAM else "UDP"
    if error.errno == errno.EADDRINUSE:
        holder = _holder(peer.address, port, kind)
        raise PortInUse(
            f"{peer.address}:{port} ({protocol}), which {peer.name} needs, is in use{holder}",
            hint=f"stop that process, or find it with: ss -lnp 'sport = :{port}'",
        ) from None
    raise Unavailable(
        f"{peer.name} cannot listen on {peer.address}:{port} ({protocol}): {os.strerror(error.errno or 0)}",
        hint="on Linux all of 127.0.0.0/8 is local; otherwise add the address to the loopback interface",
    ) from None


def _holder(address: str, port: int, kind: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        for found in psutil.net_connections("inet4"):
            listens = kind == socket.SOCK_DGRAM or found.status == psutil.CONN_LISTEN
            here = found.laddr and found.laddr[1] == port and found.laddr[0] in (address, "0.0.0.0")
            if here and found.type == kind and listens and found.pid:
                return f" by process {found.pid} ({psutil.Process(found.pid).name()})"
    return " by another process"
