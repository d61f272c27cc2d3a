"""Outgoing blocks: a block of a put goes to its replicas in parallel, in pieces, with one flush at the end.

When a replica fails, the block goes to other nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.common.errors import DiskFull, RainStormError, Unavailable
from agent.common.shell import threads
from agent.common.shell.pool import Pool
from agent.hydfs.core.block import SEALED
from agent.hydfs.core.errors import code_of
from agent.hydfs.core.filetable import BlockEntry
from agent.hydfs.messages.block import StorePiece
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.view import ViewSource
from agent.wire.codec.framing import Buffer

BLOCK_TIMEOUT_S = 20.0
TRIES_MAX = 4
# Every block is sent to all of its replicas at once; a cluster that keeps more copies of a block than this
# sends to some of them one after the other.
SENDERS_PER_BLOCK = 3

Choose = Callable[[str, int, list[str]], list[str]]


@dataclass(frozen=True, slots=True)
class Block:
    """A whole block on its way to its replicas."""

    name: str
    file_id: str
    number: int
    pieces: tuple[Buffer, ...]
    length: int
    crc: int


class Outgoing:
    """Stores up to ``blocks_max`` blocks at once on other nodes.

    ``choose(file_id, number, avoid)`` tells on which.
    """

    def __init__(self, choose: Choose, peers: Peers, views: ViewSource, blocks_max: int) -> None:
        self._choose = choose
        self._peers = peers
        self._views = views
        senders = SENDERS_PER_BLOCK * blocks_max
        self._senders = Pool("hydfs-put-send", senders, senders * TRIES_MAX)

    def stop(self, timeout_s: float) -> None:
        """Ends the threads; blocks that wait for one fail."""
        self._senders.stop(drain=False, timeout_s=timeout_s)

    def place(self, block: Block) -> BlockEntry:
        """Stores a block durably on all replicas of some set of nodes, and returns its entry.

        Raises:
            RainStormError: ``TRIES_MAX`` sets of nodes, or all nodes, failed; this is the last failure.
        """
        avoid: list[str] = []
        error: RainStormError = Unavailable("the cluster view names no node that is up", hint="fab status")
        for _ in range(TRIES_MAX):
            replicas = self._choose(block.file_id, block.number, avoid)
            failures = self._store(block, replicas)
            if replicas and not failures:
                view = self._views.current().version
                return BlockEntry(block.number, tuple(replicas), view, SEALED, block.length, block.crc, "")
            for node, error in failures.items():
                avoid.append(node)
                self._peers.suspect(node, code_of(error))
            if set(self._views.current().up_names()) <= set(avoid) and isinstance(error, DiskFull):
                break
        raise error

    def _store(self, block: Block, replicas: Sequence[str]) -> dict[str, RainStormError]:
        """Sends a block to all of its replicas and returns those that failed."""
        sent = {}
        failures: dict[str, RainStormError] = {}
        for node in replicas:
            try:
                sent[node] = self._senders.call(self._send_pieces, node, block)
            except RainStormError as error:
                failures[node] = error
        for node, future in sent.items():
            try:
                future.result()  # each call has its own time limit
            except RainStormError as error:
                failures[node] = error
            except threads.CancelledError:
                failures[node] = Unavailable("the agent is stopping")
        return failures

    def _send_pieces(self, node: str, block: Block) -> None:
        offset = 0
        for piece in block.pieces:
            end = offset + len(piece)
            request = StorePiece(
                block.file_id,
                block.number,
                block.name,
                self._peers.me,
                offset,
                end == block.length,
                block.length,
                block.crc,
            )
            self._peers.ask(node, request, piece, timeout_s=BLOCK_TIMEOUT_S)
            offset = end
