"""The objects that a simulated kernel keeps behind descriptors: ends of streams, listeners, datagram ports.

Several descriptors, even of several processes, may stand for one object. It ends with the last of them, and
only when no call is inside any more: as on Linux, closing a descriptor wakes no thread.
"""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from agent.common.shell import realnetwork
from tests.simulation.machine.thread import SimThread
from tests.simulation.machine.wires import Packet, Pipe, Wires

if TYPE_CHECKING:
    from tests.simulation.machine.polling import Poll

# Linux holds about as many small datagrams in the default receive buffer.
DATAGRAMS_MAX = 256
DATAGRAM_BYTES_MAX = 65_507
KEEP_ALIVE_S = (
    realnetwork.KEEP_ALIVE_IDLE_S + realnetwork.KEEP_ALIVE_INTERVAL_S * realnetwork.KEEP_ALIVE_PROBES
)


def failure(number: int) -> OSError:
    """Returns the exception of an error number."""
    return OSError(number, os.strerror(number))


class KernelObject:
    """The base of all objects: waiting, polling and closing."""

    def __init__(self, wires: Wires, host: str) -> None:
        self.wires = wires
        self.host = host
        self.references = 0
        # The number of calls in progress on any descriptor.
        self.users = 0
        self.released = False
        self.readers: list[SimThread] = []
        self.writers: list[SimThread] = []
        self.polls: list[Poll] = []
        # Called on every change, for models that have no thread to wait in.
        self.on_change: Callable[[], None] | None = None

    def changed(self) -> None:
        """Wakes the threads that wait for this object."""
        if self.readers:
            self.wires.scheduler.wake_all(self.readers)
        if self.on_change is not None:
            self.on_change()
        if self.writers or self.polls:
            self.has_room()

    def has_room(self) -> None:
        """Wakes the threads that wait for writing, or for several objects."""
        self.wires.scheduler.wake_all(self.writers)
        for poll in self.polls:
            self.wires.scheduler.wake_all(poll.waiters)

    def drop(self) -> None:
        """Ends one reference."""
        self.references -= 1
        self.end_if_unused()

    def end_if_unused(self) -> None:
        """Ends the object when no descriptor refers to it and no call is in progress."""
        if self.references <= 0 and self.users == 0 and not self.released:
            self.released = True
            self.release()
            self.changed()

    def release(self) -> None:
        """Tells the other side that the object has ended."""

    def is_readable(self) -> bool:
        """Tells whether reading would not wait."""
        return False

    def is_writable(self) -> bool:
        """Tells whether writing would not wait."""
        return False


class StreamEnd(KernelObject):
    """One end of a stream; of packets when ``packets``, like a Unix socket when ``local``."""

    def __init__(self, wires: Wires, host: str, name: Any, *, local: bool = False, packets: bool = False):
        super().__init__(wires, host)
        self.name = name
        self.local = local
        self.packets = packets
        self.peer: StreamEnd | None = None
        self._pipe: Pipe | None = None
        self._received: deque[Packet] = deque()
        self._received_bytes = 0
        self._error = 0
        # Whether no more will be received, and whether no more can be sent.
        self._ended = False
        self._no_reading = False
        self._no_writing = False
        self._reset = False
        self._keeps_alive = False

    def join(self, peer: StreamEnd) -> None:
        """Connects both ends."""
        self.peer, peer.peer = peer, self
        self._pipe = Pipe(self.wires, self.host, peer)
        peer._pipe = Pipe(peer.wires, peer.host, self)

    def room(self) -> int:
        """Returns how many bytes could be sent now."""
        assert self.peer is not None
        assert self._pipe is not None
        return self.wires.buffer_bytes - self.peer._received_bytes - self._pipe.bytes

    def is_readable(self) -> bool:
        return bool(self._received or self._error or self._ended or self._no_reading or self._reset)

    def is_writable(self) -> bool:
        return self.room() > 0 or bool(self._error or self._reset or self._no_writing or self._peer_is_gone())

    def read(self, size: int) -> tuple[bytes, Sequence[Any]]:
        """Returns received bytes and open files, or nothing at the end; it must be readable."""
        if not self._received:
            self._raise_error()
            return b"", ()
        packet = self._received[0]
        data, files = packet.data[:size], packet.files
        packet.files = ()
        if self.packets or len(data) == len(packet.data):
            self._received.popleft()
            self._received_bytes -= len(packet.data)
        else:
            packet.data = packet.data[len(data) :]
            self._received_bytes -= len(data)
        peer = self.peer
        if peer is not None and (peer.writers or peer.polls):
            peer.has_room()
        return data, files

    def write(self, data: bytes, files: Sequence[Any]) -> int:
        """Sends as much as there is room for and returns the number of bytes; it must be writable."""
        self._raise_error()
        if self._no_writing or self._reset or self._peer_is_gone():
            raise failure(errno.EPIPE)
        assert self._pipe is not None
        taken = data if self.packets else data[: self.room()]
        self._pipe.send("data", taken, files)
        return len(taken)

    def force(self, data: bytes) -> None:
        """Sends the rest of a record whose beginning was taken, whether or not there is room."""
        assert self._pipe is not None
        self._pipe.send("data", data)

    def take(self, packet: Packet) -> None:
        """Receives a packet."""
        assert self.peer is not None
        if packet.kind == "reset":
            if not self.released:
                self._error, self._reset = errno.ECONNRESET, True
        elif packet.kind == "end":
            self._ended = True
        elif self.released or self._no_reading:
            self.wires.reset(self.host, self.peer)
        else:
            self._received.append(packet)
            self._received_bytes += len(packet.data)
        self.changed()

    def shut(self, reading: bool, writing: bool) -> None:
        """Ends one direction or both, and wakes the threads that wait in them."""
        if self._reset:
            raise failure(errno.ENOTCONN)
        if writing and not self._no_writing:
            self._no_writing = True
            assert self._pipe is not None
            self._pipe.send("end")
        self._no_reading = self._no_reading or reading
        self.changed()

    def release(self) -> None:
        assert self._pipe is not None
        if self.peer is not None and self.wires.is_cut(self.host, self.peer.host):
            self.peer.watch_peer()
        unread = bool(self._received)
        for packet in self._received:
            for file in packet.files:
                file.drop()
        self._received.clear()
        if self._reset:
            return
        if unread:
            self._pipe.send("reset")  # tells the peer that not everything was read
        elif not self._no_writing:
            self._pipe.send("end")
        if self.local and self.peer is not None:
            self.peer.changed()  # a writer on the same host learns of it at once

    def keep_alive(self) -> None:
        """Turns on keep-alive, which notices a vanished peer; in this model no partition triggers it."""
        self._keeps_alive = True
        if self.peer is not None and self.peer.released:
            self.watch_peer()

    def watch_peer(self) -> None:
        """Ends the stream after a while, unless the peer's end arrives before."""
        if self._keeps_alive and not self._ended:
            self.wires.scheduler.after(KEEP_ALIVE_S, self._give_up)

    def _give_up(self) -> None:
        if not (self.released or self._ended or self._reset):
            self._error, self._reset = errno.ETIMEDOUT, True
            self.changed()

    def _peer_is_gone(self) -> bool:
        return self.local and self.peer is not None and self.peer.released

    def _raise_error(self) -> None:
        if self._error:
            number, self._error = self._error, 0
            self._ended = True
            raise failure(number)


