"""The work that repair still has to do, as one node sees it. Operators wait for it before removing a machine.

Each block is counted by one node: its first live holder, in the order of the file table. So the counts of all
nodes add up. A finding holds only for the nodes that were up at that time: after any node came or went, this
node reports *unchecked* until it has compared all of its copies with the file table again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.hydfs.core.filetable import LIVE, FileEntry


@dataclass(frozen=True, slots=True)
class BacklogReport:
    """``under_replicated`` counts blocks, ``waiting`` file names. Nothing is left to do when both are 0 and
    ``checked`` is true.
    """

    checked: bool
    under_replicated: int
    waiting: int


class Backlog:
    """The findings of one node's repair."""

    def __init__(self, me: str, wanted: int) -> None:
        self._me = me
        self._wanted = wanted
        self._replicas: dict[str, tuple[tuple[str, ...], ...]] = {}
        self._postponed: set[str] = set()
        self._seen: set[str] = set()
        self._valid_from = 0
        self._pass_from = 0
        self._whole = True
        self._checked = False

    def nodes_changed(self) -> None:
        """Forgets that everything was checked."""
        self._valid_from += 1
        self._checked = False

    def pass_begins(self) -> None:
        """Starts a comparison of everything."""
        self._pass_from = self._valid_from
        self._whole = True
        self._seen = set()

    def pass_ends(self) -> None:
        """Ends the comparison: files that it did not find are no longer here."""
        for name in (self._replicas.keys() | self._postponed) - self._seen:
            self.gone(name)
        self._checked = self._whole and self._pass_from == self._valid_from

    def incomplete(self) -> None:
        """Notes that the comparison under way does not cover everything."""
        self._whole = False

    def looked(self, name: str, entry: FileEntry) -> None:
        """Notes the file table's entry for a file whose copies here agree with it."""
        self._seen.add(name)
        self._postponed.discard(name)
        held = tuple(block.replicas for block in entry.blocks if self._me in block.replicas)
        if held and entry.state == LIVE:
            self._replicas[name] = held
        else:
            self._replicas.pop(name, None)

    def postponed(self, name: str) -> None:
        """Notes that a file could not be repaired; until it is, not everything counts as checked."""
        self._seen.add(name)
        self._postponed.add(name)

    def gone(self, name: str) -> None:
        """Forgets a file."""
        self._replicas.pop(name, None)
        self._postponed.discard(name)

    def report(self, up: Sequence[str], waiting: int) -> BacklogReport:
        """Returns the work left when these nodes are ``up``; ``waiting`` names are still queued."""
        thin = 0
        for chain in self._replicas.values():
            for replicas in chain:
                alive = [node for node in replicas if node in up]
                thin += bool(alive) and alive[0] == self._me and len(alive) < min(self._wanted, len(up))
        return BacklogReport(self._checked and not self._postponed, thin, waiting + len(self._postponed))
