"""Rules of the wire's server and client, each broken on purpose."""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from agent.common.deadline import Deadline
from agent.common.errors import DeadlineExceeded
from agent.common.shell import clock, network
from agent.common.shell.network import Socket, TlsContext
from agent.wire import server
from agent.wire.client import Address, Client, Target, _Place
from agent.wire.codec.framing import Frame
from agent.wire.connection import Connection, Payload, close_files
from agent.wire.server import Server
from tests.simulation.machine.network import SimNetwork
from tests.simulation.planted.bug import PlantedBug, Subject
from tests.simulation.wire.run import run, schedule_of

WIRE = Subject("wire", lambda seed, kinds: run(schedule_of(seed, kinds)))


_give_back = Client._give_back


def _keep_place_of_a_failed_call(self: Client, place: _Place, *, is_good: bool) -> None:
    if is_good:
        _give_back(self, place, is_good=True)
    else:
        place.drop()


def _trust_idle_connections(
    self: Client, place: _Place, target: Target, header: dict[str, Any], payload: Payload, deadline: Deadline
) -> Frame:
    connection = place.connection or self._connect(place, target, deadline)
    return self._exchange(connection, header, payload, deadline)


def _keep_connection_of_a_failed_call(self: Client, place: _Place, *, is_good: bool) -> None:
    _give_back(self, place, is_good=is_good or isinstance(sys.exc_info()[1], DeadlineExceeded))


def _close_the_idle_alone(self: Client) -> None:
    with self._lock:
        self._closed = True
        idle = [connection for pool in self._pools.values() for connection in pool.idle]
        for pool in self._pools.values():
            pool.idle.clear()
    for connection in idle:
        connection.close()


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


def _count_answered_alone(self: Server, key: int, connection: Connection) -> bool:
    frame = connection.receive(None)
    self._answering.add(key)
    self._reply_to(frame, key, connection)
    self._answering.discard(key)
    return self._stopping.is_set()


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
        "the place of a failed call is not given back",
        "a place is always given back",
        WIRE,
        ((Client, "_give_back", _keep_place_of_a_failed_call),),
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
        ((Client, "_give_back", _keep_connection_of_a_failed_call),),
    ),
    PlantedBug(
        "a closed client lets its calls wait",
        "closing ends waiting calls",
        WIRE,
        ((Client, "close", _close_the_idle_alone),),
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
