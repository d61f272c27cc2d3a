"""Pools: every call is made, refused or cancelled, and a stalled one delays no other."""

from __future__ import annotations

import pytest

from agent.common.errors import Overloaded, Unavailable
from agent.common.shell import threads
from agent.common.shell.pool import Pool
from tests.simulation.machine.both import Run
from tests.simulation.machine.scheduler import Scheduler
from tests.unit.common.shell.gate import Gate, fail

PATIENCE_S = 10.0


def test_runs_calls_side_by_side(run: Run) -> None:
    """Each thread runs a call at the same time; the outcome of a call is in its future."""

    def body() -> None:
        pool = Pool("test", 3, 10)
        together = threads.semaphore(3)
        inside = threads.event()

        def meet() -> int:
            with together:
                if together.acquire(blocking=False):
                    together.release()
                else:
                    inside.set()
                assert inside.wait(PATIENCE_S)
            return 7

        futures = [pool.call(meet) for _ in range(3)]
        assert [future.result(PATIENCE_S) for future in futures] == [7, 7, 7]
        with pytest.raises(OSError, match="on purpose"):
            pool.call(fail).result(PATIENCE_S)
        assert pool.stop(drain=True, timeout_s=PATIENCE_S)

    run(body)


def test_a_hung_call_delays_no_other(run: Run) -> None:
    """While one thread stalls, the others take the calls that come after it."""

    def body() -> None:
        pool, gate = Pool("test", 2, 10), Gate()
        hung = pool.call(gate.handle, 1)
        assert gate.entered.wait(PATIENCE_S)
        assert [pool.call(lambda: 5).result(PATIENCE_S) for _ in range(4)] == [5] * 4
        gate.opened.set()
        hung.result(PATIENCE_S)
        assert pool.stop(drain=False, timeout_s=PATIENCE_S)

    run(body)


def test_adds_a_thread_when_the_idle_one_is_spoken_for() -> None:
    """Two calls that need each other are made in quick succession, while one thread is idle."""

    def body() -> None:
        pool, met = Pool("test", 2, 10), [threads.event(), threads.event()]

        def meet(me: int) -> bool:
            met[me].set()
            return met[1 - me].wait(PATIENCE_S)

        pool.call(lambda: None).result()
        assert [future.result() for future in [pool.call(meet, 0), pool.call(meet, 1)]] == [True, True]
        assert pool.stop(drain=True, timeout_s=PATIENCE_S)

    for seed in range(20):
        with Scheduler(seed) as scheduler:
            scheduler.call(scheduler.process("p"), body)


def test_stop_cancels_what_waits(run: Run) -> None:
    """Nobody waits for a call that never runs."""

    def body() -> None:
        pool, gate = Pool("test", 1, 1), Gate()
        first = pool.call(gate.handle, 1)
        assert gate.entered.wait(PATIENCE_S)
        second = pool.call(gate.handle, 2)
        with pytest.raises(Overloaded):
            pool.call(gate.handle, 3)
        pool.stop(drain=False, timeout_s=0)
        with pytest.raises(threads.CancelledError):
            second.result(PATIENCE_S)
        gate.opened.set()
        first.result(PATIENCE_S)
        assert pool.stop(drain=False, timeout_s=PATIENCE_S)
        with pytest.raises(Unavailable):
            pool.run(gate.handle, 4)

    run(body)


def test_cancelled_call_is_not_made(run: Run) -> None:
    """Cancelling the future of a call in time prevents the call."""

    def body() -> None:
        pool, gate = Pool("test", 1, 2), Gate()
        pool.run(gate.handle, 1)
        assert gate.entered.wait(PATIENCE_S)
        assert pool.call(gate.handle, 2).cancel()
        gate.opened.set()
        assert pool.stop(drain=True, timeout_s=PATIENCE_S)
        assert gate.handled == [1]

    run(body)


def test_run_logs_and_counts(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A failed call without a future is logged and counted, and the thread continues."""

    def body() -> None:
        pool = Pool("test", 1, 5)
        pool.run(fail)
        assert pool.call(lambda: 1).result(PATIENCE_S) == 1
        assert pool.stop(drain=True, timeout_s=PATIENCE_S)
        assert pool.errors == 1

    run(body)
    assert "worker_failed worker=test error=OSError('on purpose')" in caplog.text


def test_a_thread_is_needed() -> None:
    """A pool without threads is refused."""
    with pytest.raises(ValueError, match="thread"):
        Pool("test", 0, 1)


def test_finishes_what_it_takes_under_many_schedules() -> None:
    """Every future of a pool is resolved, whenever it is stopped."""
    for seed in range(40):
        with Scheduler(seed) as scheduler:
            process = scheduler.process("p")
            scheduler.call(process, _exercise_pool)
            process.stopped = True
            assert scheduler.rest() == []


def _exercise_pool() -> None:
    pool = Pool("pool", 3, 4)
    futures: list[threads.Future[int]] = []

    def submit() -> None:
        for _ in range(4):
            try:
                futures.append(pool.call(_nap, timeout_s=0.002))
            except (Overloaded, Unavailable):
                continue

    submitters = [threads.start("submitter", submit) for _ in range(3)]
    threads.sleep(0.003)
    pool.stop(drain=False, timeout_s=PATIENCE_S)
    for thread in submitters:
        thread.join()
    for future in futures:
        try:
            assert future.result() == 1
        except threads.CancelledError:
            continue


def _nap() -> int:
    threads.sleep(0.002)
    return 1
