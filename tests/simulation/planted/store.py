"""Rules of the store, of its cores and of the shells around them, each broken on purpose.

A bug is a small patch of the real code. Those of the second half are in shells, in the use of a thread, a
lock, a file or a connection, which no core can see.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from agent.common.shell import disk, threads, worker
from agent.common.shell.framedlog import FramedLog
from agent.hydfs.core import filetable, postponed
from agent.hydfs.core.block import PromiseEntry, RefusedCopies
from agent.hydfs.core.events import (
    Effect,
    PersistPromise,
    PromiseRequested,
    PromiseWritten,
    SealBlock,
    SendWrite,
    WriteAnswered,
)
from agent.hydfs.core.replica import Replica
from agent.hydfs.core.takeover import PromiseReceived, Takeover
from agent.hydfs.shell import repair
from agent.hydfs.shell.blockfile import BlockFiles
from agent.hydfs.shell.put import Puts
from agent.hydfs.shell.repair import Repair
from agent.hydfs.shell.replica import Replicas
from agent.hydfs.shell.store import Store
from agent.hydfs.shell.transfers.incoming import Transfers
from agent.wire import server
from agent.wire.client import Client
from agent.wire.connection import Connection
from agent.wire.server import Server
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.store import world
from tests.simulation.store.moments import MOMENTS

STORE = Subject("store", lambda seed, kinds: world.run(world.schedule_of(seed, kinds)))
# The kind is the name of the moment.
MOMENT = Subject("store", lambda seed, kinds: MOMENTS[kinds[0]](seed))


def _nothing(*_: Any, **__: Any) -> None:
    """Does not do what it should."""


# Protocol

_execute = Replicas.execute


def _promise_in_memory(self: Replicas, effect: Effect) -> None:
    if isinstance(effect, PersistPromise):
        self.post(PromiseWritten(effect.key, ""))
    else:
        _execute(self, effect)


def _promise_counts_refused(self: Replicas, effect: Effect) -> None:
    if not isinstance(effect, PersistPromise):
        _execute(self, effect)
        return
    entry = PromiseEntry(effect.key, effect.name, effect.doubtful)
    self.store.submit(entry, b"", lambda code: self.post(PromiseWritten(effect.key, "")))


_send_write = Replicas._send_write


def _answer_for_the_peer(self: Replicas, effect: SendWrite) -> None:
    self.post(WriteAnswered(effect.peer, effect.key, effect.record.end, ""))
    _send_write(self, effect)


_decide = Takeover._decide


def _forget_writers(self: Takeover, promises: list[PromiseReceived]) -> SealBlock:
    return replace(_decide(self, promises), writers={})


_dropped = Replica.dropped


def _forget_dropped(self: Replica, event: Any) -> Any:
    effects = _dropped(self, event)
    self._gone.clear()
    return effects


_promise = Replica.promise


def _promise_without_doubt(self: Replica, event: PromiseRequested) -> Any:
    return _promise(self, replace(event, doubtful=False))


def _trusted_crc(self: Store, key: Any, length: int) -> int:
    """Returns the journal's checksum without reading the file, which would show the hole."""
    return self.index[key].crc


# Disks

_fdatasync = disk.fdatasync


def _unless_in(module: str, function: str) -> Callable[[int], None]:
    """Returns a sync that does nothing when ``function`` of a module calls it."""

    def sync(descriptor: int) -> None:
        code = sys._getframe(1).f_code
        if code.co_name != function or not code.co_filename.endswith(f"/{module}.py"):
            _fdatasync(descriptor)

    return sync


def _flush_only(self: FramedLog, crc: int) -> None:
    disk.ftruncate(self._descriptor, self.size)
    disk.fsync(self._descriptor)


def _rename_only(self: BlockFiles, key: Any, path: Any) -> None:
    self._close(key)
    disk.rename(path, self.path(key))


# Threads, locks, slots, connections


def _repair_unguarded(self: Repair, name: str, metas: Any) -> None:
    self._missing.discard(name)
    self._repair_file(name, metas)
    self._succeed(name)


def _keep_the_place(self: Transfers, part: Any) -> None:
    part.abandon()


_refuse = Store._refuse


def _refuse_silently(self: Store, job: Any, code: str) -> None:
    _refuse(self, job, code)
    job.done = _nothing


def _close_silently(self: Any) -> None:
    self._closed = True


def _serve_in_the_accept_thread(self: Server, sock: Any, context: Any) -> bool:
    connection = Connection(sock, "handshaking")
    with self._lock:
        self._accepted += 1
        key = self._accepted
        self._connections[key] = connection, threads.current()
    self._serve(key, sock, context)
    return True


