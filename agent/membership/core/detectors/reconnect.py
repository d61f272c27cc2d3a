"""The members that are believed dead and the contacts that never spoke: greeted for ever, one a second.

So partitions heal and late nodes join without an operator, however long it takes. A dead member that does not
answer is one more independent report for its eviction from the view.
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


class Lost:
    """Looks for the members that one node has lost."""

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
        # Of which state of the table it is known whether anybody is lost.
        self._seen = -1
        # When a dead member that was greeted counts as silent.
        self._silent_at: dict[str, float] = {}

    def start(self, now: float) -> None:
        """Greets all contacts, and the lost ones again and again."""
        self._running = True
        self._next_at = now + self._config.probe_interval_s
        for name in self._contacts:
            self._greet(name)

    def stop(self) -> None:
        """Looks for nobody any more."""
        self._running = False
        self._silent_at.clear()

    def greet_all(self) -> None:
        """Greets every lost member at once."""
        for name in self._names():
            self._greet(name)

    def ask(self, now: float, name: str) -> None:
        """Greets a member that is believed dead, unless this node itself found it silent."""
        member = self._roster.table.get(name)
        if self._running and member is not None and member.state is State.DEAD:
            if self._roster.me.name not in self._roster.reporters(name):
                self._greet(name)
            self._await_silence(now, name)

    def forgive(self, now: float, grace_s: float) -> None:
        """Puts off all verdicts: this process did not run when it should have."""
        self._silent_at = {name: max(at, now + 2 * grace_s) for name, at in self._silent_at.items()}

    def follow(self, now: float) -> bool:
        """Keeps the timer only while somebody is lost: it was every fourth event at rest.

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
        """Does what is due."""
        for name in [name for name, at in self._silent_at.items() if at <= now]:
            asked_at = self._silent_at.pop(name) - self._config.probe_duration_s
            member = self._roster.table.get(name)
            if member is not None and member.state is State.DEAD and self._heard_at.get(name, 0.0) < asked_at:
                self._roster.accuse(now, name)
        if now >= self._next_at:
            self._next_at = now + INTERVAL_S
            lost = self._round_robin.next(self._names, self._is_lost)
            if lost is not None:
                self._greet(lost)
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

    def _greet(self, name: str) -> None:
        self._out.greet(name, Kind.GREETING)
