"""The events of the cluster as this node saw them, in order, for followers that use long polls.

Events have consecutive numbers. The log is bounded: a follower that falls behind is told that it missed some,
and must ask for the members again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from agent.common import message
from agent.common.shell import clock, threads
from agent.membership.messages.events import EVENTS_MAX, ClusterEvent, EventsReply


class EventLog:
    """The newest events of one membership agent."""

    def __init__(self) -> None:
        self._events: deque[ClusterEvent] = deque(maxlen=EVENTS_MAX)
        self._changed = threads.condition()
        self._last = 0
        self._closed = False

    def add(self, event: ClusterEvent) -> None:
        """Appends an event under the next number and wakes the followers."""
        with self._changed:
            self._last += 1
            self._events.append(replace(event, sequence=self._last, wall_at=clock.wall()))
            self._changed.notify_all()

    def since(self, sequence: int, wait_s: float) -> EventsReply:
        """Returns the events after number ``sequence``, waiting for one; ``missed`` when some are gone.

        A number above the newest comes from before a restart of the agent: its follower gets all events since
        the restart.
        """
        with self._changed:
            if sequence > self._last:
                return self._after(0, missed=True)
            self._changed.wait_for(lambda: self._last > sequence or self._closed, timeout=wait_s)
            first = self._events[0].sequence if self._events else 1
            return self._after(sequence, missed=first > sequence + 1)

    def _after(self, sequence: int, *, missed: bool) -> EventsReply:
        found = [message.encode(event) for event in self._events if event.sequence > sequence]
        return EventsReply(tuple(found), self._last, missed)

    def close(self) -> None:
        """Wakes all followers; from now on none of them waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
