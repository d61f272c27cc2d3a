"""Strangers that connect to a store agent and send invalid bytes, or nothing."""

from __future__ import annotations

import contextlib

from agent.common.shell import network, threads
from agent.wire.codec import framing
from tests.simulation.machine.cluster import Cluster
from tests.simulation.machine.host import Node
from tests.simulation.machine.schedule import Step
from tests.simulation.machine.tls import SimTls, TlsSocket

KINDS = (
    "silent",
    "garbage",
    "other_authority",
    "garbage_in_tls",
    "half_frame",
    "wrong_message",
    "huge_claim",
)
HELLO = {"type": "hello", "version": framing.PROTOCOL_VERSION}


class Stranger:
    """One connection, whose kind depends on the step's amount; it lasts as long as the step."""

    def __init__(self, cluster: Cluster, node: Node, step: Step) -> None:
        self._kind = KINDS[int(step.amount * len(KINDS))]
        self._node = node
        self._duration_s = step.duration_s
        self._process = cluster.client("stranger")

    def start(self) -> None:
        """Connects."""
        self._process.start("stranger", self._run)

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            sock = network.dial_tcp(self._node.address, self._node.config.me.hydfs_port, 2.0)
            try:
                getattr(self, f"_{self._kind}")(sock)
                threads.sleep(self._duration_s)
            finally:
                sock.close()

    def _silent(self, sock: network.Socket) -> None:
        """Sends nothing."""

    def _garbage(self, sock: network.Socket) -> None:
        sock.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)

    def _other_authority(self, sock: network.Socket) -> None:
        SimTls("operator", "elsewhere", accepts="cluster").wrap_socket(sock, server_hostname=self._node.name)

    def _garbage_in_tls(self, sock: network.Socket) -> None:
        self._admitted(sock).sendall(b"\xff" * 200)

    def _half_frame(self, sock: network.Socket) -> None:
        self._admitted(sock).sendall(framing.encode(framing.Frame(HELLO))[:5])

    def _wrong_message(self, sock: network.Socket) -> None:
        tls = self._admitted(sock)
        tls.sendall(framing.encode(framing.Frame(HELLO)))
        for header in ({"type": "append", "name": 7, "writer": [], "sequence": -1}, {"type": "?"}, {}):
            tls.sendall(framing.encode(framing.Frame(header, b"x")))

    def _huge_claim(self, sock: network.Socket) -> None:
        tls = self._admitted(sock)
        tls.sendall(
            framing.PREFIX.pack(*(1 << 30 for _ in framing.PREFIX.unpack(bytes(framing.PREFIX.size))))
        )

    def _admitted(self, sock: network.Socket) -> TlsSocket:
        return SimTls("operator").wrap_socket(sock, server_hostname=self._node.name)
