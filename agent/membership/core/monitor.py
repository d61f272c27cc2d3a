"""One node's monitor of all others: beliefs (``roster``), the active detector, and the exchange of tables.

Whichever detector is active, the monitor makes tables converge and partitions heal: tables with different
digests are compared over TCP (``comparison``, ``exchange``), so no update is lost for good, and dead members
and unknown contacts are contacted periodically (``reconnect``).

A timer that fires late postpones all verdicts (``health``): a process that was not scheduled cannot tell a
dead peer from its own pause.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, assert_never

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.common.errors import DuplicateIdentity
from agent.membership import settings as choices
from agent.membership.core.beliefs.health import LocalHealth
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.beliefs.selftest import QUESTIONS, SelfTest
from agent.membership.core.beliefs.table import Table
from agent.membership.core.detectors.detector import Detector
from agent.membership.core.detectors.heartbeat import Heartbeat
from agent.membership.core.detectors.reconnect import Reconnector
from agent.membership.core.detectors.swim import Swim
from agent.membership.core.dissemination.comparison import Comparisons
from agent.membership.core.dissemination.outbox import Outbox
from agent.membership.core.events import (
    AnnounceMember,
    AnnounceSettings,
    Contact,
    ContactRefused,
    DatagramReceived,
    EarlierBootDetected,
    Effect,
    HintReceived,
    ImpostorDetected,
    JoinRequested,
    LeaveRequested,
    PeerHeard,
    Started,
    StopAgent,
    SwitchRequested,
    TableReceived,
)
from agent.membership.datagrams import Kind
from agent.membership.member import Member, State
from agent.membership.settings import DetectorKind, Settings

if TYPE_CHECKING:
    import random

REFUSAL_INTERVAL_S = 0.5
# Number of nodes that probe a suspect, with up to a dozen datagrams each. Three confirmations are enough.
SUSPECT_PROBED_BY = 32
# A timer later than this gives every pending verdict one more acknowledgement time-out.
LATE_S = 0.05

MonitorEvent = (
    Started
    | DatagramReceived
    | TableReceived
    | PeerHeard
    | ContactRefused
    | HintReceived
    | LeaveRequested
    | JoinRequested
    | SwitchRequested
    | ImpostorDetected
    | EarlierBootDetected
    | Tick
)


class Monitor:
    """Watches all other members for one node."""

    def __init__(
        self,
        me: Member,
        contacts: Mapping[str, Contact],
        config: MembershipConfig,
        rng: random.Random,
        table: Table | None = None,
    ) -> None:
        self.health = LocalHealth()
        self.table = table if table is not None else Table()
        self.selftest = SelfTest(config, rng)
        settings = choices.initial(config)
        self.roster = Roster(me, config, settings, self.health, self.table, self.selftest)
        self.newest_view_heard = 0
        self.heard_at: dict[str, float] = {}
        self.datagram_at: dict[str, float] = {}
        self._contacts = {name: contact for name, contact in contacts.items() if name != me.name}
        self._config = config
        self._rng = rng
        self._out = Outbox(self.roster, self._contacts)
        parts = (self.roster, self._out, self.health, config, rng)
        self._detectors: dict[DetectorKind, Detector] = {
            DetectorKind.SWIM: Swim(*parts),
            DetectorKind.HEARTBEAT: Heartbeat(*parts),
        }
        self._timed: tuple[Roster | Detector, ...] = (self.roster, *self._detectors.values())
        self._comparisons = Comparisons(self.roster, rng)
        self._reconnector = Reconnector(self.roster, self._out, self._contacts, self.heard_at, config, rng)
        self._running = False
        self._gossip_at = 0.0
        self._refusal_allowed_at = 0.0
        self.agreed_boot = 0
        self._due: float | None = None
        self._due_is_known = False

    @property
    def me(self) -> Member:
        """Returns this node's own record."""
        return self.roster.me

    @property
    def leaving(self) -> bool:
        """Tells whether this node has left."""
        return self.roster.leaving

    @property
    def settings(self) -> Settings:
        """Returns which detector is active, and whether it suspects before it declares death."""
        return self.roster.settings

    def handle(self, now: float, event: MonitorEvent) -> list[Effect]:
        """Applies an event and everything that is due, and returns what to do."""
        due = self.next_deadline()
        self._begin()
        if due is not None and now - due > LATE_S:
            self._extend_deadlines(now, now - due)
        match event:
            case Tick():
                pass
            case DatagramReceived():
                self._receive(now, event)
            case TableReceived(updates=updates):
                for update in updates:
                    self.roster.merge(now, update)
            case Started():
                self._start(now)
            case PeerHeard(name=name, age_s=age_s):
                self.heard_at[name] = max(now - age_s, self.heard_at.get(name, 0.0))
                self.roster.note_alive(name, now - age_s)
            case ContactRefused(name=name):
                if self._running:
                    self.roster.accuse(now, name)
            case HintReceived(name=name):
                self._detector.check(now, name)
            case LeaveRequested():
                self._leave(now)
            case JoinRequested():
                self._join(now)
            case ImpostorDetected(name=name, contact=contact):
                self._refuse_impostor(now, name, contact)
            case EarlierBootDetected(name=name, boot=boot):
                if self._running and now >= self._refusal_allowed_at:
                    self._refusal_allowed_at = now + REFUSAL_INTERVAL_S
                    self._out.send(name, Kind.STALE_BOOT, boot)
            case SwitchRequested(detector=detector, suspicion=suspicion):
                self._adopt(now, self.settings.changed(detector, suspicion))
            case never:
                assert_never(never)
        if self._running and self._is_due(now):
            self._run_timers(now)
            self._due_is_known = False
        self._settle(now)
        if self._reconnector.update_timer(now):
            self._due_is_known = False
        return self.roster.effects

    def next_deadline(self) -> float | None:
        """Returns when the next timer is due; None before the start and after leaving."""
        if not self._due_is_known:
            self._due, self._due_is_known = self._find_deadline(), True
        return self._due

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
        self.roster.check_invariants()
        for detector in self._detectors.values():
            detector.check_invariants()

    def seed(self, now: float, members: Sequence[Member]) -> list[Effect]:
        """Adds members that only the view names so far, so that they are probed."""
        self._begin()
        for member in members:
            if self.table.get(member.name) is None:
                self.roster.put(now, member)
        return self.roster.effects

    def spread_view(self, now: float, version: int) -> list[Effect]:
        """Notes the newest view and tells a few members at once that it exists."""
        self._begin()
        if version > self._out.view_version:
            self._out.view_version = version
            self.newest_view_heard = max(version, self.newest_view_heard)
            self._send_gossip()
        return self.roster.effects

    def contact_lost(self) -> list[Effect]:
        """Contacts every dead member, and every contact that never answered, at once."""
        self._begin()
        self._reconnector.contact_all()
        return self.roster.effects

    def set_services(self, services: int) -> list[Effect]:
        """Tells the others which services of this node are alive."""
        self._begin()
        if services != self.me.services:
            before = self.me
            self.roster.me = replace(before, services=services, incarnation=before.incarnation + 1)
            self.roster.announce_me()
            self.roster.effects.append(AnnounceMember(self.me, before))
            if self._running:
                self._send_gossip()
        return self.roster.effects

    @property
    def _detector(self) -> Detector:
        return self._detectors[self.settings.detector]

    def _begin(self) -> None:
        self.roster.effects = []
        self._due_is_known = False

    def _is_due(self, now: float) -> bool:
        due = self.next_deadline()
        return due is not None and due <= now

    def _find_deadline(self) -> float | None:
        if not self._running:
            return None
        due = min(self._reconnector.next_deadline(), self._comparisons.next_at)
        for part in self._timed:
            other = part.next_deadline()
            if other is not None and other < due:
                due = other
        if self._gossip_at < due and len(self.roster.gossip):
            due = self._gossip_at
        return due

    # Start, leave, join, switch

    def _start(self, now: float) -> None:
        self._running = True
        self._detector.start(now)
        self._comparisons.start(now)
        self._reconnector.start(now)

    def _leave(self, now: float) -> None:
        if self.leaving:
            return
        self.roster.leaving = True
        self.roster.me = self.me.with_state(State.LEFT)
        self.roster.announce_me()
        for member in self.table.live():
            if member.name != self.me.name:
                self._out.send(member.name, Kind.GOSSIP)
        for detector in self._detectors.values():
            detector.stop()
        self._reconnector.stop()
        self._running = False

    def _join(self, now: float) -> None:
        if not self.leaving:
            return
        self.roster.leaving = False
        self.roster.me = replace(self.me, state=State.ALIVE, incarnation=self.me.incarnation + 1)
        self.roster.announce_me()
        self.roster.restart_suspicions(now)
        self._start(now)
        self.roster.urgent = True

    def _adopt(self, now: float, chosen: Settings) -> None:
        if chosen <= self.settings:
            return
        if chosen.detector is not self.settings.detector and self._running:
            self._detector.stop()
            self._detectors[chosen.detector].start(now)
        self.roster.settings = chosen
        self.roster.effects.append(AnnounceSettings(chosen))
        self.roster.urgent = True

    # Datagrams

    def _receive(self, now: float, event: DatagramReceived) -> None:
        name, datagram = event.sender, event.datagram
        known = self.table.get(name)
        if name == self.me.name or (known is not None and event.boot < known.boot):
            return
        self.heard_at[name] = self.datagram_at[name] = now
        self.newest_view_heard = max(self.newest_view_heard, datagram.view_version)
        self.roster.missed_refutation = False
        for update in datagram.updates:
            self.roster.merge(now, update)
        if datagram.settings is not None:
            self._adopt(now, datagram.settings)
        if not self._running:
            return
        if self.roster.missed_refutation:
            self._out.send(name, Kind.GOSSIP)
        if datagram.kind is Kind.REFUSAL:
            self._receive_refusal(name)
        if datagram.kind is Kind.STALE_BOOT and datagram.sequence > self.me.boot:
            self.roster.adopt_boot(datagram.sequence + 1)
        for detector in self._detectors.values():
            detector.receive(now, name, datagram)
        if datagram.kind is Kind.ACK and self.selftest.answered(now, datagram.sequence):
            self.roster.refute()
        if datagram.kind is Kind.HELLO:
            self._out.send_hello(name, Kind.HELLO_REPLY)
        elif datagram.kind is Kind.HELLO_REPLY or not len(self.roster.gossip):
            after_hello = datagram.kind is Kind.HELLO_REPLY
            self._comparisons.heard(now, name, datagram.digest, after_hello=after_hello)

    def _refuse_impostor(self, now: float, name: str, contact: Contact) -> None:
        known = self.table.get(name)
        if known is not None and now >= self._refusal_allowed_at:
            impostor = replace(known, address=contact.address, port=contact.port)
            self.roster.refuse(now, impostor, name)

    def _receive_refusal(self, sender: str) -> None:
        # A node in the agreed view was first, whatever a node that has just started says.
        if self.roster.agreed.get(self.me.name) != self.me.uuid or self.agreed_boot != self.me.boot:
            error = DuplicateIdentity(
                f"{sender} refuses this node: another one with the identity {self.me.uuid} or the name "
                f"{self.me.name!r} is a member of the cluster",
                hint="a cloned machine? remove membership/identity.json in its data folder, then restart it",
            )
            self.roster.effects.append(StopAgent(error))

    def _settle(self, now: float) -> None:
        """Carries out the consequences of changed beliefs."""
        roster, sent = self.roster, len(self.roster.effects)
        while roster.newly_dead or roster.to_probe or roster.reported_suspects:
            self._due_is_known = False
            newly_dead, roster.newly_dead = roster.newly_dead, []
            for name in newly_dead:
                for detector in self._detectors.values():
                    detector.forget(name)
                self._reconnector.contact_dead(now, name)
            to_probe, roster.to_probe = roster.to_probe, []
            reported, roster.reported_suspects = roster.reported_suspects, []
            for name in (*to_probe, *filter(self._is_to_probe, reported)):
                self._detector.check(now, name)
        if roster.contested is not None and self._running:
            live = self.roster.sample_others(self._rng, QUESTIONS)
            for name, sequence in self.selftest.begin(now, live):
                self._out.send(name, Kind.PING, sequence, name)
        for member in roster.refused:
            if now >= self._refusal_allowed_at:
                self._out.refuse(member)
                self._refusal_allowed_at = now + REFUSAL_INTERVAL_S
        roster.refused.clear()
        if roster.urgent:
            roster.urgent = False
            if self._running:
                self._send_gossip()
        if len(roster.effects) != sent:
            self._due_is_known = False

    def _is_to_probe(self, name: str) -> bool:
        """Tells whether this node probes what others suspect: in a large group only some nodes do."""
        live = self.table.live_count
        return live <= SUSPECT_PROBED_BY or self._rng.random() * live < SUSPECT_PROBED_BY

    # Timers and datagrams to others

    def _extend_deadlines(self, now: float, lateness_s: float) -> None:
        stalled = self.health.timer_late(lateness_s)
        grace_s = self._config.probe_duration_s if stalled else self._config.ack_timeout_s
        for detector in self._detectors.values():
            detector.extend_deadlines(now, grace_s, stalled)
        self.roster.extend_deadlines(now, grace_s)
        self._reconnector.extend_deadlines(now, grace_s)

    def _run_timers(self, now: float) -> None:
        self.roster.expire(now)
        for detector in self._detectors.values():
            detector.run_timers(now)
        self._comparisons.run_timers(now)
        self._reconnector.run_timers(now)
        if len(self.roster.gossip) and now >= self._gossip_at:
            self._gossip_at = now + self._config.gossip_interval_s
            self._send_gossip()

    def _send_gossip(self) -> None:
        for name in self.roster.sample_others(self._rng, self._config.gossip_fanout):
            self._out.send(name, Kind.GOSSIP)
