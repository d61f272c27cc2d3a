"""Gossip heartbeats (van Renesse, Minsky, Hayden: A Gossip-Style Failure Detection Service, 1998).

Every node has a counter. Each interval the node raises its counter and sends the newest counters that it
knows of all members to ``heartbeat_fanout`` members, so no node has to hear from all others directly. If a
member's counter has not moved for ``heartbeat_fail_s * max(1, log10 N)``, the member is accused: news takes
O(log N) rounds to reach all.

A datagram has room for a limited number of counters. In a group too large for one datagram, each carries the
counters that moved last and a random choice of the others, and the time limit grows with the number of rounds
that it takes to hear of all.

When the counters of all others stand still, the fault is likely here. Like SWIM's missing nacks, this first
raises the local health score, which extends the limit, before any member is accused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.membership.core.beliefs.health import SCORE_MAX, LocalHealth
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.detectors.probing import RoundRobin
from agent.membership.core.dissemination.outbox import Outbox
from agent.membership.datagrams import BEATS_BYTES_MAX, Beat, Datagram, Kind, beat_bytes
from agent.membership.member import LIVE, Member

if TYPE_CHECKING:
    import random


# Without suspicion an accusation is a death that nobody can refute, so it needs a longer silence.
FINAL_FACTOR = 1.6
# Number of rounds for which a counter is gossiped after it moved; by then most nodes have a newer one.
PASSED_ON_ROUNDS = 1.5
# Number of times that a counter should have arrived before its silence counts.
HEARD_TIMES = 5.0


class Heartbeat:
    """The gossip heartbeat detector of one node."""

    def __init__(
        self, roster: Roster, out: Outbox, health: LocalHealth, config: MembershipConfig, rng: random.Random
    ) -> None:
        self._roster = roster
        self._out = out
        self._health = health
        self._config = config
        self._rng = rng
        self._counter = 0
        # In the order in which they moved, the newest last; at most one for each member of the table.
        self._beats: dict[str, Beat] = {}
        self._moved_at: dict[str, float] = {}
        self._due_at: float | None = None
        self._round_robin = RoundRobin(rng)

    def start(self, now: float) -> None:
        self._due_at = now + self._rng.uniform(0, self._config.heartbeat_interval_s)
        self._moved_at = {member.name: now for member in self._others()}

    def stop(self) -> None:
        self._due_at = None

    def receive(self, now: float, sender: str, datagram: Datagram) -> None:
        self._moved_at[sender] = now
        for beat in datagram.beats:
            known = self._beats.get(beat.name)
            if beat.name == self._roster.me.name or (known is not None and not beat.newer_than(known)):
                continue
            member = self._roster.table.get(beat.name)
            if member is None or beat.boot < member.boot:
                continue
            self._beats.pop(beat.name, None)
            self._beats[beat.name] = beat
            self._moved_at[beat.name] = now
            self._roster.note_alive(beat.name, now)

    def check(self, now: float, name: str) -> None:
        # The datagram carries the suspicion, which its target refutes.
        if self._due_at is not None:
            self._out.send(name, Kind.GOSSIP)

    def forget(self, name: str) -> None:
        self._beats.pop(name, None)
        self._moved_at.pop(name, None)

    def extend_deadlines(self, now: float, grace_s: float, stalled: bool) -> None:
        oldest = now - self.limit_s() + 2 * grace_s
        for name, moved_at in self._moved_at.items():
            self._moved_at[name] = max(moved_at, oldest)

    def run_timers(self, now: float) -> None:
        if self._due_at is None or now < self._due_at:
            return
        self._due_at = now + self._config.heartbeat_interval_s
        self._counter += 1
        beats = self._choose(now)
        for name in self._targets():
            self._out.send(name, Kind.HEARTBEAT, beats=beats)
        self._look(now)

    def next_deadline(self) -> float | None:
        return self._due_at

    def check_invariants(self) -> None:
        assert self._roster.me.name not in self._beats, "only this node changes its own counter"

    def limit_s(self) -> float:
        """Returns how long a counter may stand still."""
        live = max(1, self._roster.table.live_count)
        config = self._config
        each = BEATS_BYTES_MAX / beat_bytes(self._roster.me.name)
        heard = each * config.heartbeat_fanout * config.heartbeat_fail_s / config.heartbeat_interval_s
        rounds = max(1.0, HEARD_TIMES * live / heard)
        fail_s = config.heartbeat_fail_s * (1.0 if self._roster.settings.suspicion else FINAL_FACTOR)
        return fail_s * max(1.0, math.log10(live)) * rounds * self._health.multiplier

    def _look(self, now: float) -> None:
        limit_s, live, overdue, recent = self.limit_s(), 0, list[str](), False
        for member in self._others():
            moved_at = self._moved_at.setdefault(member.name, now)
            live += 1
            recent = recent or now - moved_at <= self._config.heartbeat_interval_s
            if now - moved_at >= limit_s:
                overdue.append(member.name)
        if live > 1 and len(overdue) == live and self._health.score < SCORE_MAX:
            self._health.probe_failed(0, 0)
            return
        if recent:
            self._health.probe_succeeded()
        for name in overdue:
            self._roster.accuse(now, name)

    def _targets(self) -> list[str]:
        """Returns the targets of this round. Every member has its turn, which bounds how long a member may go
        without news of another one.
        """
        found = dict[str, None]()
        for _ in range(self._config.heartbeat_fanout):
            name = self._round_robin.next(self._other_names, self._is_other)
            if name is not None:
                found[name] = None
        return list(found)

    def _other_names(self) -> list[str]:
        return [member.name for member in self._others()]

    def _is_other(self, name: str) -> bool:
        member = self._roster.table.get(name)
        return member is not None and self._roster.is_live_other(member)

    def _others(self) -> list[Member]:
        return [m for m in self._roster.table if m.state in LIVE and m.name != self._roster.me.name]

    def _choose(self, now: float) -> tuple[Beat, ...]:
        """Returns this node's own counter, those that moved last, and a random choice of the others."""
        mine = Beat(self._roster.me.name, self._roster.me.boot, self._counter)
        since = now - PASSED_ON_ROUNDS * self._config.heartbeat_interval_s
        names = [name for name in self._beats if self._moved_at.get(name, 0.0) > since]
        newest, left = _fitting(reversed(names), BEATS_BYTES_MAX // 2)
        others = names[: len(names) - len(newest)]
        room = left + BEATS_BYTES_MAX - BEATS_BYTES_MAX // 2 - beat_bytes(mine.name)
        count = min(len(others), room // beat_bytes(""))
        rest, _ = _fitting(self._rng.sample(others, count), room)
        return (mine, *(self._beats[name] for name in (*newest, *rest)))


def _fitting(names: Iterable[str], room_bytes: int) -> tuple[list[str], int]:
    """Returns the first names, as many as have room, and the room that is left."""
    chosen = []
    for name in names:
        if beat_bytes(name) > room_bytes:
            break
        room_bytes -= beat_bytes(name)
        chosen.append(name)
    return chosen, room_bytes
