"""The control group of each VM: finds its processes, and freezes or kills them.

A VM's processes are found only by their control group, so no recorded state can be out of date. On a machine
with control groups version 1, every hierarchy gets a group; with version 2 there is one hierarchy. Everything
that a VM ever starts inherits the group of nspawn.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from pathlib import Path

from agent.common.deadline import Deadline
from agent.common.errors import Internal
from agent.common.shell import clock

# The processor share of one process, and the largest possible share of a group, in either version.
SHARES = {"cpu.shares": (1024, 1 << 18), "cpu.weight": (100, 10_000)}
# A cpuset group accepts no process until its CPUs are set. The other controllers bring no benefit.
SKIPPED = {"cpuset", "net_cls", "net_prio", "perf_event", "hugetlb"}
POLL_INTERVAL_S = 0.01
MOUNTS = Path("/proc/self/mountinfo")


def hierarchies() -> dict[str, Path]:
    """Returns the mount points of control groups by controller; the key of version 2 is empty."""
    found: dict[str, Path] = {}
    for line in MOUNTS.read_text("utf-8").splitlines():
        fields = line.split()
        kind, options = fields[fields.index("-") + 1], fields[-1].split(",")
        if kind == "cgroup2":
            found.setdefault("", Path(fields[4]))
        elif kind == "cgroup" and not SKIPPED & set(options):
            name = next(option for option in options if option != "rw")
            found.setdefault(name, Path(fields[4]))
    return found


class Group:
    """The control group of one lab, or of one VM in it."""

    def __init__(self, lab: str, vm: str = "") -> None:
        self.path = Path(f"rainstorm-lab-{lab}") / vm
        mounted = hierarchies()
        self._folders = [root / self.path for root in mounted.values()]
        self._main = mounted.get("freezer", mounted.get("", Path("/sys/fs/cgroup"))) / self.path
        self._is_first_version = "freezer" in mounted

    def make(self) -> list[str]:
        """Creates the group in each hierarchy; a process joins by writing 0 to each of the returned files."""
        for folder in self._folders:
            folder.mkdir(parents=True, exist_ok=True)
        return [str(folder / "cgroup.procs") for folder in self._folders]

    def weigh(self, processes: int) -> None:
        """Gives the group as much processor time as this many processes outside of it when they compete.

        Without it, a busy machine gives a lab of ten VMs as much as one process, and the VMs starve.
        """
        for folder in self._folders:
            for name, (one, largest) in SHARES.items():
                if (folder / name).exists():
                    (folder / name).write_text(str(min(processes * one, largest)), "ascii")

    def processes(self) -> list[int]:
        """Returns the ids of the live processes in the group and in its subgroups."""
        found: list[int] = []
        for folder, _, _ in os.walk(self._main):
            with contextlib.suppress(OSError):  # the group has been removed meanwhile
                found += map(int, Path(folder, "cgroup.procs").read_text("ascii").split())
        return found

    def first_process(self) -> int | None:
        """Returns the host's id of the VM's process 1."""
        for pid in self.processes():
            with contextlib.suppress(OSError):
                for line in Path(f"/proc/{pid}/status").read_text("utf-8", "replace").splitlines():
                    # The ids of the process, from the outermost namespace to the innermost.
                    if line.startswith("NSpid:") and line.split()[-1] == "1" and len(line.split()) > 2:
                        return pid
        return None

    def freeze(self, frozen: bool) -> None:
        """Freezes every process in the group, or thaws it."""
        if self._is_first_version:
            (self._main / "freezer.state").write_text("FROZEN" if frozen else "THAWED")
        else:
            (self._main / "cgroup.freeze").write_text("1" if frozen else "0")

    def is_frozen(self) -> bool:
        """Tells whether the group is frozen."""
        try:
            if self._is_first_version:
                return (self._main / "freezer.state").read_text("ascii").strip() != "THAWED"
            return (self._main / "cgroup.freeze").read_text("ascii").strip() == "1"
        except FileNotFoundError:
            return False

    def kill(self, timeout_s: float = 10.0) -> int:
        """Kills every process of the group at once; returns how many there were.

        When process 1 dies, the kernel kills the whole VM in one step. So process 1 is killed first, and no
        process sees another one die.

        Raises:
            Internal: some process does not end (it is stuck in the kernel).
        """
        first, count = self.first_process(), len(self.processes())
        deadline = Deadline(clock.monotonic(), timeout_s)
        pause = threading.Event()
        if first is not None:
            _kill(first)
        if count and self.is_frozen():
            self.freeze(False)  # a frozen process cannot be killed
        while left := self.processes():
            if deadline.expired(clock.monotonic()):
                raise Internal(f"these processes do not end: {left}", hint="ps -o pid,stat,wchan,cmd -p PID")
            for pid in left:
                _kill(pid)
            pause.wait(POLL_INTERVAL_S)
        return count

    def remove(self) -> None:
        """Removes the group and its subgroups, which must be empty."""
        for root in self._folders:
            for folder, _, _ in os.walk(root, topdown=False):
                with contextlib.suppress(FileNotFoundError):
                    os.rmdir(folder)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
