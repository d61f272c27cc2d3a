"""The one place through which shells touch files.

Functions have the names, arguments and errors of their namesakes in ``os``, work on integer descriptors, and
call the platform that the seam names: the real machine, or a simulated disk that forgets what was not synced.

Whatever must survive a power failure goes through the helpers at the end. They respect two rules of Linux
file systems. A name is durable only after its *folder* was synced (Pillai et al., OSDI 2014). After a failed
sync nothing is known about the file: a second sync that succeeds proves nothing (Rebello et al., ATC 2020).
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Iterable, Iterator

from agent.common.errors import DiskFailed, DiskFull, has_no_room
from agent.common.shell import seam
from agent.common.shell.realdisk import Buffer, Platform, RealDisk, Status

Path = str | os.PathLike[str]

# A durable write gathers pieces of the file up to this size: fewer calls, little memory.
GATHER_BYTES = 256 * 1024
READ_BYTES = 1024 * 1024


REAL = RealDisk()


def platform() -> Platform:
    """Returns the disk that serves the running code."""
    installed: Platform | None = seam.current().disk
    return REAL if installed is None else installed


# The calls of the platform


def open(path: Path, flags: int, mode: int = 0o600) -> int:
    """Opens a file or folder; a child process does not inherit the descriptor."""
    return platform().open(os.fspath(path), flags, mode)


def close(descriptor: int) -> None:
    """Closes a descriptor."""
    platform().close(descriptor)


def read(descriptor: int, size: int) -> bytes:
    """Returns up to ``size`` bytes from the current position."""
    return platform().read(descriptor, size)


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """Returns up to ``size`` bytes from ``offset``."""
    return platform().pread(descriptor, size, offset)


def write(descriptor: int, data: Buffer) -> int:
    """Writes at the current position and returns how many bytes were taken."""
    return platform().write(descriptor, data)


def pwrite(descriptor: int, data: Buffer, offset: int) -> int:
    """Writes at ``offset`` and returns how many bytes were taken."""
    return platform().pwrite(descriptor, data, offset)


def fsync(descriptor: int) -> None:
    """Makes a file, or the names in a folder, durable."""
    platform().fsync(descriptor)


def fdatasync(descriptor: int) -> None:
    """Makes the contents of a file durable."""
    platform().fdatasync(descriptor)


def ftruncate(descriptor: int, size: int) -> None:
    """Sets the size of an open file."""
    platform().ftruncate(descriptor, size)


def rename(source: Path, target: Path) -> None:
    """Renames a file atomically, over an existing one."""
    platform().rename(os.fspath(source), os.fspath(target))


def unlink(path: Path, *, missing_ok: bool = False) -> None:
    """Removes a name."""
    with contextlib.suppress(*((FileNotFoundError,) if missing_ok else ())):
        platform().unlink(os.fspath(path))


def mkdir(path: Path, mode: int = 0o777) -> None:
    """Makes a folder."""
    platform().mkdir(os.fspath(path), mode)


def listdir(path: Path) -> list[str]:
    """Returns the names in a folder, sorted."""
    return sorted(platform().listdir(os.fspath(path)))


def stat(path: Path) -> Status:
    """Describes a file by its path."""
    return platform().stat(os.fspath(path))


def fstat(descriptor: int) -> Status:
    """Describes an open file."""
    return platform().fstat(descriptor)


def free_bytes(path: Path) -> int:
    """Returns the room that an unprivileged process has on the disk of ``path``."""
    return platform().free_bytes(os.fspath(path))


def map(descriptor: int, size: int) -> mmap.mmap:
    """Maps the first ``size`` bytes of a file that no longer changes, for reading."""
    return platform().map(descriptor, size)


def lock(descriptor: int) -> None:
    """Takes the exclusive lock of a file; BlockingIOError when another descriptor holds it."""
    platform().lock(descriptor)


# Helpers built on these calls


@contextlib.contextmanager
def opened(path: Path, flags: int, mode: int = 0o600) -> Iterator[int]:
    """Yields a descriptor that is closed at the end."""
    descriptor = open(path, flags, mode)
    try:
        yield descriptor
    finally:
        close(descriptor)


def write_fully(descriptor: int, data: Buffer) -> None:
    """Writes all of ``data`` at the current position; after an error a part of it may be there."""
    view = memoryview(data)
    while view:
        view = view[write(descriptor, view) :]


def pwrite_fully(descriptor: int, data: Buffer, offset: int) -> None:
    """Writes all of ``data`` at ``offset``; after an error a part of it may be there."""
    view = memoryview(data)
    while view:
        count = pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def pread_fully(descriptor: int, size: int, offset: int) -> bytes:
    """Returns ``size`` bytes from ``offset``, fewer only at the end of the file."""
    pieces = []
    while size > 0 and (piece := pread(descriptor, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def read_bytes(path: Path) -> bytes:
    """Returns the contents of a small file."""
    with opened(path, os.O_RDONLY) as descriptor:
        return b"".join(iter(lambda: read(descriptor, READ_BYTES), b""))


def read_text(path: Path, encoding: str = "utf-8") -> str:
    """Returns the contents of a small text file."""
    return read_bytes(path).decode(encoding)


def exists(path: Path) -> bool:
    """Tells whether there is a file or folder of this name."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        stat(path)
        return True
    return False


