"""The two threads of a node that write for its tasks: segments of epochs, and publications.

Both take their work from a bounded queue in order. Segments of all tasks of a node and epoch leave in one
append to the node's own file of the job. Publications come one at a time for each sink task, in epoch order:
the leader sees to that.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from agent.common.errors import NotFound, RainStormError
from agent.rainstorm.host.core.host import (
    AppendSegments,
    OutputPublished,
    PublicationRefused,
    PublishOutput,
    SegmentsAppended,
)
from agent.rainstorm.io.storage import Storage, pieces
from agent.rainstorm.job.segment import SEGMENT_FILE_BYTES, Reference, segment_file

logger = logging.getLogger("agent.rainstorm.host.shell.writers")

QUEUE_MAX = 1000
SEGMENT_TIMEOUT_S = 20.0
PUBLISH_TIMEOUT_S = 20.0
# An epoch's output is cut into at most this many appends (4 GiB at 1 MiB each).
PIECES_PER_EPOCH_MAX = 4096
# Jobs whose open file is remembered.
JOBS_MAX = 100


@dataclass(slots=True)
class _OpenFile:
    """The file that a job's segments go to now."""

    name: str
    size: int = 0
    sequence: int = 0


class Worker:
    """A named thread that works off a bounded queue."""

    def __init__(self, name: str, work: Callable[[Any], None]) -> None:
        self._queue: queue.Queue[Any] = queue.Queue(maxsize=QUEUE_MAX)
        self._work = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._stopping = threading.Event()

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def put(self, item: Any) -> None:
        """Queues work; waits while the queue is full, which is the back-pressure that bounds it."""
        self._queue.put(item)

    def stop(self, timeout_s: float) -> None:
        """Lets the work under way finish and drops the rest."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):  # a busy thread looks at _stopping before its next item
            self._queue.put_nowait(None)
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            item = self._queue.get()
            if item is None:
                return
            self._work(item)


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
        self._worker = Worker("segment-writer", self._append)
        self.start, self.stop, self.put = self._worker.start, self._worker.stop, self._worker.put

    def _append(self, wanted: AppendSegments) -> None:
        try:
            file, offset = self._write(wanted.job, b"".join(wanted.parts))
        except RainStormError as error:
            # The leader sees a stuck epoch and starts a new generation. Where the file ends is not known any
            # more, so the next epoch goes to a new one.
            logger.warning("segments_lost job=%s epoch=%d error=%s", wanted.job, wanted.epoch, error)
            self._open.pop(wanted.job, None)
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
            del self._open[next(iter(self._open))]  # the oldest; should it go on, it gets a new file
        self._open[job] = fresh
        return fresh


class Publisher:
    """Appends committed output to destination files, each epoch of each sink once."""

    def __init__(
        self, storage: Storage, post: Callable[[OutputPublished | PublicationRefused], None]
    ) -> None:
        self._storage = storage
        self._post = post
        self._worker = Worker("publisher", self._publish)
        self.start, self.stop, self.put = self._worker.start, self._worker.stop, self._worker.put

    def _publish(self, wanted: PublishOutput) -> None:
        try:
            output = self._output(wanted)
            for number, piece in enumerate(pieces(output)):
                self._append(wanted, piece, wanted.epoch * PIECES_PER_EPOCH_MAX + number)
        except RainStormError as error:
            # The leader asks again, here or elsewhere; what is in the file already is not added twice.
            logger.warning("publication_failed job=%s epoch=%d error=%s", wanted.job, wanted.epoch, error)
            return
        self._post(OutputPublished(wanted.job, wanted.epoch, wanted.task))

    def _output(self, wanted: PublishOutput) -> bytes:
        if wanted.output is not None:
            return wanted.output
        parts = [
            self._storage.read_exactly(file, offset, length) for file, offset, length in wanted.references
        ]
        return b"".join(parts)

    def _append(self, wanted: PublishOutput, piece: bytes, sequence: int) -> None:
        writer = f"{wanted.job}/{wanted.task}"
        try:
            self._storage.append(wanted.sink, piece, writer, sequence, timeout_s=PUBLISH_TIMEOUT_S)
        except NotFound as error:
            self._post(PublicationRefused(wanted.job, wanted.epoch, wanted.task, error.to_wire()))
            raise