class Backlog(KernelObject):
    """A listener and the connections that nobody has accepted yet."""

    def __init__(self, wires: Wires, host: str, name: Any, capacity: int, *, packets: bool = False) -> None:
        super().__init__(wires, host)
        self.name = name
        self.packets = packets
        self._capacity = capacity
        self._waiting: deque[StreamEnd] = deque()
        self._shut = False
        wires.listeners[host, name] = self

    @property
    def is_open(self) -> bool:
        """Tells whether connections are taken."""
        return not (self._shut or self.released)

    @property
    def is_full(self) -> bool:
        """Tells whether no more connections are taken now."""
        return len(self._waiting) > self._capacity  # Linux takes one more than requested

    def connect(self, end: StreamEnd) -> None:
        """Takes a connection in."""
        end.references += 1
        self._waiting.append(end)
        self.changed()

    def accept(self) -> StreamEnd:
        """Returns the next connection; it must be readable."""
        if not self._waiting:
            raise failure(errno.EINVAL)
        end = self._waiting.popleft()
        self.wires.scheduler.wake_all(self.writers)
        return end

    def is_readable(self) -> bool:
        return bool(self._waiting) or self._shut

    def shut(self) -> None:
        """Takes no more connections and wakes the threads that wait in ``accept``."""
        self._shut = True
        self._refuse_all()
        self.changed()

    def release(self) -> None:
        self._refuse_all()
        if isinstance(self.name, int):  # a Unix socket leaves its path behind
            self.wires.listeners.pop((self.host, self.name), None)

    def _refuse_all(self) -> None:
        while self._waiting:
            end = self._waiting.popleft()
            assert end.peer is not None
            self.wires.reset(self.host, end.peer)
            end.references -= 1
            end.released = True


class DatagramPort(KernelObject):
    """A bound UDP port."""

    def __init__(self, wires: Wires, host: str, port: int) -> None:
        super().__init__(wires, host)
        self.port = port
        # The addresses that refused a datagram sent from here, as Linux keeps them with IP_RECVERR.
        self.refusals: deque[tuple[str, int]] = deque(maxlen=DATAGRAMS_MAX)
        self._received: deque[tuple[bytes, tuple[str, int]]] = deque()
        self._error = 0
        wires.ports[host, port] = self

    def is_readable(self) -> bool:
        return bool(self._received or self._error)

    def is_writable(self) -> bool:
        return True

    def read(self, size: int) -> tuple[bytes, tuple[str, int]]:
        """Returns a datagram and its source; it must be readable."""
        self._raise_error()
        data, source = self._received.popleft()
        return data[:size], source

    def write(self, data: bytes, target: tuple[str, int]) -> int:
        """Sends a datagram."""
        self._raise_error()
        if len(data) > DATAGRAM_BYTES_MAX:
            raise failure(errno.EMSGSIZE)
        source = (self.host, self.port)
        self.wires.post(self.host, target[0], lambda: _arrive(self.wires, data, source, target))
        return len(data)

    def take(self, data: bytes, source: tuple[str, int]) -> None:
        """Receives a datagram; one too many is lost."""
        if len(self._received) < DATAGRAMS_MAX:
            self._received.append((data, source))
            self.changed()

    def refused(self, target: tuple[str, int]) -> None:
        """Takes the answer that no process listens at ``target``."""
        self.refusals.append(target)
        self._error = errno.ECONNREFUSED
        self.changed()

    def release(self) -> None:
        if self.wires.ports.get((self.host, self.port)) is self:
            del self.wires.ports[self.host, self.port]

    def _raise_error(self) -> None:
        if self._error:
            number, self._error = self._error, 0
            raise failure(number)


def _arrive(wires: Wires, data: bytes, source: tuple[str, int], target: tuple[str, int]) -> None:
    port = wires.ports.get(target)
    if port is not None:
        port.take(data, source)
        return

    def refuse() -> None:
        sender = wires.ports.get(source)
        if sender is not None:
            sender.refused(target)

    wires.post(target[0], source[0], refuse)
