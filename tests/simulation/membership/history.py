"""The observations and decisions of the agents of a simulated cluster, checked while they happen.

M1 one view for each version, one leader for each term, terms never go back; M2 no node that no fault touched
is believed dead or evicted, except by a node that was itself cut off; M3 no record is newer than the node
that it describes; M4 lives never go back: the boots in the view, and in the beliefs of one life of an
observer, only grow; M15 a node is evicted only if some node believed it dead or gone; M13 no two lives share
a node id, and a disk keeps its identity.

The first violations are kept and not raised: an exception in a thread of an agent ends only that agent.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.membership.core import view as views
from agent.membership.core.monitor import Monitor
from agent.membership.member import Member, State
from agent.membership.view import DOWN, UP, NodeEntry, View

VIOLATIONS_MAX = 10


@dataclass(frozen=True, slots=True)
class Sighting:
    """One node saw another one change its state."""

    at: float
    observer: str
    member: Member
    before: Member | None = None


class History:
    """Everything that was seen, and the violations of rules."""

    def __init__(self, names: Sequence[str], voters: int, monitor: Callable[[str], Monitor | None]) -> None:
        """``monitor`` returns the monitor of a node whose agent is running."""
        self.violations: list[str] = []
        self.hits: Counter[str] = Counter()
        self.views: dict[int, View] = {}
        self.sightings: list[Sighting] = []
        # They tell whether a fault may explain that a node is believed dead, or believes others dead.
        self.is_touched: Callable[[str], bool] = lambda name: True
        self.is_cut_off: Callable[[str], bool] = lambda name: True
        self._names = list(names)
        self._voters = list(names)[:voters]
        self._monitor = monitor
        self._own: dict[str, tuple[int, int]] = {}
        self._believed: dict[tuple[str, int, str], int] = {}
        # The latest boot of each node that any node believed dead, or gone.
        self._gone: dict[str, int] = {}
        self._lives: set[str] = set()
        self._disks: dict[object, str] = {}

    def require(self, holds: object, violation: str) -> None:
        """Notes a violation unless ``holds``."""
        if not holds and len(self.violations) < VIOLATIONS_MAX:
            self.violations.append(violation)

    def note_own(self, name: str) -> None:
        """Notes how far a node's own record has come; called at the latest before its agent ends."""
        monitor = self._monitor(name)
        if monitor is not None:
            me = monitor.me
            self._own[name] = max(self._own.get(name, (0, 0)), (me.boot, me.incarnation))

    def began(self, member: Member, disk: object) -> None:
        """Checks the identity of a new life on a disk."""
        self.require(member.node_id not in self._lives, f"M13: {member.name} lives twice as {member.node_id}")
        self._lives.add(member.node_id)
        known = self._disks.setdefault(disk, member.uuid)
        self.require(known == member.uuid, f"M13: {member.name} forgot who it is: {known}, {member.uuid}")

    def saw(self, sighting: Sighting, life: int) -> None:
        """Checks a change of state that a node saw in its life number ``life``."""
        self.sightings.append(sighting)
        member, observer = sighting.member, sighting.observer
        self.note_own(member.name)
        own = self._own.get(member.name, (0, 0))
        self.require(
            (member.boot, member.incarnation) <= own,
            f"M3: {observer} believes {member}, but its own record is {own}",
        )
        key = (observer, life, member.name)
        self.require(member.boot >= self._believed.get(key, 0), f"M4: {observer} went back to {member}")
        self._believed[key] = member.boot
        self._count(sighting)
        if member.state in (State.DEAD, State.LEFT):
            self._gone[member.name] = max(member.boot, self._gone.get(member.name, 0))
        if member.state is State.DEAD:
            excused = self.is_touched(member.name) or self.is_cut_off(observer)
            self.require(excused, f"M2: {observer} believes {member.name} dead, which no fault touched")

    def learned(self, view: View | None) -> None:
        """Checks a view that a node learned against all others."""
        if view is None:
            return
        number = view.version
        known = self.views.get(number)
        if known is not None:
            self.require(known == view, f"M1: two views of version {number}: {known} and {view}")
            return
        self.views[number] = view
        for other in self.views.values():
            if other.term == view.term:
                self.require(other.leader == view.leader, f"M1: two leaders of term {view.term}")
            elif (other.version < number) != (other.term < view.term):
                self.require(False, f"M1: terms go back: {other} and {view}")
        before = self.views.get(number - 1)
        for name, entry in view.nodes.items():
            self._check_entry(name, entry, before)
        if before is not None and view.leader != before.leader and before.leader:
            self.hits["leader changed"] += 1

    def deaths(self, observers: Sequence[str], since: float = 0.0) -> list[Sighting]:
        """Returns the deaths that the observers found or believed since ``since``."""
        return [
            sighting
            for sighting in self.sightings
            if sighting.member.state is State.DEAD and sighting.observer in observers and sighting.at >= since
        ]

    def ever_down(self) -> set[str]:
        """Returns the names of the nodes that any view called down."""
        return {
            name for view in self.views.values() for name, entry in view.nodes.items() if entry.state != UP
        }

    def _check_entry(self, name: str, entry: NodeEntry, before: View | None) -> None:
        self.note_own(name)
        own_boot = self._own.get(name, (0, 0))[0]
        self.require(entry.boot <= own_boot, f"M3: the view has a life {entry} of {name}")
        known = before.nodes.get(name) if before is not None else None
        if known is not None and entry.boot < known.boot:
            self.require(False, f"M4: the view went back to an earlier life of {name}: {known}, {entry}")
        self._count_entry(known, entry)
        if entry.state == DOWN and (known is None or known.state == UP):
            excused = self.is_touched(name) or self._rules_alone() or self._is_small(before)
            self.require(excused, f"M2: {name} was evicted, which no fault touched")
            if known is not None:
                gone = self._gone.get(name, 0) >= known.boot
                self.require(gone, f"M15: {name} was evicted, which no node believed dead")

    def _is_small(self, view: View | None) -> bool:
        """Tells whether one deaf node can evict others: below five nodes one reporter is enough."""
        few = view is not None and len(view.up_names()) < views.REPORTERS_FROM_NODES
        return few and any(self.is_cut_off(name) for name in self._names)

    def _rules_alone(self) -> bool:
        """Tells whether the only voter is cut off: then it decides alone, and its beliefs become the view."""
        return len(self._voters) == 1 and self.is_cut_off(self._voters[0])

    def _count(self, sighting: Sighting) -> None:
        member, before = sighting.member, sighting.before
        match member.state:
            case State.SUSPECT:
                self.hits["suspected"] += 1
            case State.DEAD:
                self.hits["dead"] += 1
            case State.LEFT:
                self.hits["left"] += 1
            case State.ALIVE if before is not None and member.boot > before.boot:
                self.hits["later life seen"] += 1
            case State.ALIVE if before is not None and before.state is State.SUSPECT:
                self.hits["refuted"] += 1

    def _count_entry(self, known: NodeEntry | None, entry: NodeEntry) -> None:
        if known is None:
            return
        if (known.state, entry.state) == (UP, DOWN):
            self.hits["evicted"] += 1
        elif (known.state, entry.state) == (DOWN, UP):
            self.hits["admitted again"] += 1
        elif known.node_id != entry.node_id:
            self.hits["new life in the view"] += 1
