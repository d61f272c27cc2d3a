"""The membership core of one node: the monitor of the others and the proposer of views, joined.

The proposer acts on the monitor's verdicts. Datagrams carry the version of the view, and a node that hears of
a newer one reads the register. At most one register operation is in progress at a time. The register is also
read every ``REFRESH_S`` without a reason, which detects that the majority of the voters is gone or back. A
node that believes that fewer than a majority of the voters are alive proposes nothing: it is cut off itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.common.register import majority
from agent.membership.core import view as views
from agent.membership.core.events import (
    AdoptBoot,
    AnnounceMember,
    AnnounceView,
    ChangeView,
    Contact,
    Effect,
    Event,
    ReadView,
    RegisterFailed,
    ServiceAttached,
    ServiceDetached,
    ViewLearned,
)
from agent.membership.core.monitor import Monitor
from agent.membership.core.proposer import Proposer
from agent.membership.core.services import LocalServices
from agent.membership.member import LIVE, Member, State
from agent.membership.view import DOWN, View

if TYPE_CHECKING:
    import random

# Each read moves the whole view from every voter: 1.2 KB/s for each of ten nodes, headers included.
REFRESH_S = 4.0
# After a failure the register is read again this soon; nothing is proposed until a read succeeds.
RETRY_S = 0.3
# Effects that may be a reason to propose another view.
NEWS = (AnnounceMember, AdoptBoot)


class MembershipCore:
    """All rules of membership on one node."""

    def __init__(
        self,
        me: Member,
        contacts: Mapping[str, Contact],
        voters: Sequence[str],
        config: MembershipConfig,
        rng: random.Random,
    ) -> None:
        self.monitor = Monitor(me, contacts, config, rng)
        self.proposer = Proposer(me.name, config, rng)
        self.majority = False
        self._voters = tuple(voters)
        self._contacts = contacts
        self._services = LocalServices()
        self._register_works = False
        self._had_majority = False
        self._reaches_majority = False
        self._seen: tuple[int, View | None] = (-1, None)
        self._rng = rng
        self._busy = False
        self._was_read = False
        self._read_at = 0.0

    def handle(self, now: float, event: Event | Tick) -> list[Effect]:
        """Applies an event and returns what to do."""
        effects: list[Effect] = []
        reports = self.monitor.roster.reports
        match event:
            case ServiceAttached(service=service, connection=connection):
                self._services.attach(now, service, connection)
            case ServiceDetached(connection=connection):
                self._services.detach(connection)
            case ViewLearned(view=view):
                self._busy, self._was_read, self._register_works = False, True, True
                self._read_at = now + REFRESH_S * self._rng.uniform(0.8, 1.2)
                # Whatever others say, the register decides; but never read it in a tight loop.
                self.monitor.newest_view_heard = views.version(view)
                effects += self._learn(now, view)
                self.proposer.due_at = None
            case RegisterFailed():
                self._busy, self._register_works = False, False
                self.proposer.failed(now)
                self._read_at = now + RETRY_S * self._rng.uniform(0.8, 1.2)
            case _:
                effects += self.monitor.handle(now, event)
        self._services.expire(now)
        if self._services.mask != self.monitor.me.services:
            effects += self.monitor.set_services(self._services.mask)
        effects += self._watch_majority(now)
        news = (
            reports != self.monitor.roster.reports
            or isinstance(event, ViewLearned)
            or any([isinstance(effect, NEWS) for effect in effects])
        )
        if news and self._was_read:
            self.proposer.reconsider(now, self._verdicts(), self.monitor.roster.all_reporters())
        return effects + self._use_register(now)

    def next_deadline(self) -> float | None:
        """Returns when the next timer is due."""
        due, hung_at = self.monitor.next_deadline(), self._services.next_deadline()
        if due is None:
            return hung_at
        if hung_at is not None:
            due = min(due, hung_at)
        if self._busy:
            return due
        due = min(due, self._read_at)
        return due if self.proposer.due_at is None else min(due, self.proposer.due_at)

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
        self.monitor.check_invariants()
        view = self.proposer.view
        if view is not None and view.leader:
            assert view.is_up(view.leader), "the leader is not up"

    def members(self) -> dict[str, Member]:
        """Returns what this node believes about every member, by name."""
        return {member.name: member for member in self.monitor.table}

    def _verdicts(self) -> dict[str, Member]:
        """Returns the verdicts that this node proposes; only others readmit a node that was evicted.

        They must have heard of it: a node that others cannot hear, or that hears nobody, would otherwise flap
        indefinitely.
        """
        members, view, me = self.members(), self.proposer.view, self.monitor.me
        entry = view.nodes.get(me.name) if view is not None else None
        evicted = entry is not None and entry.state == DOWN and entry.node_id == me.node_id
        if evicted and view is not None and view.up_names():
            del members[me.name]
        return members

    def _sees_majority(self) -> bool:
        # Every event asks for this, and the answer stays the same as long as the table and the view do.
        seen = (self.monitor.table.changes, self.proposer.view)
        if seen[0] != self._seen[0] or seen[1] is not self._seen[1]:
            self._seen, self._reaches_majority = seen, self._count_voters()
        return self._reaches_majority

    def _count_voters(self) -> bool:
        for group in views.groups(self.proposer.view, self._voters):
            found = [self.monitor.table.get(voter) for voter in group]
            if sum(member is not None and member.state in LIVE for member in found) < majority(group):
                return False
        return True

    def _watch_majority(self, now: float) -> list[Effect]:
        before, self.majority = self.majority, self._register_works and self._sees_majority()
        regained = self.majority and not before and self._had_majority
        self._had_majority = self._had_majority or self.majority
        if not regained:
            return []
        # This node's beliefs from the time when it was cut off do not count: contact all others first.
        self.proposer.settle(now)
        return self.monitor.contact_lost()

    def _learn(self, now: float, view: View | None) -> list[Effect]:
        if view is None or not self.proposer.learn(view):
            return []
        self.monitor.roster.agreed = {name: view.nodes[name].uuid for name in view.up_names()}
        mine = view.nodes.get(self.monitor.me.name)
        self.monitor.agreed_boot = mine.boot if mine is not None else 0
        effects: list[Effect] = list(self.monitor.seed(now, self._unmet_members(view)))
        effects += self.monitor.spread_view(now, view.version)
        return [*effects, AnnounceView(view)]

    def _unmet_members(self, view: View) -> list[Member]:
        """Returns records for the nodes that are up in the view; probes find out which of them are gone."""
        found = []
        for name in view.up_names():
            contact = self._contacts.get(name)
            if contact is not None and name != self.monitor.me.name:
                entry = view.nodes[name]
                found.append(
                    Member(name, entry.uuid, entry.boot, 0, State.ALIVE, contact.address, contact.port)
                )
        return found

    def _use_register(self, now: float) -> list[Effect]:
        if self._busy or self.monitor.next_deadline() is None:
            return []
        due_at = self.proposer.due_at
        if due_at is not None and now >= due_at and not self.majority:
            self.proposer.failed(now)
        elif due_at is not None and now >= due_at:
            members, reporters = self._verdicts(), self.monitor.roster.all_reporters()
            if views.propose(self.proposer.view, members, reporters) is not None:
                self._busy = True
                return [ChangeView(members, reporters)]
            self.proposer.due_at = None
        behind = self.monitor.newest_view_heard > views.version(self.proposer.view) and self._register_works
        if behind or now >= self._read_at:
            self._busy = True
            return [ReadView()]
        return []
