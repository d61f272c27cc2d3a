"""The puts of one agent with its surroundings, for the tests of puts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agent.common.errors import (
    RainStormError,
)
from agent.hydfs.core import filetable
from agent.hydfs.core.filetable import FileEntry
from agent.hydfs.messages.file import BeginPut, PutPiece
from agent.hydfs.shell.put import BUFFERED_BLOCKS, Puts
from tests.support import wait_until
from tests.unit.hydfs.fakes import FakePeers, FakeRegisters, call
from tests.unit.hydfs.stores import SettableView

BLOCK = 100
NODES = ["n1", "n2", "n3"]


class Gateway:
    """The puts of one agent, its surroundings, and requests by their short names."""

    def __init__(self) -> None:
        self.peers = FakePeers()
        self.registers = FakeRegisters()
        self.views = SettableView(NODES)
        surroundings: tuple[Any, ...] = (self, self.peers, self.registers, self.views)
        self.puts = Puts(*surroundings, block_size_bytes=BLOCK, ack="all")
        self._handlers = {each.request: each.handle for each in self.puts.endpoints()}

    def choose(self, file_id: str, number: int, avoid: list[str]) -> list[str]:
        return [node for node in NODES if node not in avoid] or NODES

    def ask(self, request: Any, payload: bytes = b"", timeout_s: float = 10.0) -> Any:
        return self._handlers[type(request)](request, call(payload, timeout_s=timeout_s))

    def begin(self, name: str = "f") -> str:
        return str(self.ask(BeginPut(name)).file_id)

    def piece(self, file_id: str, offset: int, data: bytes, timeout_s: float = 10.0) -> None:
        self.ask(PutPiece(file_id, offset), data, timeout_s)

    def entry(self, name: str = "f") -> FileEntry:
        found = filetable.from_value(self.registers.values[name])
        assert found is not None
        return found


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    made = Gateway()
    yield made
    made.puts.close()


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    errors: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except RainStormError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, errors


def all_slots_free(gateway: Gateway) -> None:
    wait_until(lambda: gateway.puts.free_slots == BUFFERED_BLOCKS, 5.0, "all slots are free")
