"""Repair in the background: one thread that compares this node's copies with the file table.

A pass over the local names runs some seconds after the view changed (a machine that restarts quickly is not
copied for nothing), at the start, and every half minute; a name whose block lost a copy is looked at at once,
and one whose open block is thin because a store is down every two seconds. One block is copied at a time, so
repair never takes more than one stream of a node.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from agent.common.errors import NotFound, RainStormError
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable, repair
from agent.hydfs.core.backlog import Backlog
from agent.hydfs.core.block import SEALED, BlockMeta, DroppedEntry
from agent.hydfs.core.events import BlockDropped, BlockSealed
from agent.hydfs.core.filetable import BlockEntry, FileEntry
from agent.hydfs.core.node import NodeLost, SealRequested
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Blocks
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.view import View, ViewSource, up_nodes
from agent.wire.register.proposer import Registers
from agent.wire.server import Handler, Reply, Request

logger = logging.getLogger("agent.hydfs.shell.repair")

REPAIR_DELAY_S = 3.0
PASS_INTERVAL_S = 30.0
RETRY_S = 2.0
PIECE_BYTES = 1024 * 1024
NAMES_WAITING_MAX = 10_000


class Maintenance:
    """The repair thread of one agent."""

    def __init__(
        self,
        blocks: Blocks,
        store: Store,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        new_disk: NewDisk,
        *,
        replicas: int,
        put_is_alive: Callable[[str], bool],
        votes: Callable[[], bool],
    ) -> None:
        self._votes = votes
        self._new_disk = new_disk
        # Files with an open block that belongs here and is not here, or that could not be looked at.
        self._missing: set[str] = set()
        self._put_is_alive = put_is_alive
        self._blocks = blocks
        self._store = store
        self._peers = peers
        self._registers = registers
        self._views = views
        self._wanted = replicas
        self._up = up_nodes(views.current())
        self._changed = threads.condition()
        self._names: dict[str, None] = {}
        # Files whose open block (its number) is thin, and since when. That a store is down is in no view, and
        # it is heard of later than the first append notices it, so they are looked at again.
        self._thin: dict[str, tuple[int, float]] = {}
        self._thin_at = 0.0
        self._pass_at = clock.monotonic()
        self._everything = True
        self._backlog = Backlog(peers.me, replicas)  # guarded by _changed
        self._stopping = False
        self._thread = threads.thread("hydfs-repair", self._run)

    def handlers(self) -> dict[str, Handler]:
        """Returns the request handlers."""
        return {"hydfs.health": self._health}

    def _health(self, request: Request) -> Reply:
        view = self._views.current()
        with self._changed:
            found = self._backlog.report(up_nodes(view), len(self._names))
        lengths = [meta.length for meta in list(self._store.index.values())]
        return Reply(
            {
                "view_version": view["version"],
                # A voter that has still to learn is a copy of the file table that is missing.
                "checked": found.checked and self._votes() and not self._new_disk.pending,
                "under_replicated": found.under_replicated,
                "waiting": found.waiting,
                "blocks": len(lengths),
                "stored_bytes": sum(lengths),
            }
        )

    def start(self) -> None:
        """Starts the thread and listens for views."""
        self._views.subscribe(self._on_view)
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """Stops the thread after the block it is copying."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def look_at(self, name: str) -> None:
        """Has the file looked at soon."""
        with self._changed:
            if len(self._names) < NAMES_WAITING_MAX:
                self._names[name] = None
            self._changed.notify()

    def _on_view(self, view: View) -> None:
        up = up_nodes(view)
        lost = [node for node in self._up if node not in up]
        changed, self._up = up != self._up, up
        for node in lost:
            self._blocks.post(NodeLost(node))
        if changed:
            with self._changed:
                self._backlog.nodes_changed()
                self._pass_at = min(self._pass_at, clock.monotonic() + REPAIR_DELAY_S)
                self._changed.notify()

    def _run(self) -> None:
        while True:
            names = self._next_names()
            if names is None:
                with self._changed:
                    self._backlog.pass_begins()
                self._missing.clear()
                self._tend_all(self._all_names())
                self._settle_new_disk()
                with self._changed:
                    self._backlog.pass_ends()
            else:
                self._tend_all(names)
            if self._stopping:
                return

    def _settle_new_disk(self) -> None:
        if not self._new_disk.pending or self._stopping:
            return
        if self._everything or self._missing:
            self._everything = True
            self._retry()
        else:
            self._new_disk.settle()
            logger.info("new_disk_settled")

    def _tend_all(self, names: dict[str, list[BlockMeta]]) -> None:
        for name, metas in names.items():
            if self._stopping:
                return
            self._tend_safely(name, metas)

    def _next_names(self) -> dict[str, list[BlockMeta]] | None:
        """Returns the names to look at, None when that is all of them."""
        with self._changed:
            while not self._stopping:
                now = clock.monotonic()
                if now >= self._pass_at:
                    self._pass_at = now + PASS_INTERVAL_S
                    self._names.clear()
                    break
                if self._thin and now >= self._thin_at:
                    self._names |= dict.fromkeys(self._thin)
                    self._thin_at = now + RETRY_S
                if self._names:
                    names, self._names = self._names, {}
                    local = self._local()
                    return {name: local.get(name, []) for name in names}
                self._changed.wait(min(self._pass_at, self._thin_at if self._thin else math.inf) - now)
            return {} if self._stopping else None

    def _all_names(self) -> dict[str, list[BlockMeta]]:
        names: dict[str, list[BlockMeta]] = dict(self._local())
        if self._everything:  # after a start the disk may have lost blocks that the table says are here
            try:
                for name in self._registers.keys("", timeout_s=5.0):
                    names.setdefault(name, [])
                self._everything = False
            except RainStormError as error:
                logger.debug("names_unknown error=%s", error)
                with self._changed:
                    self._backlog.incomplete()
                self._retry()
        return names

    def _local(self) -> dict[str, list[BlockMeta]]:
        found: dict[str, list[BlockMeta]] = defaultdict(list)
        for meta in list(self._store.index.values()):
            found[meta.name].append(meta)
        return found

    def _retry(self) -> None:
        with self._changed:
            self._pass_at = min(self._pass_at, clock.monotonic() + RETRY_S)

    def _tend_safely(self, name: str, metas: list[BlockMeta]) -> None:
        try:
            self._tend(name, metas)
        except RainStormError as error:
            if isinstance(error, NotFound) and self._is_gone(name):
                return  # deleted meanwhile: the next pass removes the copies
            self._missing.add(name)
            logger.info("repair_postponed name=%s error=%s", name, error)
            with self._changed:
                self._backlog.postponed(name)
            self._retry()

    def _is_gone(self, name: str) -> bool:
        try:
            entry = filetable.from_value(self._registers.read(name))
        except RainStormError:
            return False
        if entry is not None and entry.state == filetable.LIVE:
            return False
        with self._changed:
            self._backlog.gone(name)
        return True

    def _tend(self, name: str, metas: list[BlockMeta]) -> None:
        thin = self._thin.pop(name, None)
        entry = filetable.from_value(self._registers.read(name))
        if entry is None:
            return
        up = up_nodes(self._views.current())
        if entry.state == filetable.CREATING and self._is_orphan(entry, up):
            value = self._registers.change(name, filetable.remove(name, entry.file_id))
            entry = filetable.from_value(value) or entry
        for meta in repair.strangers(entry, metas):
            self._drop(meta.key)
        coordinated = [
            block.number
            for block in entry.blocks
            if self._blocks.core.coordinates((entry.file_id, block.number))
        ]
        actions = repair.local_actions(entry, metas, up, self._peers.me, self._wanted, coordinated)
        for action in actions:
            self._act(name, entry, action)
        opened = entry.open_block
        if self._new_disk.pending and opened is not None and self._is_missing(entry, opened):
            self._missing.add(name)
            self._blocks.sealing.take_over(name, entry, opened)
        self._thicken(name, entry, up, coordinated, thin)
        live = entry.state == filetable.LIVE
        pushes = repair.pushes(entry, up, self._peers.me, self._wanted) if live else []
        for push in pushes:
            self._push(name, entry, push)
        if actions or pushes:
            entry = filetable.from_value(self._registers.read(name)) or entry
        with self._changed:
            self._backlog.looked(name, entry)

    def _thicken(
        self,
        name: str,
        entry: FileEntry,
        up: list[str],
        coordinated: list[int],
        seen: tuple[int, float] | None,
    ) -> None:
        """Seals an open block that was ``seen`` thin a while ago when there are stores for a thicker one."""
        block = entry.open_block
        if block is None or not repair.is_thin(block, coordinated, up, (), self._wanted):
            return
        now = clock.monotonic()
        since = seen[1] if seen is not None and seen[0] == block.number else now
        if now - since >= RETRY_S and repair.is_thin(
            block, coordinated, up, self._views.storeless(up), self._wanted
        ):
            self._blocks.post(SealRequested((entry.file_id, block.number)))
        elif len(self._thin) < NAMES_WAITING_MAX:
            if not self._thin:
                self._thin_at = now + RETRY_S
            self._thin[name] = (block.number, since)

    def _is_missing(self, entry: FileEntry, block: BlockEntry) -> bool:
        key = (entry.file_id, block.number)
        return self._peers.me in block.replicas and key not in self._store.index

    def _act(self, name: str, entry: FileEntry, action: Any) -> None:
        match action:
            case repair.Drop(number=number):
                self._drop((entry.file_id, number))
            case repair.Certify(block=block):
                key = (entry.file_id, block.number)
                self._blocks.sealing.certify(key, name, block.length, block.crc)
                self.look_at(name)
            case repair.Announce(block=block):
                if self._store.crc_of((entry.file_id, block.number), block.length) != block.crc:
                    self._drop((entry.file_id, block.number))
                else:
                    self._set_replicas(name, entry, block, add=[self._peers.me])
            case repair.Pull(block=block):
                self._pull(name, entry, block)
            case repair.TakeOver(block=block):
                self._blocks.sealing.take_over(name, entry, block)
                self.look_at(name)

    def _is_orphan(self, entry: FileEntry, up: list[str]) -> bool:
        if entry.owner == self._peers.me:
            return not self._put_is_alive(entry.file_id)
        return entry.owner not in up

    def _drop(self, key: tuple[str, int]) -> None:
        self._blocks.post(BlockDropped(key))
        self._store.write(DroppedEntry(key))

    def _set_replicas(
        self,
        name: str,
        entry: FileEntry,
        block: BlockEntry,
        *,
        add: list[str] | None = None,
        drop: tuple[str, ...] = (),
    ) -> None:
        change = filetable.set_replicas(name, entry.file_id, block.number, add=add or [], drop=drop)
        self._registers.change(name, change)

    def _push(self, name: str, entry: FileEntry, push: repair.Push) -> None:
        key = (entry.file_id, push.block.number)
        meta = self._store.index.get(key)
        if meta is None or meta.state != SEALED:
            return  # our own copy has to be put right first
        began = clock.monotonic()
        for target in push.targets:
            self._send(name, key, push.block, target)
        self._set_replicas(name, entry, push.block, add=list(push.targets), drop=push.drop)
        logger.info(
            "block_copied name=%s number=%d to=%s bytes=%d seconds=%.3f",
            name,
            push.block.number,
            ",".join(push.targets) or "-",
            push.block.length,
            clock.monotonic() - began,
        )

    def _send(self, name: str, key: tuple[str, int], block: BlockEntry, target: str) -> None:
        for offset in range(0, block.length, PIECE_BYTES):
            size = min(PIECE_BYTES, block.length - offset)
            fields = {
                "name": name,
                "file_id": key[0],
                "number": key[1],
                "sender": f"{self._peers.me}/repair",
                "offset": offset,
                "last": offset + size == block.length,
                "length": block.length,
                "crc": block.crc,
            }
            piece = self._store.slice(key, offset, size)
            self._peers.call(target, "hydfs.block.store", fields, piece, timeout_s=10.0)

    def _pull(self, name: str, entry: FileEntry, block: BlockEntry) -> None:
        key = (entry.file_id, block.number)
        others = [node for node in block.replicas if node != self._peers.me]
        error: RainStormError = NotFound(f"block {block.number} of {name!r} has no other replica")
        for node in others:
            try:
                self._pull_from(node, name, key, block)
                return
            except RainStormError as failure:
                error = failure
        raise error

    def _pull_from(self, node: str, name: str, key: tuple[str, int], block: BlockEntry) -> None:
        part = self._store.receive(key)
        try:
            for offset in range(0, block.length, PIECE_BYTES):
                fields = {
                    "name": name,
                    "file_id": key[0],
                    "number": key[1],
                    "offset": offset,
                    "length": min(PIECE_BYTES, block.length - offset),
                }
                found = self._peers.call(node, "hydfs.block.read", fields, timeout_s=10.0)
                part.write(found.payload)
            part.finish(name, block.length, block.crc)
        except BaseException:
            part.abandon()
            raise
        self._blocks.post(BlockSealed(key, name, block.length, block.crc))
        logger.info("block_fetched name=%s number=%d from=%s", name, block.number, node)
