"""Repair in the background: one thread that compares this node's copies with the file table.

All local names are compared at the start, every half minute, and some seconds after the view changed (so
that the blocks of a machine that restarts soon are not copied needlessly). A name whose block lost a copy is
checked immediately, and one whose open block is thin because a store is down every two seconds. A name that
could not be repaired is checked less and less often (``core.postponed``). One block is copied at a time, so
repair never takes more than one stream of a node.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Callable
from typing import assert_never

from agent.common.errors import Conflict, NotFound, RainStormError
from agent.common.shell import clock, threads
from agent.hydfs.core import filetable, repair
from agent.hydfs.core.backlog import Backlog
from agent.hydfs.core.block import SEALED, BlockMeta
from agent.hydfs.core.events import NodeLost, SealRequested
from agent.hydfs.core.filetable import BlockEntry, FileEntry
from agent.hydfs.core.postponed import RETRY_S, Postponed, delay_s
from agent.hydfs.messages.file import Health, StoreHealth
from agent.hydfs.shell.copier import Copier
from agent.hydfs.shell.newdisk import NewDisk
from agent.hydfs.shell.peers import Peers
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.view import ViewSource
from agent.membership.view import View
from agent.wire.endpoint import Call, Endpoint, endpoint
from agent.wire.register.proposer import Registers

logger = logging.getLogger("agent.hydfs.shell.repair")

REPAIR_DELAY_S = 3.0
PASS_INTERVAL_S = 30.0
# File names that wait to be checked; the next comparison of everything finds those that found no room.
NAMES_WAITING_MAX = 10_000


class Repair:
    """The repair thread of one agent."""

    def __init__(
        self,
        copies: Replicas,
        store: Store,
        peers: Peers,
        registers: Registers,
        views: ViewSource,
        new_disk: NewDisk,
        *,
        replicas: int,
        put_is_alive: Callable[[str], bool],
        votes: Callable[[], bool],
        tidy: Callable[[], None],
    ) -> None:
        """``put_is_alive`` tells whether this node still works on a put. ``votes`` tells whether it votes, if
        it is a voter. ``tidy`` drops unfinished transfers that clients and other agents have left behind.
        """
        self._tidy = tidy
        self._votes = votes
        self._new_disk = new_disk
        # Files that could not be checked, or with an open block that belongs here and is not here. The size
        # of the file table bounds their number.
        self._missing: set[str] = set()
        self._copier = Copier(copies, peers)
        self._postponed = Postponed()  # guarded by _changed
        self._listing_failures = 0
        self._put_is_alive = put_is_alive
        self._copies = copies
        self._store = store
        self._peers = peers
        self._registers = registers
        self._views = views
        self._wanted = replicas
        self._up = views.current().up_names()
        self._changed = threads.condition()
        self._names: dict[str, None] = {}
        # Files whose open block (its number) is thin, and since when. The view does not show that a store is
        # down, and gossip shows it later than the first append notices it, so they are checked again.
        self._thin: dict[str, tuple[int, float]] = {}
        self._thin_at = 0.0
        self._pass_at = clock.monotonic()
        self._everything = True
        self._backlog = Backlog(peers.me, replicas)  # guarded by _changed
        self._stopping = False
        self._thread = threads.thread("hydfs-repair", self._run)

    def endpoints(self) -> list[Endpoint]:
        """Returns the endpoint that reports the progress of repair."""
        return [endpoint(Health, self._health)]

    def _health(self, request: Health, call: Call) -> StoreHealth:
        view = self._views.current()
        with self._changed:
            found = self._backlog.report(view.up_names(), len(self._names))
        lengths = [meta.length for meta in list(self._store.index.values())]
        return StoreHealth(
            view_version=view.version,
            # While a voter is still learning, one copy of the file table is missing.
            checked=found.checked and self._votes() and not self._new_disk.pending,
            under_replicated=found.under_replicated,
            waiting=found.waiting,
            blocks=len(lengths),
            stored_bytes=sum(lengths),
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
        """Queues a file to be checked."""
        with self._changed:
            if len(self._names) < NAMES_WAITING_MAX:
                self._names[name] = None
            self._changed.notify()

    def _on_view(self, view: View) -> None:
        up = view.up_names()
        lost = [node for node in self._up if node not in up]
        changed, self._up = up != self._up, up
        for node in lost:
            self._copies.post(NodeLost(node))
        if changed:
            with self._changed:
                self._backlog.nodes_changed()
                self._postponed.view_changed(clock.monotonic() + REPAIR_DELAY_S)
                self._pass_at = min(self._pass_at, clock.monotonic() + REPAIR_DELAY_S)
                self._changed.notify()

    def _run(self) -> None:
        while not self._stopping:
            names = self._next_names()
            if names is None:
                self._compare_all()
            else:
                self._repair_all(names)
            self._settle_new_disk()

    def _compare_all(self) -> None:
        self._tidy()
        with self._changed:
            self._backlog.pass_begins()
        self._repair_all(self._all_names())
        with self._changed:
            if not self._stopping:
                self._backlog.pass_ends()

    def _settle_new_disk(self) -> None:
        if not self._new_disk.pending or self._stopping or self._everything or self._missing:
            return
        try:
            self._new_disk.settle()
        except RainStormError as error:
            logger.warning("new_disk_not_settled error=%s", error)  # until the next pass
        else:
            logger.info("new_disk_settled")

    def _repair_all(self, names: dict[str, list[BlockMeta]]) -> None:
        for name, metas in names.items():
            if self._stopping:
                return
            with self._changed:
                waits = self._postponed.waits(clock.monotonic(), name)
                if waits:
                    self._backlog.postponed(name)
            if not waits:
                self._try_repair(name, metas)

    def _next_names(self) -> dict[str, list[BlockMeta]] | None:
        """Returns the names to check next, None for all of them."""
        with self._changed:
            while not self._stopping:
                now = clock.monotonic()
                if now >= self._pass_at:
                    self._pass_at = now + PASS_INTERVAL_S
                    self._names.clear()
                    return None
                if self._thin and now >= self._thin_at:
                    self._names |= dict.fromkeys(self._thin)
                    self._thin_at = now + RETRY_S
                self._names |= dict.fromkeys(self._postponed.due(now))
                if self._names:
                    names, self._names = self._names, {}
                    local = self._local()
                    return {name: local.get(name, []) for name in names}
                self._changed.wait(self._next_at() - now)
            return {}

    def _next_at(self) -> float:
        thin_at = self._thin_at if self._thin else math.inf
        postponed_at = self._postponed.next_at()
        return min(self._pass_at, thin_at, math.inf if postponed_at is None else postponed_at)

    def _all_names(self) -> dict[str, list[BlockMeta]]:
        names: dict[str, list[BlockMeta]] = dict(self._local())
        names |= {name: [] for name in self._missing if name not in names}
        if self._everything:  # after a start the disk may have lost blocks that the table says are here
            try:
                for name in self._registers.keys("", timeout_s=5.0):
                    names.setdefault(name, [])
                self._everything = False
                self._listing_failures = 0
            except RainStormError as error:
                self._listing_failures += 1
                logger.debug("names_unknown error=%s", error)
                with self._changed:
                    self._backlog.incomplete()
                    again_at = clock.monotonic() + delay_s(self._listing_failures)
                    self._pass_at = min(self._pass_at, again_at)
        return names

    def _local(self) -> dict[str, list[BlockMeta]]:
        found: dict[str, list[BlockMeta]] = defaultdict(list)
        for meta in list(self._store.index.values()):
            found[meta.name].append(meta)
        return found

    def _try_repair(self, name: str, metas: list[BlockMeta]) -> None:
        try:
            self._missing.discard(name)
            self._repair_file(name, metas)
        except RainStormError as error:
            if isinstance(error, NotFound) and self._is_gone(name):
                self._succeed(name)  # deleted in the meantime: the next pass removes the copies
                return
            self._postpone(name)
            logger.info("repair_postponed name=%s error=%s", name, error)
        except Exception:
            self._postpone(name)
            logger.exception("repair_failed name=%s", name)
        else:
            self._succeed(name)

    def _succeed(self, name: str) -> None:
        with self._changed:
            self._postponed.succeed(name)

    def _postpone(self, name: str) -> None:
        self._missing.add(name)
        with self._changed:
            self._backlog.postponed(name)
            if not self._postponed.fail(clock.monotonic(), name):
                self._everything = True  # the name is found again when all are listed

    def _is_gone(self, name: str) -> bool:
        try:
            entry = filetable.from_value(self._registers.read(name), name)
        except RainStormError:
            return False
        if entry is not None and entry.state == filetable.LIVE:
            return False
        with self._changed:
            self._backlog.gone(name)
        return True

    def _repair_file(self, name: str, metas: list[BlockMeta]) -> None:
        thin = self._thin.pop(name, None)
        entry = filetable.from_value(self._registers.read(name), name)
        if entry is None:
            return
        up = self._views.current().up_names()
        if entry.state == filetable.CREATING and self._is_orphan(entry, up):
            entry = self._remove_orphan(name, entry)
        for meta in repair.obsolete_copies(entry, metas):
            self._copies.drop(meta.key)
        coordinated = [
            block.number
            for block in entry.blocks
            if self._copies.core.coordinates((entry.file_id, block.number))
        ]
        actions = repair.local_actions(entry, metas, up, self._peers.me, self._wanted, coordinated)
        for action in actions:
            self._act(name, entry, action)
        opened = entry.open_block
        if self._new_disk.pending and opened is not None and self._is_missing(entry, opened):
            self._missing.add(name)
            self._copies.sealer.take_over(name, entry, opened)
            self.look_at(name)
        self._seal_thin(name, entry, up, coordinated, thin)
        live = entry.state == filetable.LIVE
        pushes = repair.pushes(entry, up, self._peers.me, self._wanted) if live else []
        for push in pushes:
            self._push(name, entry, push)
        if actions or pushes:
            entry = filetable.from_value(self._registers.read(name), name) or entry
        with self._changed:
            self._backlog.looked(name, entry)

    def _seal_thin(
        self,
        name: str,
        entry: FileEntry,
        up: list[str],
        coordinated: list[int],
        seen: tuple[int, float] | None,
    ) -> None:
        """Seals an open block that was ``seen`` thin a while ago if a new one would get more copies."""
        block = entry.open_block
        if block is None or not repair.is_thin(block, coordinated, up, (), self._wanted):
            return
        now = clock.monotonic()
        since = seen[1] if seen is not None and seen[0] == block.number else now
        if now - since >= RETRY_S and repair.is_thin(
            block, coordinated, up, self._views.storeless(up), self._wanted
        ):
            self._copies.post(SealRequested((entry.file_id, block.number)))
        elif len(self._thin) < NAMES_WAITING_MAX:
            if not self._thin:
                self._thin_at = now + RETRY_S
            self._thin[name] = (block.number, since)

    def _is_missing(self, entry: FileEntry, block: BlockEntry) -> bool:
        key = (entry.file_id, block.number)
        return self._peers.me in block.replicas and key not in self._store.index

    def _act(self, name: str, entry: FileEntry, action: repair.LocalAction) -> None:
        match action:
            case repair.Drop(number=number):
                self._copies.drop((entry.file_id, number))
            case repair.Certify(block=block):
                key = (entry.file_id, block.number)
                self._copies.sealer.certify(key, name, block.length, block.crc)
                self.look_at(name)
            case repair.Announce(block=block):
                if self._store.crc_of((entry.file_id, block.number), block.length) != block.crc:
                    self._copies.drop((entry.file_id, block.number))
                else:
                    self._set_replicas(name, entry, block, add=[self._peers.me])
            case repair.Pull(block=block):
                self._copier.pull(name, (entry.file_id, block.number), block)
            case repair.TakeOver(block=block):
                self._copies.sealer.take_over(name, entry, block)
                self.look_at(name)
            case _:
                assert_never(action)

    def _remove_orphan(self, name: str, entry: FileEntry) -> FileEntry:
        """Removes the reservation of a put whose gateway is gone, unless it was committed after all."""
        try:
            value = self._registers.change(name, filetable.abandon(name, entry.file_id))
        except Conflict:
            value = self._registers.read(name)
        return filetable.from_value(value, name) or entry

    def _is_orphan(self, entry: FileEntry, up: list[str]) -> bool:
        if entry.owner == self._peers.me:
            return not self._put_is_alive(entry.file_id)
        return entry.owner not in up

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
            return  # this node's own copy must be repaired first
        self._copier.push(name, key, push.block, push.targets)
        self._set_replicas(name, entry, push.block, add=list(push.targets), drop=push.drop)
