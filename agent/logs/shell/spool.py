"""Records on their way to HyDFS, on disk: what was stored here survives SIGKILL and power failures.

A framed log in segments. An entry is a kind of one byte and its payload; each segment begins with a snapshot
of the collector's state, so that the older ones can be deleted as soon as their records have arrived. Every
record is synced before it counts. Acknowledgements are not: HyDFS recognises a record that is sent again.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack

from agent.common import message
from agent.common.errors import DiskFailed, DiskFull, InvalidMessage
from agent.common.framedlog import Layout
from agent.common.shell import disk, threads
from agent.common.shell.segments import Segments
from agent.logs.core.collector import Record, record_from_wire
from agent.logs.messages import CollectorState

logger = logging.getLogger("agent.logs.shell.spool")

SNAPSHOT, RECORD, ACKNOWLEDGED = b"s", b"r", b"a"
SEGMENT_BYTES_MAX = 8 * 1024 * 1024
# An entry is a record of half a mebibyte at most, or a snapshot of some thousand positions.
ENTRY_BYTES_MAX = 4 * 1024 * 1024
# The length of an entry does not count its kind; the payload is an array or a map of msgpack.
LAYOUT = Layout(lead=rb"[sra][\x80-\x9f\xdc-\xdf]", body_bytes_max=ENTRY_BYTES_MAX, uncounted_bytes=1)


@dataclass(slots=True)
class _Unsent:
    """The place of a record that has not arrived in HyDFS yet."""

    segment: int
    offset: int
    size: int


class Spool:
    """The durable queue between log files and HyDFS."""

    def __init__(self, folder: Path, snapshot: Callable[[], CollectorState]) -> None:
        """Prepares the folder.

        Raises:
            DiskFull, DiskFailed: it cannot be written.
        """
        self._snapshot = snapshot
        self._segments = Segments(folder, LAYOUT, suffix=".spool", mode=0o640, folder_mode=0o750)
        self._unsent: deque[_Unsent] = deque()
        self._unsent_bytes = 0
        try:
            disk.make_folder_durably(folder, 0o750)
            self.identity = _identity(folder / "identity")
        except OSError as error:
            raise disk.failure(error, f"the spool {folder} cannot be used") from error

    @property
    def unsent_records(self) -> int:
        """Returns how many records have not arrived yet."""
        return len(self._unsent)

    @property
    def size_bytes(self) -> int:
        """Returns how many bytes of the disk the records that have not arrived take."""
        return self._unsent_bytes

    def recover(self, restore: Callable[[CollectorState], None], apply: Callable[[Record], None]) -> None:
        """Reads what the previous process left: first the latest state, then the records after it.

        Raises:
            Corrupt: an entry before the end is damaged; nothing was removed.
            InvalidMessage: the collector's state in it cannot be used.
            DiskFull, DiskFailed: the spool cannot be read or continued.
        """

        def take(number: int, offset: int, body: bytes) -> None:
            kind = body[:1]
            if kind == SNAPSHOT:
                restore(message.decode(CollectorState, _value(body), "state of the collector"))
                return
            try:
                value = _value(body)
                record = record_from_wire(value) if kind == RECORD else None
            except InvalidMessage as error:
                # The lines of a bad record are lost; those of the other records are not.
                logger.error("spool_record_refused segment=%d offset=%d error=%s", number, offset, error)
                return
            if record is not None:
                apply(record)
                self._add(_Unsent(number, offset, len(body)))
            elif self._unsent and value == [self._unsent[0].segment, self._unsent[0].offset]:
                self._remove_first()

        self._segments.open(take)
        try:
            self._begin_segment()
            self._delete_sent()
        except BaseException:
            self.close()
            raise

    def store(self, record: Record) -> None:
        """Makes a record durable.

        Raises:
            RecordTooLarge, DiskFull: it is not durable; nothing of it stays.
            DiskFailed: it may or may not be durable; the spool cannot be used any more.
        """
        body = RECORD + msgpack.packb(record.to_wire(), use_bin_type=True)
        if self._segments.size >= SEGMENT_BYTES_MAX:
            self._begin_segment()
        number, offset = self._segments.append([body])
        self._add(_Unsent(number, offset, len(body)))

    def first(self) -> Record | None:
        """Returns the oldest record that has not arrived yet.

        Raises:
            Corrupt, InvalidMessage: it is damaged.
            DiskFailed: it cannot be read.
        """
        if not self._unsent:
            return None
        at = self._unsent[0]
        body = self._segments.read(at.segment, at.offset, at.size)
        return record_from_wire(_value(body))

    def acknowledge(self) -> None:
        """Notes that the oldest record has arrived."""
        sent = self._remove_first()
        # Without the note it is sent again, and HyDFS recognises it.
        with contextlib.suppress(DiskFull, DiskFailed):
            self._segments.append(
                [ACKNOWLEDGED + msgpack.packb([sent.segment, sent.offset])],
                sync=False,
            )
            if not self._unsent and self._segments.size >= SEGMENT_BYTES_MAX // 8:
                self._begin_segment()
            self._delete_sent()

    def close(self) -> None:
        """Closes the file."""
        self._segments.close()

    def _begin_segment(self) -> None:
        self._segments.roll([SNAPSHOT + msgpack.packb(message.encode(self._snapshot()), use_bin_type=True)])

    def _delete_sent(self) -> None:
        # An acknowledgement in the newest segment may belong to a record in the oldest: segments go in order.
        self._segments.drop_before(self._unsent[0].segment if self._unsent else self._segments.numbers[-1])

    def _add(self, unsent: _Unsent) -> None:
        self._unsent.append(unsent)
        self._unsent_bytes += unsent.size

    def _remove_first(self) -> _Unsent:
        sent = self._unsent.popleft()
        self._unsent_bytes -= sent.size
        return sent


def _value(body: bytes) -> Any:
    try:
        return msgpack.unpackb(body[1:], raw=False, strict_map_key=False)
    except (ValueError, TypeError) as error:  # TypeError: a list as key
        raise InvalidMessage(f"entry of the spool: {error}") from None


def _identity(path: Path) -> str:
    """Returns the name of this spool, which is drawn when there is none.

    When the folder was lost, positions and numbers start over, so the writers need new names.
    """
    with contextlib.suppress(FileNotFoundError):
        found = disk.read_text(path, "ascii").strip()
        if found:
            return found
    made = threads.unique_id()[:12]
    disk.write_durably(path, f"{made}\n".encode("ascii"), 0o644)
    return made
