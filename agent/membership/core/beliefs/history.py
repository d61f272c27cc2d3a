"""The history of the members, as this node saw it: a bounded list that answers "why is it called dead?".

Every accusation, including this node's own, is kept with its accuser, next to the changes of state that
followed. The oldest entries are dropped first.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from agent.membership.member import Member, State
from agent.membership.messages.events import ChangeKind
from agent.membership.messages.members import HISTORY_MAX


@dataclass(frozen=True, slots=True)
class Entry:
    """What happened to a member at the monotonic time ``at``, and which node said so."""

    at: float
    about: str
    what: str
    by: str
    boot: int
    incarnation: int


class History:
    """The newest entries about all members."""

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=HISTORY_MAX)

    def add(self, now: float, what: str, member: Member, by: str) -> None:
        """Adds an entry; the oldest one is dropped when there is no more room."""
        self._entries.append(Entry(now, member.name, what, by, member.boot, member.incarnation))

    def about(self, name: str) -> list[Entry]:
        """Returns what is remembered of one member, oldest first (a copy made in one step)."""
        return [entry for entry in list(self._entries) if entry.about == name]


def change_kind(member: Member, before: Member | None) -> ChangeKind:
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
