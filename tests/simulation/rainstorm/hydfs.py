"""A model of HyDFS as the engine sees it: a linearizable append store, reached late or sometimes not at all.

With the real store schedules cost four times as much, and only a model can be told what to refuse, lose and
delay (a few seeds have the real one, see ``whole``). The model answers the real
``HydfsClient`` over the simulated wire, with the messages of ``agent.hydfs.messages``. A request takes effect
at one instant between call and answer. Appends carry (writer, sequence): a sequence that is not above the
writer's last one is a duplicate, which is checked before ``if_offset``
(``agent/hydfs/core/coordinator.py``). An answer may be lost although the append took place, and an append may
take place long after its caller stopped waiting.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from agent.common.errors import AlreadyExists, Conflict, DiskFull, NotFound, RainStormError, Unavailable
from agent.common.message import Done
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.file import AppendResult, BlockStat, FileStat
from tests.simulation.machine.responder import Asked, Responder
from tests.simulation.machine.scheduler import Scheduler

BASE_DELAY_S = 0.0002


@dataclass(slots=True)
class File:
    """One file, and the last append of each writer: sequence, offset, length."""

    file_id: str
    data: bytearray = field(default_factory=bytearray)
    writers: dict[str, tuple[int, int, int]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StoreFaults:
    """The faults of the store; shares are shares of the requests."""

    delay_mean_s: float = 0.001
    slow: float = 0.0
    slow_s: float = 1.0
    lost_answer: float = 0.0
    refused: float = 0.0
    full: float = 0.0


class Store:
    """All files of the cluster."""

    def __init__(self, scheduler: Scheduler, rng: random.Random, nodes: list[str]) -> None:
        self.files: dict[str, File] = {}
        self.faults = StoreFaults()
        # Nodes whose agent reaches no replica.
        self.cut: dict[str, bool] = {}
        self.on_append: Callable[[str, str, int, bytes], None] = lambda name, writer, sequence, data: None
        self.on_delete: Callable[[str], None] = lambda name: None
        self.on_conflict: Callable[[str, str], None] = lambda name, writer: None
        self.on_lost_answer: Callable[[str], None] = lambda name: None
        # A check that failed in the middle of a step; the driver of the simulation raises it.
        self.broken: AssertionError | None = None
        self._scheduler = scheduler
        self._rng = rng
        self._nodes = nodes
        self._count = 0

    @property
    def now(self) -> float:
        """Returns the virtual time."""
        return self._scheduler.now

    def create(self, name: str) -> FileStat:
        """Creates an empty file."""
        if name in self.files:
            raise AlreadyExists(f"{name} exists")
        self._count += 1
        self.files[name] = File(f"{self._count:032x}")
        return self.stat(name)

    def open(self, name: str, file_id: str | None = None) -> File:
        """Returns a file; with ``file_id``, only the file that has this id."""
        found = self.files.get(name)
        if found is None or file_id not in (None, found.file_id):
            raise NotFound(f"no file {name}")
        return found

    def append(
        self, name: str, data: bytes, writer: str, sequence: int, if_offset: int | None = None
    ) -> AppendResult:
        """Appends at this instant."""
        file = self.open(name)
        mark = file.writers.get(writer)
        if mark is not None and sequence <= mark[0]:
            offset, length = (mark[1], mark[2]) if mark[0] == sequence else (-1, 0)
            return AppendResult(offset, length, 3, True)
        end = len(file.data)
        if if_offset is not None and if_offset != end:
            self.on_conflict(name, writer)
            raise Conflict(f"{name} has {end} bytes, not {if_offset}", details={"length": end})
        file.data += data
        file.writers[writer] = (sequence, end, len(data))
        self.on_append(name, writer, sequence, data)
        return AppendResult(end, len(data), 3, False)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Reads at this instant."""
        return bytes(self.open(name).data[offset : offset + length])

    def stat(self, name: str) -> FileStat:
        """Describes a file; its blocks are spread over the nodes."""
        file = self.open(name)
        size = len(file.data)
        edges = [0, size // 3, 2 * size // 3, size]
        blocks = tuple(
            BlockStat(number, begin, end - begin, tuple((self._nodes * 2)[number : number + 3]), "sealed")
            for number, (begin, end) in enumerate(itertools.pairwise(edges))
        )
        return FileStat(name, file.file_id, size, blocks)

    def delete(self, name: str) -> Done:
        """Deletes a file."""
        self.open(name)
        self.on_delete(name)
        del self.files[name]
        return Done()

    def delete_prefix(self, prefix: str) -> messages.Deleted:
        """Deletes files."""
        names = tuple(name for name in self.files if name.startswith(prefix))
        for name in names:
            del self.files[name]
        return messages.Deleted(names)


class StoreAgent:
    """The store's agent on one node, for callers over its Unix socket."""

    def __init__(self, store: Store, node: str) -> None:
        self._store = store
        self._node = node
        self.handlers: dict[str, Callable[[Asked], None]] = {
            kind: partial(self._ask, take_effect)
            for kind, take_effect in (
                (messages.Create.kind, self._create),
                (messages.Append.kind, self._append),
                (messages.Read.kind, self._read),
                (messages.Stat.kind, self._stat),
                (messages.Delete.kind, self._delete),
                (messages.DeletePrefix.kind, self._delete_prefix),
                (messages.OpenBlock.kind, self._open_block),
            )
        }

    def _ask(self, take_effect: Callable[[Asked], tuple[Any, bytes]], asked: Asked) -> None:
        """Lets a request take effect after a delay, and answers after another one."""
        store = self._store
        rng, faults, scheduler = store._rng, store.faults, store._scheduler
        if store.cut.get(self._node) or rng.random() < faults.refused:
            scheduler.after(rng.uniform(0.01, 0.3), partial(asked.refuse, Unavailable("HyDFS is away")))
            return
        if asked.payload and rng.random() < faults.full:
            scheduler.after(BASE_DELAY_S, partial(asked.refuse, DiskFull("no replica has room")))
            return
        there, back = (BASE_DELAY_S + rng.expovariate(1.0) * faults.delay_mean_s for _ in range(2))
        if rng.random() < faults.slow:
            there += rng.uniform(0.0, faults.slow_s)
        lost = rng.choice(["hang up", "say nothing"]) if rng.random() < faults.lost_answer else ""
        scheduler.after(there, lambda: self._take_effect(take_effect, asked, back, lost))

    def _take_effect(
        self, take_effect: Callable[[Asked], tuple[Any, bytes]], asked: Asked, back: float, lost: str
    ) -> None:
        store = self._store
        try:
            reply, payload = take_effect(asked)
            answer = partial(asked.answer, reply, payload)
        except RainStormError as error:
            answer = partial(asked.refuse, error)
        except AssertionError as error:
            store.broken = store.broken or error
            return
        if not lost:
            store._scheduler.after(back, answer)
            return
        if asked.kind == messages.Append.kind:
            store.on_lost_answer(str(asked.fields["name"]))
        if lost == "hang up":
            store._scheduler.after(back, asked.hang_up)

    # -- the effects of requests ----------------------------------------------------------------------

    def _create(self, asked: Asked) -> tuple[Any, bytes]:
        return messages.Described(self._store.create(asked.decode(messages.Create).name)), b""

    def _append(self, asked: Asked) -> tuple[Any, bytes]:
        wanted = asked.decode(messages.Append)
        return self._store.append(
            wanted.name, asked.payload, wanted.writer, wanted.sequence, wanted.if_offset
        ), b""

    def _read(self, asked: Asked) -> tuple[Any, bytes]:
        wanted = asked.decode(messages.Read)
        file = self._store.open(wanted.name, wanted.file_id)
        data = bytes(file.data[wanted.offset : wanted.offset + wanted.length])
        return messages.Part(not data, file.file_id), data

    def _stat(self, asked: Asked) -> tuple[Any, bytes]:
        return messages.Described(self._store.stat(asked.decode(messages.Stat).name)), b""

    def _delete(self, asked: Asked) -> tuple[Any, bytes]:
        return self._store.delete(asked.decode(messages.Delete).name), b""

    def _delete_prefix(self, asked: Asked) -> tuple[Any, bytes]:
        return self._store.delete_prefix(asked.decode(messages.DeletePrefix).prefix), b""

    def _open_block(self, asked: Asked) -> tuple[Any, bytes]:
        raise NotFound("the block is on another node")


def responder(store: Store, wires: Any, node: str, address: str, paths: list[str]) -> Responder:
    """Returns the store's agent of a node, listening on ``paths``."""
    made = Responder(wires, address, StoreAgent(store, node).handlers)
    for path in paths:
        made.listen(path)
    return made
