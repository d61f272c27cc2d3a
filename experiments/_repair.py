"""The repair of one file after a node has died, observed by polling the view and the file: when the node was
down in the view, when the first lost copy was replaced, and when the last one was.

A copy counts when the file table names its holder and the holder is up in the view and is not the victim. The
store writes a new holder into the file table only after the copy is complete on its disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.common.errors import Corrupt
from agent.hydfs.client import FileStat, StoredBlock

COPIES = 3
SEALED = "sealed"


@dataclass(frozen=True, slots=True)
class Moved:
    """The copies that were made again."""

    blocks: int
    copies: int
    bytes: int


class Repair:
    """Follows one file from the moment at which a node is killed; instants are those of the polls."""

    def __init__(self, before: FileStat, victim: str) -> None:
        self._before = {block.number: frozenset(block.replicas) for block in before.blocks}
        self._victim = victim
        self._looked_at: float | None = None
        self.dead_at: float | None = None
        self.first_copy_at: float | None = None
        self.restored_at: float | None = None
        self.longest_gap_s = 0.0
        self.failed_looks = 0

    @property
    def complete(self) -> bool:
        """Tells whether the victim is down in the view and every block has its copies again."""
        return None not in (self.dead_at, self.first_copy_at, self.restored_at)

    def saw_view(self, at: float, up: frozenset[str]) -> None:
        """Notes which nodes are up in the view."""
        if self.dead_at is None and self._victim not in up:
            self.dead_at = at

    def saw_file(self, at: float, stat: FileStat, up: frozenset[str]) -> None:
        """Notes the holders of the blocks according to the file table."""
        if self._looked_at is not None:
            self.longest_gap_s = max(self.longest_gap_s, at - self._looked_at)
        self._looked_at = at
        alive = up - {self._victim}
        if self.first_copy_at is None and any(
            (set(block.replicas) & alive) - self._before[block.number] for block in stat.blocks
        ):
            self.first_copy_at = at
        if self.restored_at is None and not thin(stat, alive):
            self.restored_at = at

    def missing(self) -> str:
        """Returns what has not been seen yet, in words."""
        if self.dead_at is None:
            return f"{self._victim} is still up in the view"
        return f"some blocks still have fewer than {COPIES} copies"


def thin(stat: FileStat, alive: frozenset[str]) -> list[int]:
    """Returns the numbers of the blocks with fewer than three copies on living nodes."""
    return [block.number for block in stat.blocks if len(alive.intersection(block.replicas)) < COPIES]


def moved(before: FileStat, after: FileStat) -> Moved:
    """Returns the blocks that were copied to nodes that did not hold them before."""
    held = {block.number: frozenset(block.replicas) for block in before.blocks}
    new = [(block, len(frozenset(block.replicas) - held[block.number])) for block in after.blocks]
    return Moved(
        blocks=sum(count > 0 for _, count in new),
        copies=sum(count for _, count in new),
        bytes=sum(count * block.length for block, count in new),
    )


def check_copies(stat: FileStat, kept: Mapping[str, Sequence[StoredBlock]]) -> None:
    """Compares the file table with the blocks that the stores themselves report, by node.

    Raises:
        Corrupt: a store that the file table names lacks a block, or has another length of it.
    """
    for block in stat.blocks:
        wanted = (stat.file_id, block.number, block.length, SEALED)
        for node in block.replicas:
            if wanted not in [(each.file_id, each.number, each.length, each.state) for each in kept[node]]:
                raise Corrupt(
                    f"the file table says that {node} has block {block.number} of {stat.name!r}; "
                    "its store does not keep it",
                    hint=look_at(stat.name),
                )


def look_at(name: str) -> str:
    """Returns the hint about a file whose data is wrong."""
    return f"on a cluster named by --inventory the file is still there: fab ls {name}"
