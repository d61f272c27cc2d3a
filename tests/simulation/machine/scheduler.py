"""A deterministic scheduler: the threads of many simulated processes, one at a time, in virtual time.

Threads are greenlets. Whenever one reaches a scheduling point (every call of a primitive, socket or disk),
the seed chooses which of the ready threads continues, so that one seed is one interleaving. A waiting thread
is in the list of the object that it waits for, and costs nothing until it is woken. Time advances by a tiny
amount with each step, and jumps to the next timer when no thread is ready.

The threads of a killed process never run again: their scheduling points raise ``Killed``, outside of the
schedule, until their stacks are unwound.
"""

from __future__ import annotations

import heapq
import itertools
import logging
import random
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar

import greenlet

from agent.common.shell import seam
from tests.simulation.machine import report
from tests.simulation.machine.process import Process
from tests.simulation.machine.thread import Killed, SimThread

T = TypeVar("T")

STEPS_MAX = 2_000_000
# About the time that a shell computes between two points.
STEP_S = 10e-6
# A thread that catches ``Killed`` this often is abandoned.
KILLED_RAISES_MAX = 1000
# The number of past steps in a report.
RECENT_THREADS = 40
FOREVER = float("inf")
# Abandoned greenlets stay referenced to the end: when one is collected, an exception is thrown into it,
# outside of any schedule, and one that catches everything would never return.
_ABANDONED: list[greenlet.greenlet] = []


class Deadlock(AssertionError):
    """No thread can ever run again, but some still wait."""


class StepLimit(AssertionError):
    """The run took more steps than any that ends: some loop spins."""


class TimeLimit(AssertionError):
    """A condition did not hold in time, in virtual time."""


