"""Decides when to change the view: verdicts are batched, and nodes take turns instead of racing.

A change waits ``view_batch_s`` for further changes, so that two machines that fail together cost one view.
The live nodes propose in the order of their names: the first one at once, each further one a step later, and
only if the view still differs from what the node believes. The register makes any number of proposers safe;
the turns only avoid lost races.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from agent.common.config import MembershipConfig
from agent.membership.core import view as views
from agent.membership.member import LIVE, Member
from agent.membership.view import View

if TYPE_CHECKING:
    import random

TURN_S = 0.25
RETRY_S = 0.5
# The first view waits a little longer, so that nodes that start together are in it together.
FIRST_VIEW_S = 0.5
# After a node was cut off, the others get this long to refute what it believes about them.
SETTLE_S = 1.0


class Proposer:
    """Decides when this node proposes a change of the view."""

    def __init__(self, name: str, config: MembershipConfig, rng: random.Random) -> None:
        self.view: View | None = None
        self.due_at: float | None = None
        self._not_before_at = 0.0
        self._name = name
        self._config = config
        self._rng = rng

    def learn(self, view: View | None) -> bool:
        """Keeps the view when it is newer than the one known; returns whether it was."""
        if views.version(view) <= views.version(self.view):
            return False
        self.view = view
        return True

    def reconsider(
        self, now: float, members: Mapping[str, Member], reporters: Mapping[str, Sequence[str]]
    ) -> None:
        """Waits for this node's turn while the verdicts differ from the view; stops when they agree."""
        if views.propose(self.view, members, reporters) is None:
            self.due_at = None
        elif self.due_at is None:
            batch_s = self._config.view_batch_s if self.view is not None else FIRST_VIEW_S
            self.due_at = max(now + batch_s + TURN_S * self._turn(members), self._not_before_at)

    def settle(self, now: float) -> None:
        """Postpones every proposal: this node was cut off, and its verdicts are old."""
        self._not_before_at = now + SETTLE_S
        if self.due_at is not None:
            self.due_at = max(self.due_at, self._not_before_at)

    def failed(self, now: float) -> None:
        """Postpones the next attempt."""
        self.due_at = now + RETRY_S * self._rng.uniform(0.5, 1.5)

    def _turn(self, members: Mapping[str, Member]) -> int:
        live = sorted(name for name, member in members.items() if member.state in LIVE)
        return live.index(self._name) if self._name in live else len(live)
