"""Simulated sockets: a process's handles of kernel objects, with the errors that Linux and Python raise."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from tests.simulation.machine.kernel import Backlog, DatagramPort, KernelObject, StreamEnd, failure
from tests.simulation.machine.thread import SimThread

if TYPE_CHECKING:
    from tests.simulation.machine.network import SimNetwork

# A packet is read whole or cut off; this is longer than any packet.
PACKET_BYTES_MAX = 1 << 20


class SimSocket:
    """What ``socket.socket`` does; each kind of socket adds its own part."""

    family: int = socket.AF_INET

    def __init__(self, network: SimNetwork, kernel: KernelObject, descriptor: int) -> None:
        self.network = network
        self.kernel = kernel
        self.scheduler = network.scheduler
        self._descriptor = descriptor
        self._timeout: float | None = None
        # How long sending may take, whatever the time-out (SO_SNDTIMEO).
        self.send_timeout_s: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def fileno(self) -> int:
        """Returns the descriptor, or -1 once it is closed."""
        return self._descriptor

    def close(self) -> None:
        """Closes the descriptor; this wakes no thread."""
        self.scheduler.point()
        if self._descriptor >= 0:
            descriptor, self._descriptor = self._descriptor, -1
            self.network.close_descriptor(descriptor)

    def detach(self) -> int:
        """Hands over the descriptor without closing it."""
        descriptor, self._descriptor = self._descriptor, -1
        return descriptor

    def gettimeout(self) -> float | None:
        """Returns the time-out of each call."""
        return self._timeout

    def settimeout(self, value: float | None) -> None:
        """Sets the time-out of each call."""
        if value is not None and value < 0:
            raise ValueError("Timeout value out of range")
        self._check_open()
        self._timeout = value

    def setblocking(self, flag: bool) -> None:
        """Sets no time-out, or a time-out of 0."""
        self.settimeout(None if flag else 0.0)

    def getsockname(self) -> Any:
        """Returns the own address."""
        self._check_open()
        return self._name()

    def _name(self) -> Any:
        raise failure(errno.EOPNOTSUPP)

    def _check_open(self) -> None:
        if self._descriptor < 0:
            raise failure(errno.EBADF)

    def enter(self, waiters: list[SimThread], is_ready: Callable[[], bool], timeout_s: float | None) -> None:
        """Begins a call: waits until the kernel object is ready. ``leave`` must follow, if this returns."""
        if timeout_s == 0 or self._descriptor < 0 or is_ready():
            self.scheduler.point()
        if self._descriptor < 0:
            raise failure(errno.EBADF)
        kernel = self.kernel
        kernel.users += 1
        if is_ready():
            return
        try:
            end = None if timeout_s is None else self.scheduler.now + timeout_s
            while not is_ready():
                if timeout_s == 0:
                    raise failure(errno.EAGAIN)
                left = None if end is None else end - self.scheduler.now
                if left is not None and left <= 0:
                    raise TimeoutError("timed out")
                self.scheduler.wait(waiters, left, self)
        except BaseException:
            self.leave(kernel)
            raise

    @staticmethod
    def leave(kernel: KernelObject) -> None:
        """Ends a call."""
        kernel.users -= 1
        if kernel.references <= 0:
            kernel.end_if_unused()

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self._describe()} of {self.network.process.name}"

    def _describe(self) -> str:
        return f"descriptor {self._descriptor}"


class StreamSocket(SimSocket):
    """One end of a connection."""

    kernel: StreamEnd

    def __init__(self, network: SimNetwork, kernel: StreamEnd, descriptor: int) -> None:
        super().__init__(network, kernel, descriptor)
        self.family = socket.AF_UNIX if kernel.local else socket.AF_INET

    def getpeername(self) -> Any:
        """Returns the address of the other end."""
        self._check_open()
        assert self.kernel.peer is not None
        return self.kernel.peer.name

    def recv(self, bufsize: int, flags: int = 0) -> bytes:
        """Returns up to ``bufsize`` bytes; none when the other end has finished."""
        return self.receive(bufsize)[0]

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Reads into a buffer and returns the number of bytes."""
        view = memoryview(buffer).cast("B")
        data = self.recv(nbytes or len(view))
        view[: len(data)] = data
        return len(data)

    def receive(self, size: int) -> tuple[bytes, Sequence[Any]]:
        """Returns bytes and the open files that came with them."""
        kernel = self.kernel
        self.enter(kernel.readers, kernel.is_readable, self._timeout)
        try:
            return kernel.read(size)
        finally:
            self.leave(kernel)

    def send(self, data: Any, flags: int = 0) -> int:
        """Sends a part of the data and returns its length."""
        return self.transmit(bytes(memoryview(data).cast("B")), ())

    def transmit(self, data: bytes, files: Sequence[Any]) -> int:
        """Sends a part of the data together with open files."""
        kernel = self.kernel
        timeout_s = self._timeout if self.send_timeout_s is None else self.send_timeout_s
        try:
            self.enter(kernel.writers, kernel.is_writable, timeout_s)
        except TimeoutError:
            if self.send_timeout_s is not None:
                raise failure(errno.EAGAIN) from None
            raise
        try:
            return kernel.write(data, files)
        finally:
            self.leave(kernel)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Sends all of the data within the time-out."""
        view = memoryview(data).cast("B")
        timeout_s = self._timeout
        end = None if timeout_s is None else self.scheduler.now + timeout_s
        try:
            while view:
                view = view[self.send(view) :]
                if end is not None and timeout_s and view:
                    self._timeout = max(0.0, end - self.scheduler.now)
                    if not self._timeout:
                        raise TimeoutError("timed out")
        finally:
            self._timeout = timeout_s

    def sendmsg(self, buffers: Iterable[Any]) -> int:
        """Sends a part of several buffers."""
        return self.send(b"".join(bytes(memoryview(part).cast("B")) for part in buffers))

    def shutdown(self, how: int) -> None:
        """Ends one direction or both, and wakes the threads that wait in the connection."""
        self.scheduler.point()
        self._check_open()
        self.kernel.shut(how in (socket.SHUT_RD, socket.SHUT_RDWR), how in (socket.SHUT_WR, socket.SHUT_RDWR))

    def _name(self) -> Any:
        return self.kernel.name

    def _describe(self) -> str:
        peer = self.kernel.peer
        return f"{_text(self.kernel.name)} to {_text(peer.name) if peer is not None else '?'}"


class ListeningSocket(SimSocket):
    """Where connections come in."""

    kernel: Backlog

    def __init__(self, network: SimNetwork, kernel: Backlog, descriptor: int) -> None:
        super().__init__(network, kernel, descriptor)
        self.family = socket.AF_INET if isinstance(kernel.name, int) else socket.AF_UNIX

    def accept(self) -> tuple[StreamSocket, Any]:
        """Returns the next connection and its origin."""
        kernel = self.kernel
        self.enter(kernel.readers, kernel.is_readable, self._timeout)
        try:
            self.network.check_descriptors()
            if self.network.accept_errors:
                raise failure(self.network.accept_errors.popleft())
            end = kernel.accept()
        finally:
            self.leave(kernel)
        made = self.network.hold(end)
        end.references -= 1  # the reference of the backlog
        assert isinstance(made, StreamSocket)
        return made, made.getpeername()

    def shutdown(self, how: int) -> None:
        """Takes no more connections and wakes the threads that wait in ``accept``."""
        self.scheduler.point()
        self._check_open()
        self.kernel.shut()

    def _name(self) -> Any:
        name = self.kernel.name
        return (self.kernel.host, name) if isinstance(name, int) else name

    def _describe(self) -> str:
        return f"at {_text(self._name())}"


class DatagramSocket(SimSocket):
    """A bound UDP socket."""

    kernel: DatagramPort

    def recvfrom(self, bufsize: int, flags: int = 0) -> tuple[bytes, tuple[str, int]]:
        """Returns a datagram and where it comes from."""
        kernel = self.kernel
        self.enter(kernel.readers, kernel.is_readable, self._timeout)
        try:
            return kernel.read(bufsize)
        finally:
            self.leave(kernel)

    def sendto(self, data: Any, address: tuple[str, int]) -> int:
        """Sends a datagram."""
        self.scheduler.point()
        self._check_open()
        return self.kernel.write(bytes(data), address)

    def _name(self) -> Any:
        return self.kernel.host, self.kernel.port

    def _describe(self) -> str:
        return f"at {_text(self._name())}"


def _text(name: Any) -> str:
    return f"{name[0]}:{name[1]}" if isinstance(name, tuple) else str(name or "unnamed")
