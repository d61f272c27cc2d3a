"""Cuts the splits of one source task into runs of whole records (a core: it asks for bytes and is given
them).

The position of a split is always the first byte of a record that has not been processed, outside quotes. A
checkpoint has to remember nothing else. A record that begins before the end of its split belongs to it, so
the last read may go beyond the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.common.errors import JobFailed
from agent.rainstorm.job.boundaries import first_end, last_end
from agent.rainstorm.job.plan import Split

RECORD_BYTES_MAX = 8 * 1024 * 1024
READ_BYTES_MIN = 512
# The last record of a split may end beyond it; most records end within this many bytes.
OVERRUN_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """Bytes [offset, offset + size) of the source file are wanted next."""

    split: int
    offset: int
    size: int


class SplitReader:
    """The splits of one task, read one after the other."""

    def __init__(self, splits: Sequence[Split], data_start: int, data_end: int, *, quoted: bool) -> None:
        self._splits = {split.index: split for split in splits}
        self._data_start = data_start
        self._data_end = data_end
        self._quoted = quoted
        self._inside: dict[int, bool] = {}
        self._position: dict[int, int] = {}
        self._grown = 0
        self.seek({}, {})

    def seek(self, positions: Mapping[int, int], inside: Mapping[int, bool]) -> None:
        """Goes to the committed positions; a split without one starts at its beginning.

        ``inside`` tells for such a split whether the byte before it lies inside quotes.
        """
        self._inside = dict(inside)
        self._position = {index: positions[index] for index in self._splits if index in positions}
        for index, split in self._splits.items():
            if index not in self._position and split.start == self._data_start:
                self._position[index] = split.start
        self._grown = 0

    def positions(self) -> dict[int, int]:
        """Returns the position of every split that has been started."""
        return dict(self._position)

    @property
    def finished(self) -> bool:
        """Tells whether all splits have been read."""
        return self._current() is None

    def next_read(self, size: int) -> ReadRequest | None:
        """Returns the bytes wanted next, about ``size`` of them, or None when all splits are done."""
        split = self._current()
        if split is None:
            return None
        # The byte before a split shows whether a record begins at the split's first byte.
        offset = self._position.get(split.index, split.start - 1)
        size = max(min(size, split.end - offset + OVERRUN_BYTES), READ_BYTES_MIN, self._grown)
        return ReadRequest(split.index, offset, min(size, self._data_end - offset))

    def take(self, request: ReadRequest, data: bytes | bytearray) -> tuple[int, int]:
        """Returns the part [begin, end) of ``data`` that holds the next whole records, and moves on.

        An empty part means that the same place must be read again (``next_read`` then asks for more).

        Raises:
            JobFailed: a record is longer than 8 MiB.
        """
        split = self._splits[request.split]
        begin = 0
        if split.index not in self._position:
            begin = first_end(data, 0, quoted=self._quoted, inside=self._inside.get(split.index, False))
            if begin < 0:
                return self._grow(split, request, data)
            self._position[split.index] = request.offset + begin
            if self._position[split.index] >= split.end:
                return 0, 0
        end = self._end(split, request, data, begin)
        if end <= begin:
            return self._grow(split, request, data)
        self._grown = 0
        self._position[split.index] = request.offset + end
        return begin, end

    def _end(self, split: Split, request: ReadRequest, data: bytes | bytearray, begin: int) -> int:
        at_end = request.offset + len(data) >= self._data_end
        bound = split.end - 1 - request.offset
        if bound < len(data):
            found = first_end(data, max(begin, bound), quoted=self._quoted, origin=begin)
            if found > 0:
                return found
        if at_end:
            return len(data)  # the last record of the file may lack its line end
        rest = bytes(data[begin:]) if begin else data
        return begin + last_end(rest, quoted=self._quoted)

    def _grow(self, split: Split, request: ReadRequest, data: bytes | bytearray) -> tuple[int, int]:
        if request.offset + len(data) >= self._data_end:
            self._position[split.index] = max(split.end, self._data_end)
            return 0, 0
        if request.size >= RECORD_BYTES_MAX:
            raise JobFailed(
                f"a record that begins near byte {request.offset} is longer than {RECORD_BYTES_MAX} bytes",
                hint="is a closing quote missing in the file? read it as 'format: lines' to find out",
            )
        self._grown = min(2 * max(request.size, READ_BYTES_MIN), RECORD_BYTES_MAX)
        return 0, 0

    def _current(self) -> Split | None:
        for split in self._splits.values():
            position = self._position.get(split.index)
            if split.end > split.start and (position is None or position < split.end):
                return split
        return None
