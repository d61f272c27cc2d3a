"""A gateway among fakes, and a client of it whose requests and answers cross the codec."""

from __future__ import annotations

from typing import Any

from agent.common import message
from agent.hydfs.client import HydfsClient
from agent.hydfs.core import filetable
from agent.hydfs.shell.gateway import Gateway
from agent.wire.client import Answered
from agent.wire.codec.framing import encode_header
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters, call
from tests.unit.hydfs.stores import SettableView

BLOCK = 64 * 1024
NODES = ["n1", "n2", "n3"]


class Alone:
    """A gateway among fakes; its own copies are in ``replicas``."""

    def __init__(self, **values: Any) -> None:
        self.peers = FakePeers()
        self.registers = FakeRegisters(**values)
        surroundings: tuple[Any, ...] = (None, self.peers, self.registers, SettableView(NODES))
        self.gateway = Gateway(*surroundings, block_size_bytes=BLOCK, ack="all", ack_timeout_s=10.0)
        self._handlers = {each.request: each.handle for each in self.gateway.endpoints()}

    def ask(self, request: Any, **settings: Any) -> Any:
        return self._handlers[type(request)](request, call(**settings))


def sealed_file(file_id: str = "id1") -> Any:
    value = filetable.create("f", file_id, "all")(None)
    value = filetable.open_next("f", file_id, ["n2", "n3", "n1"], 1, "s")(value)
    return filetable.seal("f", file_id, 0, 10, 7, ["n2", "n3", "n1"], {})(value)


def client_of(alone: Alone, encoded: list[int]) -> HydfsClient:
    """A client whose requests and answers cross the codec; notes the sizes of the headers."""

    class Wire:
        def ask(self, target: str, request: Any, payload: Any = b"", *, timeout_s: float) -> Answered[Any]:
            answer = alone.ask(request, timeout_s=timeout_s)
            encoded.append(len(encode_header(message.encode(answer), 0)))
            return Answered(answer, b"")

    wire: Any = Wire()
    return HydfsClient(wire, "agent")