def size(path: Path) -> int:
    """Returns the size of a file."""
    return stat(path).size


def truncate(path: Path, size: int) -> None:
    """Sets the size of a file."""
    with opened(path, os.O_WRONLY) as descriptor:
        ftruncate(descriptor, size)


def makedirs(path: Path, mode: int = 0o777) -> None:
    """Makes a folder and any missing ones above it; ``mode`` is for the last one."""
    path = os.fspath(path)
    try:
        mkdir(path, mode)
    except FileNotFoundError:
        makedirs(os.path.dirname(path))
        makedirs(path, mode)
    except FileExistsError:
        if not stat(path).is_folder:
            raise


# Changes that survive a power failure


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable."""
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as descriptor:
        fsync(descriptor)


def write_durably(path: Path, data: Buffer | Iterable[Buffer], mode: int = 0o600) -> int:
    """Puts a file in the place of ``path`` and returns its size; a crash leaves the old file or the new one.

    Raises:
        OSError: it could not be written; the old file stays.
        DiskFailed: the new file is in place, but it is unknown which of the two a crash leaves.
    """
    fresh = f"{os.fspath(path)}.new"
    try:
        written = _write_new(fresh, data, mode)
        rename(fresh, path)
    except BaseException:  # the data may come from a generator that raises
        with contextlib.suppress(OSError):
            unlink(fresh)
        raise
    _confirm(path)
    return written


def create_durably(path: Path, mode: int = 0o600) -> None:
    """Makes an empty file, the mark of something, unless it exists."""
    close(open(path, os.O_WRONLY | os.O_CREAT, mode))
    sync_folder(_folder(path))


def rename_durably(source: Path, target: Path) -> None:
    """Renames a file whose contents are durable already.

    Raises:
        OSError: it keeps its old name.
        DiskFailed: it is unknown which name a crash leaves.
    """
    rename(source, target)
    _confirm(target)


def remove_durably(path: Path) -> None:
    """Removes a file, if it exists."""
    unlink(path, missing_ok=True)
    sync_folder(_folder(path))


def make_folder_durably(path: Path, mode: int = 0o777) -> None:
    """Makes a folder and any missing ones above it."""
    path = os.fspath(path)
    missing = []
    while not exists(path):
        missing.append(path)
        path = _folder(path)
    # The last existing folder may come from a process that was killed before it synced that name.
    with contextlib.suppress(PermissionError):
        sync_folder(_folder(path))
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):
            mkdir(folder, mode)
        sync_folder(_folder(folder))


def failure(error: OSError, what: str) -> DiskFull | DiskFailed:
    """Returns the error that tells an operator what the operating system refused."""
    kind = DiskFull if has_no_room(error) else DiskFailed
    return kind(f"{what}: {error}", hint="free space, or check the disk: df -h; dmesg")


def _write_new(fresh: str, data: Buffer | Iterable[Buffer], mode: int) -> int:
    unlink(fresh, missing_ok=True)  # a crash left it
    written = 0
    with opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode) as descriptor:
        for piece in _gathered(data):
            write_fully(descriptor, piece)
            written += len(piece)
        fsync(descriptor)
    return written


def _gathered(data: Buffer | Iterable[Buffer]) -> Iterator[Buffer]:
    if isinstance(data, bytes | bytearray | memoryview):
        yield data
        return
    gathered = bytearray()
    for piece in data:
        gathered += piece
        if len(gathered) >= GATHER_BYTES:
            yield gathered
            gathered = bytearray()
    yield gathered


def _confirm(path: Path) -> None:
    # The requested change has already happened, so an ordinary error would claim the opposite.
    try:
        sync_folder(_folder(path))
    except OSError as error:
        raise DiskFailed(
            f"the folder of {os.fspath(path)} cannot be synced: {error}", hint="check the disk: dmesg"
        ) from error


def _folder(path: Path) -> str:
    return os.path.dirname(os.fspath(path)) or "."
