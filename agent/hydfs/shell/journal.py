"""The journal of a node: one append-only log for all its blocks, synced before anything is answered.

It is a framed log in segments that are replaced as a whole: a new one begins with the state of every block,
and only then are older ones dropped. If a crash leaves several segments, the newest has the complete state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from agent.common.framedlog import Layout
from agent.common.shell import disk
from agent.common.shell.segments import Segments

SEGMENT_BYTES = 32 * 1024 * 1024
# An entry is a record with at most 64 KiB of payload, or the state of a block with the last append of each of
# its writers: 16 MiB are some two hundred thousand of them.
ENTRY_BYTES_MAX = 16 * 1024 * 1024
LAYOUT = Layout(
    lead=rb"[\x90-\x9f][\xa1-\xbf](?:record|promise|sealed|dropped|state)", body_bytes_max=ENTRY_BYTES_MAX
)


class Journal:
    """The segments in one folder; used by one thread."""

    def __init__(self, folder: Path) -> None:
        self._segments = Segments(folder, LAYOUT, suffix=".log")
        # Whether a tail was cut off. The mark stays on disk until its consequences are on disk too, because
        # this process may end before that.
        self.torn = False
        self._torn_path = folder / "torn"

    @property
    def size(self) -> int:
        """Returns the size of the segment that takes entries."""
        return self._segments.size

    def recover(self, take: Callable[[bytes], None]) -> None:
        """Hands every entry to ``take``, oldest first, and opens the newest segment for appending.

        Raises:
            Corrupt: an entry before the end is damaged.
            DiskFull, DiskFailed: the journal cannot be read or made.
        """
        cut = self._segments.open(
            lambda number, offset, body: take(body),
            newest_only=True,
            before_cut=lambda: disk.create_durably(self._torn_path),
        )
        try:
            self.torn = cut or disk.exists(self._torn_path)
        except OSError as error:
            raise disk.failure(error, f"the journal in {self._segments.folder} cannot be read") from error
        self._segments.drop_before(self._segments.numbers[-1])

    def append(self, bodies: Iterable[bytes]) -> None:
        """Writes the entries and waits until they are on stable storage.

        Raises:
            RecordTooLarge, DiskFull: nothing was written.
            DiskFailed: they may be there or not; the journal cannot be used any more.
        """
        self._segments.append(bodies)

    def restart(self, bodies: Iterable[bytes]) -> None:
        """Starts a new segment that begins with ``bodies``, the complete state, and drops the older ones.

        Raises:
            RecordTooLarge, DiskFull: the older segment stays in use.
            DiskFailed: the journal cannot be used any more.
        """
        self._segments.drop_before(self._segments.roll(bodies))
        try:
            disk.unlink(self._torn_path, missing_ok=True)
        except OSError as error:
            raise disk.failure(error, f"{self._torn_path} cannot be removed") from error

    def close(self) -> None:
        """Closes the segment."""
        self._segments.close()
