"""A framed log in numbered files: the newest takes the records, and old ones are dropped as a whole.

A new segment is written under a temporary name and renamed, so that it has all of its first records or does
not exist. By then the segment before it has been synced. So only the newest segment can have a torn tail, and
a bad record in an older one is damage.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable

from agent.common.errors import Corrupt, DiskFailed
from agent.common.framedlog import Buffer, Layout
from agent.common.shell import disk
from agent.common.shell.framedlog import FramedLog, nothing_to_note, read_record, replay

# Takes the number of a segment, the offset of a record in it and the body.
TakeFrom = Callable[[int, int, bytes], None]


class Segments:
    """The segments in one folder; used by one thread at a time."""

    def __init__(
        self, folder: disk.Path, layout: Layout, *, suffix: str, mode: int = 0o600, folder_mode: int = 0o700
    ) -> None:
        self.folder = os.fspath(folder)
        # The numbers of the segments that exist, oldest first; the last one takes records.
        self.numbers: deque[int] = deque()
        self._layout = layout
        self._suffix = suffix
        self._mode = mode
        self._folder_mode = folder_mode
        self._newest: FramedLog | None = None

    @property
    def size(self) -> int:
        """Returns the size of the newest segment."""
        return self._newest.size if self._newest is not None else 0

    def open(
        self,
        take: TakeFrom,
        *,
        newest_only: bool = False,
        before_cut: Callable[[], None] = nothing_to_note,
    ) -> bool:
        """Hands every record to ``take``, oldest first, and opens the newest segment for appending.

        With ``newest_only`` each segment begins with everything that counts. Older ones, left by a crash
        before they could be dropped, are then not read. ``before_cut`` is called before a torn tail is cut
        off. Returns whether there was one.

        Raises:
            Corrupt: a segment is damaged; it is left as it is.
            DiskFull, DiskFailed: a segment cannot be read or made.
        """
        try:
            disk.make_folder_durably(self.folder, self._folder_mode)
            self.numbers = deque(self._find())
            if not newest_only:
                for number in list(self.numbers)[:-1]:
                    self._read_whole(number, take)
        except OSError as error:
            raise disk.failure(error, f"the logs in {self.folder} cannot be read") from error
        if not self.numbers:
            self.numbers.append(1)
        number = self.numbers[-1]
        newest = self._log(number)
        torn = newest.open(lambda offset, body: take(number, offset, body), before_cut=before_cut)
        self._newest = newest
        return torn

    def append(self, bodies: Iterable[Buffer], *, sync: bool = True) -> tuple[int, int]:
        """Writes records as ``FramedLog.append`` does; returns the segment and the first one's offset."""
        return self.numbers[-1], self._current().append(bodies, sync=sync)

    def roll(self, bodies: Iterable[Buffer]) -> int:
        """Starts a segment that begins with ``bodies``, durably, and returns its number.

        Raises:
            RecordTooLarge, DiskFull: the newest segment continues to take records.
            DiskFailed: nothing can be written any more.
        """
        before = self._current()
        before.sync()
        number = self.numbers[-1] + 1
        fresh = self._log(number)
        try:
            fresh.create(bodies)
        except DiskFailed:
            # The next start would read the fresh segment, and miss what the older one took from here on.
            before.fail()
            raise
        before.close()
        self._newest = fresh
        self.numbers.append(number)
        return number

    def drop_before(self, number: int) -> None:
        """Removes the segments before ``number``; one that a crash brings back can be dropped again.

        Raises:
            DiskFailed: one cannot be removed.
        """
        while self.numbers and self.numbers[0] < number:
            path = self._path(self.numbers[0])
            try:
                disk.unlink(path, missing_ok=True)
            except OSError as error:
                raise disk.failure(error, f"the log {path} cannot be removed") from error
            self.numbers.popleft()

    def read(self, number: int, offset: int, body_bytes: int) -> bytes:
        """Returns the body of the record with this place and size.

        Raises:
            Corrupt: there is no such record there any more.
            DiskFailed: it cannot be read.
        """
        path = self._path(number)
        try:
            with disk.opened(path, os.O_RDONLY) as descriptor:
                return read_record(descriptor, self._layout, offset, body_bytes, path)
        except OSError as error:
            raise disk.failure(error, f"the log {path} cannot be read") from error

    def close(self) -> None:
        """Closes the newest segment."""
        if self._newest is not None:
            self._newest.close()
            self._newest = None

    def _current(self) -> FramedLog:
        assert self._newest is not None, "the segments were not opened"
        return self._newest

    def _find(self) -> list[int]:
        """Returns the numbers of the segments; removes those that a crash left unfinished."""
        names = disk.listdir(self.folder)
        for name in names:
            if name.endswith(".new"):
                disk.unlink(f"{self.folder}/{name}")
        stems = [name.removesuffix(self._suffix) for name in names if name.endswith(self._suffix)]
        return sorted(int(stem) for stem in stems if stem.isdecimal())

    def _read_whole(self, number: int, take: TakeFrom) -> None:
        path = self._path(number)
        with disk.opened(path, os.O_RDONLY) as descriptor:
            size = disk.fstat(descriptor).size
            end = replay(descriptor, self._layout, size, lambda *found: take(number, *found), path)
        if end < size:
            raise Corrupt(
                f"the log {path} is damaged at byte {end}, with a newer one behind it",
                hint="the disk is corrupt: replace it and let this node join with an empty data folder",
            )

    def _log(self, number: int) -> FramedLog:
        return FramedLog(self._path(number), self._layout, mode=self._mode)

    def _path(self, number: int) -> str:
        return f"{self.folder}/{number:08d}{self._suffix}"
