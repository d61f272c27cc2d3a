"""HyDFS as the stream engine sees it: a linearizable append store, reached with delay, sometimes not at all.

A request takes effect at one instant between call and answer. Appends carry (writer, sequence): a sequence
that is not above the writer's last one is a duplicate, which is looked at before ``if_offset``
(``agent/hydfs/core/coordinator.py``). An answer may be lost although the append took place, and an append may
take place long after its caller gave up. ``SimulatedStorage`` mirrors ``agent/rainstorm/io/storage.py``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from agent.common.errors import (
    AlreadyExists,
    Conflict,
    DeadlineExceeded,
    NotFound,
    RainStormError,
    Unavailable,
)
from agent.hydfs.client import AppendResult, BlockStat, FileStat
from agent.rainstorm.io import storage
from tests.simulation.rainstorm_kernel import Pending, sleep
from tests.simulation.world import Node, World


@dataclass(slots=True)
class File:
    """One file, who wrote what to it, and in which order."""

    file_id: str
    data: bytearray = field(default_factory=bytearray)
    writers: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    history: list[tuple[str, int, int, int]] = field(default_factory=list)


@dataclass(slots=True)
class StoreFaults:
    """How the store behaves; probabilities are per request."""

    delay_mean_s: float = 0.001
    slow: float = 0.0
    slow_s: float = 1.0
    lost_answer: float = 0.0
    refused: float = 0.0


class Store:
    """All files of the cluster."""

    def __init__(self, world: World) -> None:
        self.files: dict[str, File] = {}
        self.faults = StoreFaults()
        self.cut: dict[str, bool] = {}
        self.on_append: Callable[[str, str, int, bytes], None] = lambda name, writer, sequence, data: None
        self.on_delete: Callable[[str], None] = lambda name: None
        self.on_lost_answer: Callable[[str], None] = lambda name: None
        self._world = world
        self._rng = world.random("store")
        self._count = 0

    def create(self, name: str) -> None:
        """Creates an empty file."""
        if name in self.files:
            raise AlreadyExists(f"{name} exists")
        self._count += 1
        self.files[name] = File(f"f{self._count}")

    def open(self, name: str) -> File:
        """Returns a file."""
        if name not in self.files:
            raise NotFound(f"no file {name}")
        return self.files[name]

    def append(
        self, name: str, data: bytes, writer: str, sequence: int, if_offset: int | None = None
    ) -> AppendResult:
        """Appends at this very instant."""
        file = self.open(name)
        mark = file.writers.get(writer)
        if mark is not None and sequence <= mark[0]:
            offset, length = (mark[1], mark[2]) if mark[0] == sequence else (-1, 0)
            return AppendResult(offset, length, 3, True)
        end = len(file.data)
        if if_offset is not None and if_offset != end:
            raise Conflict(f"{name} has {end} bytes, not {if_offset}", details={"length": end})
        file.data += data
        file.writers[writer] = (sequence, end, len(data))
        file.history.append((writer, sequence, end, len(data)))
        self._world.trace("append", name, writer, sequence, end, len(data))
        self.on_append(name, writer, sequence, data)
        return AppendResult(end, len(data), 3, False)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads at this very instant."""
        return bytes(self.open(name).data[offset : offset + length])

    def stat(self, name: str) -> FileStat:
        """Returns what is known of a file; its blocks are spread over the nodes."""
        file = self.open(name)
        nodes = list(self._world.nodes)
        size = len(file.data)
        edges = [0, size // 3, 2 * size // 3, size]
        blocks = tuple(
            BlockStat(number, begin, end - begin, tuple((nodes * 2)[number : number + 3]), "sealed")
            for number, (begin, end) in enumerate(itertools.pairwise(edges))
        )
        return FileStat(name, file.file_id, size, blocks)

    def delete(self, name: str) -> None:
        """Deletes a file."""
        self.open(name)
        self.on_delete(name)
        del self.files[name]

    def delete_prefix(self, prefix: str) -> None:
        """Deletes files."""
        for name in [name for name in self.files if name.startswith(prefix)]:
            del self.files[name]

    def call(self, node: Node, name: str, action: Callable[[], Any], timeout_s: float) -> Pending:
        """Has ``action`` take effect after a delay and its outcome come back after another one."""
        pending = Pending()
        rng, faults = self._rng, self.faults
        if self.cut.get(node.name) or rng.random() < faults.refused:
            node.after(rng.uniform(0.01, 0.3), lambda: pending.settle(None, Unavailable("HyDFS is away")))
            return pending
        there, back = (0.0002 + rng.expovariate(1.0) * faults.delay_mean_s for _ in range(2))
        if rng.random() < faults.slow:
            there += rng.uniform(0.0, faults.slow_s)
        lost = rng.random() < faults.lost_answer
        generation = node.generation

        def take_effect() -> None:
            outcome: tuple[Any, BaseException | None]
            before = len(self.files[name].data) if name in self.files else 0
            try:
                outcome = (action(), None)
            except RainStormError as error:
                outcome = (None, error)
            if lost:
                if name in self.files and len(self.files[name].data) > before:
                    self.on_lost_answer(name)
                outcome = (None, DeadlineExceeded(f"no answer about {name}"))
            if node.generation == generation:
                delay_s = back + (rng.uniform(0.05, min(timeout_s, 1.0)) if lost else 0.0)
                node.after(delay_s, lambda: pending.settle(*outcome))

        self._world.after(there, take_effect)
        if there > timeout_s:
            late = DeadlineExceeded(f"no answer about {name}")
            node.after(timeout_s, lambda: pending.settle(None, late))
        return pending


class SimulatedStorage:
    """Mirrors ``Storage``: retries until the outcome is certain or the time is over."""

    def __init__(self, store: Store, node: Node) -> None:
        self.store = store
        self._node = node
        self._rng = node.random("storage")

    def read_exactly(
        self, file: str, offset: int, length: int, file_id: str | None = None
    ) -> Generator[Pending, Any, bytes]:
        """Mirrors ``Storage.read_exactly``."""

        def read() -> bytes:
            found = self.store.open(file)
            if file_id is not None and found.file_id != file_id:
                raise NotFound(f"{file} is another file now")
            data = bytes(found.data[offset : offset + length])
            if len(data) < length:
                raise Unavailable(f"{file} is shorter")
            return data

        result: bytes = yield from self._retry(file, read, storage.READ_TIMEOUT_S)
        return result

    def create_if_missing(self, file: str) -> Generator[Pending, Any, None]:
        """Mirrors ``Storage.create_if_missing``."""
        try:
            yield from self._retry(file, lambda: self.store.create(file), storage.READ_TIMEOUT_S)
        except AlreadyExists:
            return

    def append(
        self,
        file: str,
        data: bytes,
        writer: str,
        sequence: int,
        *,
        if_offset: int | None = None,
        timeout_s: float,
    ) -> Generator[Pending, Any, AppendResult]:
        """Mirrors ``Storage.append``."""

        def append() -> AppendResult:
            return self.store.append(file, data, writer, sequence, if_offset)

        result: AppendResult = yield from self._retry(file, append, timeout_s)
        return result

    def length(self, file: str) -> Generator[Pending, Any, int]:
        """Mirrors ``client.stat(file).length``, which is not retried."""
        result: int = yield self.store.call(self._node, file, lambda: len(self.store.open(file).data), 10.0)
        return result

    def direct(self, file: str, action: Callable[[], Any]) -> Generator[Pending, Any, Any]:
        """Mirrors a call of the client that is not retried."""
        result = yield self.store.call(self._node, file, action, 10.0)
        return result

    def _retry(self, file: str, action: Callable[[], Any], timeout_s: float) -> Generator[Pending, Any, Any]:
        end = self._node.now + timeout_s
        attempt = 0
        while True:
            try:
                left = end - self._node.now
                if left <= 0:
                    raise DeadlineExceeded(f"{file}: the time is over")
                result = yield self.store.call(self._node, file, action, min(10.0, left))
                return result
            except RainStormError as error:
                delay = min(storage.RETRY_S_MAX, storage.RETRY_S * 2 ** min(attempt, 10))
                delay *= self._rng.uniform(0.5, 1.0)
                if not error.retryable or end - self._node.now <= delay:
                    raise
                yield sleep(self._node, delay)
                attempt += 1
