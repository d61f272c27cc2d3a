"""The log files of this node, and a safe way to open them.

Tasks write to the log folder, and they run the users' code: a link, a pipe or a device there is not a log.
Only regular files are opened, never through a link, and the file that was opened is checked again.
"""

from __future__ import annotations

import bz2
import contextlib
import fnmatch
import glob
import gzip
import lzma
import os
import re
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from agent.common.errors import Forbidden, NotFound
from agent.logs.core.query import is_plain_name

FILES_MAX = 512
READ_BYTES = 1024 * 1024
COMPRESSED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
ROTATED = re.compile(r"^(?P<log>.+?)(?:\.(?P<number>\d+)|-(?P<day>\d{8,}))?(?P<packed>\.gz|\.bz2|\.xz)?$")


@dataclass(frozen=True, slots=True)
class LogFile:
    """One file of a log; a rotated one has the name of its log and an ``age`` that grows."""

    label: str
    path: str
    log: str
    age: int
    packed: str
    size: int
    modified_at: float
    modified_ns: int
    device: int
    inode: int

    @property
    def key(self) -> tuple[int, int]:
        """Returns the key that identifies the file as long as it exists."""
        return (self.device, self.inode)


def name_parts(name: str) -> tuple[str, int, str]:
    """Returns the log that a file belongs to, its age according to its name, and how it is compressed.

    ``tasks.log`` has age 0, ``tasks.log.1`` age 1; dated files (``messages-20261120``) are older the earlier
    their date.
    """
    found = ROTATED.match(name)
    if found is None:
        return name, 0, ""
    age = int(found["number"] or 0)
    if found["day"]:
        age = 10**12 - int(found["day"][:8])
    return found["log"], age, found["packed"] or ""


def in_folder(folder: Path, patterns: Sequence[str] = ()) -> list[LogFile]:
    """Returns the log files of a folder by log, the oldest first; ``patterns`` choose by name."""
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or not is_plain_name(entry.name):
                continue
            if patterns and not any(fnmatch.fnmatchcase(entry.name, pattern) for pattern in patterns):
                continue
            with contextlib.suppress(OSError):  # rotated or deleted meanwhile
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    found.append(_log_file(entry.name, entry.path, status))
    found.sort(key=lambda each: (each.log, -each.age, each.label))
    return found[:FILES_MAX]


def allowed_system_files(patterns: Sequence[str]) -> list[LogFile]:
    """Returns the files outside the log folder that the configuration allows operators to read."""
    found = []
    for pattern in patterns:
        for path in sorted(glob.glob(pattern)):
            with contextlib.suppress(OSError):
                status = os.stat(path, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and is_plain_name(path):
                    found.append(_log_file(path, path, status))
    found.sort(key=lambda each: (each.log, -each.age, each.label))
    return found[:FILES_MAX]


def system_files(names: Sequence[str], patterns: Sequence[str]) -> list[LogFile]:
    """Returns the allowed system files that a request names by path or pattern.

    Raises:
        Forbidden: the configuration does not allow the path.
        NotFound: it does, but there is no such file.
    """
    allowed = allowed_system_files(patterns)
    found: dict[str, LogFile] = {}
    for name in names:
        chosen = [each for each in allowed if fnmatch.fnmatchcase(each.path, name)]
        if not chosen:
            if any(name == pattern or fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                raise NotFound(f"this node has no file {name}", hint="check the path")
            raise Forbidden(
                f"this node does not allow reading {name} (allowed: {', '.join(patterns) or 'no file'})",
                hint="allow it in the node's configuration: logs: {system_files: [...]}",
            )
        found.update((each.path, each) for each in chosen)
    return list(found.values())


def open_regular(path: str) -> int:
    """Returns a descriptor of a regular file.

    Raises:
        OSError: it is gone, or is a link, pipe or device.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{path} is not a regular file")
    return descriptor


@contextlib.contextmanager
def opened(file: LogFile) -> Iterator[int]:
    """Yields a descriptor of a file.

    Raises:
        OSError: it is gone, or its name belongs to another file by now.
    """
    descriptor = open_regular(file.path)
    try:
        status = os.fstat(descriptor)
        if (status.st_dev, status.st_ino) != file.key:
            raise OSError(f"{file.path} is another file now")
        yield descriptor
    finally:
        os.close(descriptor)


def unpacked_part(file: LogFile, offset: int, length: int) -> bytes:
    """Returns bytes of a compressed file's contents.

    Raises:
        OSError: it is gone or damaged.
    """
    found, at = b"", 0
    with contextlib.closing(unpacked_file(file)) as chunks:
        for chunk in chunks:
            begin = max(0, offset + len(found) - at)
            found += chunk[begin : begin + length - len(found)]
            at += len(chunk)
            if len(found) >= length:
                break
    return found


def unpacked_file(file: LogFile) -> Generator[bytes, None, None]:
    """Yields the contents of a compressed file.

    Raises:
        OSError: it is gone or damaged, or its name belongs to another file by now.
    """
    with opened(file) as descriptor:
        yield from unpacked(os.dup(descriptor), file.packed)


def unpacked(descriptor: int, packed: str) -> Generator[bytes, None, None]:
    """Yields the contents of a compressed file, and closes it at the end.

    Raises:
        OSError: it is damaged.
    """
    with os.fdopen(descriptor, "rb") as raw:
        stream: IO[bytes] = COMPRESSED[packed](raw, "rb")
        try:
            with stream:
                while data := stream.read(READ_BYTES):
                    yield data
        except (EOFError, lzma.LZMAError, ValueError) as error:
            raise OSError(f"it is damaged: {error}") from None


def _log_file(label: str, path: str, status: os.stat_result) -> LogFile:
    log, age, packed = name_parts(label)
    return LogFile(
        label=label,
        path=path,
        log=log,
        age=age,
        packed=packed,
        size=status.st_size,
        modified_at=status.st_mtime,
        modified_ns=status.st_mtime_ns,
        device=status.st_dev,
        inode=status.st_ino,
    )
