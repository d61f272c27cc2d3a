"""A scheduler's report of a problem: what each thread waits for, and what is left over at rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.simulation.machine import sites
from tests.simulation.machine.primitives import FutureCondition

if TYPE_CHECKING:
    from tests.simulation.machine.scheduler import Scheduler
    from tests.simulation.machine.thread import SimThread


def where(thread: SimThread) -> str:
    """Returns the line at which a thread is suspended."""
    if thread.greenlet is None:
        return "its start"
    return sites.describe(sites.standing(thread.greenlet.gr_frame))


def threads(scheduler: Scheduler) -> str:
    """Returns a line for each living thread: what it waits for, and where."""
    lines = []
    for process in scheduler.processes:
        for thread in process.threads:
            state = f"waits for {thread.waiting_for!r}" if thread.waiting_for else "is ready"
            paused = " (paused)" if process.paused else ""
            lines.append(f"  {thread!r}{paused} {state}, at {where(thread)}")
    recent = " ".join(f"{thread.process.name}/{thread.name}" for thread in list(scheduler.recent)[-10:])
    return "\n".join([*lines, f"  lately: {recent}"])


def findings(scheduler: Scheduler, slots_older_s: float = 0.0) -> list[str]:
    """Returns a line for each problem that a system at rest must not have."""
    taken_before = scheduler.now - slots_older_s
    found = [f"{thread!r} was ended by {error!r} at {_raised_at(error)}" for thread, error in scheduler.died]
    found += [f"{lock!r}" for lock in scheduler.held]
    for semaphore in scheduler.short:
        found += [f"{semaphore!r}; taken at {site}" for site in semaphore.taken_before(taken_before)]
    for process in scheduler.processes:
        for thread in process.threads:
            if isinstance(thread.waiting_for, FutureCondition):
                found.append(f"{thread!r} waits for {thread.waiting_for!r}, at {where(thread)}")
            if process.stopped:
                found.append(f"{thread!r} outlives its service, at {where(thread)}")
    return found


def _raised_at(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return "?"
    while trace.tb_next is not None:
        trace = trace.tb_next
    return sites.describe(sites.standing(trace.tb_frame))
