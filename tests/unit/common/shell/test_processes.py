"""The seam for other processes: children, and the pipe that takes their output."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from agent.common.shell import processes, seam


def test_a_child_gets_the_named_descriptors_and_reports_its_exit_status() -> None:
    """Only the descriptors in ``keep`` are inherited, under the same numbers."""
    reader, writer = os.pipe()
    other = os.dup(writer)
    script = (
        "import os, sys\n"
        "os.write(int(sys.argv[1]), b'heard')\n"
        "try: os.fstat(int(sys.argv[2]))\n"
        "except OSError: sys.exit(3)\n"
    )
    child = processes.start([sys.executable, "-c", script, str(writer), str(other)], [writer])
    os.close(writer)
    os.close(other)
    assert child.wait(20.0) == 3
    assert child.poll() == 3
    assert os.read(reader, 100) == b"heard"
    os.close(reader)


def test_a_child_that_does_not_end_is_killed() -> None:
    """Waiting ends with an error, and then the caller kills the child."""
    child = processes.start(["sleep", "600"])
    assert child.pid > 0
    assert child.poll() is None
    with pytest.raises(TimeoutError, match=f"process {child.pid} did not end"):
        child.wait(0.0)
    child.kill()
    assert child.wait(20.0) == -signal.SIGKILL
    child.kill()


def test_an_output_pipe_ends_with_its_last_writer() -> None:
    """The parent's writer can be closed while processes still write; later writers' output is discarded."""
    pipe = processes.output_pipe()
    descriptor = pipe.writer()
    assert os.fstat(descriptor).st_mode & 0o777 == 0o622
    pipe.end()
    pipe.end()
    os.write(descriptor, b"line\n")
    late = pipe.writer()
    os.write(late, b"lost\n")
    os.close(late)
    os.close(descriptor)
    assert pipe.read(100) == b"line\n"
    assert pipe.read(100) == b""
    pipe.close()
    pipe.close()


def test_a_program_that_does_not_exist_is_an_error() -> None:
    """The caller gets the error at once."""
    with pytest.raises(OSError, match="no-such-program"):
        processes.start(["/no-such-program"])


def test_own_pid_is_that_of_this_process() -> None:
    """The real platform returns the operating system's id."""
    shown = subprocess.run(["sh", "-c", "echo $PPID"], capture_output=True, check=True).stdout
    assert processes.own_pid() == int(shown)


class _Pretended(processes.RealProcesses):
    def own_pid(self) -> int:
        return 17

    def start(self, command: Sequence[str], keep: Sequence[int]) -> processes.Child:
        raise OSError("nothing can be started here")


def test_an_installed_platform_serves_instead() -> None:
    """A simulator's processes replace the real ones."""
    with seam.use(seam.Seam(processes=_Pretended())):
        assert processes.own_pid() == 17
        with pytest.raises(OSError, match="nothing can be started"):
            processes.start(["true"])
