"""How a command ends when the reader of its output ends first, as ``head`` and ``less`` do.

Nothing more can be written, and that is not a failure: the command ends quietly with status 0. A command that
fails keeps the status of its error. When Python exits it writes the rest of its buffers, and would then
print a traceback, so a stream without a reader is redirected to the null device.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import TextIO

from invoke.exceptions import Exit


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """Runs a command, or a part of one, that prints."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        if not _discard():
            raise  # it was another pipe
        raise Exit(code=0) from None
    finally:
        flush()


def flush() -> None:
    """Writes the buffered output of stdout, unless nobody reads it."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard()


def _discard() -> bool:
    """Redirects the streams that have no reader to the null device; tells whether there was one."""
    gone = [stream for stream in (sys.stdout, sys.stderr) if _has_no_reader(stream)]
    for stream in gone:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    return bool(gone)


def _has_no_reader(stream: TextIO) -> bool:
    try:
        number = stream.fileno()
    except OSError:
        return False  # it is in memory
    look = select.poll()
    look.register(number, 0)
    return any(events & select.POLLERR for _, events in look.poll(0))
