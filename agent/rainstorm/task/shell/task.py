"""A task process: limits, log lines, the socket to the agent, and the loop that does the work.

The task launcher starts it, with the socket to the agent as standard input:
``python -m agent.rainstorm.task.shell.task --host ADDRESS --hydfs SOCKET --memory BYTES``
"""

from __future__ import annotations

import argparse
import ctypes
import os
import resource
import signal
from collections.abc import Sequence

from agent.common.shell import logs, network
from agent.rainstorm.task.shell.loop import TaskLoop

PR_SET_PDEATHSIG = 1


def main(words: Sequence[str] | None = None) -> None:
    """Runs a task process until its agent closes the connection."""
    parser = argparse.ArgumentParser(description="RainStorm task process; started by the task launcher only")
    parser.add_argument("--host", required=True)
    parser.add_argument("--hydfs", required=True)
    parser.add_argument("--memory", type=int, required=True)
    arguments = parser.parse_args(words)
    logs.configure("INFO")
    # A runaway operator gets a MemoryError instead of taking the machine down.
    resource.setrlimit(resource.RLIMIT_DATA, (arguments.memory, arguments.memory))
    # No task outlives its launcher, whatever its user code is doing (prctl(2)).
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    TaskLoop(take_control(), arguments.host, arguments.hydfs).run()


def take_control() -> network.Socket:
    """Returns the socket to the agent, which user code must neither read as its input nor pass on."""
    control = network.adopt(os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return control


if __name__ == "__main__":
    main()