class Scheduler:
    """Runs simulated threads; use it in a ``with`` block, which ends all of them."""

    def __init__(
        self,
        seed: int | str,
        *,
        steps_max: int = STEPS_MAX,
        step_s: float = STEP_S,
        stall_chance: float = 0.0,
        stall_s_max: float = 0.1,
    ) -> None:
        """``stall_chance`` is the chance that a thread is suspended for up to ``stall_s_max`` at a point."""
        self.random = random.Random(seed)
        # Large enough for ages and back-dated instants to stay positive.
        self.now = 1000.0
        self.steps = 0
        # A hash of which thread ran when; it is equal for equal schedules.
        self.fingerprint = 0
        self.running: SimThread | None = None
        self.processes: list[Process] = []
        self.recent: deque[SimThread] = deque(maxlen=RECENT_THREADS)
        # The primitives in use, for the checks at rest; in order of use.
        self.held: dict[Any, None] = {}
        self.short: dict[Any, None] = {}
        self.died: list[tuple[SimThread, BaseException]] = []
        self._chance = self.random.random
        self._steps_max = steps_max
        self._step_s = step_s
        self._stall_chance = stall_chance
        self._stall_s_max = stall_s_max
        self._ready: list[SimThread] = []
        self._timers: list[tuple[float, int, SimThread | None, Any]] = []
        self._numbers = itertools.count(1)
        self._hub = greenlet.getcurrent()
        self._until: Callable[[], object] = _never
        # When ``_until`` is evaluated next, and the interval after that.
        self._look_at = FOREVER
        self._look_every_s = 0.0
        self._is_reached = False
        self._time_limit = self._quiet_s = FOREVER
        self._seam: seam.Seam | None = None
        self._looping = False
        self._failure: BaseException | None = None
        self._graveyard: list[SimThread] = []
        # Stands for the driver of the simulation, such as the test.
        self.driver = SimThread(Process(self, "driver"), "driver", lambda: None, ())

    def __enter__(self) -> Scheduler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all threads."""
        for process in self.processes:
            self.kill(process)

    # -- processes ------------------------------------------------------------------------------------

    def process(self, name: str) -> Process:
        """Returns a new process; give it a network and a disk with ``Process.equip``."""
        made = Process(self, name)
        self.processes.append(made)
        return made

    def kill(self, process: Process) -> None:
        """Ends a process as SIGKILL does: its threads stop, and the kernel closes its descriptors."""
        if process.dead:
            return
        process.dead = True
        for thread in process.threads:
            self._forget(thread)
            thread.doomed = True
            if thread.greenlet is not None and thread is not self.running:
                self._graveyard.append(thread)
        for mine in (self.held, self.short):
            for primitive in [one for one in mine if one.process is process]:
                del mine[primitive]
        process.threads.clear()
        for hook in process.on_kill:
            hook()
        me = self.running
        if me is None:
            if not self._looping:
                self._reap()
        elif me.process is process:
            raise Killed
        else:
            self.point()  # the hub unwinds the dead threads before any other thread continues

    def pause(self, process: Process) -> None:
        """Stops a process as SIGSTOP does; its timers continue."""
        process.paused = True
        process.frozen += [thread for thread in self._ready if thread.process is process]
        self._ready[:] = [thread for thread in self._ready if thread.process is not process]
        if self.running is not None and self.running.process is process:
            self.point()

    def resume(self, process: Process) -> None:
        """Lets a paused process continue."""
        process.paused = False
        self._ready += process.frozen
        process.frozen = []

    # -- driving --------------------------------------------------------------------------------------

    def run(
        self,
        until: Callable[[], object] | None = None,
        *,
        timeout_s: float = 3600.0,
        every_s: float = 0.0,
    ) -> None:
        """Runs until ``until()`` is true; without it, until every thread has ended.

        ``until`` is evaluated after each step; an expensive one only every ``every_s``.

        Raises:
            Deadlock: that will never happen.
            TimeLimit: it did not happen within ``timeout_s`` of virtual time.
            StepLimit: it did not happen within the allowed number of steps.
        """
        done = until or (lambda: not any(process.threads for process in self.processes))
        self._look_every_s = every_s
        self._loop(done, self.now + timeout_s, FOREVER)
        if self._is_reached or done():
            return
        if self._ready or self._timers:
            raise TimeLimit(f"not within {timeout_s:g} s of virtual time\n{report.threads(self)}")
        raise Deadlock(f"deadlock at {self.now:.6f} s\n{report.threads(self)}")

    def run_for(self, seconds: float) -> None:
        """Runs for ``seconds`` of virtual time."""
        end = self.now + seconds
        self._loop(None, end, FOREVER)
        self.now = max(self.now, end)

    def call(self, process: Process, function: Callable[..., T], *args: Any, timeout_s: float = 3600.0) -> T:
        """Runs a function in a thread of ``process``; returns its result or raises its exception."""
        outcome: list[T] = []
        failure: list[BaseException] = []

        def body() -> None:
            try:
                outcome.append(function(*args))
            except Exception as error:
                failure.append(error)

        thread = SimThread(process, f"{process.name}-call", body, ())
        thread.start()
        self.run(lambda: not thread.is_alive(), timeout_s=timeout_s)
        if failure:
            raise failure[0]
        if not outcome:
            raise ProcessLookupError(f"{process.name} was killed during the call")
        return outcome[0]

    def rest(self, *, quiet_s: float = 0.5, limit_s: float = 600.0, slots_older_s: float = 0.0) -> list[str]:
        """Runs until nothing happens for ``quiet_s``, then returns the problems of the system at rest.

        Problems are a lock that is held, a slot that is missing, an unresolved future that a thread waits
        for, a thread that an exception ended, and a thread of a process that has stopped, each with its name
        and lines. A slot counts as missing when it was taken longer than ``slots_older_s`` ago.

        Raises:
            TimeLimit: the system did not come to rest within ``limit_s`` of virtual time.
        """
        end = self.now + limit_s
        self._loop(None, end, quiet_s)
        if self._ready or self.now >= end:
            raise TimeLimit(f"no rest within {limit_s:g} s of virtual time\n{report.threads(self)}")
        return report.findings(self, slots_older_s)

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Runs ``action`` at an instant, between two steps: it may wake threads but must not wait."""
        heapq.heappush(self._timers, (time, next(self._numbers), None, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Runs ``action`` after ``seconds`` of virtual time, like ``at``."""
        self.at(self.now + seconds, action)

    # -- the calls of primitives ----------------------------------------------------------------------

    def point(self) -> None:
        """Lets another ready thread continue, or this one; does nothing outside of simulated threads."""
        me = self.running
        if me is None:
            return
        if me.doomed:
            self._refuse(me)
        if not self._ready and self._is_alone(me):
            return
        if self._stall_chance and self._chance() < self._stall_chance:
            self._set_timer(me, self._chance() * self._stall_s_max)
        elif me.process.paused:
            me.process.frozen.append(me)
        else:
            self._ready.append(me)
        self._dispatch(me)

    def _is_alone(self, me: SimThread) -> bool:
        """Makes a step if no other thread is ready and no timer is due."""
        now, timers = self.now + self._step_s, self._timers
        if self._graveyard or self._stall_chance or me.process.paused:
            return False
        if self.steps >= self._steps_max or now >= self._time_limit or (timers and timers[0][0] <= now):
            return False
        self.steps += 1
        self.now = now
        return True

    def wait(self, waiters: list[SimThread], timeout: float | None, what: object) -> bool:
        """Suspends the running thread in ``waiters``; returns False when it was not woken in time."""
        me = self.running
        if me is None:
            raise RuntimeError(f"only simulated threads can wait for {what}")
        if me.doomed:
            self._refuse(me)
        me.woken = False
        me.waiting_for = what
        me.waiters = waiters
        waiters.append(me)
        if timeout is not None:
            self._set_timer(me, timeout)
        self._dispatch(me)
        return me.woken

    def wake_one(self, waiters: list[SimThread]) -> None:
        """Wakes one of the waiting threads, if there is one."""
        count = len(waiters)
        if count:
            self._wake(waiters.pop(int(self._chance() * count) if count > 1 else 0))

    def wake_all(self, waiters: list[SimThread]) -> None:
        """Wakes all waiting threads."""
        while waiters:
            self._wake(waiters.pop())

    def add(self, thread: SimThread) -> None:
        """Makes a new thread ready."""
        if thread.process.dead:
            if self.running is not None and self.running.doomed:
                self._refuse(self.running)
            raise RuntimeError(f"{thread.process.name} is dead")
        thread.number = next(self._numbers)
        thread.ident = thread.process.take_ident()
        thread.process.threads[thread] = None
        self._make_ready(thread)

    def ended(self, thread: SimThread) -> None:
        """Notes that a thread has ended, and wakes the threads that join it."""
        if thread in thread.process.threads:
            del thread.process.threads[thread]
            thread.process.give_ident(thread)
        self.wake_all(thread.joiners)

    # -- the machinery --------------------------------------------------------------------------------

    def _make_ready(self, thread: SimThread) -> None:
        process = thread.process
        (process.frozen if process.paused else self._ready).append(thread)

    def _wake(self, thread: SimThread) -> None:
        thread.woken = True
        thread.token += 1  # its timer is void
        thread.waiters = thread.waiting_for = None
        self._make_ready(thread)

    def _set_timer(self, thread: SimThread, seconds: float) -> None:
        at = self.now + max(0.0, seconds)
        heapq.heappush(self._timers, (at, next(self._numbers), thread, thread.token))

    def _fire(self, thread: SimThread | None, what: Any) -> None:
        if thread is None:
            me, self.running = self.running, None  # an action is not a thread of the simulation
            try:
                what()
            finally:
                self.running = me
            return
        if thread.waiters is not None:
            thread.waiters.remove(thread)
        thread.token += 1
        thread.waiters = thread.waiting_for = None
        self._make_ready(thread)

    def _forget(self, thread: SimThread) -> None:
        thread.token += 1
        if thread.waiters is not None:
            thread.waiters.remove(thread)
            thread.waiters = None
        for threads in (self._ready, thread.process.frozen):
            if thread in threads:
                threads.remove(thread)

    def _next(self) -> SimThread | None:
        """Returns the thread that continues, or None when the hub must decide."""
        self.steps += 1
        now = self.now = self.now + self._step_s
        timers, ready = self._timers, self._ready
        while True:
            while timers and timers[0][0] <= now:
                _, _, thread, what = heapq.heappop(timers)
                if thread is None or thread.token == what:  # most waits end before their time
                    self._fire(thread, what)
            if self._graveyard or self.steps > self._steps_max or now >= self._time_limit:
                return None
            if now >= self._look_at:
                if self._is_reached or self._until():
                    self._is_reached = True
                    return None
                self._look_at = now + self._look_every_s
            if ready:
                break
            if not timers or timers[0][0] - now > self._quiet_s:
                return None
            now = self.now = min(timers[0][0], self._time_limit)
        index = int(self._chance() * len(ready))
        chosen, last = ready[index], ready.pop()
        if last is not chosen:
            ready[index] = last
        return chosen

    def _dispatch(self, me: SimThread) -> None:
        try:
            following = self._next()
        except BaseException as error:  # raised by an action or a predicate, not by this thread
            self._failure, following = error, None
        if following is not me:
            if following is None:
                self._hub.switch()
            else:
                self._switch_to(following)
        if me.doomed:
            self._refuse(me)

    def _switch_to(self, thread: SimThread) -> None:
        self.running = thread
        self.fingerprint = hash((self.fingerprint, thread.number, self.now))
        self.recent.append(thread)
        if thread.process.seam is not self._seam:
            self._seam = thread.process.seam
            seam.switch(self._seam)
        if thread.greenlet is None:
            thread.greenlet = greenlet.greenlet(thread.body, self._hub)
        thread.greenlet.switch()

    def _loop(self, until: Callable[[], object] | None, time_limit: float, quiet_s: float) -> None:
        assert not self._looping, "a simulated thread cannot drive the simulation"
        self._looping = True
        self._until = until or _never
        self._look_at = FOREVER if until is None else self.now
        self._time_limit, self._quiet_s, self._is_reached = time_limit, quiet_s, False
        outer = seam.current()
        try:
            while True:
                self._reap()
                following = self._next()
                if following is not None:
                    self._switch_to(following)
                    self.running = None
                    if self._failure is not None:
                        failure, self._failure = self._failure, None
                        raise failure
                elif not self._graveyard:
                    break
        finally:
            self._looping = False
            self.running = self._seam = None
            self._until = _never
            seam.switch(outer)
        if self.steps > self._steps_max:
            raise StepLimit(f"{self._steps_max} steps, at {self.now:.6f} s\n{report.threads(self)}")

    # -- the killed -----------------------------------------------------------------------------------

    def _refuse(self, thread: SimThread) -> None:
        """Raises ``Killed`` in a thread that no longer exists for the simulation."""
        thread.refusals += 1
        if thread.refusals > KILLED_RAISES_MAX and thread.greenlet is not None:
            _ABANDONED.append(thread.greenlet)
            while True:
                self._hub.switch()
        raise Killed

    def _reap(self) -> None:
        """Unwinds the stacks of killed threads: every call that they make raises ``Killed``."""
        if not self._graveyard:
            return
        outer = seam.current()
        level = logging.root.manager.disable
        logging.disable(logging.CRITICAL)  # they no longer exist, so their log lines would mislead
        try:
            while self._graveyard:
                thread = self._graveyard.pop()
                self.running = thread
                seam.switch(thread.process.seam)
                assert thread.greenlet is not None
                thread.greenlet.throw(Killed)
        finally:
            self.running = self._seam = None
            seam.switch(outer)
            logging.disable(level)


def _never() -> bool:
    """The condition when there is none: never true."""
    return False
