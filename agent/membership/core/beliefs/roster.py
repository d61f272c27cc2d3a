"""This node's beliefs about each member, and the rules by which they change, whichever detector is active.

SWIM's suspicion with incarnation numbers (SWIM section 4.2) and Lifeguard's confirmations, with these
differences, each of which answers a known complaint:

- a death heard from others is believed only after this node itself has suspected the member for a probe
  interval: one node that hears nobody cannot make the others declare each other dead;
- accusations by a member that is itself suspect or dead here do not count;
- an accusation that was refuted before is answered again: whoever makes it has missed the refutation;
- a suspected member that shows signs of life (by an answer or a request of its own) is probed again instead
  of being declared dead;
- every accuser is kept as a *reporter*: a node that found the member silent by itself. A death is evidence
  for an eviction from the view only with enough reporters (``view``).

Without suspicion, an accusation is a death at once, and a reported death is believed.

The monitor acts on five fields: it probes the members ``to_probe`` and some of the ``reported_suspects``,
drops what is in progress about the ``newly_dead``, gossips at once when there is ``urgent`` news, and answers
a sender who ``missed_refutation``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.membership.core.beliefs.gossip import GossipQueue
from agent.membership.core.beliefs.health import LocalHealth
from agent.membership.core.beliefs.history import History, change_kind
from agent.membership.core.beliefs.selftest import SelfTest
from agent.membership.core.beliefs.suspicion import Suspicion
from agent.membership.core.beliefs.table import Table
from agent.membership.core.events import AdoptBoot, AnnounceConflict, AnnounceMember, Effect
from agent.membership.datagrams import Update
from agent.membership.member import LIVE, Member, State
from agent.membership.messages.members import MEMBERS_MAX
from agent.membership.settings import Settings

if TYPE_CHECKING:
    import random

# More reporters than this add nothing: at most two are needed, and some of them may be evicted too.
REPORTERS_MAX = 8
# The number of reports of one death that are passed on.
REPORTERS_SPREAD = 4


class Roster:
    """The beliefs of one node."""

    def __init__(
        self,
        me: Member,
        config: MembershipConfig,
        settings: Settings,
        health: LocalHealth,
        table: Table,
        selftest: SelfTest,
    ) -> None:
        self.me = me
        self.table = table
        self.settings = settings
        self.gossip = GossipQueue()
        self.history = History()
        self.suspicions: dict[str, Suspicion] = {}
        self.effects: list[Effect] = []
        self.leaving = False
        self.to_probe: list[str] = []
        self.reported_suspects: list[str] = []
        self.newly_dead: list[str] = []
        self.urgent = False
        self.missed_refutation = False
        self.reports = 0
        # The disk of each node that is up in the agreed view: it decides which of two nodes with one identity
        # is refused.
        self.agreed: Mapping[str, str] = {}
        self.refused: list[Member] = []
        # An accusation of this node that is not refuted yet, because the node must pass a test first.
        self.contested: Member | None = None
        self._selftest = selftest
        self._config = config
        self._health = health
        self._reporters: dict[str, dict[str, None]] = {}
        self._alive_at: dict[str, float] = {}
        table.put(me)

    # Beliefs

    def is_live_other(self, member: Member) -> bool:
        """Tells whether a record is about another node, which may be alive."""
        return member.state in LIVE and member.name != self.me.name

    def sample_others(self, rng: random.Random, count: int) -> list[str]:
        """Returns up to ``count`` other members at random."""
        return self.table.sample(rng, count, self.is_live_other)

    def reporters(self, name: str) -> tuple[str, ...]:
        """Returns the nodes that found this member silent by themselves, in the order heard."""
        return tuple(self._reporters.get(name, ()))

    def all_reporters(self) -> Mapping[str, tuple[str, ...]]:
        """Returns the reporters of every member that is believed dead."""
        return {name: self.reporters(name) for name in self.table.dead_names()}

    def record(self, member: Member) -> Update:
        """Returns a record as it is passed on: this node is the accuser if it accuses the member."""
        reporters = self.reporters(member.name)
        if member.state in (State.SUSPECT, State.DEAD) and reporters:
            return Update(member, self.me.name if self.me.name in reporters else reporters[0])
        return Update(member)

    def next_deadline(self) -> float | None:
        """Returns when the next suspicion ends."""
        if not self.suspicions:
            return None
        return min([entry.deadline for entry in self.suspicions.values()])

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
        assert self.table.get(self.me.name) == self.me, "this node's own record is stale"
        assert self.me.state is (State.LEFT if self.leaving else State.ALIVE), (
            "this node's own record has the wrong state"
        )
        assert len(self.suspicions) == self.table.suspect_count, "suspicions and suspects disagree"
        for name, suspicion in self.suspicions.items():
            assert self.table.get(name) == suspicion.member, f"{name} and its suspicion disagree"

    # Records and signs of life

    def note_alive(self, name: str, at: float) -> None:
        """Notes a sign of life at the instant ``at``."""
        self._alive_at[name] = max(at, self._alive_at.get(name, at))

    def merge(self, now: float, update: Update) -> None:
        """Merges a record from another node if it is credible."""
        member = update.member
        if member.name == self.me.name:
            self._merge_about_me(now, member, update.accuser)
            return
        current = self.table.get(member.name)
        if current is None and len(self.table) >= MEMBERS_MAX:
            return
        if (current is None or current.uuid != member.uuid) and self._is_second(now, member):
            return
        if member.state in (State.ALIVE, State.LEFT) or current is None:
            if self.table.supersedes(member):
                self.put(now, member, update.accuser)
            return
        accuser = self.table.get(update.accuser)
        if accuser is not None and accuser.state is not State.ALIVE:
            return
        if self.table.supersedes(member):
            if member.state is State.DEAD:
                self._merge_death(now, member, current, update.accuser)
            else:
                self.put(now, member, update.accuser)
                self.reported_suspects.append(member.name)
        elif current.same_life(member):
            self._merge_report(now, current, update.accuser)

    def _is_second(self, now: float, member: Member) -> bool:
        """Tells whether another live node already has the disk of ``member``; then ``member`` is refused."""
        holder = next((m for m in self.table if m.uuid == member.uuid and m.name != member.name), None)
        if holder is None or holder.state not in LIVE or member.state not in LIVE:
            return False
        if self.agreed.get(member.name) == member.uuid != self.agreed.get(holder.name):
            return False
        self.refuse(now, member, holder.name)
        return True

    def refuse(self, now: float, member: Member, holder: str) -> None:
        """Refuses a node that claims the identity of another one."""
        self.refused.append(member)
        self.history.add(now, "refused", member, holder)
        self.effects.append(AnnounceConflict(member.name, member.address, holder))

    def _merge_report(self, now: float, current: Member, accuser: str) -> None:
        if current.state not in (State.SUSPECT, State.DEAD) or accuser == self.me.name:
            return
        fresh = self._report(now, current, accuser)
        suspicion = self.suspicions.get(current.name)
        wanted = suspicion is not None and accuser and suspicion.confirm(accuser)
        if wanted or (fresh and suspicion is None and len(self._reporters[current.name]) <= REPORTERS_SPREAD):
            self.gossip.add(Update(current, accuser))

    def _merge_death(self, now: float, member: Member, current: Member, accuser: str) -> None:
        suspicion = self.suspicions.get(member.name)
        mature = suspicion is not None and now - suspicion.started_at >= self._config.probe_duration_s
        if (mature and current.same_life(member)) or not self.settings.suspicion:
            self.put(now, member, accuser)
        elif self.table.supersedes(member.with_state(State.SUSPECT)):
            self.put(now, member.with_state(State.SUSPECT), accuser)
            self.reported_suspects.append(member.name)
        elif suspicion is not None:
            self._report(now, current, accuser)
            suspicion.confirm(accuser)

    def _merge_about_me(self, now: float, member: Member, accuser: str) -> None:
        if self.leaving:
            return
        if (member.uuid, member.boot) != (self.me.uuid, self.me.boot):
            if member.boot >= self.me.boot:
                # This disk is new or was restored: the cluster remembers a later boot of this name.
                self.adopt_boot(member.boot + 1)
            return
        # Even an accusation that was already refuted tells which node could not reach this one.
        if member.state in (State.SUSPECT, State.DEAD) and member.incarnation + 1 >= self.me.incarnation:
            self._selftest.accused(now, accuser)
        if member.precedence > self.me.precedence:
            self.history.add(now, "accused", member, accuser)
            self.contested = member
            if not self._selftest.is_needed(now, len(self.table) - 1, dead=member.state is State.DEAD):
                self.refute()
        elif member.state in (State.SUSPECT, State.DEAD):
            # Otherwise the accuser would reach its verdict, and become a reporter of this node.
            self.gossip.add(Update(self.me))
            self.missed_refutation = True

    def adopt_boot(self, boot: int) -> None:
        """Continues as a later boot: the others ignore earlier ones."""
        self.me = replace(self.me, boot=boot, incarnation=1)
        self.effects.append(AdoptBoot(boot))
        self.announce_me()

    def refute(self) -> None:
        """Refutes an accusation of this node."""
        said, self.contested = self.contested, None
        if said is not None and said.precedence > self.me.precedence:
            self.me = replace(self.me, incarnation=said.incarnation + 1)
            self._health.refuted()
            self.announce_me()
            self.urgent = True

    def announce_me(self) -> None:
        """Stores and spreads this node's own record."""
        self.table.put(self.me)
        self.gossip.add(Update(self.me))

    # Verdicts

    def put(self, now: float, member: Member, accuser: str = "") -> None:
        """Stores a record and spreads it."""
        before = self.table.get(member.name)
        self.table.put(member)
        self.suspicions.pop(member.name, None)
        if before is None or not before.same_life(member) or member.state not in (State.SUSPECT, State.DEAD):
            self._reporters.pop(member.name, None)
        if member.state is State.SUSPECT:
            count = self.table.live_count
            self.suspicions[member.name] = Suspicion.begin(
                now, member, accuser, self._config, count, self._health.suspicion_factor
            )
        if member.state not in LIVE:
            self.newly_dead.append(member.name)
        if member.state in (State.SUSPECT, State.DEAD) and accuser != self.me.name:
            self._report(now, member, accuser)
            if accuser and before is not None and before.state is State.ALIVE:
                self._selftest.others_accused(now)
        self.gossip.add(Update(member, accuser))
        if before is not None and before.services != member.services:
            self.urgent = True  # a crashed service must be known within milliseconds
        if before is None or (before.state, before.node_id, before.services) != (
            member.state,
            member.node_id,
            member.services,
        ):
            self.history.add(now, change_kind(member, before), member, accuser)
            self.effects.append(AnnounceMember(member, before, accuser))

    def accuse(self, now: float, name: str) -> None:
        """Notes that this node itself found a member silent."""
        current = self.table.get(name)
        if current is None or name == self.me.name:
            return
        me = self.me.name
        if current.state is State.ALIVE:
            self.put(now, current.with_state(State.SUSPECT if self.settings.suspicion else State.DEAD), me)
            self._report(now, current, me)
            self.urgent = True
        elif current.state in (State.SUSPECT, State.DEAD):
            fresh = self._report(now, current, me)
            suspicion = self.suspicions.get(name)
            if suspicion.confirm(me) if suspicion is not None else fresh:
                self.gossip.add(Update(current, me))

    def expire(self, now: float) -> None:
        """Ends the suspicions that have timed out: with death, or with another probe."""
        for suspicion in [entry for entry in self.suspicions.values() if entry.deadline <= now]:
            name, me = suspicion.member.name, self.me.name
            if self._alive_at.get(name, 0.0) > suspicion.started_at:
                # It answered a node or made a request meanwhile, but no refutation arrived: probe it again.
                suspicion.started_at = now
                suspicion.accusers = [me]
                self.to_probe.append(name)
                continue
            witnesses = self._reporters.get(name, {})
            accuser = me if me in witnesses or not witnesses else next(iter(witnesses))
            self.put(now, suspicion.member.with_state(State.DEAD), accuser)
            self.urgent = True

    def extend_deadlines(self, now: float, grace_s: float) -> None:
        """Postpones the end of all suspicions."""
        for suspicion in self.suspicions.values():
            suspicion.not_before_at = max(suspicion.not_before_at, now + 2 * grace_s)

    def restart_suspicions(self, now: float) -> None:
        """Gives all suspects their whole time again: a node that has left does not hear refutations."""
        for suspicion in self.suspicions.values():
            suspicion.started_at = now
            suspicion.accusers = suspicion.accusers[:1]

    def _report(self, now: float, member: Member, accuser: str) -> bool:
        """Counts a reporter; returns whether it is new."""
        known = self._reporters.setdefault(member.name, {})
        if not accuser or accuser in known or len(known) >= REPORTERS_MAX:
            return False
        known[accuser] = None
        self.reports += 1
        self.history.add(now, "accused", member, accuser)
        return True
