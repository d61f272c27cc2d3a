"""SWIM's probing with Lifeguard (SWIM, DSN 2002; Lifeguard, arXiv 1707.00788): ask one member each interval.

In every probe interval the node pings one member. Without an answer, it asks helpers to ping that member;
without an answer through them either, it accuses the member. Helpers that get no answer say so (a *nack*):
missing nacks suggest that the fault is here and raise the local health score, which slows probes and verdicts
down. Every node that hears of a suspicion probes the suspect at once, so that confirmations are quick and
independent.

Pings of others are answered even while this detector is not active: the rest of the cluster may be about to
switch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.membership.core.beliefs.health import LocalHealth
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.detectors.probing import Probe, Relay, RoundRobin
from agent.membership.core.dissemination.outbox import Outbox
from agent.membership.datagrams import Datagram, Kind
from agent.membership.member import LIVE, State

if TYPE_CHECKING:
    import random

# A helper reports that it got no answer a little before the probe ends.
NACK_AFTER = 0.8


class Swim:
    """The probing detector of one node."""

    def __init__(
        self, roster: Roster, out: Outbox, health: LocalHealth, config: MembershipConfig, rng: random.Random
    ) -> None:
        self._roster = roster
        self._out = out
        self._health = health
        self._config = config
        self._rng = rng
        self._round_robin = RoundRobin(rng)
        self._probes: dict[int, Probe] = {}
        self._relays: dict[int, Relay] = {}
        self._sequence = 0
        self._round_at: float | None = None

    def start(self, now: float) -> None:
        self._round_at = now + self._rng.uniform(0, self._config.probe_interval_s)

    def stop(self) -> None:
        self._round_at = None
        self._probes.clear()
        self._relays.clear()

    def receive(self, now: float, sender: str, datagram: Datagram) -> None:
        match datagram.kind:
            case Kind.PING if datagram.target == self._roster.me.name:
                self._out.send(sender, Kind.ACK, datagram.sequence)
            case Kind.ACK:
                self._acknowledged(now, datagram.sequence)
            case Kind.NACK if datagram.sequence in self._probes:
                probe = self._probes[datagram.sequence]
                probe.nacks += 1
                if probe.nacks == probe.helpers:
                    probe.ends_at = now  # no helper reaches it: there is no answer left to wait for
            case Kind.INDIRECT_PING:
                self._relay(now, sender, datagram)
            case _:
                pass

    def check(self, now: float, name: str) -> None:
        member = self._roster.table.get(name)
        if self._round_at is None or member is None or not self._roster.is_live_other(member):
            return
        if any(probe.target == name for probe in self._probes.values()):
            return
        self._sequence += 1
        scale = self._health.multiplier
        self._probes[self._sequence] = Probe(
            self._sequence,
            name,
            now + self._config.ack_timeout_s * scale,
            now + self._config.probe_duration_s * scale,
        )
        self._out.send(name, Kind.PING, self._sequence, name)

    def forget(self, name: str) -> None:
        for sequence in [key for key, probe in self._probes.items() if probe.target == name]:
            del self._probes[sequence]

    def extend_deadlines(self, now: float, grace_s: float, stalled: bool) -> None:
        if stalled:
            self._probes.clear()
        for probe in self._probes.values():
            probe.indirect_at = max(probe.indirect_at, now + grace_s)
            probe.ends_at = max(probe.ends_at, now + 2 * grace_s)

    def run_timers(self, now: float) -> None:
        for probe in [entry for entry in self._probes.values() if entry.due_at <= now]:
            self._advance(now, probe)
        for sequence, relay in [item for item in self._relays.items() if item[1].due_at <= now]:
            if relay.nacked:
                del self._relays[sequence]
            else:
                relay.nacked = True
                self._out.send(relay.requester, Kind.NACK, relay.their_sequence)
        if self._round_at is not None and now >= self._round_at:
            self._round_at = now + self._config.probe_interval_s * self._health.multiplier
            name = self._round_robin.next(self._other_names, self._is_other)
            if name is not None:
                self.check(now, name)

    def next_deadline(self) -> float | None:
        due = self._round_at
        for probe in self._probes.values():
            at = probe.ends_at if probe.indirect else probe.indirect_at
            if due is None or at < due:
                due = at
        for relay in self._relays.values():
            at = relay.ends_at if relay.nacked else relay.nack_at
            if due is None or at < due:
                due = at
        return due

    def check_invariants(self) -> None:
        assert len(self._probes) <= len(self._roster.table) + 1, "probes pile up"

    def _acknowledged(self, now: float, sequence: int) -> None:
        probe = self._probes.pop(sequence, None)
        if probe is not None:
            self._roster.note_alive(probe.target, now)
            self._health.probe_succeeded()
            self._health.note_answer(indirect=probe.indirect)
        relay = self._relays.pop(sequence, None)
        if relay is not None:
            self._roster.note_alive(relay.target, now)
            self._out.send(relay.requester, Kind.ACK, relay.their_sequence)

    def _relay(self, now: float, requester: str, datagram: Datagram) -> None:
        if self._roster.table.get(datagram.target) is None or datagram.target == self._roster.me.name:
            return
        self._sequence += 1
        self._relays[self._sequence] = Relay(
            requester,
            datagram.sequence,
            datagram.target,
            now + NACK_AFTER * self._config.ack_timeout_s,
            now + 2 * self._config.probe_duration_s,
        )
        self._out.send(datagram.target, Kind.PING, self._sequence, datagram.target)

    def _advance(self, now: float, probe: Probe) -> None:
        if probe.indirect:
            del self._probes[probe.sequence]
            self._health.probe_failed(probe.helpers, probe.nacks)
            self._roster.accuse(now, probe.target)
            return
        probe.indirect = True
        outside = (self._roster.me.name, probe.target)
        helpers = self._roster.table.sample(
            self._rng,
            self._config.indirect_probes,
            lambda member: member.state is State.ALIVE and member.name not in outside,
        )
        probe.helpers = len(helpers)
        for helper in helpers:
            self._out.send(helper, Kind.INDIRECT_PING, probe.sequence, probe.target)
        self._out.send(probe.target, Kind.PING, probe.sequence, probe.target)

    def _other_names(self) -> list[str]:
        me = self._roster.me.name
        return [member.name for member in self._roster.table if member.state in LIVE and member.name != me]

    def _is_other(self, name: str) -> bool:
        member = self._roster.table.get(name)
        return member is not None and self._roster.is_live_other(member)
