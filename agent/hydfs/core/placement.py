"""The placement of blocks: which nodes a new block goes to, by consistent hashing with virtual nodes.

Theory: Karger et al. 1997; virtual nodes as in Dynamo (2007) section 4.2. Each node owns ``VIRTUAL_NODES``
tokens, the MurmurHash3 of ``name#i``; a block goes to the owners of the first tokens at or after the hash of
its file id and number, each node once. Placement is decided when a block is opened and recorded in the file's
register, so a change of the ring never moves a block.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Collection, Sequence

from agent.common import ids

# With 64 tokens a node the fullest of ten nodes holds about a quarter more than the mean.
VIRTUAL_NODES = 64
# The cached sets of nodes: they change with the view, and each repair and each new block needs the ring.
RINGS_KEPT = 32


def block_token(file_id: str, number: int) -> int:
    """Returns the position of a block on the ring."""
    return ids.token(f"{file_id}:{number}")


class Ring:
    """The tokens of a set of nodes; immutable."""

    def __init__(self, nodes: Sequence[str]) -> None:
        self.nodes = tuple(sorted(nodes))
        pairs = sorted(
            (ids.token(f"{node}#{index}"), node) for node in self.nodes for index in range(VIRTUAL_NODES)
        )
        self._tokens = [token for token, _ in pairs]
        self._owners = [owner for _, owner in pairs]

    def walk(self, token: int) -> list[str]:
        """Returns every node once, in the order of the ring from ``token`` on."""
        found: dict[str, None] = {}
        start = bisect.bisect_left(self._tokens, token)
        for step in range(len(self._owners)):
            found.setdefault(self._owners[(start + step) % len(self._owners)])
            if len(found) == len(self.nodes):
                break
        return list(found)


@functools.lru_cache(maxsize=RINGS_KEPT)
def _ring_of(nodes: tuple[str, ...]) -> Ring:
    """Returns the ring of these nodes, made once: ten nodes are 640 hashes, sorted."""
    return Ring(nodes)


def order(file_id: str, number: int, nodes: Sequence[str]) -> list[str]:
    """Returns ``nodes`` in the order in which the ring proposes them for a block."""
    return _ring_of(tuple(nodes)).walk(block_token(file_id, number))


def choose(
    file_id: str,
    number: int,
    nodes: Sequence[str],
    count: int,
    avoid: Collection[str] = (),
    gone: Collection[str] = (),
) -> list[str]:
    """Returns up to ``count`` nodes for a block; nodes in ``avoid`` only when the others are too few.

    Nodes in ``gone`` are never chosen: a block on a store that is known to be down would be sealed at its
    first append, and so would every block after it.
    """
    usable = [node for node in order(file_id, number, nodes) if node not in gone]
    preferred = [node for node in usable if node not in avoid]
    return (preferred + [node for node in usable if node in avoid])[:count]
