"""The contract of each primitive, over the real and the simulated platform."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable

import pytest

from agent.common.shell import threads
from tests.simulation.machine.both import Run

# Long enough for a thread on a busy machine; only a failing test waits this long.
PATIENCE_S = 10.0
SHORT_S = 0.02


def test_lock_excludes(run: Run) -> None:
    """One thread holds a lock; another one gets it when it is released."""

    def body() -> None:
        lock = threads.lock()
        seen = []
        with lock:
            assert lock.locked()
            assert not lock.acquire(blocking=False)
            assert not lock.acquire(timeout=SHORT_S)
            other = threads.start("other", lambda: seen.append(lock.acquire(timeout=PATIENCE_S)))
            other.join(SHORT_S)
            assert other.is_alive()
        other.join(PATIENCE_S)
        assert seen == [True]
        assert lock.locked()
        lock.release()  # any thread may release it
        with pytest.raises(RuntimeError):
            lock.release()
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(blocking=False, timeout=1.0)
        with pytest.raises(ValueError, match="timeout"):
            lock.acquire(timeout=-2.0)

    run(body)


def test_condition_wakes_who_waits(run: Run) -> None:
    """``notify`` wakes one, ``notify_all`` all; each has the lock again when it continues."""

    def body() -> None:
        changed = threads.condition()
        waiting: list[int] = []
        woken: list[bool] = []

        def wait() -> None:
            with changed:
                waiting.append(1)
                changed.notify_all()
                woken.append(changed.wait(PATIENCE_S))

        everyone = [threads.start(f"waiter-{number}", wait) for number in range(3)]
        with changed:
            # The notification for a new waiter may wake one that was already waiting: count afterwards.
            assert changed.wait_for(lambda: len(waiting) == 3, PATIENCE_S)
            changed.notify_all()
        for thread in everyone:
            thread.join(PATIENCE_S)
        assert woken == [True] * 3

    run(body)


def test_condition_notifies_no_more_than_asked(run: Run) -> None:
    """A second waiter stays asleep when one is notified."""

    def body() -> None:
        changed = threads.condition()
        inside: list[int] = []
        woken: list[int] = []

        def wait(number: int) -> None:
            with changed:
                inside.append(number)
                if changed.wait(PATIENCE_S):
                    woken.append(number)

        everyone = [threads.start("waiter", wait, number) for number in range(2)]
        while len(inside) < 2:
            threads.sleep(0.001)
        with changed:
            changed.notify()
        while not woken:
            threads.sleep(0.001)
        threads.sleep(SHORT_S)
        assert len(woken) == 1
        with changed:
            changed.notify()
        for thread in everyone:
            thread.join(PATIENCE_S)
        assert sorted(woken) == [0, 1]

    run(body)


def test_condition_needs_its_lock(run: Run) -> None:
    """Waiting and notifying need the lock; it is re-entrant, and a wait releases it completely."""

    def body() -> None:
        changed = threads.condition()
        with pytest.raises(RuntimeError):
            changed.wait(0)
        with pytest.raises(RuntimeError):
            changed.notify()
        with pytest.raises(RuntimeError):
            changed.release()
        with changed, changed:
            assert not changed.wait(SHORT_S)
            assert changed.wait_for(lambda: False, SHORT_S) is False
            taken: list[bool] = []
            other = threads.start("other", lambda: taken.append(changed.acquire(blocking=False)))
            other.join(PATIENCE_S)
            assert taken == [False]

    run(body)


def test_two_conditions_share_a_lock(run: Run) -> None:
    """Conditions over a given lock exclude each other."""

    def body() -> None:
        lock = threads.lock()
        first, second = threads.condition(lock), threads.condition(lock)
        with first:
            assert lock.locked()
            assert not second.acquire(blocking=False)
        with second:
            assert not second.wait(0)
            assert lock.locked()

    run(body)


def test_event(run: Run) -> None:
    """A waiting thread continues when the event is set, and later ones do not wait."""

    def body() -> None:
        event = threads.event()
        assert not event.wait(SHORT_S)
        seen: list[bool] = []
        everyone = [threads.start("w", lambda: seen.append(event.wait(PATIENCE_S))) for _ in range(3)]
        event.set()
        for thread in everyone:
            thread.join(PATIENCE_S)
        assert seen == [True] * 3
        assert event.is_set()
        assert event.wait(0)
        event.clear()
        assert not event.is_set()
        assert not event.wait(0)

    run(body)


def test_semaphore(run: Run) -> None:
    """No more slots are taken than there are, and no more come back than were taken."""

    def body() -> None:
        slots = threads.semaphore(2)
        assert slots.acquire()
        assert slots.acquire(blocking=False)
        assert not slots.acquire(blocking=False)
        assert not slots.acquire(timeout=SHORT_S)
        got: list[bool] = []
        other = threads.start("other", lambda: got.append(slots.acquire(timeout=PATIENCE_S)))
        slots.release()
        other.join(PATIENCE_S)
        assert got == [True]
        slots.release(2)
        with pytest.raises(ValueError, match="too many"):
            slots.release()
        with slots:
            pass
        with pytest.raises(ValueError, match="timeout"):
            slots.acquire(blocking=False, timeout=1.0)

    run(body)


def test_queue(run: Run) -> None:
    """Items come in order; a full or empty queue makes its caller wait, up to a time-out."""

    def body() -> None:
        queue = threads.queue(2)
        queue.put_nowait(1)
        queue.put(2)
        assert queue.qsize() == 2
        assert queue.maxsize == 2
        with pytest.raises(threads.Full):
            queue.put_nowait(3)
        with pytest.raises(threads.Full):
            queue.put(3, timeout=SHORT_S)
        putter = threads.start("putter", lambda: queue.put(3, timeout=PATIENCE_S))
        assert [queue.get(), queue.get(timeout=PATIENCE_S), queue.get(timeout=PATIENCE_S)] == [1, 2, 3]
        putter.join(PATIENCE_S)
        with pytest.raises(threads.Empty):
            queue.get_nowait()
        with pytest.raises(threads.Empty):
            queue.get(timeout=SHORT_S)
        with pytest.raises(ValueError, match="timeout"):
            queue.get(timeout=-1)
        with pytest.raises(ValueError, match="bound"):
            threads.queue(0)

    run(body)


def test_queue_hands_each_item_to_one(run: Run) -> None:
    """Several producers and consumers: nothing is lost, nothing comes twice."""

    def body() -> None:
        queue = threads.queue(3)
        taken: list[int] = []

        def consume() -> None:
            while (item := queue.get(timeout=PATIENCE_S)) >= 0:
                taken.append(item)

        def produce(first: int) -> None:
            for number in range(first, first + 20):
                queue.put(number, timeout=PATIENCE_S)

        consumers = [threads.start(f"consumer-{number}", consume) for number in range(3)]
        producers = [threads.start(f"producer-{first}", produce, first) for first in (0, 20, 40)]
        for thread in producers:
            thread.join(PATIENCE_S)
        for _ in consumers:
            queue.put(-1)
        for thread in consumers:
            thread.join(PATIENCE_S)
        assert sorted(taken) == list(range(60))

    run(body)


def test_future(run: Run) -> None:
    """A future ends once, with a result, an exception or a cancellation."""

    def body() -> None:
        future = threads.future()
        assert not future.done()
        with pytest.raises(TimeoutError):
            future.result(SHORT_S)
        threads.start("setter", future.set_result, 7)
        assert future.result(PATIENCE_S) == 7
        assert future.exception() is None
        assert future.done()
        with pytest.raises(concurrent.futures.InvalidStateError):
            future.set_result(8)
        failed = threads.future()
        failed.set_exception(KeyError("gone"))
        assert isinstance(failed.exception(), KeyError)
        with pytest.raises(KeyError):
            failed.result()
        cancelled = threads.future()
        assert cancelled.cancel()
        assert cancelled.cancelled()
        assert not cancelled.set_running_or_notify_cancel()
        with pytest.raises(threads.CancelledError):
            cancelled.result()
        begun = threads.future()
        assert begun.set_running_or_notify_cancel()
        assert not begun.cancel()

    run(body)


def test_thread(run: Run) -> None:
    """A thread knows itself, is joined, and is started once."""

    def body() -> None:
        seen: list[object] = []
        go = threads.event()

        def work(word: str) -> None:
            go.wait(PATIENCE_S)
            seen.extend([word, threads.current()])

        thread = threads.thread("worker", work, "hello")
        assert not thread.is_alive()
        assert thread.ident is None
        with pytest.raises(RuntimeError):
            thread.join()
        thread.start()
        with pytest.raises(RuntimeError):
            thread.start()
        thread.join(SHORT_S)
        assert thread.is_alive()
        assert thread.ident not in (None, threads.current().ident)
        go.set()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
        assert seen == ["hello", thread]
        assert thread.name == "worker"
        with pytest.raises(RuntimeError):
            threads.current().join()

    run(body)


def test_no_thread_dies_silently(run: Run) -> None:
    """The exception that ends a thread reaches the hook, with the thread's name."""

    def body() -> None:
        told: list[tuple[str, BaseException]] = []
        before = threads.deaths()
        threads.on_death(lambda name, error: told.append((name, error)))
        try:
            threads.start("unlucky", _fail).join(PATIENCE_S)
        finally:
            threads.on_death(None)
        assert [(name, str(error)) for name, error in told] == [("unlucky", "on purpose")]
        assert threads.deaths() == before + 1

    run(body)


def _fail() -> None:
    raise OSError("on purpose")


def test_without_a_hook_the_exception_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """``threading.excepthook`` still sees it: a test in which a thread dies is red."""
    seen: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda told: seen.append(str(told.exc_value)))
    before = threads.deaths()
    threads.start("unlucky", _fail).join(PATIENCE_S)
    assert threads.deaths() == before + 1
    assert seen == ["on purpose"]


def test_clocks(run: Run) -> None:
    """A sleep takes its time on the monotonic clock and on the wall clock."""

    def body() -> None:
        began, wall = threads.monotonic(), threads.wall()
        threads.sleep(SHORT_S)
        assert SHORT_S <= threads.monotonic() - began < PATIENCE_S
        assert SHORT_S * 0.9 <= threads.wall() - wall < PATIENCE_S

    run(body)


def test_chance(run: Run) -> None:
    """Random bytes, sources and ids differ each time."""

    def body() -> None:
        makers: list[Callable[[], object]] = [
            threads.unique_id,
            lambda: threads.random_bytes(16),
            lambda: threads.random_source().random(),
        ]
        for make in makers:
            assert make() != make()
        assert len(threads.unique_id()) == 32

    run(body)
