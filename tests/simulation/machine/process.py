"""A simulated process: threads that are killed, stopped and continued together, and their platforms."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agent.common.shell.seam import Seam
from agent.common.shell.threads import Deaths
from tests.simulation.machine.platform import SimThreads

if TYPE_CHECKING:
    from tests.simulation.machine.scheduler import Scheduler
    from tests.simulation.machine.thread import SimThread


class Process:
    """One process; ``Scheduler.process`` makes it."""

    def __init__(self, scheduler: Scheduler, name: str) -> None:
        self.scheduler = scheduler
        self.name = name
        self.dead = False
        self.paused = False
        # The error of its wall clock.
        self.wall_offset_s = 0.0
        # Set after its services were stopped in an orderly way: then no thread may be left at rest.
        self.stopped = False
        self.began_at = scheduler.now
        # The living threads, in the order of their start.
        self.threads: dict[SimThread, None] = {}
        # The threads that would be ready if the process were not paused.
        self.frozen: list[SimThread] = []
        # The functions that close sockets and files when the process is killed.
        self.on_kill: list[Callable[[], None]] = []
        self.deaths = Deaths()
        self.seam = Seam(threads=SimThreads(self))
        self._free_idents: list[int] = []
        self._idents = 0

    def equip(self, **platforms: Any) -> None:
        """Gives the process a network, a disk or another part of the seam, before its first thread."""
        assert not self.threads, "the seam of running threads does not change"
        self.seam = replace(self.seam, **platforms)

    def start(self, name: str, target: Callable[..., object], *args: Any) -> SimThread:
        """Starts a thread, such as the process's main one."""
        return self.seam.threads.thread(name, target, args, started=True)  # type: ignore[no-any-return]

    def take_ident(self) -> int:
        """Returns the number of a new thread: like Linux, it prefers that of a thread that has ended."""
        if self._free_idents:
            return heapq.heappop(self._free_idents)
        self._idents += 1
        return self._idents

    def give_ident(self, thread: SimThread) -> None:
        """Takes back the number of a thread that has ended."""
        assert thread.ident is not None
        heapq.heappush(self._free_idents, thread.ident)

    def __repr__(self) -> str:
        return self.name
