"""Runs a whole job on its task cores alone, in one thread and in any order that a random source chooses.

It plays the leader in its simplest form: one epoch in flight, committed when every task has handed over its
snapshot. A failure takes all tasks back to the last commit: some in place, some as fresh cores that load the
committed segments.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence
from typing import Any

from agent.rainstorm.job import plan
from agent.rainstorm.job import spec as job
from agent.rainstorm.job.boundaries import BOM, first_end
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.task.core.processor import (
    BarrierReceived,
    BatchReceived,
    Effect,
    EndReceived,
    EpochTriggered,
    RequestEpoch,
    Restore,
    SendBarrier,
    SendBatch,
    SendEnd,
    Snapshot,
    SourceRead,
    TaskCore,
)
from agent.rainstorm.task.state.keyed import decode_changes, encode_changes
from tests.unit.rainstorm.rows import csv_rows

STEPS_MAX = 20_000


def job_file(*stages: dict[str, Any], **source: Any) -> dict[str, Any]:
    """Returns a job file with these stages; ``source`` are keys of its source."""
    return {"source": {"file": "in", **source}, "stages": list(stages), "sink": {"file": "out"}}


def header_of(spec: job.JobSpec, data: bytes, cuts: Sequence[int] = ()) -> SourceHeader:
    """Returns the header of a source, with splits cut at ``cuts`` and assigned to tasks."""
    start = len(BOM) if data.startswith(BOM) else 0
    columns = [plan.LINE]
    if spec.source.format == "csv":
        columns = list(spec.source.columns)
        if spec.source.header:
            end = first_end(data, start, quoted=True)
            end = end if end > 0 else len(data)
            columns, start = [field.decode() for field in csv_rows(data[start:end])[0]], end
    edges = sorted({start, len(data), *(cut for cut in cuts if start < cut < len(data))})
    edges = edges if len(edges) > 1 else [start, start]
    tasks = spec.stages[0].tasks
    splits = tuple(
        (number, edges[number], edges[number + 1], number % tasks) for number in range(len(edges) - 1)
    )
    return SourceHeader(tuple(columns), start, len(data), splits, 1000, "file-id")


def parities(layout: plan.Plan, data: bytes) -> dict[int, bool]:
    """Returns for each split whether the byte before it lies inside quotes, counted from the start."""
    return {
        split.index: data.count(b'"', layout.data_start, max(layout.data_start, split.start - 1)) % 2 == 1
        for split in layout.splits
    }


class Chain:
    """All task cores of a job with the queues between them."""

    def __init__(self, raw: dict[str, Any], data: bytes, cuts: Sequence[int] = (), seed: int = 0) -> None:
        self.random = random.Random(seed)
        self.data = data
        self.spec = job.parse(raw)
        self.plan = plan.make(self.spec, header_of(self.spec, data, cuts))
        self.inside = parities(self.plan, data)
        self.cores = {task: TaskCore(task, self.spec, self.plan) for task in self.plan.tasks()}
        self.queues: dict[tuple[str, str], deque[Any]] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.segments: dict[str, list[bytes]] = {task: [] for task in self.cores}
        self.positions: dict[int, int] = {}
        self.done: dict[str, bool] = dict.fromkeys(self.cores, False)
        self.counts: dict[str, tuple[int, int]] = dict.fromkeys(self.cores, (0, 0))
        self.output: list[bytes] = []
        self.epoch = self.epoch_max = self.commits = self.failures = 0
        self.in_flight = False
        self.wanted: list[str] = []

    def run(self, *, failures: int = 0, read_bytes: Sequence[int] = (1, 20, 600, 5000)) -> bytes:
        """Returns the committed output of a run with about ``failures`` failures."""
        self.restart(fresh=())
        for _ in range(STEPS_MAX):
            if all(self.done.values()):
                return b"".join(self.output)
            if failures and self.random.random() < 0.06:
                failures -= 1
                self.failures += 1
                self.restart([task for task in self.cores if self.random.random() < 0.3])
            self.step(read_bytes)
        raise AssertionError(f"not done after {STEPS_MAX} steps; epoch {self.epoch}, done {self.done}")

    def restart(self, fresh: Sequence[str]) -> None:
        """Begins a generation from the last commit; ``fresh`` tasks have lost their process."""
        self.queues, self.snapshots, self.in_flight, self.wanted = {}, {}, False, []
        for task in fresh:
            self.cores[task] = TaskCore(task, self.spec, self.plan)
            for segment in self.segments[task]:
                self.cores[task].load(decode_changes(segment))
        for task, core in self.cores.items():
            core.reset(Restore(self.epoch, self.done[task], self.positions, self.inside, *self.counts[task]))
        for task, core in self.cores.items():
            self.do(task, core.start())

    def step(self, read_bytes: Sequence[int]) -> None:
        """Makes one possible step."""
        choices: list[Any] = [key for key, queue in self.queues.items() if queue and self.open(*key)]
        requests = {task: core.next_read(self.random.choice(read_bytes)) for task, core in self.cores.items()}
        choices += [task for task, request in requests.items() if request is not None]
        if not self.in_flight and (not choices or self.random.random() < 0.1):
            self.trigger()
            return
        choice = self.random.choice(choices)
        if isinstance(choice, tuple):
            self.do(choice[1], self.cores[choice[1]].handle(self.queues[choice].popleft()))
            return
        request = requests[choice]
        assert request is not None
        data = bytearray(self.data[request.offset : request.offset + request.size])
        self.do(choice, self.cores[choice].handle(SourceRead(request, data)))

    def open(self, source: str, target: str) -> bool:
        """Tells whether the receiver takes from this channel now."""
        return not self.cores[target].blocked(source)

    def trigger(self) -> None:
        """Ends an epoch at the sources; the numbers have gaps, as after failures."""
        self.epoch_max += self.random.choice((1, 1, 3))
        self.in_flight = True
        for task, core in self.cores.items():
            self.do(task, core.handle(EpochTriggered(self.epoch_max, self.epoch)))

    def do(self, task: str, effects: list[Effect]) -> None:
        """Carries out effects."""
        outputs = self.cores[task].outputs
        for effect in effects:
            match effect:
                case SendBatch(target=target, batch=batch):
                    assert batch.num_rows
                    self.send(task, target, BatchReceived(task, batch))
                case SendBarrier(epoch=epoch):
                    for target in outputs:
                        self.send(task, target, BarrierReceived(task, epoch))
                case SendEnd():
                    for target in outputs:
                        self.send(task, target, EndReceived(task))
                case RequestEpoch():
                    self.wanted.append(task)
                case Snapshot():
                    assert effect.epoch == self.epoch_max
                    assert task not in self.snapshots
                    self.snapshots[task] = effect
                    if len(self.snapshots) == len(self.cores):
                        self.commit()

    def send(self, source: str, target: str, event: Any) -> None:
        """Puts an event into a channel."""
        self.queues.setdefault((source, target), deque()).append(event)

    def commit(self) -> None:
        """Makes the epoch happen."""
        for task, found in self.snapshots.items():
            self.positions.update(found.positions)
            segment = encode_changes(found.changes)
            self.segments[task] = [segment] if found.base else [*self.segments[task], segment]
            self.done[task] = found.done
            self.counts[task] = (found.records, found.bytes)
            self.output.append(found.output)
        self.epoch = self.epoch_max
        self.commits += 1
        self.snapshots, self.in_flight = {}, False