def _no_second_try(self: Client, place: Any, target: Any, header: Any, payload: Any, deadline: Any) -> Any:
    connection = place.connection or self._connect(place, target, deadline)
    return self._exchange(connection, header, payload, deadline)


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "promise in memory only",
        "a seal promise survives a crash",
        MOMENT,
        ((Replicas, "execute", _promise_in_memory),),
        ("lost_promise",),
    ),
    PlantedBug(
        "counts a refused promise",
        "a promise that the disk refused does not count",
        MOMENT,
        ((Replicas, "execute", _promise_counts_refused),),
        ("refused_promise",),
    ),
    PlantedBug(
        "acknowledges for the peer",
        "an append is acknowledged when all replicas have it",
        MOMENT,
        ((Replicas, "_send_write", _answer_for_the_peer),),
        ("lost_after_the_answer",),
    ),
    PlantedBug(
        "forgets who wrote what",
        "a repeated append is done once",
        MOMENT,
        ((Takeover, "_decide", _forget_writers),),
        ("lost_answer",),
    ),
    PlantedBug(
        "forgets dropped blocks",
        "a dropped block takes no records",
        MOMENT,
        ((Replica, "dropped", _forget_dropped),),
        ("late_coordinator",),
    ),
    PlantedBug(
        "writes behind a refused record",
        "nothing is written behind a refused record",
        MOMENT,
        ((RefusedCopies, "admits", lambda self, entry: True), (Store, "crc_of", _trusted_crc)),
        ("refused_record",),
    ),
    PlantedBug(
        "a new disk promises without doubt",
        "a replaced disk does not answer for lost records",
        MOMENT,
        ((Replica, "promise", _promise_without_doubt),),
        ("new_disk_speaks",),
    ),
    PlantedBug(
        "serves what it has not checked",
        "a copy is checked before it is read",
        STORE,
        ((Store, "_verify", _nothing),),
        ("rot", "kill"),
    ),
    PlantedBug(
        "replies before the flush",
        "an append is acknowledged when it is durable",
        STORE,
        ((disk, "fdatasync", _unless_in("framedlog", "sync")),),
        ("power_all", "power", "kill"),
    ),
    PlantedBug(
        "trusts what a failed flush left in memory",
        "nothing rests on bytes whose flush once failed",
        MOMENT,
        ((FramedLog, "_write_anew", _flush_only),),
        ("failed_flush",),
    ),
    PlantedBug(
        "whole block not flushed",
        "a copy is durable before the table names it",
        STORE,
        ((disk, "fdatasync", _unless_in("blockfile", "finish")),),
        ("power_all", "power"),
    ),
    PlantedBug(
        "folder of the blocks not synced",
        "a copy has its name before the table names it",
        STORE,
        ((BlockFiles, "replace", _rename_only),),
        ("power_all",),
    ),
    PlantedBug(
        "begins a put again",
        "a put whose begin is repeated holds one place",
        MOMENT,
        ((filetable, "put_id", lambda name, key: threads.unique_id()),),
        ("lost_put_answers",),
    ),
    PlantedBug(
        "forgets what it committed",
        "a repeated commit gets the same answer",
        MOMENT,
        ((filetable, "as_put", _nothing),),
        ("lost_put_answers",),
    ),
    PlantedBug(
        "slot not given back on abort",
        "an aborted put holds no slot",
        MOMENT,
        ((Puts, "_require_under_way", staticmethod(_nothing)),),
        ("aborted_while_waiting",),
    ),
    PlantedBug(
        "idle put kept",
        "a put whose client is gone is aborted",
        STORE,
        ((Puts, "abandon_idle", _nothing),),
    ),
    PlantedBug(
        "place of a transfer kept",
        "a transfer that ended takes no place",
        STORE,
        ((Transfers, "_discard", _keep_the_place),),
    ),
    PlantedBug(
        "retry without a pause",
        "a failing action is retried less and less often",
        STORE,
        ((postponed, "delay_s", lambda failures: 0.0), (repair, "RETRY_S", 0.0)),
    ),
    PlantedBug(
        "repair ends with its first error",
        "repair survives every error",
        STORE,
        ((Repair, "_try_repair", _repair_unguarded),),
    ),
    PlantedBug(
        "lost wake-up of a worker",
        "a stopped thread is woken",
        STORE,
        ((worker.WorkQueue, "_close", _close_silently),),
    ),
    PlantedBug(
        "refused write never answered",
        "a thread that waits for the disk hears that it refused",
        STORE,
        ((Store, "_refuse", _refuse_silently),),
        ("full_disk",),
    ),
    PlantedBug(
        "handshake in the accept thread",
        "a silent stranger delays no one",
        STORE,
        ((Server, "_admit", _serve_in_the_accept_thread),),
    ),
    PlantedBug(
        "stale pooled connection not replaced",
        "a request does not fail because of an old connection",
        STORE,
        ((Client, "_call", _no_second_try),),
    ),
    PlantedBug(
        "file left open after it was sent",
        "a file is closed after a part of it was sent",
        STORE,
        ((server, "close_files", _nothing),),
    ),
)
# Quickly found bugs: these are part of every `make test`.
QUICK = (
    "acknowledges for the peer",
    "slot not given back on abort",
    "place of a transfer kept",
    "stale pooled connection not replaced",
    "handshake in the accept thread",
)
