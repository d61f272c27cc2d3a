"""Checks of the engine's shells.

During faults, no loop stalls or spins, and every task hears its agent. At rest, nothing is held, waited for
or left over.
"""

from __future__ import annotations

from typing import Any

from agent.common.shell.runner import CoreRunner
from agent.common.shell.worker import Worker
from agent.rainstorm.service import Service
from tests.simulation.machine.kernel import StreamEnd
from tests.simulation.machine.network import SimNetwork
from tests.simulation.machine.polling import Poll
from tests.simulation.rainstorm.launcher import TaskProcess
from tests.simulation.rainstorm.world import World

# How long a core's loop may carry out effects; with a longer stall a watchdog would end the agent.
STANDSTILL_S = 2.0
# A task that waits for its neighbours takes a command at once; a thread may be stalled for STALL_S_MAX.
DEAF_S = 0.3
# The connections that one process may open between two looks: more means a loop without a pause.
DIALS_MAX = 25
# The errors that stop an agent, which is then restarted, when its disk refuses a call.
DISK_ERRORS = ("DiskFull(", "DiskFailed(", "Corrupt(", "OSError(", "PortInUse(")


class Liveness:
    """Checks repeatedly whether the loops of the cores take their events, and whether any loop spins."""

    def __init__(self, world: World) -> None:
        self._world = world
        # For each loop with events: its progress, and the instant since which it has made none.
        self._seen: dict[CoreRunner, tuple[int, float]] = {}
        self._dials: dict[str, int] = {}
        # Tasks that wait for sockets although a command has arrived, and since when.
        self._deaf: dict[TaskProcess, float] = {}

    def look(self) -> None:
        """Fails if a loop has had events for too long without taking one, or retries without a pause."""
        self._look_at_dials()
        self._look_at_tasks()
        now, seen = self._world.scheduler.now, self._seen
        self._seen = {}
        for name in self._world.up():
            service = self._world.service(name)
            for loop in service.loops() if service is not None else ():
                if not loop._inbox.qsize():
                    continue
                progress, since = seen.get(loop, (loop.progress, now))
                self._seen[loop] = (progress, since) if progress == loop.progress else (loop.progress, now)
                if now - self._seen[loop][1] > STANDSTILL_S:
                    raise AssertionError(
                        f"the loop {loop.name} of {name} stands still for {STANDSTILL_S:g} s"
                    )

    def _look_at_dials(self) -> None:
        dials: dict[str, int] = {}
        for name in self._world.up():
            network: SimNetwork = self._world.process(name).seam.network
            dials[network.process.name] = network.dials
            grown = network.dials - self._dials.get(network.process.name, network.dials)
            if grown > DIALS_MAX:
                raise AssertionError(f"{name} opens {grown} connections within a tenth of a second")
        self._dials = dials

    def _look_at_tasks(self) -> None:
        now, before = self._world.scheduler.now, self._deaf
        self._deaf = {}
        for task in self._world.processes():
            if not task.process.paused and _ignores_its_agent(task):
                self._deaf[task] = before.get(task, now)
                if now - self._deaf[task] > DEAF_S:
                    raise AssertionError(f"{task.process.name} does not hear its agent for {DEAF_S:g} s")


def _ignores_its_agent(task: TaskProcess) -> bool:
    """Tells whether a task waits for sockets although a command from its agent can be read."""
    if task.task is None or not any(isinstance(t.waiting_for, Poll) for t in task.process.threads):
        return False
    end: StreamEnd = task.task._control.sock.kernel  # type: ignore[attr-defined]  # a simulated one
    return bool(end.is_readable())


def findings(world: World, disks_hurt: set[str]) -> list[str]:
    """Returns the problems of a world at rest."""
    found = [
        f"crash: {agent}: {problem}"
        for agent, problem in world.cluster.crashes
        if agent.split("/")[0] not in disks_hurt or not problem.startswith(DISK_ERRORS)
    ]
    for name in world.names:
        service = world.service(name)
        if service is None:
            found.append(f"{name} does not run")
        else:
            found += left_over(name, service)
            found += _processes(world, name, service)
    return found + world.cluster.findings()


def left_over(name: str, service: Service) -> list[str]:
    """Returns the work that an engine at rest still has, and which of its threads have ended."""
    dispatcher, host = service._dispatcher, service._host
    supervisor = host.supervisor
    workers: dict[str, Worker[Any]] = {
        "job-log": dispatcher._log_thread,
        "segment-writer": host._segments._worker,
        "publisher": host._publisher._worker,
        "report-link": service._reports._worker,
        **{f"link to {node}": link._worker for node, link in dispatcher._links.items()},
    }
    known = {process.number for process in (*supervisor._spares, *supervisor._tasks.values())}
    held = {
        "questions without an answer": len(dispatcher._asked),
        "tasks": len(supervisor._tasks),
        "task processes that nobody knows": len(supervisor._all.keys() - known),
        "tasks of the launcher that nobody knows": len(supervisor.link._tasks.keys() - known),
        "spare tasks too few": supervisor._wanted - len(supervisor._spares),
        "requests in progress": service._server.in_progress,
        **{f"items of {worker}": found.waiting for worker, found in workers.items()},
    }
    ended = [f"{name}: {worker} has ended" for worker, found in workers.items() if not found.is_alive]
    return ended + [f"{name} still has {count} {what}" for what, count in held.items() if count]


def _processes(world: World, name: str, service: Service) -> list[str]:
    alive = len(world.launchers[name].alive())
    spares = len(service._host.supervisor._spares)
    return [] if alive == spares else [f"R10: {alive} task processes run on {name}, {spares} of them spares"]
