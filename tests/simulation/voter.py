"""A simulated voter: its durable slots and the answers it gives.

It mirrors ``RegisterStore`` and recovers by the same rule: a torn end is cut off, and a damaged log keeps the
agent from starting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.common.errors import DiskFailed, DiskFull
from agent.common.framedlog import check_tail, records
from agent.common.register import Accept, Answer, Prepare, Read, Slot, VoterRequest, answer
from agent.wire.codec import register_log
from tests.simulation.world import Node

FILE = "registers"
# How often a node dies with a torn record at the end of its log, which a full disk left there.
DIES_SHARE = 0.2
REFUSED_VOTE = "a full disk refused a vote"


def packed(key: str, slot: Slot) -> bytes:
    """Returns a slot as it stands in the log."""
    return register_log.LAYOUT.record(register_log.pack(key, slot))


class Voter:
    """The durable slots of one voter."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._rng = node.random("register log")
        data = node.disk.read(FILE)
        self._slots: dict[str, Slot] = {}
        size = 0

        def read(offset: int, length: int) -> bytes:
            return data[offset : offset + length]

        for record in records(register_log.LAYOUT, read, len(data)):
            key, self._slots[key] = register_log.unpack(record.body)
            size = record.end
        if size < len(data):
            check_tail(register_log.LAYOUT, read, size, len(data), f"{node.name}/{FILE}")
            node.world.hit("torn register log")
            node.disk.truncate(FILE, size)

    def apply(self, request: VoterRequest) -> Answer:
        """Answers a request; what changed is durable by then.

        Raises:
            DiskFull: there is no room; nothing has changed.
            DiskFailed: it could not be made durable; the agent must stop.
        """
        slot = self._slots.get(request.key, Slot())
        changed, reply = answer(slot, request)
        if changed != slot:
            self._append(packed(request.key, changed))
            self._slots[request.key] = changed
        return reply

    def _append(self, record: bytes) -> None:
        disk = self._node.disk
        size = disk.size(FILE)
        try:
            disk.append_durably(FILE, record)
        except DiskFull as error:
            if self._rng.random() < DIES_SHARE:
                raise DiskFailed(f"{self._node.name} died before it cut off the torn record") from error
            disk.truncate(FILE, size)
            self._node.world.hit(REFUSED_VOTE)
            raise

    def answer_frame(self, header: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the reply to a request frame."""
        key = str(header["key"])
        request: VoterRequest
        match header["type"]:
            case "prepare":
                request = Prepare(key, (header["ballot"][0], header["ballot"][1]))
            case "accept":
                request = Accept(key, (header["ballot"][0], header["ballot"][1]), header["value"])
            case _:
                request = Read(key)
        found = self.apply(request)
        return {
            "reply": header["id"],
            "ok": found.voted,
            "promised": found.promised,
            "accepted": found.accepted,
            "value": found.value,
        }


def answer_of(header: Mapping[str, Any]) -> Answer:
    """Returns the answer that a reply frame holds."""
    promised, accepted = header["promised"], header["accepted"]
    return Answer(header["ok"], (promised[0], promised[1]), (accepted[0], accepted[1]), header["value"])
