"""The durable slots of a voter, in memory and in one framed log.

A change is on stable storage before it is answered: a promise that a crash forgets could elect two values. On
a full disk a vote is refused and nothing is changed; any other failure of the disk ends the agent. The log is
rewritten when it has grown to many times what it holds. If it is damaged, the agent refuses to start.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Mapping
from pathlib import Path

from agent.common.errors import DiskFull, Overloaded, Unavailable
from agent.common.register import Answer, Read, Slot, VoterRequest, answer
from agent.common.shell import framedlog, threads
from agent.common.shell.framedlog import FramedLog
from agent.wire.codec import register_log

logger = logging.getLogger("agent.wire.register.store")

REWRITE_BYTES_MIN = 4 * 1024 * 1024
# Registers that hold a promise and no value. A change leaves one only when its proposer ends half-way, and
# the next change of that name gives it a value. Only a defective peer makes more of them: ten thousand
# names take at most ten megabytes. A promise must not be forgotten, so further names are refused.
VALUELESS_MAX = 10_000


def write_log(path: Path, slots: Mapping[str, Slot]) -> None:
    """Durably replaces ``path`` by a log with these slots.

    Raises:
        DiskFull: there is no room; nothing has changed.
        DiskFailed: it is unknown which of the two logs a crash leaves.
    """
    framedlog.write_log(path, register_log.LAYOUT, (register_log.pack(*each) for each in slots.items()))


class RegisterStore:
    """The durable slots of one voter."""

    def __init__(self, path: Path) -> None:
        """Opens the log, or makes it if it is missing; its folder exists.

        Raises:
            Corrupt: it is damaged.
            DiskFull, DiskFailed: it cannot be made or read.
        """
        self._lock = threads.lock()
        self._slots: dict[str, Slot] = {}
        self._valueless = 0
        self._closed = False
        self._log = FramedLog(path, register_log.LAYOUT)
        self._log.open(self._replay)
        self._valueless = sum(slot.value is None for slot in self._slots.values())

    def apply(self, request: VoterRequest) -> Answer:
        """Applies a request; its answer may leave only after this returns.

        Raises:
            Unavailable: the store was closed; nothing has changed.
            Overloaded: too many registers are already without a value; nothing has changed.
            RecordTooLarge: the value is too large for the log; nothing has changed.
            DiskFull: there is no room for the change; nothing has changed.
            DiskFailed: the log cannot be written; the agent must stop.
        """
        if isinstance(request, Read):  # does not wait for a slow disk: what is in memory is durable
            return answer(self._slots.get(request.key, Slot()), request)[1]
        with self._lock:
            if self._closed:
                raise Unavailable("the voter is stopping")
            slot = self._slots.get(request.key, Slot())
            changed, reply = answer(slot, request)
            if changed != slot:
                more = (changed.value is None) - (request.key in self._slots and slot.value is None)
                if more > 0 and self._valueless >= VALUELESS_MAX:
                    raise Overloaded(
                        f"{self._valueless} registers of this voter hold a promise and no value",
                        hint="a node begins changes that it does not complete: see the agents' logs",
                    )
                self._append(request.key, changed)
                self._slots[request.key] = changed
                self._valueless += more
            return reply

    def keys(self, prefix: str = "", after: str = "", limit: int = 0) -> list[str]:
        """Returns the first ``limit`` names (0: all) after ``after`` that hold an accepted value, sorted."""
        with self._lock:
            found = [
                key
                for key, slot in self._slots.items()
                if key > after and key.startswith(prefix) and slot.value is not None
            ]
        return heapq.nsmallest(limit, found) if limit else sorted(found)

    def slot(self, key: str) -> Slot:
        """Returns this voter's own slot, which may be behind."""
        with self._lock:
            return self._slots.get(key, Slot())

    def close(self) -> None:
        """Closes the log."""
        with self._lock:
            self._closed = True
            self._log.close()

    def _replay(self, offset: int, body: bytes) -> None:
        key, slot = register_log.unpack(body)
        self._slots[key] = slot

    def _append(self, key: str, slot: Slot) -> None:
        self._log.append([register_log.pack(key, slot)])
        live = 256 * (len(self._slots) + 1)
        if self._log.size > max(REWRITE_BYTES_MIN, 16 * live):
            self._rewrite({**self._slots, key: slot})

    def _rewrite(self, slots: Mapping[str, Slot]) -> None:
        try:
            self._log.rewrite(register_log.pack(*each) for each in slots.items())
        except DiskFull as error:
            # The long log is still good; the next change tries again.
            logger.warning("register_log_not_rewritten path=%s error=%s", self._log.path, error)
