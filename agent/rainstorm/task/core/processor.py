"""The rules of one task: its chain of operators, its part in epochs, and where its tuples go (a core).

A source task is driven by the bytes of its splits, any other by the frames of its input channels. When an
epoch ends (a source is triggered, another task has aligned) the chain is flushed, the state of the epoch
closed, the barrier sent downstream and a ``Snapshot`` handed over: everything that must be durable before the
epoch may be committed. After a failure ``reset`` takes the task back to the last committed epoch in place:
operators keep their committed state, and nothing is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from agent.common.errors import JobFailed
from agent.rainstorm.job import keygroups
from agent.rainstorm.job.plan import Plan, index_of, needed_columns, vertex_of
from agent.rainstorm.job.spec import JobSpec
from agent.rainstorm.task import batches, operators
from agent.rainstorm.task.core.alignment import Alignment
from agent.rainstorm.task.sources.splitreader import ReadRequest, SplitReader

# A source takes at most this much into one epoch, which bounds the memory that an epoch needs anywhere.
EPOCH_BYTES_MAX = 16 * 1024 * 1024
# A full state is written instead of a delta when the deltas since the last full one are twice its size.
BASE_FACTOR = 2
BASE_KEYS_MIN = 4096


@dataclass(frozen=True, slots=True)
class BatchReceived:
    """Tuples came in on a channel."""

    channel: str
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class BarrierReceived:
    """A channel has delivered all tuples of an epoch."""

    channel: str
    epoch: int


@dataclass(frozen=True, slots=True)
class EndReceived:
    """No more tuples will come on a channel; barriers still do."""

    channel: str


@dataclass(frozen=True, slots=True)
class SourceRead:
    """The bytes that ``next_read`` asked for."""

    request: ReadRequest
    data: bytes | bytearray


@dataclass(frozen=True, slots=True)
class EpochTriggered:
    """The leader asks for the end of ``epoch`` and names the last committed one."""

    epoch: int
    committed: int


@dataclass(frozen=True, slots=True)
class SendBatch:
    """Send tuples to one task."""

    target: str
    batch: pa.RecordBatch


@dataclass(frozen=True, slots=True)
class SendBarrier:
    """Send the barrier of an epoch to all downstream tasks, behind everything sent so far."""

    epoch: int


@dataclass(frozen=True, slots=True)
class SendEnd:
    """Tell all downstream tasks that no more tuples will come."""


@dataclass(frozen=True, slots=True)
class RequestEpoch:
    """Ask the leader to end the epoch early: this task has ended or must not take more into it."""

    done: bool


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The result of an epoch, which a task hands over at its end.

    ``changes`` are the changed keys (all keys when ``base``), ``output`` the sink's lines, ``positions`` the
    first unprocessed byte of each split. ``done`` means that the task has ended and will never send a tuple
    again.
    """

    epoch: int
    changes: Sequence[tuple[bytes, Any]]
    base: bool
    output: bytes
    positions: Mapping[int, int]
    done: bool
    records: int
    bytes: int


Effect = SendBatch | SendBarrier | SendEnd | RequestEpoch | Snapshot
Event = BatchReceived | BarrierReceived | EndReceived | SourceRead | EpochTriggered


@dataclass(frozen=True, slots=True)
class Restore:
    """The start of a task after a reset; ``inside`` is the quote parity of splits not yet started."""

    epoch: int
    done: bool = False
    positions: Mapping[int, int] = field(default_factory=dict)
    inside: Mapping[int, bool] = field(default_factory=dict)
    records: int = 0
    bytes: int = 0


