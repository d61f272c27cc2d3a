"""Rules of the wire's server and client, each broken on purpose."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, Overloaded
from agent.common.shell import clock, network
from agent.common.shell.network import Socket, TlsContext
from agent.wire import client as clients
from agent.wire import server
from agent.wire.client import Address, Client, Target, _Pool
from agent.wire.codec.framing import Frame
from agent.wire.connection import Connection, Payload, close_files
from agent.wire.server import Server
from tests.simulation.machine.network import SimNetwork
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.wire.run import run, schedule_of

WIRE = Subject("wire", lambda seed, kinds: run(schedule_of(seed, kinds)))


def _keep_slot_of_a_failed_call(
    self: Client, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
) -> Frame:
    with self._pool(target) as pool:
        if not pool.slots.acquire(timeout=deadline.remaining(clock.monotonic())):
            raise Overloaded(f"{clients.CONNECTIONS_MAX} requests to {target} are already in progress")
        frame = self._call(pool, target, header, payload, deadline)
        pool.slots.release()
        return frame


def _trust_idle_connections(
    self: Client, pool: _Pool, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
) -> Frame:
    with pool.lock:
        connection = pool.idle.pop() if pool.idle else None
    return self._exchange(
        pool, connection or self._connect(pool, target, deadline), header, payload, deadline
    )


def _keep_connection_of_a_failed_call(
    self: Client,
    pool: _Pool,
    connection: Connection,
    header: dict[str, Any],
    payload: Payload,
    deadline: Deadline,
) -> Frame:
    try:
        header["timeout_s"] = deadline.require(clock.monotonic(), "request")
        connection.send(header, payload, deadline)
        return connection.receive(deadline)
    except ConnectionLost:
        connection.close()
        raise
    finally:
        with pool.lock:
            pool.idle.append(connection)


@contextlib.contextmanager
def _forget_busy(self: Client, pool: _Pool, connection: Connection) -> Iterator[None]:
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _begin_anew_for_the_handshake(self: Client, target: Target, limit: Deadline) -> Socket:
    timeout_s = limit.remaining(clock.monotonic())
    if not isinstance(target, Address):
        return network.dial_unix(target, timeout_s)
    assert self._context is not None
    plain = self._dial(target, timeout_s)
    plain.settimeout(timeout_s)
    found: Socket = self._context.wrap_socket(plain, server_hostname=target.node)
    return found


def _accept_under_the_lock(self: Server, listener: Socket, context: TlsContext | None) -> None:
    while not self._stopping.is_set():
        with self._lock:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
        if not self._admit(sock, context):
            sock.close()


def _end_at_the_first_error(self: Server, listener: Socket, context: TlsContext | None) -> None:
    with contextlib.suppress(OSError):
        while not self._stopping.is_set():
            sock, _ = listener.accept()
            if not self._admit(sock, context):
                sock.close()


def _keep_files_of_a_lost_reply(payload: Payload, descriptor: int | None = None) -> None:
    if sys.exc_info()[0] is None:
        close_files(payload, descriptor)


def _count_answered_alone(self: Server, key: int, connection: Connection) -> None:
    frame = connection.receive(None)
    with self._answered:
        self._in_progress += 1
    self._reply_to(frame, key, connection)
    with self._answered:
        self._in_progress -= 1
        self._answered.notify_all()


def _leave_connections_open(self: Server, timeout_s: float = 5.0) -> None:
    self._stopping.set()
    for listener in self._listeners:
        with contextlib.suppress(OSError):
            listener.shutdown(network.SHUT_RDWR)
        listener.close()
    for path in self._unix_paths:
        network.remove_unix(path)


def _nothing(*_: Any) -> None:
    """Does not do what it should."""


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "the slot of a failed call is not given back",
        "a slot is always given back",
        WIRE,
        ((Client, "_send", _keep_slot_of_a_failed_call),),
    ),
    PlantedBug(
        "a dead idle connection is not replaced",
        "a stale pooled connection is dropped",
        WIRE,
        ((Client, "_call", _trust_idle_connections),),
    ),
    PlantedBug(
        "the connection of a failed call is used again",
        "an answer belongs to its question",
        WIRE,
        ((Client, "_exchange", _keep_connection_of_a_failed_call),),
    ),
    PlantedBug(
        "a closed client lets its calls wait",
        "closing ends waiting calls",
        WIRE,
        ((Client, "_busy", _forget_busy),),
        ("close_client",),
    ),
    PlantedBug(
        "the handshake gets the whole time again",
        "a call ends by its deadline",
        WIRE,
        ((Client, "_open", _begin_anew_for_the_handshake),),
    ),
    PlantedBug(
        "connections are accepted under the lock",
        "no thread waits for a peer while it holds a lock",
        WIRE,
        ((Server, "_accept", _accept_under_the_lock),),
    ),
    PlantedBug(
        "the acceptor ends at its first error",
        "a thread that ends is noticed (dies silently)",
        WIRE,
        ((Server, "_accept", _end_at_the_first_error),),
        ("no_descriptors",),
    ),
    PlantedBug(
        "the file of a reply that is lost stays open",
        "every open file is closed",
        WIRE,
        ((server, "close_files", _keep_files_of_a_lost_reply),),
        ("abort", "caller_power", "visit"),
    ),
    PlantedBug(
        "a request whose caller is gone stays in progress",
        "every request that was counted in is counted out",
        WIRE,
        ((Server, "_answer", _count_answered_alone),),
    ),
    PlantedBug(
        "a stopped server leaves its connections open",
        "a server that stops leaves nothing behind",
        WIRE,
        ((Server, "stop", _leave_connections_open),),
    ),
    PlantedBug(
        "a server waits for a silent peer indefinitely",
        "a vanished peer is noticed",
        WIRE,
        ((SimNetwork, "keep_alive", _nothing),),
    ),
)
