"""A deadline bounds a whole step, however many calls of the socket it takes and however slow the peer is."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded, Unreachable
from agent.common.shell import clock
from agent.common.shell.network import TlsContext
from agent.wire.client import Address, Client
from agent.wire.connection import Connection, FileSlice, Payload
from agent.wire.messages import Ping

LIMIT_S = 0.4
# A step that restarts its time-out with each call takes a hundred times as long.
ENDED_S = 20 * LIMIT_S
BYTES = 2_000_000


class SlowReader:
    """The other end of a connection: it takes a little, several times within the deadline."""

    def __init__(self) -> None:
        self.near, self._far = socket.socketpair()
        for sock in (self.near, self._far):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self.near.close()
        self._far.close()

    def _read(self) -> None:
        while not self._over.wait(LIMIT_S / 8):
            self._far.recv(2048)


@pytest.fixture
def slow() -> Iterator[SlowReader]:
    made = SlowReader()
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("sort", ["bytes", "parts", "file"])
def test_sending_to_a_slow_reader_ends_by_its_deadline(slow: SlowReader, tmp_path: Path, sort: str) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(BYTES))
    with path.open("rb") as file:
        payloads: dict[str, Payload] = {
            "bytes": bytes(BYTES),
            "parts": [bytes(BYTES // 100)] * 100,
            "file": FileSlice(file.fileno(), 0, BYTES),
        }
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            Connection(slow.near, "slow").send({}, payloads[sort], Deadline(clock.monotonic(), LIMIT_S))
        assert time.monotonic() - began < ENDED_S


def test_a_slow_dial_leaves_less_time_for_the_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    now, left = 100.0, list[float | None]()
    monkeypatch.setattr(clock, "monotonic", lambda: now)

    def dial(address: Address, timeout_s: float) -> socket.socket:
        nonlocal now
        now += 0.75 * timeout_s
        return socket.socket()

    class Context:
        def wrap_socket(self, plain: socket.socket, **options: Any) -> Any:
            left.append(plain.gettimeout())
            raise TimeoutError

    client = Client(cast("TlsContext", Context()), dial=dial)
    with pytest.raises(Unreachable):
        client.ask(Address("127.0.0.1", 1, "vm1"), Ping(), timeout_s=1.0)
    assert left == [0.25]
    client.close()
