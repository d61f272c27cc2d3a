"""SWIM with Lifeguard: who is alive, by probing and gossip (SWIM, DSN 2002; Lifeguard, arXiv 1707.00788).

Every probe interval one member is pinged; without an answer helpers are asked to ping it; without an answer
from them it is *suspected*. A suspect that hears of it refutes with a higher incarnation; one that does not
is *dead* when the suspicion times out. Differences from the papers, each against a known complaint:

- a suspicion heard from others is probed at once by everybody, so that confirmations are quick and
independent;
- a death heard from others is believed only after this node itself has had the member under suspicion for a
probe
  interval: one node that hears nobody cannot bury the others by gossip;
- accusations by a member that is itself suspect or dead here count for nothing;
- dead members and unknown contacts are asked to sync for ever, one a second, so that partitions always heal;
- a timer that fires late puts off all verdicts (``health``), and a member whose requests still arrive over
TCP is
  not declared dead;
- tables with different digests are exchanged whole, so a lost update never stays lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.common.core import Tick
from agent.membership.events import (
    AdoptBoot,
    AnnounceMember,
    Contact,
    ContactRefused,
    DatagramReceived,
    Effect,
    HintReceived,
    LeaveRequested,
    PeerHeard,
    Started,
)
from agent.membership.gossip import GossipQueue
from agent.membership.health import LocalHealth
from agent.membership.messages import Datagram, Kind, Update
from agent.membership.outbox import Outbox
from agent.membership.probing import Probe, Relay, RoundRobin
from agent.membership.suspicion import Suspicion
from agent.membership.table import LIVE, Member, State, Table

if TYPE_CHECKING:
    import random

LOST_PROBE_INTERVAL_S = 1.0
SYNC_INTERVAL_S = 1.0
# A helper says that it got no answer a little before the asker's own probe ends.
NACK_AFTER = 0.8
# A timer later than this gives every pending verdict one more acknowledgement time-out.
LATE_S = 0.05

SwimEvent = Started | DatagramReceived | PeerHeard | ContactRefused | HintReceived | LeaveRequested | Tick


class Swim:
    """The failure detector of one node."""

    def __init__(
        self,
        me: Member,
        contacts: Mapping[str, Contact],
        config: MembershipConfig,
        rng: random.Random,
        table: Table | None = None,
    ) -> None:
        self.me = me
        self.table = table if table is not None else Table()
        self.health = LocalHealth()
        self.newest_view_heard = 0
        self.heard_at: dict[str, float] = {}
        self.leaving = False
        self._contacts = {name: contact for name, contact in contacts.items() if name != me.name}
        self._config = config
        self._rng = rng
        self._gossip = GossipQueue()
        self._round_robin = RoundRobin(rng)
        self._lost_robin = RoundRobin(rng)
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._suspicions: dict[str, Suspicion] = {}
        self._proved_at: dict[str, float] = {}
        self._sequence = 0
        self._round_at: float | None = None
        self._lost_at = 0.0
        self._gossip_at = 0.0
        self._sync_allowed_at = 0.0
        self._out = Outbox(me.name, self.table, self._gossip, self._suspicions, self._contacts)
        self.table.put(me)

    def handle(self, now: float, event: SwimEvent) -> list[Effect]:
        """Applies an event and everything that is due, and returns what to do."""
        self._out.effects = []
        due = self.next_deadline()
        if due is not None and now - due > LATE_S:
            self._forgive_lateness(now, now - due)
        match event:
            case Started():
                self._start(now)
            case DatagramReceived():
                self._receive(now, event)
            case PeerHeard(name=name):
                self.heard_at[name] = self._proved_at[name] = now
            case ContactRefused(name=name):
                self._accuse(now, name)
            case HintReceived(name=name):
                self._probe(now, name)
            case LeaveRequested():
                self._leave()
            case Tick():
                pass
        self._run_timers(now)
        return self._out.effects

    def next_deadline(self) -> float | None:
        """Returns when the next timer is due; None before the start and after leaving."""
        if self._round_at is None:
            return None
        due = [self._round_at, self._lost_at]
        due += [probe.due_at for probe in self._probes.values()]
        due += [relay.due_at for relay in self._relays.values()]
        due += [suspicion.deadline for suspicion in self._suspicions.values()]
        if len(self._gossip):
            due.append(self._gossip_at)
        return min(due)

    def check_invariants(self) -> None:
        """Raises AssertionError when the state breaks a rule."""
        assert self.table.get(self.me.name) == self.me, "my own record is stale"
        assert self.me.state is (State.LEFT if self.leaving else State.ALIVE), (
            "I believe something else of me"
        )
        for member in self.table:
            suspected = member.name in self._suspicions
            assert suspected == (member.state is State.SUSPECT), f"{member} and its suspicion disagree"
        assert len(self._probes) <= len(self.table) + 1, "probes pile up"

    def seed(self, now: float, members: Sequence[Member]) -> list[Effect]:
        """Adds members that the view names and nobody has told of yet, so that they are probed."""
        self._out.effects = []
        for member in members:
            if self.table.get(member.name) is None:
                self._set(now, member)
        return self._out.effects

    def spread_view(self, now: float, version: int) -> list[Effect]:
        """Takes note of the newest view and tells a few members at once that it exists."""
        self._out.effects = []
        if version > self._out.view_version:
            self._out.view_version = version
            self.newest_view_heard = max(version, self.newest_view_heard)
            self._send_gossip()
        return self._out.effects

    def sync_lost(self) -> list[Effect]:
        """Asks every member that is believed dead, and every unknown contact, for its table at once."""
        self._out.effects = []
        for name in self._lost():
            self._sync(name)
        return self._out.effects

    def _start(self, now: float) -> None:
        self._round_at = now + self._rng.uniform(0, self._config.probe_interval_s)
        self._lost_at = now + self._config.probe_interval_s
        for name in self._contacts:
            self._sync(name)

    def _leave(self) -> None:
        if self.leaving:
            return
        self.leaving = True
        self.me = self.me.with_state(State.LEFT)
        self.table.put(self.me)
        self._gossip.add(Update(self.me))
        for member in self._others():
            self._out.send(member.name, Kind.GOSSIP)
        self._probes.clear()
        self._relays.clear()
        self._round_at = None

    # What comes in

    def _receive(self, now: float, event: DatagramReceived) -> None:
        name, datagram = event.sender, event.datagram
        known = self.table.get(name)
        if name == self.me.name or (known is not None and event.boot < known.boot):
            return
        self.heard_at[name] = now
        self.newest_view_heard = max(self.newest_view_heard, datagram.view_version)
        for update in datagram.updates:
            self._merge(now, update)
        if self.leaving:
            return
        match datagram.kind:
            case Kind.PING if datagram.target == self.me.name:
                self._out.send(name, Kind.ACK, datagram.sequence)
                self._compare_digest(now, name, datagram.digest)
            case Kind.ACK:
                self._acknowledged(now, datagram.sequence)
            case Kind.NACK if datagram.sequence in self._probes:
                self._probes[datagram.sequence].nacks += 1
            case Kind.INDIRECT_PING:
                self._relay(now, name, datagram)
            case Kind.SYNC_REQUEST:
                self._out.send_table(name, Kind.SYNC_REPLY)
            case _:
                pass

    def _acknowledged(self, now: float, sequence: int) -> None:
        probe = self._probes.pop(sequence, None)
        if probe is not None:
            self._proved_at[probe.target] = now
            self.health.probe_succeeded()
        relay = self._relays.pop(sequence, None)
        if relay is not None:
            self._proved_at[relay.target] = now
            self._out.send(relay.requester, Kind.ACK, relay.their_sequence)

    def _relay(self, now: float, requester: str, datagram: Datagram) -> None:
        if self.table.get(datagram.target) is None or datagram.target == self.me.name:
            return
        self._sequence += 1
        self._relays[self._sequence] = Relay(
            requester,
            datagram.sequence,
            datagram.target,
            now + NACK_AFTER * self._config.ack_timeout_s,
            now + 2 * self._config.probe_interval_s,
        )
        self._out.send(datagram.target, Kind.PING, self._sequence, datagram.target)

    def _compare_digest(self, now: float, name: str, digest: int) -> None:
        if digest != self.table.digest and not len(self._gossip) and now >= self._sync_allowed_at:
            self._sync_allowed_at = now + SYNC_INTERVAL_S
            self._sync(name)

    def _merge(self, now: float, update: Update) -> None:
        member = update.member
        if member.name == self.me.name:
            self._hear_about_me(member)
            return
        current = self.table.get(member.name)
        if member.state in (State.ALIVE, State.LEFT) or current is None:
            if self.table.supersedes(member):
                self._set(now, member, update.accuser)
            return
        accuser = self.table.get(update.accuser)
        if accuser is not None and accuser.state is not State.ALIVE:
            return
        if member.state is State.DEAD:
            self._hear_death(now, member, current, update.accuser)
        elif self.table.supersedes(member):
            self._set(now, member, update.accuser)
            self._probe(now, member.name)
        elif (
            current.state is State.SUSPECT
            and current.same_life(member)
            and update.accuser
            and self._suspicions[member.name].confirm(update.accuser)
        ):
            self._gossip.add(update)

    def _hear_death(self, now: float, member: Member, current: Member, accuser: str) -> None:
        if not self.table.supersedes(member):
            return
        suspicion = self._suspicions.get(member.name)
        mature = suspicion is not None and now - suspicion.started_at >= self._config.probe_interval_s
        if mature and current.same_life(member):
            self._set(now, member, accuser)
        elif self.table.supersedes(member.with_state(State.SUSPECT)):
            self._set(now, member.with_state(State.SUSPECT), accuser)
            self._probe(now, member.name)
        elif suspicion is not None:
            suspicion.confirm(accuser)

    def _hear_about_me(self, member: Member) -> None:
        if (member.uuid, member.boot) != (self.me.uuid, self.me.boot):
            if member.boot >= self.me.boot and not self.leaving:
                # My disk is new or went back in time: the cluster remembers a later life of this name.
                self.me = replace(self.me, boot=member.boot + 1, incarnation=0)
                self._out.effects.append(AdoptBoot(self.me.boot))
                self._announce_me()
        elif member.precedence > self.me.precedence and not self.leaving:
            self.me = replace(self.me, incarnation=member.incarnation + 1)
            self.health.refuted()
            self._announce_me()

    def _announce_me(self) -> None:
        self.table.put(self.me)
        self._gossip.add(Update(self.me))

    # Verdicts

    def _set(self, now: float, member: Member, accuser: str = "") -> None:
        before = self.table.get(member.name)
        self.table.put(member)
        self._suspicions.pop(member.name, None)
        if member.state is State.SUSPECT:
            self._suspicions[member.name] = Suspicion.begin(
                now, member, accuser, self._config, self.table.live_count
            )
        if member.state not in LIVE:
            self._drop_probes(member.name)
        self._gossip.add(Update(member, accuser))
        if before is None or (before.state, before.node_id) != (member.state, member.node_id):
            self._out.effects.append(AnnounceMember(member, before))

    def _accuse(self, now: float, name: str) -> None:
        current = self.table.get(name)
        if current is None or name == self.me.name:
            return
        if current.state is State.ALIVE:
            self._set(now, current.with_state(State.SUSPECT), self.me.name)
            self._send_gossip()
        elif current.state is State.SUSPECT and self._suspicions[name].confirm(self.me.name):
            self._gossip.add(Update(current, self.me.name))

    def _expire(self, now: float, suspicion: Suspicion) -> None:
        name = suspicion.member.name
        if self._proved_at.get(name, 0.0) > suspicion.started_at:
            # It answered somebody or made a request meanwhile, but its refutation is not here: ask again.
            suspicion.started_at = now
            suspicion.accusers = [self.me.name]
            self._probe(now, name)
            return
        self._set(now, suspicion.member.with_state(State.DEAD), self.me.name)
        self._send_gossip()

    def _forgive_lateness(self, now: float, lateness_s: float) -> None:
        grace = self._config.ack_timeout_s
        if self.health.timer_late(lateness_s):
            self._probes.clear()
            grace = self._config.probe_interval_s
        for probe in self._probes.values():
            probe.indirect_at = max(probe.indirect_at, now + grace)
            probe.ends_at = max(probe.ends_at, now + 2 * grace)
        for suspicion in self._suspicions.values():
            suspicion.not_before_at = max(suspicion.not_before_at, now + 2 * grace)

    # Timers and what goes out

    def _run_timers(self, now: float) -> None:
        if self._round_at is None:
            return
        for suspicion in [entry for entry in self._suspicions.values() if entry.deadline <= now]:
            self._expire(now, suspicion)
        for probe in [entry for entry in self._probes.values() if entry.due_at <= now]:
            self._advance_probe(now, probe)
        for sequence, relay in [item for item in self._relays.items() if item[1].due_at <= now]:
            if relay.nacked:
                del self._relays[sequence]
            else:
                relay.nacked = True
                self._out.send(relay.requester, Kind.NACK, relay.their_sequence)
        if now >= self._round_at:
            self._round_at = now + self._config.probe_interval_s * self.health.multiplier
            name = self._round_robin.next(self._other_names, self._is_other)
            if name is not None:
                self._probe(now, name)
        if now >= self._lost_at:
            self._lost_at = now + LOST_PROBE_INTERVAL_S
            lost = self._lost_robin.next(self._lost, self._is_lost)
            if lost is not None:
                self._sync(lost)
        if len(self._gossip) and now >= self._gossip_at:
            self._gossip_at = now + self._config.gossip_interval_s
            self._send_gossip()

    def _probe(self, now: float, name: str) -> None:
        member = self.table.get(name)
        if member is None or member.state not in LIVE or name == self.me.name or self._round_at is None:
            return
        if any(probe.target == name for probe in self._probes.values()):
            return
        self._sequence += 1
        scale = self.health.multiplier
        self._probes[self._sequence] = Probe(
            self._sequence,
            name,
            now + self._config.ack_timeout_s * scale,
            now + self._config.probe_interval_s * scale,
        )
        self._out.send(name, Kind.PING, self._sequence, name)

    def _advance_probe(self, now: float, probe: Probe) -> None:
        if probe.indirect:
            del self._probes[probe.sequence]
            self.health.probe_failed(probe.helpers, probe.nacks)
            self._accuse(now, probe.target)
            return
        probe.indirect = True
        outside = (self.me.name, probe.target)
        helpers = self.table.sample(
            self._rng,
            self._config.indirect_probes,
            lambda member: member.state is State.ALIVE and member.name not in outside,
        )
        probe.helpers = len(helpers)
        for helper in helpers:
            self._out.send(helper, Kind.INDIRECT_PING, probe.sequence, probe.target)
        self._out.send(probe.target, Kind.PING, probe.sequence, probe.target)

    def _drop_probes(self, name: str) -> None:
        for sequence in [key for key, probe in self._probes.items() if probe.target == name]:
            del self._probes[sequence]

    def _others(self) -> list[Member]:
        return [member for member in self.table.live() if member.name != self.me.name]

    def _lost(self) -> list[str]:
        unknown = [name for name in self._contacts if self.table.get(name) is None]
        return unknown + self.table.dead_names()

    def _is_lost(self, name: str) -> bool:
        member = self.table.get(name)
        return name in self._contacts if member is None else member.state is State.DEAD

    def _other_names(self) -> list[str]:
        return [member.name for member in self._others()]

    def _is_other(self, name: str) -> bool:
        member = self.table.get(name)
        return member is not None and self._is_live_other(member)

    def _send_gossip(self) -> None:
        for name in self.table.sample(self._rng, self._config.gossip_fanout, self._is_live_other):
            self._out.send(name, Kind.GOSSIP)

    def _is_live_other(self, member: Member) -> bool:
        return member.state in LIVE and member.name != self.me.name

    def _sync(self, name: str) -> None:
        self._out.send_table(name, Kind.SYNC_REQUEST)
