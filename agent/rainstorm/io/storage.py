"""The engine's access to HyDFS: complete reads, appends that are retried until the outcome is certain, and
output cut between lines.

A time-out or a lost connection says nothing about whether an append took place: the same (writer, sequence)
is sent again until the store answers, and it then answers with the first result.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from agent.common.deadline import Deadline
from agent.common.errors import AlreadyExists, Conflict, RainStormError, Unavailable
from agent.common.shell import clock, threads
from agent.hydfs.client import AppendResult, HydfsClient
from agent.rainstorm.job.boundaries import last_end

READ_BYTES_MAX = 4 * 1024 * 1024
# Half of the largest append at the default block size.
APPEND_BYTES_MAX = 1024 * 1024
READ_TIMEOUT_S = 15.0
RETRY_S = 0.02
RETRY_S_MAX = 0.5


class Storage:
    """Retries on top of a ``HydfsClient``; ``stopping`` cuts waits short."""

    def __init__(self, client: HydfsClient, stopping: threads.Event | None = None) -> None:
        self.client = client
        self._stopping = stopping or threads.event()
        self._random = threads.random_source()

    def read_exactly(
        self,
        file: str,
        offset: int,
        length: int,
        *,
        file_id: str | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> bytearray:
        """Returns exactly the bytes [offset, offset + length) of a file; with ``file_id``, only of the one
        with this id.

        Raises:
            Unavailable: the file is shorter.
            RainStormError: HyDFS could not deliver within ``timeout_s``.
        """
        data = bytearray()
        deadline = Deadline(clock.monotonic(), timeout_s)
        for attempt in itertools.count():
            try:
                while len(data) < length:
                    size = min(READ_BYTES_MAX, length - len(data))
                    left = min(10.0, deadline.require(clock.monotonic(), f"read of {file}"))
                    piece = self.client.read(file, offset + len(data), size, file_id=file_id, timeout_s=left)
                    if not piece:
                        raise Unavailable(f"{file} ends at byte {offset + len(data)}, not {offset + length}")
                    if len(piece) == length and isinstance(piece, bytearray):
                        return piece
                    data += piece
                return data
            except RainStormError as error:
                self._give_up_or_wait(error, deadline, attempt)
        raise AssertionError("unreachable: attempts end by an error")

    def create_if_missing(self, file: str) -> None:
        """Creates an empty file unless it exists."""
        deadline = Deadline(clock.monotonic(), READ_TIMEOUT_S)
        for attempt in itertools.count():
            try:
                self.client.create(file)
                return
            except AlreadyExists:
                return
            except RainStormError as error:
                self._give_up_or_wait(error, deadline, attempt)

    def append(
        self,
        file: str,
        data: bytes,
        writer: str,
        sequence: int,
        *,
        if_offset: int | None = None,
        timeout_s: float,
    ) -> AppendResult:
        """Appends once, however often the request has to be sent.

        Raises:
            Conflict: the file does not end at ``if_offset`` (and this append was not made before).
            RainStormError: HyDFS did not answer within ``timeout_s``; the outcome is unknown.
        """
        deadline = Deadline(clock.monotonic(), timeout_s)
        for attempt in itertools.count():
            try:
                return self.client.append(
                    file,
                    data,
                    writer=writer,
                    sequence=sequence,
                    if_offset=if_offset,
                    timeout_s=min(10.0, deadline.require(clock.monotonic(), f"append to {file}")),
                )
            except Conflict:
                raise
            except RainStormError as error:
                self._give_up_or_wait(error, deadline, attempt)
        raise AssertionError("unreachable: attempts end by an error")

    def _give_up_or_wait(self, error: RainStormError, deadline: Deadline, attempt: int) -> None:
        delay = min(RETRY_S_MAX, RETRY_S * 2 ** min(attempt, 10)) * self._random.uniform(0.5, 1.0)
        too_late = deadline.remaining(clock.monotonic()) <= delay
        if not error.retryable or too_late or self._stopping.wait(delay):
            raise error


def pieces(data: bytes, size_max: int = APPEND_BYTES_MAX) -> Iterator[bytes]:
    """Yields ``data`` in parts of at most ``size_max`` bytes, cut after the end of a record if possible.

    Other tasks append between the parts, and a CSV record may hold line feeds, so a line feed outside quotes
    is the first choice. The cut depends only on the bytes, so a repeated publication has the same parts.
    """
    begin = 0
    while begin < len(data):
        end = min(len(data), begin + size_max)
        if end < len(data):
            record_end = begin + last_end(data[begin:end], quoted=True)
            end = record_end if record_end > begin else data.rfind(b"\n", begin, end) + 1 or end
        yield data[begin:end]
        begin = end
