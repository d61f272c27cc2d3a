"""The simulated counterpart of ``realnetwork.RealNetwork``; each process has one."""

from __future__ import annotations

import errno
import socket
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from agent.common.shell import disk
from tests.simulation.machine import polling
from tests.simulation.machine.kernel import Backlog, DatagramPort, KernelObject, StreamEnd, failure
from tests.simulation.machine.polling import SimSelector
from tests.simulation.machine.process import Process
from tests.simulation.machine.sockets import DatagramSocket, ListeningSocket, SimSocket, StreamSocket
from tests.simulation.machine.thread import SimThread
from tests.simulation.machine.tls import SimTls
from tests.simulation.machine.wires import Packet, Wires

# About how long Linux tries to connect when nobody answers.
CONNECT_S_MAX = 127.0
# After this time a segment that was lost while connecting is sent again.
CONNECT_REPEAT_S = 1.0
# The limit of descriptors of a process.
DESCRIPTORS_MAX = 1024


@dataclass(frozen=True, slots=True)
class PassedFile:
    """A file of a disk on its way through a Unix socket."""

    disk: Any
    opened: Any

    def drop(self) -> None:
        """Ends the reference that is on its way."""
        self.disk.drop(self.opened)


class SimNetwork:
    """The sockets of one process at the address ``host``."""

    def __init__(
        self, wires: Wires, process: Process, host: str, *, descriptors_max: int = DESCRIPTORS_MAX
    ) -> None:
        self.wires = wires
        self.process = process
        self.host = host
        self.scheduler = wires.scheduler
        # Error numbers that the next calls of ``accept`` raise.
        self.accept_errors: deque[int] = deque()
        # How often the process failed to connect: it reveals a loop that never waits.
        self.dials_failed = 0
        self._descriptors_max = descriptors_max
        self._open: dict[int, KernelObject] = {}
        self._connecting: list[SimThread] = []
        # The number of TCP connections that the process has tried to open.
        self.dials = 0
        process.on_kill.append(self._kill)

    def open_sockets(self) -> list[str]:
        """Returns the open sockets: a process at rest holds no more than it should."""
        return [repr(self._wrap(kernel, descriptor)) for descriptor, kernel in self._open.items()]

    def break_streams(self) -> None:
        """Resets all connections to other hosts, at both ends."""
        for kernel in list(self._open.values()):
            if isinstance(kernel, StreamEnd) and not kernel.local and kernel.peer is not None:
                for end in (kernel, kernel.peer):
                    end.take(Packet(0.0, "reset"))

    # -- the calls of the platform --------------------------------------------------------------------

    def dial_tcp(self, host: str, port: int, timeout_s: float | None, source: str | None) -> SimSocket:
        """Returns a connection."""
        self.dials_failed += 1
        made = self._dial_tcp(host, port, timeout_s, source)
        self.dials_failed -= 1
        return made

    def _dial_tcp(self, host: str, port: int, timeout_s: float | None, source: str | None) -> SimSocket:
        scheduler, own = self.scheduler, source or self.host
        self.dials += 1
        scheduler.point()
        end = scheduler.now + (CONNECT_S_MAX if timeout_s is None else timeout_s)
        while True:
            self._pause(self.wires.latency_s(own, host), end)
            backlog = self.wires.listeners.get((host, port))
            through = not self.wires.is_cut(own, host)
            if through and (backlog is None or not backlog.is_open) and not self.wires.is_cut(host, own):
                self._pause(self.wires.latency_s(host, own), end)
                raise failure(errno.ECONNREFUSED)
            if through and backlog is not None and backlog.is_open and not backlog.is_full:
                break
            self._pause(CONNECT_REPEAT_S, end)
        mine = self._connect(backlog, (own, self.wires.free_port()), (host, port), local=False)
        try:
            while self.wires.is_cut(host, own):
                self._pause(CONNECT_REPEAT_S, end)
            self._pause(self.wires.latency_s(host, own), end)
        except BaseException:
            mine.close()
            raise
        mine.settimeout(timeout_s)
        return mine

    def dial_unix(self, path: str, timeout_s: float | None, packets: bool) -> SimSocket:
        """Returns a connection to a listener of this host."""
        self.dials_failed += 1
        made = self._dial_unix(path, timeout_s, packets)
        self.dials_failed -= 1
        return made

    def _dial_unix(self, path: str, timeout_s: float | None, packets: bool) -> SimSocket:
        scheduler = self.scheduler
        scheduler.point()
        end = scheduler.now + (CONNECT_S_MAX if timeout_s is None else timeout_s)
        backlog = self.wires.listeners.get((self.host, path))
        if backlog is None:
            raise failure(errno.ENOENT)
        while backlog.is_full and backlog.is_open:
            left = end - scheduler.now
            if left <= 0:
                raise TimeoutError("timed out")
            scheduler.wait(backlog.writers, left, f"room in the backlog of {path}")
        if not backlog.is_open:
            raise failure(errno.ECONNREFUSED)
        if backlog.packets != packets:
            raise failure(errno.EPROTOTYPE)
        mine = self._connect(backlog, "", path, local=True)
        mine.settimeout(timeout_s)
        return mine

    def listen_tcp(self, host: str, port: int, backlog: int) -> SimSocket:
        """Returns a listener."""
        self.scheduler.point()
        self._check_address(host)
        port = port or self.wires.free_port()
        if (host, port) in self.wires.listeners:
            raise failure(errno.EADDRINUSE)
        return self.hold(Backlog(self.wires, host, port, backlog))

    def listen_unix(self, path: str, mode: int, backlog: int, packets: bool) -> SimSocket:
        """Returns a listener on a path."""
        self.scheduler.point()
        return self.hold(Backlog(self.wires, self.host, path, backlog, packets=packets))

    def remove_unix(self, path: str) -> None:
        """Removes the path of a listener."""
        self.scheduler.point()
        self.wires.listeners.pop((self.host, path), None)

    def datagram(self, host: str, port: int) -> SimSocket:
        """Returns a bound UDP socket."""
        self.scheduler.point()
        self._check_address(host)
        port = port or self.wires.free_port()
        if (host, port) in self.wires.ports:
            raise failure(errno.EADDRINUSE)
        return self.hold(DatagramPort(self.wires, host, port))

    def pair(self) -> tuple[SimSocket, SimSocket]:
        """Returns two ends of a Unix stream."""
        one, two = (StreamEnd(self.wires, self.host, "", local=True) for _ in range(2))
        one.join(two)
        return self.hold(one), self.hold(two)

    def tls_context(self, certificate: str, key: str, authority: str, *, server_side: bool) -> SimTls:
        """Returns the context of a certificate: a file with the name in it and its signer."""
        name, signer = disk.read_text(certificate).split()
        return SimTls(name, signer, check_hostname=not server_side)

    def adopt(self, descriptor: int) -> SimSocket:
        """Returns the socket that a descriptor stands for."""
        kernel = self._open.get(descriptor)
        if kernel is None:
            raise failure(errno.EBADF)
        return self._wrap(kernel, descriptor)

    def close_descriptor(self, descriptor: int) -> None:
        """Closes a descriptor of a socket or a file."""
        kernel = self._open.pop(descriptor, None)
        if kernel is not None:
            kernel.drop()
        elif self.process.seam.disk is not None:
            self.process.seam.disk.close(descriptor)
        else:
            raise failure(errno.EBADF)

    def set_send_timeout(self, sock: Any, seconds: float) -> None:
        """Limits only sending."""
        sock.send_timeout_s = seconds

    def set_no_delay(self, sock: Any) -> None:
        """Does nothing: a simulated stream never waits for more to send."""

    def keep_alive(self, sock: Any) -> None:
        """Makes a stream notice a peer that ends while nothing gets through."""
        if sock.family == socket.AF_INET:
            sock.kernel.keep_alive()

    def wait(self, readable: Sequence[Any], writable: Sequence[Any], timeout_s: float | None) -> list[Any]:
        """Waits until one of the sockets is ready and returns those that are."""
        return polling.wait(self.scheduler, readable, writable, timeout_s)

    def selector(self) -> SimSelector:
        """Returns a selector."""
        return SimSelector(self.scheduler)

    def send_descriptors(self, sock: Any, data: Any, descriptors: Sequence[int]) -> int:
        """Sends bytes and copies of descriptors over a Unix socket."""
        if sock.family != socket.AF_UNIX:
            raise failure(errno.EINVAL)
        files = [self.give(descriptor) for descriptor in descriptors]
        try:
            return int(sock.transmit(bytes(data), files))
        except BaseException:
            for file in files:
                file.drop()
            raise

    def receive_descriptors(self, sock: Any, size: int, count_max: int) -> tuple[bytes, list[int]]:
        """Returns bytes and the descriptors that came with them."""
        data, files = sock.receive(size)
        for file in files[count_max:]:
            file.drop()
        return data, [self.take(file) for file in files[:count_max]]

    def send_file(self, sock: Any, descriptor: int, offset: int, length: int) -> int:
        """Sends a part of a file."""
        return int(self.process.seam.disk.sendfile(sock, descriptor, offset, length))

    def take_refusal(self, sock: Any) -> tuple[str, int] | None:
        """Returns the next address that refused a datagram of this socket."""
        self.scheduler.point()
        refusals = sock.kernel.refusals
        return refusals.popleft() if refusals else None

    # -- descriptors ----------------------------------------------------------------------------------

    def hold(self, kernel: KernelObject) -> SimSocket:
        """Returns a socket with a new descriptor for a kernel object."""
        return self._wrap(kernel, self.number(kernel))

    def number(self, kernel: KernelObject) -> int:
        """Returns a new descriptor for a kernel object."""
        try:
            self.check_descriptors()
        except OSError:
            kernel.end_if_unused()
            raise
        descriptor = next(self.wires.descriptors)
        kernel.references += 1
        self._open[descriptor] = kernel
        return descriptor

    def check_descriptors(self) -> None:
        """Raises EMFILE when the process may not have one more."""
        if len(self._open) >= self._descriptors_max:
            raise failure(errno.EMFILE)

    def _wrap(self, kernel: KernelObject, descriptor: int) -> SimSocket:
        if isinstance(kernel, StreamEnd):
            return StreamSocket(self, kernel, descriptor)
        if isinstance(kernel, Backlog):
            return ListeningSocket(self, kernel, descriptor)
        return DatagramSocket(self, kernel, descriptor)

    def give(self, descriptor: int) -> Any:
        """Returns the object behind a descriptor, on its way to another process, which must ``take`` it."""
        kernel = self._open.get(descriptor)
        if kernel is not None:
            kernel.references += 1
            return kernel
        disk = self.process.seam.disk
        if disk is None:
            raise failure(errno.EBADF)
        return PassedFile(disk, disk.give(descriptor))

    def take(self, file: Any) -> int:
        """Returns a descriptor for an object that came from another process."""
        if isinstance(file, PassedFile):
            return int(self.process.seam.disk.take(file.opened))
        descriptor = next(self.wires.descriptors)
        self._open[descriptor] = file
        return descriptor

    def _kill(self) -> None:
        for kernel in list(self._open.values()):
            kernel.drop()  # calls in progress end when their threads are unwound
        self._open.clear()

    # -- connecting -----------------------------------------------------------------------------------

    def _connect(self, backlog: Backlog, own: Any, other: Any, *, local: bool) -> SimSocket:
        mine = StreamEnd(
            self.wires, self.host if local else own[0], own, local=local, packets=backlog.packets
        )
        theirs = StreamEnd(self.wires, backlog.host, other, local=local, packets=backlog.packets)
        mine.join(theirs)
        sock = self.hold(mine)
        backlog.connect(theirs)
        return sock

    def _pause(self, seconds: float, end: float) -> None:
        """Lets time pass while connecting; raises TimeoutError when ``end`` comes first."""
        left = end - self.scheduler.now
        self.scheduler.wait(self._connecting, min(seconds, left), "an answer while connecting")
        if seconds >= left:
            raise TimeoutError("timed out")

    def _check_address(self, host: str) -> None:
        if host != self.host:
            raise failure(errno.EADDRNOTAVAIL)
