"""The two threads of a node that write for its tasks: segments of epochs, and publications.

Both take their work from a bounded queue in order. The segments of all tasks of a node and epoch leave in one
append to the node's own file of the job. The leader sends publications one at a time for each sink task, in
epoch order.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from agent.common.errors import RainStormError
from agent.common.failure import Failure
from agent.common.shell.worker import Worker
from agent.rainstorm.host.core.events import (
    AppendSegments,
    OutputPublished,
    PublicationRefused,
    PublishOutput,
    SegmentsAppended,
)
from agent.rainstorm.io.storage import Storage, pieces
from agent.rainstorm.job.segment import PUBLISH_TIMEOUT_S, SEGMENT_FILE_BYTES, Reference, segment_file

logger = logging.getLogger("agent.rainstorm.host.shell.writers")

# A job has one epoch in progress, and one publication for each of its sink tasks on this node: this is enough
# for fifteen jobs of the largest size. Work that finds no room is dropped; the leader asks for it again.
QUEUE_MAX = 1000
SEGMENT_TIMEOUT_S = 20.0
# An epoch's output is cut into at most this many appends (4 GiB at 1 MiB each).
PIECES_PER_EPOCH_MAX = 4096
# The number of jobs whose open file is remembered.
JOBS_MAX = 100


@dataclass(slots=True)
class _OpenFile:
    """The file that a job's segments currently go to."""

    name: str
    size: int = 0
    sequence: int = 0


class SegmentWriter:
    """Makes the segments of epochs durable."""

    def __init__(
        self,
        storage: Storage,
        writer: str,
        post: Callable[[SegmentsAppended], None],
        file_bytes: int = SEGMENT_FILE_BYTES,
    ) -> None:
        self._storage = storage
        self._writer = writer
        self._post = post
        self._file_bytes = file_bytes
        self._open: dict[str, _OpenFile] = {}
        self._files = 0
        # An error in one job's work must not end the work for all others: it is logged and counted.
        self._worker = Worker("segment-writer", self._append, QUEUE_MAX, on_error=lambda error: True)
        self.start = self._worker.start

    def put(self, wanted: AppendSegments) -> None:
        """Queues the segments of an epoch; without room they are dropped: the leader repeats the epoch."""
        if not self._worker.try_submit(wanted):
            logger.warning("segments_dropped job=%s epoch=%d reason=queue_full", wanted.job, wanted.epoch)

    def stop(self, timeout_s: float) -> None:
        """Lets the append in progress finish and drops the rest."""
        self._worker.stop(drain=False, timeout_s=timeout_s)

    def _append(self, wanted: AppendSegments) -> None:
        try:
            file, offset = self._write(wanted.job, b"".join(wanted.parts))
        except Exception as error:
            # The end of the file is no longer known, so the next epoch goes to a new file.
            self._open.pop(wanted.job, None)
            if not isinstance(error, RainStormError):
                raise
            # The leader sees that the epoch is stuck and starts a new generation.
            logger.warning("segments_lost job=%s epoch=%d error=%s", wanted.job, wanted.epoch, error)
            return
        references: list[list[Reference]] = []
        for part in wanted.parts:
            references.append([(file, offset, len(part))] if part else [])
            offset += len(part)
        self._post(SegmentsAppended(wanted.job, wanted.generation, wanted.epoch, references))

    def _write(self, job: str, data: bytes) -> tuple[str, int]:
        """Appends ``data`` to one file and returns the file and where it begins there."""
        current = self._open.get(job)
        if current is None or current.size >= self._file_bytes:
            current = self._next_file(job)
        begin = current.size
        for piece in pieces(data):
            current.sequence += 1
            self._storage.append(
                current.name, piece, self._writer, current.sequence, timeout_s=SEGMENT_TIMEOUT_S
            )
            current.size += len(piece)
        return current.name, begin

    def _next_file(self, job: str) -> _OpenFile:
        self._files += 1
        fresh = _OpenFile(segment_file(job, self._writer, self._files))
        self._storage.create_if_missing(fresh.name)
        if len(self._open) >= JOBS_MAX and job not in self._open:
            del self._open[next(iter(self._open))]  # the oldest; if it continues, it gets a new file
        self._open[job] = fresh
        return fresh


class Publisher:
    """Appends committed output to destination files, each epoch of each sink once."""

    def __init__(
        self, storage: Storage, post: Callable[[OutputPublished | PublicationRefused], None]
    ) -> None:
        self._storage = storage
        self._post = post
        self._worker = Worker("publisher", self._publish, QUEUE_MAX, on_error=lambda error: True)
        self.start = self._worker.start

    def put(self, wanted: PublishOutput) -> None:
        """Queues a publication; without room it is dropped, and the leader asks again."""
        if not self._worker.try_submit(wanted):
            logger.warning("publication_dropped job=%s epoch=%d reason=queue_full", wanted.job, wanted.epoch)

    def stop(self, timeout_s: float) -> None:
        """Lets the publication in progress finish and drops the rest."""
        self._worker.stop(drain=False, timeout_s=timeout_s)

    def _publish(self, wanted: PublishOutput) -> None:
        writer = f"{wanted.job}/{wanted.task}"
        try:
            for number, piece in enumerate(pieces(self._output(wanted))):
                sequence = wanted.epoch * PIECES_PER_EPOCH_MAX + number
                self._storage.append(wanted.sink, piece, writer, sequence, timeout_s=PUBLISH_TIMEOUT_S)
        except RainStormError as error:
            logger.warning("publication_failed job=%s epoch=%d error=%s", wanted.job, wanted.epoch, error)
            # The leader asks again, here or elsewhere, and output that is in the file is not added twice.
            # Asking again would not help if the destination or the output no longer exists.
            if not error.retryable:
                failure = Failure.of(error)
                self._post(PublicationRefused(wanted.job, wanted.epoch, wanted.task, failure))
            return
        self._post(OutputPublished(wanted.job, wanted.epoch, wanted.task))

    def _output(self, wanted: PublishOutput) -> bytes:
        if wanted.output is not None:
            return wanted.output
        parts = [
            self._storage.read_exactly(file, offset, length) for file, offset, length in wanted.references
        ]
        return b"".join(parts)
