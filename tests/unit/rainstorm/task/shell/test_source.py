"""The source file of one task: local blocks, the rate, and the survey of quotes."""

from __future__ import annotations

import mmap
from typing import Any

import pytest

from agent.common.errors import Corrupt, DeadlineExceeded, NotFound, RainStormError, Unreachable
from agent.common.shell import clock
from agent.hydfs.client import LocalBlock
from agent.rainstorm.job import plan
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.spec import parse
from agent.rainstorm.leader.core.epochs import EPOCH_TIMEOUT_S
from agent.rainstorm.task.shell import source as module
from agent.rainstorm.task.shell.source import SourceFile
from agent.rainstorm.task.sources.splitreader import ReadRequest
from tests.unit.rainstorm.chain import job_file
from tests.unit.rainstorm.memorystore import MemoryStore

DATA = bytes(range(65, 91)) * 4
BLOCK = 30


class LocalStore(MemoryStore):
    """A store; this machine has its block at bytes 30 to 60."""

    def __init__(self) -> None:
        super().__init__()
        self.mapped = 0
        self.put_bytes("in", DATA)

    def map_block(self, name: str, offset: int, file_id: str, *, timeout_s: float = 5.0) -> LocalBlock | None:
        self.mapped += 1
        if not BLOCK <= offset < 2 * BLOCK:
            return None
        memory = mmap.mmap(-1, BLOCK)
        memory[:] = DATA[BLOCK : 2 * BLOCK]
        return LocalBlock(BLOCK, BLOCK, memory)


def source(store: LocalStore, rate: int = 0) -> SourceFile:
    """Returns the source of a task that reads half of the file."""
    stage: dict[str, Any] = {"operator": "identity", "tasks": 2}
    spec = parse(job_file(stage, rate=rate))
    half = len(DATA) // 2
    header = SourceHeader((plan.LINE,), 0, len(DATA), ((0, 0, half, 0), (1, half, 2 * half, 1)), 50, "file-1")
    return SourceFile(store.storage(), spec, plan.make(spec, header), "0.0", header)


def bytes_at(found: SourceFile, offset: int, size: int) -> bytes:
    """Returns what is read at once."""
    data = found.read(ReadRequest(0, offset, size))
    assert data is not None
    return bytes(data)


def test_bytes_come_from_the_local_block_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes beyond its end are requested; a block that is elsewhere is not looked for again and again."""
    monkeypatch.setattr(module, "ELSEWHERE_BYTES", 20)
    store = LocalStore()
    found = source(store)
    for offset, size in ((0, 10), (5, 10), (40, 10), (50, 20), (45, 5), (25, 3)):
        assert bytes_at(found, offset, size) == DATA[offset : offset + size]
    assert store.mapped == 3
    assert [call for call, _ in store.calls].count("read") == 4


def test_a_store_that_restarts_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A local block only saves time: while its agent is away, the bytes are requested until they come."""
    store = LocalStore()
    away: list[RainStormError] = [Unreachable("restarting"), Unreachable("restarting")]
    read = store.read

    def read_later(*arguments: Any, **options: Any) -> Any:
        if away:
            raise away.pop()
        return read(*arguments, **options)

    def map_later(*arguments: Any, **options: Any) -> Any:
        raise Unreachable("restarting")

    monkeypatch.setattr(store, "read", read_later)
    monkeypatch.setattr(store, "map_block", map_later)
    found = source(store)
    assert bytes_at(found, 40, 10) == DATA[40:50]
    assert not away


def test_a_read_ends_before_an_epoch_counts_as_stuck(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task must hear its agent in between."""
    limits: list[float] = []

    def silent(*arguments: Any, timeout_s: float, **options: Any) -> Any:
        limits.append(timeout_s)
        raise DeadlineExceeded("no replica could do it in time")

    store = LocalStore()
    store.gives_up.set()
    monkeypatch.setattr(store, "read", silent)
    monkeypatch.setattr(store, "map_block", silent)
    assert source(store).read(ReadRequest(0, 40, 10)) is None
    assert len(limits) == 2
    assert sum(limits) < EPOCH_TIMEOUT_S


def test_a_store_that_does_not_deliver_is_asked_again_and_fails_the_task_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its own error; once it has delivered, or in another generation, it has all the time again."""
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    store = LocalStore()
    store.gives_up.set()
    found, request = source(store), ReadRequest(0, 0, 10)

    def away() -> None:
        store.fail("read", Unreachable("restarting"))
        assert found.read(request) is None
        assert found.wait_s() == pytest.approx(module.RETRY_S)

    away()
    now += module.PATIENCE_S - 1.0
    away()
    assert found.read(request) == DATA[:10]
    now += 2.0
    away()
    now += module.PATIENCE_S + 1.0
    found.restart()
    away()
    now += module.PATIENCE_S
    store.fail("read", Unreachable("restarting"))
    with pytest.raises(Unreachable, match="restarting"):
        found.read(request)


def test_what_the_store_cannot_deliver_fails_the_task_at_once() -> None:
    store = LocalStore()
    store.fail("read", NotFound("deleted"))
    with pytest.raises(NotFound):
        source(store).read(ReadRequest(0, 0, 10))


def test_a_block_that_cannot_be_mapped_fails_the_task(monkeypatch: pytest.MonkeyPatch) -> None:
    def map_never(*arguments: Any, **options: Any) -> Any:
        raise Corrupt("a local block cannot be mapped")

    store = LocalStore()
    monkeypatch.setattr(store, "map_block", map_never)
    with pytest.raises(Corrupt):
        source(store).read(ReadRequest(0, 40, 10))


def test_a_rate_decides_how_much_is_read_and_when(monkeypatch: pytest.MonkeyPatch) -> None:
    """A delay of more than a second is not made up for."""
    now = 100.0
    monkeypatch.setattr(clock, "monotonic", lambda: now)
    slow = source(LocalStore(), rate=1000)
    slow.restart()
    assert slow.wait_s() == 0.0
    assert slow.read_size() == 50, "at most as much as a batch"
    slow.count(100, 500)
    assert slow.wait_s() == pytest.approx(100 / 500)
    slow.count(0, 500)
    assert slow.wait_s() == pytest.approx(0.2)
    now += 10.0
    assert slow.wait_s() == 0.0
    slow.count(250, 2500)
    slow.count(250, 2500)
    assert slow.wait_s() == pytest.approx(0.0)
    slow.count(250, 2500)
    assert slow.wait_s() == pytest.approx(0.5)


def test_without_a_rate_nothing_waits() -> None:
    """A batch is read at once."""
    fast = source(LocalStore())
    fast.count(100, 500)
    assert (fast.wait_s(), fast.read_size()) == (0.0, 50)
