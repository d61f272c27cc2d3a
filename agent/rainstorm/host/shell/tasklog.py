"""The log of a node's tasks: one file of bounded size that all task processes write through one pipe.

Tasks keep their output open as long as they live, so a file that they wrote themselves could not be rotated
without losing lines, or would grow without bound. They write into a pipe. Its reader here is the only one
that writes the file, and renames it (``tasks.log.1``, ``.2`` ...) when it is full. A task that writes faster
than the disk accepts waits, as it would for the disk.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

from agent.common.errors import Unavailable
from agent.common.shell import disk, processes, threads

logger = logging.getLogger("agent.rainstorm.host.shell.tasklog")

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 4
READ_BYTES = 64 * 1024


class TaskLog:
    """The pipe, and the thread that copies it into the file."""

    def __init__(self, path: Path, *, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        self.path = path
        self._file_bytes_max = file_bytes_max
        self._lock = threads.lock()
        self._pipe: processes.OutputPipe | None = None
        self._file = -1
        self._ends_line = True
        self._thread: threads.Thread | None = None

    def start(self) -> None:
        """Opens the pipe and the file and starts to copy from one to the other."""
        self._file = self._open()
        self._pipe = processes.output_pipe()
        self._thread = threads.start("task-log", self._pump, self._pipe)

    def writer(self) -> int:
        """Returns a descriptor to write to, which the caller closes; output after the end is discarded.

        Raises:
            Unavailable: the log was not started.
        """
        with self._lock:
            if self._pipe is None:
                raise Unavailable("the task log was not started")
            return self._pipe.writer()

    def stop(self, timeout_s: float) -> None:
        """Closes this side's end; afterwards everything that the tasks wrote is in the file."""
        with self._lock:
            if self._pipe is not None:
                self._pipe.end()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _pump(self, pipe: processes.OutputPipe) -> None:
        try:
            while data := pipe.read(READ_BYTES):
                try:
                    self._write(data)
                except OSError as error:
                    # A full disk must not stop the tasks: their output is lost, but this event is logged.
                    logger.warning("task_log_failed bytes=%d error=%s", len(data), error)
        finally:
            pipe.close()
            disk.close(self._file)

    def _write(self, data: bytes) -> None:
        if self._ends_line and disk.fstat(self._file).size >= self._file_bytes_max:
            self._rotate()
        disk.write_fully(self._file, data)
        self._ends_line = data.endswith(b"\n")

    def _rotate(self) -> None:
        for number in range(FILES_KEPT - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                disk.rename(self._rotated(number), self._rotated(number + 1))
        disk.rename(self.path, self._rotated(1))
        disk.close(self._file)
        self._file = self._open()

    def _rotated(self, number: int) -> Path:
        return Path(f"{self.path}.{number}")

    def _open(self) -> int:
        return disk.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
