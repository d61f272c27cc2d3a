"""Sealing blocks: the change of the file table, and its consequences on every replica."""

from __future__ import annotations

import logging
from collections.abc import Callable

from agent.common.errors import NotFound, RainStormError
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable
from agent.hydfs.core.block import SEALED, BlockKey, DroppedEntry, SealedEntry
from agent.hydfs.core.errors import error_of
from agent.hydfs.core.events import BlockDropped, BlockSealed, Event, SealBlock, SealFailed
from agent.hydfs.core.takeover import AskPromise, Fail, PromiseFailed, PromiseReceived, Takeover
from agent.hydfs.messages import block as messages
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.store import Store
from agent.wire.register.proposer import Registers

logger = logging.getLogger("agent.hydfs.shell.takeover")

Inbox = threads.Queue[PromiseReceived | PromiseFailed]


class Sealer:
    """Seals blocks for this agent's coordinators, and for those of other agents that are down."""

    def __init__(
        self,
        store: Store,
        peers: Peers,
        registers: Registers,
        post: Callable[[Event], None],
        *,
        replicas: int,
        ack_timeout_s: float,
    ) -> None:
        self.store = store
        self.peers = peers
        self.registers = registers
        self.post = post
        self.on_missing_copies: Callable[[str], None] = lambda name: None
        self._replicas = replicas
        self._ack_timeout = ack_timeout_s

    def seal_in_table(self, effect: SealBlock) -> filetable.FileEntry | None:
        """Seals a block in the file table and tells its replicas; returns None if the file was deleted."""
        file_id, number = effect.key
        for node in effect.failed:
            self.peers.suspect(node)
        change = filetable.seal(
            effect.name, file_id, number, effect.length, effect.crc, effect.holders, effect.writers
        )
        try:
            entry = filetable.live(effect.name, self.registers.change(effect.name, change))
        except NotFound:
            self.post(SealFailed(effect.key, "NOT_FOUND", f"file {effect.name!r} was deleted"))
            return None
        except RainStormError as error:
            self.post(SealFailed(effect.key, error.code, error.message))
            raise
        block = entry.block(number)
        length, crc = (block.length, block.crc) if block is not None else (0, 0)
        logger.info(
            "block_sealed name=%s number=%d length=%d failed=%s",
            effect.name,
            number,
            length,
            ",".join(effect.failed) or "-",
        )
        request = messages.Certify(file_id, number, effect.name, length, crc)
        self.certify(effect.key, effect.name, length, crc)
        holders = block.replicas if block is not None else effect.holders
        for node in dict.fromkeys((*holders, *effect.holders, *effect.failed)):
            if node != self.peers.me:
                self.peers.tell(node, request)
        if block is not None and len(block.replicas) < self._replicas:
            self.on_missing_copies(effect.name)
        return entry

    def certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        """Makes this node's copy agree with the file table: final, shortened, or dropped."""
        with self.store.deciding(key):
            self._certify(key, name, length, crc)

    def _certify(self, key: BlockKey, name: str, length: int, crc: int) -> None:
        meta = self.store.index.get(key)
        if meta is not None and meta.state == SEALED and (meta.length, meta.crc) == (length, crc):
            self.post(BlockSealed(key, name, length, crc))
            return
        good = length > 0 and meta is not None and meta.length >= length
        if good and self.store.crc_of(key, length) == crc:
            self.post(BlockSealed(key, name, length, crc))
            self.store.write(SealedEntry(key, name, length, crc))
        elif meta is not None:
            self.post(BlockDropped(key))
            self.store.write(DroppedEntry(key))
        else:
            self.post(BlockDropped(key))

    def take_over(self, name: str, entry: filetable.FileEntry, block: filetable.BlockEntry) -> None:
        """Seals a block that another node coordinates or coordinated.

        Raises:
            Unavailable: too few replicas answer.
        """
        key = (entry.file_id, block.number)
        takeover = Takeover(
            key, name, block.replicas, entry.ack, entry.sealed_length, timeout_s=self._ack_timeout
        )
        # One answer for each replica.
        inbox: Inbox = threads.queue(len(block.replicas))
        effects = takeover.start(clock.monotonic())
        while True:
            for effect in effects:
                match effect:
                    case AskPromise(peer=peer):
                        self._ask_later(peer, key, name, inbox)
                    case SealBlock():
                        self.seal_in_table(effect)
                        return
                    case Fail(code=code, message=message):
                        raise error_of(code, message)
            deadline = takeover.next_deadline()
            assert deadline is not None
            try:
                event: PromiseReceived | PromiseFailed | None = inbox.get(
                    timeout=max(0.0, deadline - clock.monotonic())
                )
            except threads.Empty:
                event = None
            effects = takeover.handle(clock.monotonic(), event)

    def _ask_later(self, peer: str, key: BlockKey, name: str, inbox: Inbox) -> None:
        if not self.peers.later(peer, lambda: inbox.put(self._ask_promise(peer, key, name))):
            inbox.put(PromiseFailed(peer))

    def _ask_promise(self, peer: str, key: BlockKey, name: str) -> PromiseReceived | PromiseFailed:
        request = messages.AskPromise(key[0], key[1], name)
        try:
            found = self.peers.ask(peer, request, timeout_s=self._ack_timeout).message
        except RainStormError:
            return PromiseFailed(peer)
        return PromiseReceived(peer, found.length, found.crc, found.writers, found.doubtful)
