"""The one source of other processes for every shell: it starts them and reads what they print.

On the real machine a child is a ``subprocess.Popen``, and many processes share one pipe for their output.
A simulator starts simulated processes instead: it recognises the programs that shells start by their command,
and hands out descriptors that only its own network understands.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from typing import Protocol

from agent.common.shell import seam


class Child(Protocol):
    """A process that this one has started."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None:
        """Returns the exit status, negative for a signal, or None while the process runs."""

    def wait(self, timeout_s: float) -> int:
        """Waits for the end and returns the exit status; TimeoutError when it does not end in time."""

    def kill(self) -> None:
        """Ends the process with SIGKILL; does nothing when it has ended."""


class OutputPipe(Protocol):
    """Collects what many processes print and hands it to one reader."""

    def writer(self) -> int:
        """Returns a descriptor for a process to write to; the caller closes it.

        Once the pipe was ended, what is written there is discarded.
        """

    def read(self, size: int) -> bytes:
        """Waits for output and returns up to ``size`` bytes; none once all writers are closed."""

    def end(self) -> None:
        """Closes this side's own writer: the reader comes to the end when the last process is gone."""

    def close(self) -> None:
        """Closes the reading end."""


class Platform(Protocol):
    """Starts processes."""

    def start(self, command: Sequence[str], keep: Sequence[int]) -> Child: ...

    def own_pid(self) -> int: ...

    def output_pipe(self) -> OutputPipe: ...


class _RealChild:
    """A child process of the operating system."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @property
    def pid(self) -> int:
        """Returns the process id."""
        return self._process.pid

    def poll(self) -> int | None:
        """Returns the exit status, or None while the process runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Waits for the end and returns the exit status."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"process {self.pid} did not end within {timeout_s:g} s") from None

    def kill(self) -> None:
        """Ends the process with SIGKILL."""
        self._process.kill()


class _RealPipe:
    """A pipe of the operating system."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        # Processes of another user may open their standard output again, under its name in /dev.
        os.fchmod(self._write_end, 0o622)

    def writer(self) -> int:
        """Returns a copy of the writing end, or the null device once the pipe was ended."""
        if self._write_end < 0:
            return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        return os.dup(self._write_end)

    def read(self, size: int) -> bytes:
        """Waits for output and returns it."""
        return os.read(self._read_end, size)

    def end(self) -> None:
        """Closes the own copy of the writing end."""
        if self._write_end >= 0:
            os.close(self._write_end)
            self._write_end = -1

    def close(self) -> None:
        """Closes the reading end."""
        if self._read_end >= 0:
            os.close(self._read_end)
            self._read_end = -1


class RealProcesses:
    """The processes of the operating system."""

    def start(self, command: Sequence[str], keep: Sequence[int]) -> Child:
        """Starts a child in a session of its own, without input."""
        return _RealChild(
            subprocess.Popen(
                list(command), pass_fds=tuple(keep), stdin=subprocess.DEVNULL, start_new_session=True
            )
        )

    def own_pid(self) -> int:
        """Returns the id of this process."""
        return os.getpid()

    def output_pipe(self) -> OutputPipe:
        """Returns a pipe."""
        return _RealPipe()


REAL: Platform = RealProcesses()


def _platform() -> Platform:
    found: Platform | None = seam.current().processes
    return REAL if found is None else found


def start(command: Sequence[str], keep: Sequence[int] = ()) -> Child:
    """Starts a child process in its own session; it inherits only the descriptors in ``keep``.

    Raises:
        OSError: the program cannot be started.
    """
    return _platform().start(command, keep)


def own_pid() -> int:
    """Returns the id of this process."""
    return _platform().own_pid()


def output_pipe() -> OutputPipe:
    """Returns a pipe by which one thread takes what many processes print."""
    return _platform().output_pipe()
