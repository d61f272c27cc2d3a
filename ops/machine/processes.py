"""The processes of a local cluster: started with a mark, found by the mark, and reliably stopped.

Every process of a local cluster has two environment variables, which its children inherit: the folder of the
cluster and the name of the node. So everything that a node started (agents, tasks, spare tasks, children of
user functions, orphans of a killed agent) can be found by reading ``/proc/*/environ``, even if the recorded
state is lost. Processes are signalled only through ``psutil.Process``, which first compares the start time,
so that a reused process id is never hit.

``start`` uses ``posix_spawn``, so the child never exists without its session and its mark. An interrupt at
any moment therefore leaves either no child or a marked one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from agent.common.deadline import Deadline
from agent.common.shell import clock

FOLDER_VARIABLE = "RAINSTORM_LOCAL_FOLDER"
NODE_VARIABLE = "RAINSTORM_LOCAL_NODE"
POLL_INTERVAL_S = 0.01
# PF_KTHREAD in the kernel's include/linux/sched.h
KERNEL_THREAD_FLAG = 0x00200000
EXEC_LOOKS_MAX = 200
EXEC_LOOK_INTERVAL_S = 0.001


@dataclass(frozen=True, slots=True)
class MarkedProcess:
    """One live process of a local cluster."""

    process: psutil.Process
    node: str

    @property
    def pid(self) -> int:
        """Returns the process id."""
        return int(self.process.pid)


def start(arguments: Sequence[str], folder: Path, node: str, log: Path, extra_path: Path) -> psutil.Process:
    """Starts a marked process in its own session, with its output appended to ``log``."""
    environment = dict(os.environ)
    environment[FOLDER_VARIABLE] = str(folder)
    environment[NODE_VARIABLE] = node
    environment["PYTHONUNBUFFERED"] = "1"
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(extra_path), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawn(
        arguments[0],
        list(arguments),
        environment,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE],
    )
    return psutil.Process(pid)


def marked(folder: Path, node: str | None = None) -> list[MarkedProcess]:
    """Returns the live processes of the cluster in ``folder`` (or of one node), sorted by process id.

    Zombies do not count: they hold no resources, and only their parents can remove them.
    """
    wanted = f"{FOLDER_VARIABLE}={folder}".encode()
    prefix = f"{NODE_VARIABLE}=".encode()
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdecimal() or int(entry) == os.getpid():
            continue
        # We may not read it, or it has ended meanwhile: it is not a process of this cluster.
        with contextlib.suppress(OSError, psutil.NoSuchProcess):
            variables = _environment(int(entry))
            if wanted not in variables:
                continue
            name = next((v[len(prefix) :].decode() for v in variables if v.startswith(prefix)), "")
            process = psutil.Process(int(entry))
            if process.status() != psutil.STATUS_ZOMBIE and (node is None or name == node):
                found.append(MarkedProcess(process, name))
    return sorted(found, key=lambda each: each.pid)


def _environment(pid: int) -> list[bytes]:
    """Returns the variables that a process was started with.

    While the kernel replaces a process's program (``exec``), it shows neither environment nor arguments for
    some microseconds. Such a process is read again, because a cluster's newest child must not be overlooked.
    """
    pause = threading.Event()
    for _ in range(EXEC_LOOKS_MAX):
        data = Path(f"/proc/{pid}/environ").read_bytes()
        if data or Path(f"/proc/{pid}/cmdline").read_bytes() or _has_no_program(pid):
            return data.split(b"\0")
        pause.wait(EXEC_LOOK_INTERVAL_S)
    return []


def _has_no_program(pid: int) -> bool:
    """Tells whether this is a zombie or a kernel thread."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii", "replace").rpartition(")")[2].split()
    return fields[0] in ("Z", "X") or bool(int(fields[6]) & KERNEL_THREAD_FLAG)


def signal_all(processes: Iterable[MarkedProcess], number: signal.Signals) -> int:
    """Sends a signal to each process that still exists; returns how many received it."""
    sent = 0
    for each in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.process.send_signal(number)
            sent += 1
    return sent


def kill_all(find: Callable[[], list[MarkedProcess]], timeout_s: float = 5.0) -> int:
    """Kills what ``find`` returns until it returns nothing; returns how many processes were killed.

    Raises:
        TimeoutError: some process does not end (it is stuck in the kernel).
    """
    deadline = Deadline(clock.monotonic(), timeout_s)
    pause = threading.Event()
    killed: dict[int, MarkedProcess] = {}
    # The child of a process that forks meanwhile is found in the next round.
    while left := find() or [each for each in killed.values() if not _has_ended(each)]:
        if deadline.expired(clock.monotonic()):
            raise TimeoutError(f"these processes do not end: {', '.join(str(each.pid) for each in left)}")
        signal_all(left, signal.SIGKILL)
        killed.update((each.pid, each) for each in left)
        pause.wait(POLL_INTERVAL_S)
    return len(killed)


def terminate_all(
    find: Callable[[], list[MarkedProcess]], first: Callable[[MarkedProcess], bool], timeout_s: float
) -> tuple[int, int]:
    """Asks the processes selected by ``first`` to end, waits, then kills whatever is left.

    Returns:
        How many ended by themselves and how many had to be killed.
    """
    asked = [each for each in find() if first(each)]
    signal_all(asked, signal.SIGTERM)
    signal_all(asked, signal.SIGCONT)  # a paused process would not react to the request
    deadline = Deadline(clock.monotonic(), timeout_s)
    pause = threading.Event()
    waited_for = asked
    while waited_for and not deadline.expired(clock.monotonic()):
        pause.wait(POLL_INTERVAL_S)
        waited_for = [each for each in waited_for if not _has_ended(each)]
    return len(asked) - len(waited_for), kill_all(find)


def _has_ended(each: MarkedProcess) -> bool:
    """Tells whether a process is gone, except perhaps for an exit status that was not collected.

    A zombie whose other threads are still ending has not closed its files and sockets yet.
    """
    try:
        if not each.process.is_running():
            return True
        return bool(each.process.status() == psutil.STATUS_ZOMBIE and each.process.num_threads() <= 1)
    except psutil.NoSuchProcess:
        return True
