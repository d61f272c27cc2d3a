"""The simulated counterpart of ``processes.RealProcesses``: it starts processes and takes their output.

A command starts a *program*: a function that gets the child, its command and the kernel objects that it
inherits. It may be a simulated process with threads or a model without any.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.machine.kernel import KernelObject
from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.thread import SimThread

Program = Callable[["SimChild", Sequence[str], list[Any]], None]


class SimChild:
    """A process that another one has started."""

    def __init__(self, network: SimNetwork) -> None:
        self._scheduler = network.scheduler
        # The program sets this and ``on_kill``.
        self.pid = 0
        self._status: int | None = None
        self._waiters: list[SimThread] = []
        self.on_kill: Callable[[], None] = lambda: None

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        self._scheduler.point()
        return self._status

    def wait(self, timeout_s: float) -> int:
        """Waits for the end and returns the exit status."""
        self._scheduler.point()
        if self._status is None:
            self._scheduler.wait(self._waiters, timeout_s, f"the end of process {self.pid}")
        if self._status is None:
            raise TimeoutError(f"process {self.pid} did not end within {timeout_s:g} s")
        return self._status

    def kill(self) -> None:
        """Ends the process."""
        self._scheduler.point()
        if self._status is None:
            self.on_kill()

    def exited(self, status: int) -> None:
        """Notes the end; called by the program."""
        if self._status is None:
            self._status = status
            self._scheduler.wake_all(self._waiters)


class _Output(KernelObject):
    """The writing end of a pipe; simulated processes print nothing, but they keep it open."""


class SimPipe:
    """The pipe that takes the output of many processes."""

    def __init__(self, network: SimNetwork) -> None:
        self._network = network
        self._output = _Output(network.wires, network.host)
        self._own = network.number(self._output)

    def writer(self) -> int:
        """Returns another descriptor of the writing end."""
        if self._output.released:
            return self._network.number(_Output(self._network.wires, self._network.host))
        return self._network.number(self._output)

    def read(self, size: int) -> bytes:
        """Waits until all writers are closed."""
        scheduler = self._network.scheduler
        scheduler.point()
        while not self._output.released:
            scheduler.wait(self._output.readers, None, "what processes print")
        return b""

    def end(self) -> None:
        """Closes this process's writing end."""
        own, self._own = self._own, -1
        if own >= 0:
            self._network.close_descriptor(own)

    def close(self) -> None:
        """Closes the reading end, which only this process knows."""


class SimProcesses:
    """Starts processes for one simulated process, whose id is ``pid``."""

    def __init__(self, network: SimNetwork, pid: int, program: Program) -> None:
        self.pid = pid
        self._network = network
        self._program = program

    def start(self, command: Sequence[str], keep: Sequence[int]) -> SimChild:
        """Starts a child, which inherits the objects behind the descriptors in ``keep``."""
        self._network.scheduler.point()
        child = SimChild(self._network)
        self._program(child, command, [self._network.give(descriptor) for descriptor in keep])
        return child

    def own_pid(self) -> int:
        """Returns the id of the process."""
        return self.pid

    def output_pipe(self) -> SimPipe:
        """Returns a pipe."""
        return SimPipe(self._network)
