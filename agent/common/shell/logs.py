"""Log lines: logfmt on stderr, event name first, so that journald and grep both read them well.

The stderr of a service is the journal, which limits its own size. If it is a file (in the local cluster), the
process limits that file: a full one is renamed, and stderr becomes a new one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import time

FILE_BYTES_MAX = 16 * 1024 * 1024
FILES_KEPT = 2


class LogfmtFormatter(logging.Formatter):
    """Formats ``2026-11-20T10:24:21.123Z INFO agent.hydfs block_sealed block=…``."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, with the traceback below it when there is one."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = f"{stamp}.{int(record.msecs):03d}Z {record.levelname} {record.name} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


class BoundedStderr(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to stderr; if that is a file and full, it becomes ``NAME.1``, and a new file replaces it."""

    def __init__(self, file_bytes_max: int = FILE_BYTES_MAX) -> None:
        super().__init__(sys.stderr)
        self._file_bytes_max = file_bytes_max

    def emit(self, record: logging.LogRecord) -> None:
        """Writes one record, then checks the size of the file."""
        super().emit(record)
        with contextlib.suppress(OSError):  # the next line tries again
            self._bound()

    def _bound(self) -> None:
        descriptor = self.stream.fileno()
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size < self._file_bytes_max:
            return
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        fresh = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            for number in range(FILES_KEPT - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    os.replace(f"{path}.{number}", f"{path}.{number + 1}")
            os.replace(path, f"{path}.1")
            os.replace(f"{path}.new", path)
            os.dup2(fresh, descriptor)
        finally:
            os.close(fresh)


def configure(level: str) -> None:
    """Sends all log lines of the process to stderr."""
    handler = BoundedStderr()
    handler.setFormatter(LogfmtFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
