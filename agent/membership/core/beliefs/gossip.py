"""The queue of updates that datagrams carry, each a limited number of times (SWIM section 4.1).

An update is sent ``4 * ceil(log10(N + 1))`` times, the least-sent ones first, and then dropped: an epidemic
needs O(log N) repetitions to reach everybody. A newer record of a name replaces the older ones. Accusations
by different accusers are separate entries: each one is a confirmation that shortens the suspicion, or one
more report for an eviction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.common.errors import FrameTooLarge
from agent.membership.datagrams import DATAGRAM_BYTES_MAX, OVERHEAD_BYTES, Update, update_bytes
from agent.membership.member import State

REPETITIONS = 4
ROOM_BYTES = DATAGRAM_BYTES_MAX - OVERHEAD_BYTES


def transmit_limit(members: int) -> int:
    """Returns how many times each update is sent in a group of ``members``."""
    return REPETITIONS * max(1, math.ceil(math.log10(members + 1)))


@dataclass(slots=True)
class _Entry:
    update: Update
    size: int
    order: int
    sent: int = 0


class GossipQueue:
    """Updates waiting to be passed on."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], _Entry] = {}
        self._order = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, update: Update) -> None:
        """Queues an update in place of every older one about the same member.

        Raises:
            FrameTooLarge: it does not fit into a datagram, so no other node would ever hear of it.
        """
        name, size = update.member.name, update_bytes(update)
        if size > ROOM_BYTES:
            raise FrameTooLarge(
                f"the record of {name!r} takes {size} bytes, a datagram has room for {ROOM_BYTES}",
                hint="give the node a shorter name",
            )
        for key in [key for key in self._entries if key[0] == name]:
            if self._entries[key].update.member.precedence < update.member.precedence:
                del self._entries[key]
        # One entry for each accuser; one entry for a record without an accuser.
        accuser = update.accuser if update.member.state in (State.SUSPECT, State.DEAD) else ""
        self._order += 1
        self._entries[name, accuser] = _Entry(update, size, self._order)

    def take(self, members: int, room_bytes: int = ROOM_BYTES) -> tuple[Update, ...]:
        """Returns the updates for one datagram, least-sent and newest first, and counts them as sent."""
        if not self._entries:
            return ()
        limit = transmit_limit(members)
        chosen: list[Update] = []
        for key, entry in sorted(self._entries.items(), key=lambda item: (item[1].sent, -item[1].order)):
            if entry.size > room_bytes:
                continue
            room_bytes -= entry.size
            chosen.append(entry.update)
            entry.sent += 1
            if entry.sent >= limit:
                del self._entries[key]
        return tuple(chosen)
