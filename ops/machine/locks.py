"""One command at a time: an advisory lock on a file, which the kernel releases when its holder ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from agent.common.errors import AlreadyRunning


@contextlib.contextmanager
def exclusive(path: Path, refusal: str, hint: str) -> Iterator[None]:
    """Holds the lock ``path``, whose folder is created if it is missing.

    Raises:
        AlreadyRunning: another process holds it; ``refusal`` is the error's message.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AlreadyRunning(refusal, hint=hint) from None
        yield
