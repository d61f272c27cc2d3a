"""Samples how much memory the processes of a local cluster use, as resident set sizes.

The resident set counts shared pages in full for every process, so the sum over processes would be too high.
Reported are the largest values of a single agent and of a single task.
"""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path

import psutil

from ops.machine import processes
from ops.machine.processes import MarkedProcess

SAMPLE_INTERVAL_S = 0.25
BYTES_PER_MB = 1_000_000
AGENTS = ("membership", "hydfs", "rainstorm", "logs")


def role(command: list[str]) -> str:
    """Returns the service in an agent's command line, ``task`` for a task, or '' for anything else."""
    for place, word in enumerate(command[:-2]):
        if word == "-m" and command[place + 1] == "agent":
            return command[place + 2] if command[place + 2] in AGENTS else "task"
        if word == "-m" and command[place + 1].startswith("ops."):
            return ""
    return "task"


class MemorySampler:
    """Records the largest resident set of an agent and of a task, with their names."""

    def __init__(self, folder: Path) -> None:
        self.agent_mb_max = 0.0
        self.agent_worst = ""
        self.task_mb_max = 0.0
        self.task_worst = ""
        self._folder = folder
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-sampler", daemon=True)

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stopping.wait(SAMPLE_INTERVAL_S):
            for each in processes.marked(self._folder):
                with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                    self._note(each)

    def _note(self, each: MarkedProcess) -> None:
        kind = role(each.process.cmdline())
        size_mb = each.process.memory_info().rss / BYTES_PER_MB
        if kind in AGENTS and size_mb > self.agent_mb_max:
            self.agent_mb_max, self.agent_worst = size_mb, f"{kind} of {each.node}"
        elif kind == "task" and size_mb > self.task_mb_max:
            self.task_mb_max, self.task_worst = size_mb, f"pid {each.pid} on {each.node}"
