"""The durable slots of a voter, in memory and in one append-only log.

A record is length, CRC32 and msgpack [key, promised, accepted, value]. A change is written and
``fdatasync``-ed before it is answered: a promise that a crash forgets could elect two values. The log is
rewritten when it has grown to many times what it holds. A torn record at the end was never answered and is
cut off; a bad record before the end means that the disk lies, and the agent refuses to start.
"""

from __future__ import annotations

import os
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

import msgpack

from agent.common.errors import Corrupt, DiskFailed
from agent.common.register import Answer, Slot, VoterRequest, answer

RECORD = struct.Struct(">II")
REWRITE_BYTES_MIN = 4 * 1024 * 1024


class RegisterStore:
    """The durable slots of one voter."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._slots: dict[str, Slot] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._size = self._load() if path.exists() else 0
        self._file = self._open_log()

    def apply(self, request: VoterRequest) -> Answer:
        """Applies a request; its answer may leave only after this returns.

        Raises:
            DiskFailed: the log cannot be written; the agent must stop.
        """
        with self._lock:
            slot = self._slots.get(request.key, Slot())
            changed, reply = answer(slot, request)
            if changed != slot:
                self._append(request.key, changed)
                self._slots[request.key] = changed
            return reply

    def keys(self, prefix: str = "") -> list[str]:
        """Returns the names of the registers that hold an accepted value, sorted."""
        with self._lock:
            return sorted(
                key for key, slot in self._slots.items() if key.startswith(prefix) and slot.value is not None
            )

    def slot(self, key: str) -> Slot:
        """Returns this voter's own slot, which may be behind."""
        with self._lock:
            return self._slots.get(key, Slot())

    def close(self) -> None:
        """Closes the log."""
        with self._lock:
            os.close(self._file)

    def _open_log(self) -> int:
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        folder = os.open(self._path.parent, os.O_RDONLY)
        os.fsync(folder)  # a new log must survive a power cut together with its first record
        os.close(folder)
        return descriptor

    def _append(self, key: str, slot: Slot) -> None:
        record = _pack(key, slot)
        try:
            written = os.write(self._file, record)
            if written != len(record):
                raise OSError(f"wrote {written} of {len(record)} bytes")
            os.fdatasync(self._file)
        except OSError as error:
            raise DiskFailed(f"register log {self._path} cannot be written: {error}") from error
        self._size += len(record)
        live = 256 * (len(self._slots) + 1)
        if self._size > max(REWRITE_BYTES_MIN, 16 * live):
            self._rewrite(key, slot)

    def _rewrite(self, key: str, slot: Slot) -> None:
        fresh = self._path.with_suffix(".new")
        data = b"".join(_pack(name, kept) for name, kept in {**self._slots, key: slot}.items())
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.rename(fresh, self._path)
        os.close(self._file)
        self._file = self._open_log()
        self._size = len(data)

    def _load(self) -> int:
        data = self._path.read_bytes()
        offset = 0
        while offset < len(data):
            end, record = _unpack(data, offset)
            if record is None:
                if any(
                    _unpack(data, start)[1] for start in range(offset + 1, min(len(data), offset + 65536))
                ):
                    raise Corrupt(
                        f"register log {self._path} is damaged at byte {offset}, with good records behind it",
                        hint="replace this node's disk and let it join as a new node",
                    )
                with open(self._path, "r+b") as file:
                    file.truncate(offset)
                break
            key, promised, accepted, value = record
            self._slots[key] = Slot((promised[0], promised[1]), (accepted[0], accepted[1]), value)
            offset = end
        return offset


def _pack(key: str, slot: Slot) -> bytes:
    body: bytes = msgpack.packb([key, slot.promised, slot.accepted, slot.value], use_bin_type=True)
    return RECORD.pack(len(body), zlib.crc32(body)) + body


def _unpack(data: bytes, offset: int) -> tuple[int, list[Any] | None]:
    start = offset + RECORD.size
    if start > len(data):
        return offset, None
    length, crc = RECORD.unpack_from(data, offset)
    body = data[start : start + length]
    if length < 4 or len(body) != length or zlib.crc32(body) != crc:
        return offset, None
    return start + length, msgpack.unpackb(body, raw=False, strict_map_key=False)
