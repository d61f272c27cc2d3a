"""The deterministic scheduler: equal seeds, equal runs; killing, pausing, deadlocks, the checks at rest."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from agent.common.shell import seam, threads
from tests.simulation.machine.scheduler import Deadlock, Scheduler, StepLimit, TimeLimit


def race(seed: int) -> tuple[list[str], int, float]:
    """Returns in which order three threads took a lock, and the fingerprint of the schedule."""
    order: list[str] = []

    def take(lock: threads.Lock, name: str) -> None:
        for _ in range(3):
            with lock:
                order.append(name)
            threads.sleep(0.001)

    def main() -> None:
        lock = threads.lock()
        for thread in [threads.start(name, take, lock, name) for name in "abc"]:
            thread.join()

    with Scheduler(seed, stall_chance=0.05) as scheduler:
        scheduler.call(scheduler.process("p"), main)
        return order, scheduler.fingerprint, scheduler.now


def test_same_seed_same_schedule(seed: int) -> None:
    """Two runs of one seed are equal to the last step."""
    assert race(seed) == race(seed)


def test_seeds_reach_every_order() -> None:
    """Any ready thread may be next: each of the six orders occurs under some seed."""
    first = {"".join(dict.fromkeys(race(seed)[0])) for seed in range(60)}
    assert len(first) == 6


def test_race_is_found() -> None:
    """A counter that is read and written in two separate critical sections loses counts under some seeds."""

    def total(seed: int) -> int:
        count = [0]

        def add(lock: threads.Lock) -> None:
            with lock:
                seen = count[0]
            with lock:
                count[0] = seen + 1

        def main() -> None:
            lock = threads.lock()
            for thread in [threads.start("adder", add, lock) for _ in range(2)]:
                thread.join()

        with Scheduler(seed) as scheduler:
            scheduler.call(scheduler.process("p"), main)
        return count[0]

    assert {total(seed) for seed in range(30)} == {1, 2}


def test_deadlock_names_who_waits_for_what() -> None:
    """Two threads take two locks in opposite order; the report names threads, locks and lines."""

    def take(first: threads.Lock, second: threads.Lock) -> None:
        with first:
            threads.sleep(1.0)
            with second:
                pass

    def main() -> None:
        one, two = threads.lock(), threads.lock()
        threads.start("left", take, one, two)
        threads.start("right", take, two, one)

    with Scheduler(1) as scheduler:
        process = scheduler.process("p")
        process.start("main", main)
        with pytest.raises(Deadlock) as caught:
            scheduler.run()
    text = str(caught.value)
    here = "tests/unit/simulation/test_scheduler.py"
    for name, holder in (("left", "right"), ("right", "left")):
        (line,) = [line for line in text.splitlines() if line.startswith(f"  thread '{name}' of p")]
        assert f"waits for lock of p made at {here}:" in line
        assert f"held by thread '{holder}' of p since {here}:" in line
        assert line.split(", at ")[1].startswith(here)


def test_time_jumps_and_timers_keep_order() -> None:
    """Sleepers wake in the order of their time, and an hour costs nothing."""
    woken: list[int] = []

    def sleep(seconds: int) -> None:
        threads.sleep(seconds)
        woken.append(seconds)

    with Scheduler(1) as scheduler:
        process = scheduler.process("p")
        for seconds in (3000, 1, 200):
            process.start("sleeper", sleep, seconds)
        began = scheduler.now
        scheduler.run()
        assert woken == [1, 200, 3000]
        assert 3000 <= scheduler.now - began < 3001
        assert scheduler.steps < 100


def test_timer_of_an_earlier_wait_is_void(seed: int) -> None:
    """A thread that was woken in time is not disturbed by that time-out later."""
    seen: list[bool] = []

    def wait(first: threads.Event, second: threads.Event) -> None:
        seen.append(first.wait(5.0))
        seen.append(second.wait())

    with Scheduler(seed) as scheduler:
        process = scheduler.process("p")
        first, second = scheduler.call(process, lambda: (threads.event(), threads.event()))
        process.start("wait", wait, first, second)
        scheduler.run_for(1.0)
        first.set()
        scheduler.run_for(20.0)
        assert seen == [True]
        second.set()
        scheduler.run()
        assert seen == [True, True]


def test_run_for_and_limits() -> None:
    """Virtual time and steps are limited, because a condition may never hold."""

    def spin(event: threads.Event) -> None:
        while not event.is_set():
            pass

    with Scheduler(1, steps_max=5000) as scheduler:
        process = scheduler.process("p")
        event = scheduler.call(process, threads.event)
        before = scheduler.now
        scheduler.run_for(5.0)
        assert scheduler.now == before + 5.0
        with pytest.raises(Deadlock):
            scheduler.run(lambda: False)
        process.start("sleeper", lambda: threads.sleep(100))
        with pytest.raises(TimeLimit):
            scheduler.run(lambda: False, timeout_s=10)
        process.start("spinner", spin, event)
        with pytest.raises(StepLimit, match="spinner"):
            scheduler.run()


def test_failure_of_the_driver_reaches_the_driver() -> None:
    """A predicate or a timed action that fails ends the run, not the thread that happened to run."""

    def fail() -> bool:
        raise AssertionError("invariant")

    def nap() -> None:
        for _ in range(100):
            threads.sleep(0.001)

    for install in (lambda s: s.run(fail), lambda s: (s.after(0.01, fail), s.run())):
        with Scheduler(1) as scheduler:
            thread = scheduler.process("p").start("t", nap)
            with pytest.raises(AssertionError, match="invariant"):
                install(scheduler)
            scheduler.run()
            assert thread.error is None


def test_kill_lets_no_thread_go_on() -> None:
    """Threads of a killed process do nothing more, wherever they are and whatever their finally blocks do."""
    did: list[str] = []

    def busy(event: threads.Event, lock: threads.Lock) -> None:
        try:
            with lock:
                while not event.wait(0.01):
                    pass
        except BaseException:
            event.set()  # raises: it no longer exists
            did.append("handled")
        finally:
            lock.acquire()
            did.append("ended")

    def stubborn() -> None:
        while True:
            try:
                threads.sleep(1.0)
            except BaseException:
                continue

    def ready() -> None:
        while True:
            threads.sleep(0)

    with Scheduler(3) as scheduler:
        victim, other = scheduler.process("victim"), scheduler.process("other")
        kills: list[str] = []
        victim.on_kill.append(lambda: kills.append("sockets"))
        event, lock = scheduler.call(victim, lambda: (threads.event(), threads.lock()))
        for target, arguments in ((busy, (event, lock)), (stubborn, ()), (ready, ()), (ready, ())):
            victim.start("thread", target, *arguments)
        bystander = other.start("bystander", lambda: threads.sleep(2.0))
        scheduler.run_for(1.0)
        assert lock in scheduler.held
        scheduler.kill(victim)
        assert kills == ["sockets"]
        assert not victim.threads
        assert not scheduler.held
        scheduler.run(lambda: not bystander.is_alive())
        assert did == []
        with pytest.raises(RuntimeError, match="dead"):
            victim.start("late", ready)


def test_kill_from_inside() -> None:
    """A process may end itself, and a thread of another one may end it at any moment."""

    def suicide(scheduler: Scheduler) -> None:
        scheduler.kill(scheduler.processes[0])
        raise AssertionError("it went on")

    def wait(event: threads.Event) -> None:
        event.wait()

    for seed in range(20):
        with Scheduler(seed) as scheduler:
            victim, other = scheduler.process("victim"), scheduler.process("other")
            event = scheduler.call(victim, threads.event)
            for number in range(3):
                victim.start(f"waiter-{number}", wait, event)
            if seed % 2:
                victim.start("main", suicide, scheduler)
                scheduler.run()
            else:
                scheduler.call(other, scheduler.kill, victim)
            assert victim.dead
            assert not victim.threads
            assert scheduler.died == []


def test_kill_by_timer(seed: int) -> None:
    """A timed action may kill the running process."""

    def spin() -> None:
        while True:
            threads.sleep(0)

    with Scheduler(seed) as scheduler:
        victim = scheduler.process("victim")
        for _ in range(3):
            victim.start("spinner", spin)
        scheduler.after(0.01, lambda: scheduler.kill(victim))
        scheduler.run(timeout_s=1.0)
        assert victim.dead


def test_pause_and_resume() -> None:
    """A paused process does nothing; when it continues, its time-outs have passed."""
    ticks: list[float] = []

    def tick() -> None:
        while True:
            threads.sleep(1.0)
            ticks.append(threads.monotonic())

    with Scheduler(1) as scheduler:
        process = scheduler.process("p")
        process.start("ticker", tick)
        scheduler.run_for(3.5)
        assert len(ticks) == 3
        scheduler.pause(process)
        scheduler.run_for(100)
        assert len(ticks) == 3
        resumed_at = scheduler.now
        scheduler.resume(process)
        scheduler.run_for(0.5)
        assert ticks[3:] == [pytest.approx(resumed_at, abs=0.1)]


def test_a_process_pauses_itself() -> None:
    """A process that pauses itself waits until another one resumes it."""
    went_on: list[bool] = []

    def stop(scheduler: Scheduler) -> None:
        scheduler.pause(scheduler.processes[0])
        went_on.append(True)

    with Scheduler(1) as scheduler:
        process = scheduler.process("p")
        process.start("main", stop, scheduler)
        scheduler.run_for(1.0)
        assert not went_on
        scheduler.resume(process)
        scheduler.run()
        assert went_on


def leave_nothing() -> None:
    """Takes everything and gives it back."""
    lock, slots = threads.lock(), threads.semaphore(2)
    with lock, slots:
        pass


def leave_a_lock() -> None:
    """Ends with a lock held."""
    threads.lock().acquire()


def leave_a_slot() -> None:
    """Ends with a slot missing."""
    slots = threads.semaphore(2)
    slots.acquire()


def leave_a_future() -> None:
    """Waits for a future that is never resolved."""
    threads.start("waiter", threads.future().result)


def die() -> None:
    """Ends by an exception."""
    raise KeyError("left behind")


LEFT = [
    (leave_nothing, ""),
    (leave_a_lock, "lock of p made at .*test_scheduler.py:.*held by thread 'main'"),
    (leave_a_slot, "semaphore of p made at .*1 of 2 slots free; taken at .*test_scheduler.py"),
    (leave_a_future, "thread 'waiter' of p waits for future of p made at .*test_scheduler.py"),
    (die, "thread 'main' of p was ended by KeyError.*test_scheduler.py"),
]


@pytest.mark.parametrize(("leave", "finding"), LEFT)
def test_findings_at_rest(leave: Callable[[], None], finding: str) -> None:
    """Anything left over is named together with the line that made it."""
    with Scheduler(1) as scheduler:
        scheduler.process("p").start("main", leave)
        found = scheduler.rest()
    if finding:
        (line,) = found
        assert re.search(finding, line), line
    else:
        assert found == []


def test_threads_of_a_stopped_service() -> None:
    """A thread that outlives the orderly end of its process is a finding; polling does not prevent rest."""

    def poll(event: threads.Event) -> None:
        while not event.wait(5.0):
            pass

    with Scheduler(1) as scheduler:
        process = scheduler.process("p")
        event = scheduler.call(process, threads.event)
        process.start("poller", poll, event)
        assert scheduler.rest() == []
        process.stopped = True
        assert "outlives its service" in scheduler.rest()[0]
        event.set()
        assert scheduler.rest() == []


def test_no_rest_is_an_error() -> None:
    """A loop that repeats the same thing again and again never comes to rest."""

    def hammer() -> None:
        while True:
            threads.sleep(0.05)

    with Scheduler(1) as scheduler:
        scheduler.process("p").start("hammer", hammer)
        with pytest.raises(TimeLimit, match="hammer"):
            scheduler.rest(limit_s=20)


def test_each_process_has_its_own_seam() -> None:
    """``seam.current()`` is the seam of the running process; outside of processes, that of the test."""
    seen: dict[str, object] = {}

    def look(name: str) -> None:
        for _ in range(5):
            threads.sleep(0.001)
            assert seen.setdefault(name, seam.current()) is seam.current()

    with Scheduler(1) as scheduler:
        for name in ("one", "two"):
            process = scheduler.process(name)
            process.equip(network=f"network of {name}")
            process.start("main", look, name)
        scheduler.run()
        assert seam.current() is seam.REAL
    assert [found.network for found in seen.values()] == ["network of one", "network of two"]  # type: ignore[attr-defined]


def test_wall_clock_can_be_off() -> None:
    """Each process may have a wrong time of day; all share the monotonic clock."""
    with Scheduler(1) as scheduler:
        right, wrong = scheduler.process("right"), scheduler.process("wrong")
        wrong.wall_offset_s = -3600.0
        difference = scheduler.call(right, threads.wall) - scheduler.call(wrong, threads.wall)
        assert difference == pytest.approx(3600.0, abs=1.0)


def test_chance_comes_from_the_seed() -> None:
    """Ids are equal in two runs of one seed, and differ between seeds."""

    def draw(seed: int) -> str:
        with Scheduler(seed) as scheduler:
            return scheduler.call(scheduler.process("p"), threads.unique_id)

    assert draw(1) == draw(1) != draw(2)
