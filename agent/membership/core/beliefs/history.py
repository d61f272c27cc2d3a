"""What happened to the members, as this node saw it: a bounded list that answers "why is it called dead".

Every accusation is kept with its accuser, this node's own among them, next to the changes of state that
followed. The oldest entries go first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from agent.membership.member import Member, State

# A death leaves about ten entries; a cluster that flaps once a second is remembered for two minutes.
ENTRIES_MAX = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that was seen at the monotonic time ``at``: what happened to a member, as said by whom."""

    at: float
    about: str
    what: str
    by: str
    boot: int
    incarnation: int


class Story:
    """The newest entries about all members."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=ENTRIES_MAX)

    def add(self, now: float, what: str, member: Member, by: str) -> None:
        """Takes note of something."""
        self._entries.append(Entry(now, member.name, what, by, member.boot, member.incarnation))

    def about(self, name: str) -> list[Entry]:
        """Returns what is remembered of one member, oldest first (a copy made in one step)."""
        return [entry for entry in list(self._entries) if entry.about == name]


def change(member: Member, before: Member | None) -> str:
    """Returns the word for the change from one record of a member to the next."""
    match member.state:
        case State.SUSPECT:
            return "suspect"
        case State.DEAD:
            return "dead"
        case State.LEFT:
            return "left"
    if before is None or before.node_id != member.node_id or before.state in (State.DEAD, State.LEFT):
        return "join"
    return "refute" if before.state is State.SUSPECT else "services"
