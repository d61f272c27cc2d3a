"""Copies whole sealed blocks between this node and others, one at a time."""

from __future__ import annotations

import logging

from agent.common.errors import NotFound, RainStormError
from agent.common.shell import clock
from agent.hydfs.core.block import BlockKey
from agent.hydfs.core.events import BlockSealed
from agent.hydfs.core.filetable import BlockEntry
from agent.hydfs.messages.block import ReadBlock, StorePiece
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Replicas

logger = logging.getLogger("agent.hydfs.shell.copier")

PIECE_BYTES = 1024 * 1024
# Sending one piece and writing it takes milliseconds; a node that is this slow counts as failed.
PIECE_TIMEOUT_S = 10.0


class Copier:
    """Pushes copies to other nodes, and fetches copies that belong here."""

    def __init__(self, replicas: Replicas, peers: Peers) -> None:
        self._replicas = replicas
        self._store = replicas.store
        self._peers = peers

    def push(self, name: str, key: BlockKey, block: BlockEntry, targets: tuple[str, ...]) -> None:
        """Sends this node's copy to other nodes.

        Raises:
            RainStormError: a node did not take it, or the copy here is damaged.
        """
        began = clock.monotonic()
        for target in targets:
            self._send(name, key, block, target)
        logger.info(
            "block_copied name=%s number=%d to=%s bytes=%d seconds=%.3f",
            name,
            block.number,
            ",".join(targets) or "-",
            block.length,
            clock.monotonic() - began,
        )

    def pull(self, name: str, key: BlockKey, block: BlockEntry) -> None:
        """Fetches a block from the first holder that can provide it.

        Raises:
            RainStormError: no holder can.
        """
        others = [node for node in block.replicas if node != self._peers.me]
        error: RainStormError = NotFound(f"block {block.number} of {name!r} has no other replica")
        for node in others:
            try:
                self._pull_from(node, name, key, block)
                return
            except RainStormError as failure:
                error = failure
        raise error

    def _send(self, name: str, key: BlockKey, block: BlockEntry, target: str) -> None:
        sender = f"{self._peers.me}/repair"
        for offset in range(0, block.length, PIECE_BYTES):
            size = min(PIECE_BYTES, block.length - offset)
            last = offset + size == block.length
            request = StorePiece(*key, name, sender, offset, last, block.length, block.crc)
            piece = self._replicas.slice(name, key, offset, size)
            self._peers.ask(target, request, piece, timeout_s=PIECE_TIMEOUT_S)

    def _pull_from(self, node: str, name: str, key: BlockKey, block: BlockEntry) -> None:
        part = self._store.receive(key)
        try:
            for offset in range(0, block.length, PIECE_BYTES):
                size = min(PIECE_BYTES, block.length - offset)
                request = ReadBlock(*key, offset, size, name)
                payload = self._peers.ask(node, request, timeout_s=PIECE_TIMEOUT_S).payload
                part.write(payload)
            part.finish(name, block.length, block.crc)
        except BaseException:
            part.abandon()
            raise
        self._replicas.post(BlockSealed(key, name, block.length, block.crc))
        logger.info("block_fetched name=%s number=%d from=%s", name, block.number, node)
