"""Reads the source file of a job for one task, at the job's rate.

A rate holds on average: a task reads about 20 ms worth of records at a time, counts them, and waits until
their time has passed. Reads go to the HyDFS agent of the same machine.

A task has one thread. While it waits for the store, it hears neither its agent nor its neighbours. A read
of a running task therefore makes two short attempts at most: one for the local block, one for the bytes. Then
the task carries out what it was told meanwhile, such as to end an epoch, and reads the same place again. So a
slow store delays an epoch, but the leader does not take the task for stalled: that would end its process and
hide the cause. If the store does not deliver for ``PATIENCE_S``, the task fails with the store's own error.

The survey, like the load of the state, happens before the task reports that it is prepared. It may wait
longer in one piece: until then the task receives nothing else. It still gives up before the leader does
(``DEPLOY_TIMEOUT_S``).
"""

from __future__ import annotations

import logging

from agent.common.errors import RainStormError
from agent.common.shell import clock
from agent.hydfs.client import LocalBlock
from agent.rainstorm.io.storage import READ_TIMEOUT_S, Storage
from agent.rainstorm.job.boundaries import quotes
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.plan import Plan, index_of
from agent.rainstorm.job.spec import JobSpec
from agent.rainstorm.task.sources.splitreader import ReadRequest

logger = logging.getLogger("agent.rainstorm.task.shell.source")

# Two attempts are shorter than the leader's EPOCH_TIMEOUT_S. If the first replica is silent, the store asks
# another one first at the next attempt.
ATTEMPT_S = 2.0
RETRY_S = 0.1
# The same time that a read outside the loop may take.
PATIENCE_S = READ_TIMEOUT_S
RATE_SLICE_S = 0.02
SURVEY_BYTES = 4 * 1024 * 1024
# The first guess of a record's size, until some have been seen.
RECORD_BYTES = 100.0
# If a block is not on this machine, it is not asked for again until this much of it was read.
ELSEWHERE_BYTES = 4 * 1024 * 1024


class SourceFile:
    """One task's share of the source file."""

    def __init__(self, storage: Storage, spec: JobSpec, plan: Plan, task: str, header: SourceHeader) -> None:
        self._storage = storage
        self._file = spec.source.file
        self._splits = [split for split in plan.splits if split.task == index_of(task)]
        self._data_start = plan.data_start
        # Tasks with more to read get more of the rate, so that all end at about the same time.
        mine = sum(split.end - split.start for split in self._splits)
        self._rate = spec.source.rate * mine / max(1, plan.data_end - plan.data_start)
        self._batch_bytes = header.batch_bytes
        self._file_id = header.file_id
        self._record_bytes = RECORD_BYTES
        self._next_at = 0.0
        # The time since which the store has not delivered, and the time of the next attempt.
        self._failing_since: float | None = None
        self._retry_at = 0.0
        self._block: LocalBlock | None = None
        self._elsewhere = -ELSEWHERE_BYTES

    def restart(self) -> None:
        """Begins a generation: a recovery's delay is not made up for, and ``PATIENCE_S`` starts again."""
        self._next_at = clock.monotonic()
        self._failing_since = None

    def wait_s(self) -> float:
        """Returns how long to wait before the next read."""
        at = max(self._next_at, self._retry_at) if self._rate else self._retry_at
        return max(0.0, at - clock.monotonic()) if at else 0.0

    def read_size(self) -> int:
        """Returns how many bytes to ask for."""
        if not self._rate:
            return self._batch_bytes
        return max(1, min(self._batch_bytes, int(self._rate * RATE_SLICE_S * self._record_bytes)))

    def read(self, request: ReadRequest) -> bytes | bytearray | None:
        """Returns the requested bytes, or None if the store has not delivered them yet.

        Raises:
            RainStormError: HyDFS cannot deliver them, or has not for ``PATIENCE_S``.
        """
        begun_at = clock.monotonic()
        try:
            data = self._read(request.offset, request.size, ATTEMPT_S)
        except RainStormError as error:
            now = clock.monotonic()
            if self._failing_since is None:
                self._failing_since = begun_at
                logger.warning("source_waits file=%s offset=%d error=%s", self._file, request.offset, error)
            if not error.retryable or now - self._failing_since >= PATIENCE_S:
                raise
            self._retry_at = now + RETRY_S
            return None
        self._failing_since = None
        return data

    def _read(self, offset: int, size: int, timeout_s: float) -> bytes | bytearray:
        block = self._local_block(offset)
        if block is None:
            return self._ask(offset, size, timeout_s)
        begin = offset - block.start
        data = block.memory[begin : begin + size]
        if len(data) == size:
            return data
        return data + self._ask(offset + len(data), size - len(data), timeout_s)

    def _ask(self, offset: int, size: int, timeout_s: float) -> bytearray:
        return self._storage.read_exactly(
            self._file, offset, size, file_id=self._file_id, timeout_s=timeout_s
        )

    def _local_block(self, offset: int) -> LocalBlock | None:
        """Returns the block around ``offset`` when this machine has it; one is kept at a time."""
        block = self._block
        if block is not None and block.start <= offset < block.start + block.length:
            return block
        if self._elsewhere <= offset < self._elsewhere + ELSEWHERE_BYTES:
            return None
        try:
            self._block = self._storage.client.map_block(
                self._file, offset, self._file_id, timeout_s=ATTEMPT_S
            )
        except RainStormError as error:
            if not error.retryable:
                raise
            # The agent of this machine is restarting or busy. A request for the bytes waits for it.
            self._block = None
        if self._block is None:
            self._elsewhere = offset
        return self._block

    def count(self, records: int, size: int) -> None:
        """Counts the records and bytes of a read, for the rate."""
        if not self._rate or not records:
            return
        self._record_bytes = 0.9 * self._record_bytes + 0.1 * size / records
        # A delay of more than a second is not made up for: a rate limit must not turn into a burst.
        self._next_at = max(self._next_at, clock.monotonic() - 1.0) + records / self._rate

    def count_quotes(self) -> dict[int, int]:
        """Returns for each split the quotes between the byte before it and the byte before the next one."""
        found: dict[int, int] = {}
        for split in self._splits:
            begin = split.start if split.start == self._data_start else split.start - 1
            end = max(begin, split.end - 1)
            total = 0
            while begin < end:
                data = self._read(begin, min(SURVEY_BYTES, end - begin), READ_TIMEOUT_S)
                total += quotes(data)
                begin += len(data)
            found[split.index] = total
        return found
