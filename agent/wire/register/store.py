"""The durable slots of a voter, in memory and in one append-only log.

A change is written and ``fdatasync``-ed before it is answered: a promise that a crash forgets could elect
two values. On a full disk a vote is refused and nothing is changed; any other failure of the disk ends the
agent. The log is rewritten when it has grown to many times what it holds. When it turns out damaged
(``register_log``) the agent refuses to start.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path

from agent.common.errors import DiskFailed, DiskFull, has_no_room
from agent.common.register import Answer, Slot, VoterRequest, answer
from agent.wire.codec import register_log

logger = logging.getLogger("agent.wire.register.store")

REWRITE_BYTES_MIN = 4 * 1024 * 1024


def write_log(path: Path, slots: Mapping[str, Slot]) -> int:
    """Puts a log with these slots in the place of ``path``, durably; returns its size in bytes."""
    fresh = path.with_suffix(".new")
    data = b"".join(register_log.pack(key, slot) for key, slot in slots.items())
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.rename(fresh, path)
    return len(data)


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
            DiskFull: there is no room for the change; nothing has changed.
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
        record = register_log.pack(key, slot)
        try:
            if not self._write(record):
                raise DiskFull(
                    f"no room for the register log {self._path}: this voter does not vote",
                    hint="free space on this node's disk",
                )
            os.fdatasync(self._file)
        except OSError as error:
            raise DiskFailed(f"register log {self._path} cannot be written: {error}") from error
        self._size += len(record)
        live = 256 * (len(self._slots) + 1)
        if self._size > max(REWRITE_BYTES_MIN, 16 * live):
            self._rewrite(key, slot)

    def _write(self, record: bytes) -> bool:
        """Writes a record whole, or returns that there is no room for it: then the log is as it was."""
        try:
            if os.write(self._file, record) == len(record):
                return True
        except OSError as error:
            if not has_no_room(error):
                raise
        os.ftruncate(self._file, self._size)  # a part of a record must not stand between others
        return False

    def _rewrite(self, key: str, slot: Slot) -> None:
        try:
            size = write_log(self._path, {**self._slots, key: slot})
        except OSError as error:
            if not has_no_room(error):
                raise DiskFailed(f"register log {self._path} cannot be rewritten: {error}") from error
            logger.warning("register_log_not_rewritten path=%s error=%s", self._path, error)
            return  # the long one is good; the next change tries again
        os.close(self._file)
        self._file = self._open_log()
        self._size = size

    def _load(self) -> int:
        data = self._path.read_bytes()
        self._slots, size = register_log.replay(data, str(self._path))
        if size < len(data):
            with open(self._path, "r+b") as file:
                file.truncate(size)
        return size