class TaskCore:
    """One task of one job."""

    def __init__(self, task: str, spec: JobSpec, plan: Plan) -> None:
        self.task = task
        vertex = plan.vertices[vertex_of(task)]
        self._vertex = vertex
        self._operators = [operators.build(step) for step in vertex.operators]
        self._stateful = [operator for operator in self._operators if operator.state is not None]
        assert len(self._stateful) <= 1, "an aggregation starts a vertex, so a chain has at most one state"
        self.inputs = _tasks_of(plan, vertex_of(task) - 1)
        self.outputs = _tasks_of(plan, vertex_of(task) + 1)
        self._alignment = Alignment(self.inputs, exactly_once=spec.exactly_once)
        self._routing = keygroups.table(len(self.outputs)) if vertex.output == "hash" else None
        self._next_target = index_of(task)
        csv = spec.source.format == "csv"
        mine = [split for split in plan.splits if split.task == index_of(task)]
        self._reader = None
        self._parser: batches.CsvParser | None = None
        if not self.inputs:
            self._reader = SplitReader(mine, plan.data_start, plan.data_end, quoted=csv)
            self._parser = batches.CsvParser(plan.columns, needed_columns(vertex)) if csv else None
        self._output: list[bytes] = []
        self._epoch = 0
        self._epoch_bytes = 0
        self._flushed = False
        self._keys_since_base = 0
        self.records = 0
        self.bytes = 0

    @property
    def is_source(self) -> bool:
        """Tells whether the task reads splits rather than channels."""
        return self._reader is not None

    def load(self, values: Mapping[bytes, Any]) -> None:
        """Adds committed state, before ``reset``; oldest segment first."""
        for operator in self._stateful:
            assert operator.state is not None
            operator.state.load(values)

    def reset(self, restore: Restore) -> None:
        """Goes back to the end of a committed epoch; everything after it never happened."""
        self._epoch = restore.epoch
        self._epoch_bytes = 0
        self._output = []
        self._alignment.reset(restore.epoch)
        for operator in self._operators:
            operator.reset()
            if operator.state is not None:
                operator.state.roll_back(restore.epoch)
        self._flushed = restore.done
        self.records, self.bytes = restore.records, restore.bytes
        if self._reader is not None:
            self._reader.seek(restore.positions, restore.inside)

    def blocked(self, channel: str) -> bool:
        """Tells whether the shell must not read from a channel for now."""
        return self._alignment.blocked(channel)

    def next_read(self, size: int) -> ReadRequest | None:
        """Returns the source bytes wanted next, if any may be taken into this epoch."""
        if self._reader is None or self._epoch_bytes >= EPOCH_BYTES_MAX:
            return None
        return self._reader.next_read(size)

    def start(self) -> list[Effect]:
        """Returns the first effects after a reset: a source that has nothing left to read ends."""
        return self._end_if_read_out()

    def handle(self, event: Event) -> list[Effect]:
        """Applies one event and returns the effects in order."""
        match event:
            case SourceRead(request=request, data=data):
                return self._take(request, data)
            case BatchReceived(batch=batch):
                self.records += batch.num_rows
                return self._run(batch, 0)
            case BarrierReceived(channel=channel, epoch=epoch):
                reached = self._alignment.barrier(channel, epoch)
                return [] if reached is None else self._end_epoch(reached)
            case EndReceived(channel=channel):
                return self._end_input() if self._alignment.end(channel) else []
            case EpochTriggered(epoch=epoch, committed=committed):
                self._commit(committed)
                if self._reader is None or epoch <= self._epoch:
                    return []
                self._epoch_bytes = 0
                return self._end_epoch(epoch)

    def _take(self, request: ReadRequest, data: bytes | bytearray) -> list[Effect]:
        assert self._reader is not None
        begin, end = self._reader.take(request, data)
        if end <= begin:
            return self._end_if_read_out()
        part = memoryview(data)[begin:end]
        batch = self._parser.parse(part) if self._parser else batches.from_lines(part)
        self.records += batch.num_rows
        self.bytes += end - begin
        self._epoch_bytes += end - begin
        effects = self._run(batch, 0)
        if self._epoch_bytes >= EPOCH_BYTES_MAX:
            effects.append(RequestEpoch(done=False))
        return effects + self._end_if_read_out()

    def _end_if_read_out(self) -> list[Effect]:
        if self._reader is None or not self._reader.finished:
            return []
        return self._end_input()

    def _run(self, batch: pa.RecordBatch, first: int) -> list[Effect]:
        flowing = [batch]
        for operator in self._operators[first:]:
            try:
                flowing = [result for one in flowing for result in operator.process(one)]
            except ValueError as error:
                raise JobFailed(
                    f"task {self.task}, operator {type(operator).__name__}: {error}",
                    hint="correct the input or the job file",
                ) from error
        return [effect for one in flowing if one.num_rows for effect in self._route(one)]

    def _route(self, batch: pa.RecordBatch) -> list[Effect]:
        if self._vertex.output == "sink":
            self._output.append(batches.to_output(batch))
            return []
        if self._routing is None:
            self._next_target = (self._next_target + 1) % len(self.outputs)
            return [SendBatch(self.outputs[self._next_target], batch)]
        targets = keygroups.targets(batch.column(0).to_pylist(), self._routing)
        effects: list[Effect] = []
        for number in np.unique(targets).tolist():
            rows = np.flatnonzero(targets == number)
            part = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
            effects.append(SendBatch(self.outputs[number], part))
        return effects

    def _flush(self, method: str) -> list[Effect]:
        effects: list[Effect] = []
        for place, operator in enumerate(self._operators):
            for batch in getattr(operator, method)():
                effects += self._run(batch, place + 1)
        return effects

    def _end_input(self) -> list[Effect]:
        effects: list[Effect] = []
        if not self._flushed:
            effects = self._flush("end_input")
            self._flushed = True
        if self.outputs:
            effects.append(SendEnd())
        return [*effects, RequestEpoch(done=True)]

    def _end_epoch(self, epoch: int) -> list[Effect]:
        effects = self._flush("end_epoch")
        changes: Sequence[tuple[bytes, Any]] = ()
        base = False
        for operator in self._stateful:
            assert operator.state is not None
            changes = operator.state.close_epoch(epoch)
            self._keys_since_base += len(changes)
            if self._keys_since_base > max(BASE_KEYS_MIN, BASE_FACTOR * len(operator.state)):
                changes, base = list(operator.state.items()), True
                self._keys_since_base = 0
        self._epoch = epoch
        output = b"".join(self._output)
        self._output = []
        positions = self._reader.positions() if self._reader is not None else {}
        if self.outputs:
            effects.append(SendBarrier(epoch))
        snapshot = Snapshot(epoch, changes, base, output, positions, self._flushed, self.records, self.bytes)
        return [*effects, snapshot]

    def _commit(self, epoch: int) -> None:
        for operator in self._stateful:
            assert operator.state is not None
            operator.state.commit(epoch)


def _tasks_of(plan: Plan, vertex: int) -> list[str]:
    if not 0 <= vertex < len(plan.vertices):
        return []
    return [f"{vertex}.{index}" for index in range(plan.vertices[vertex].tasks)]
