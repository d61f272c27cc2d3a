"""Reconnecting: dead members and contacts that never answered are contacted periodically until they answer.

One of them is contacted each second. So partitions heal and late nodes join without an operator, however long
it takes. A dead member that does not answer is one more independent report for its eviction from the view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.membership.core.beliefs.roster import Roster
from agent.membership.core.detectors.probing import RoundRobin
from agent.membership.core.dissemination.outbox import Outbox
from agent.membership.core.events import Contact
from agent.membership.datagrams import Kind
from agent.membership.member import State

if TYPE_CHECKING:
    import random

INTERVAL_S = 1.0


class Reconnector:
    """Contacts the members that one node has lost."""

    def __init__(
        self,
        roster: Roster,
        out: Outbox,
        contacts: Mapping[str, Contact],
        heard_at: Mapping[str, float],
        config: MembershipConfig,
        rng: random.Random,
    ) -> None:
        self._roster = roster
        self._out = out
        self._contacts = contacts
        self._heard_at = heard_at
        self._config = config
        self._round_robin = RoundRobin(rng)
        self._running = False
        self._next_at = 0.0
        # The state of the table (``changes``) for which ``_next_at`` was computed.
        self._seen = -1
        # When a contacted member counts as silent; only dead members have an entry.
        self._silent_at: dict[str, float] = {}

    def start(self, now: float) -> None:
        """Contacts all configured nodes once, and from now on the lost ones."""
        self._running = True
        self._next_at = now + self._config.probe_interval_s
        for name in self._contacts:
            self._contact(name)

    def stop(self) -> None:
        """Contacts no member from now on."""
        self._running = False
        self._silent_at.clear()

    def contact_all(self) -> None:
        """Contacts every lost member at once."""
        for name in self._names():
            self._contact(name)

    def contact_dead(self, now: float, name: str) -> None:
        """Contacts a member that was just declared dead, unless this node itself found it silent."""
        member = self._roster.table.get(name)
        if self._running and member is not None and member.state is State.DEAD:
            if self._roster.me.name not in self._roster.reporters(name):
                self._contact(name)
            self._await_silence(now, name)

    def extend_deadlines(self, now: float, grace_s: float) -> None:
        """Postpones all verdicts: this process did not run when it should have."""
        self._silent_at = {name: max(at, now + 2 * grace_s) for name, at in self._silent_at.items()}

    def update_timer(self, now: float) -> bool:
        """Runs the timer only while a member is lost: it used to cause a quarter of the events at rest.

        Returns:
            Whether the next deadline may have changed.
        """
        if not self._running or self._roster.table.changes == self._seen:
            return False
        self._seen = self._roster.table.changes
        if not self._names():
            self._next_at = math.inf
        elif self._next_at == math.inf:
            self._next_at = now + INTERVAL_S
        return True

    def run_timers(self, now: float) -> None:
        """Contacts the lost member whose turn it is, and counts those that stayed silent."""
        for name in [name for name, at in self._silent_at.items() if at <= now]:
            contacted_at = self._silent_at.pop(name) - self._config.probe_duration_s
            member = self._roster.table.get(name)
            if member is None or member.state is not State.DEAD:
                continue
            if self._heard_at.get(name, 0.0) < contacted_at:
                self._roster.accuse(now, name)
        if now >= self._next_at:
            self._next_at = now + INTERVAL_S
            lost = self._round_robin.next(self._names, self._is_lost)
            if lost is not None:
                self._contact(lost)
                self._await_silence(now, lost)

    def next_deadline(self) -> float:
        """Returns when the next timer is due."""
        return min(self._next_at, *self._silent_at.values()) if self._silent_at else self._next_at

    def _await_silence(self, now: float, name: str) -> None:
        member = self._roster.table.get(name)
        if member is not None and member.state is State.DEAD:
            if self._roster.me.name in self._roster.reporters(name):
                self._silent_at.pop(name, None)
            else:
                self._silent_at.setdefault(name, now + self._config.probe_duration_s)

    def _names(self) -> list[str]:
        table = self._roster.table
        return [name for name in self._contacts if table.get(name) is None] + table.dead_names()

    def _is_lost(self, name: str) -> bool:
        member = self._roster.table.get(name)
        return name in self._contacts if member is None else member.state is State.DEAD

    def _contact(self, name: str) -> None:
        self._out.send_hello(name, Kind.HELLO)
