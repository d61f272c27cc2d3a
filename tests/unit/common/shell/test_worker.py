"""Workers: every item is handled, refused or dropped with notice, and the end is orderly."""

from __future__ import annotations

import pytest

from agent.common.errors import Overloaded, Unavailable
from agent.common.shell import threads
from agent.common.shell.worker import BatchWorker, Worker
from tests.simulation.machine.both import Run
from tests.simulation.machine.scheduler import Scheduler
from tests.unit.common.shell.gate import Gate, fail

PATIENCE_S = 10.0
SHORT_S = 0.02


def test_items_are_handled_in_order(run: Run) -> None:
    """Items that were submitted before the start wait for it; the end waits for all of them."""

    def body() -> None:
        handled: list[int] = []
        worker: Worker[int] = Worker("test", handled.append, 100)
        for number in range(50):
            worker.submit(number, PATIENCE_S)
        assert handled == []
        assert worker.waiting == 50
        assert not worker.is_alive
        worker.start()
        assert worker.is_alive
        for number in range(50, 90):
            assert worker.try_submit(number)
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert handled == list(range(90))
        assert not worker.is_alive

    run(body)


def test_full_queue(run: Run) -> None:
    """A full queue makes the caller wait, refuses, or drops its oldest item, as the caller chooses."""

    def body() -> None:
        gate, dropped = Gate(), list[int]()
        worker = Worker[int]("test", gate.handle, 2, on_drop=dropped.append)
        worker.start()
        worker.submit(1, 0)
        assert gate.entered.wait(PATIENCE_S)
        worker.submit(2, 0)
        worker.submit(3, 0)
        assert not worker.try_submit(4)
        with pytest.raises(Overloaded, match="2 items"):
            worker.submit(4, SHORT_S)
        assert not worker.displace(5)
        assert dropped == [2]
        late = threads.start("late", worker.submit, 6, PATIENCE_S)
        began = threads.monotonic()
        late.join(SHORT_S)
        gate.opened.set()
        late.join(PATIENCE_S)
        assert threads.monotonic() - began < PATIENCE_S / 2
        while worker.waiting:
            threads.sleep(0.001)
        assert worker.displace(7)
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert gate.handled == [1, 3, 5, 6, 7]

    run(body)


def test_stop_without_drain_drops_with_notice(run: Run) -> None:
    """The item in progress ends, waiting ones are dropped, submitters are told, and nothing more is taken."""

    def body() -> None:
        gate, dropped, refused = Gate(), list[int](), list[bool]()
        worker = Worker[int]("test", gate.handle, 2, on_drop=dropped.append)
        worker.start()
        worker.submit(1, 0)
        assert gate.entered.wait(PATIENCE_S)
        worker.submit(2, 0)
        worker.submit(3, 0)

        def submit() -> None:
            try:
                worker.submit(4, PATIENCE_S)
            except Unavailable:
                refused.append(True)

        blocked = threads.start("blocked", submit)
        threads.sleep(SHORT_S)
        assert not worker.stop(drain=False, timeout_s=SHORT_S)  # it still handles the first
        blocked.join(PATIENCE_S)
        assert dropped == [2, 3]
        assert refused == [True]
        for refuse in (lambda: worker.submit(5, PATIENCE_S), lambda: worker.displace(5)):
            with pytest.raises(Unavailable, match="has stopped"):
                refuse()
        assert not worker.try_submit(5)
        gate.opened.set()
        assert worker.stop(drain=False, timeout_s=PATIENCE_S)
        assert gate.handled == [1]

    run(body)


def test_drain_that_takes_too_long(run: Run) -> None:
    """Items that still wait after the time limit of an orderly end are dropped with notice."""

    def body() -> None:
        gate, dropped = Gate(), list[int]()
        worker = Worker[int]("test", gate.handle, 5, on_drop=dropped.append)
        worker.start()
        for number in range(3):
            worker.submit(number, 0)
        assert gate.entered.wait(PATIENCE_S)
        assert not worker.stop(drain=True, timeout_s=SHORT_S)
        assert dropped == [1, 2]
        gate.opened.set()
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)

    run(body)


def test_a_waiter_for_room_is_informed_at_once(run: Run) -> None:
    """During a long orderly end, no submitter waits for room that there will never be."""

    def body() -> None:
        gate, refused = Gate(), threads.event()
        worker = Worker[int]("test", gate.handle, 1)
        worker.start()
        worker.submit(1, 0)
        assert gate.entered.wait(PATIENCE_S)
        worker.submit(2, 0)

        def submit() -> None:
            with pytest.raises(Unavailable):
                worker.submit(3, PATIENCE_S)
            refused.set()

        blocked = threads.start("blocked", submit)
        blocked.join(SHORT_S)
        stopper = threads.start("stopper", lambda: worker.stop(drain=True, timeout_s=PATIENCE_S))
        assert refused.wait(PATIENCE_S / 2)
        gate.opened.set()
        stopper.join(PATIENCE_S)
        assert gate.handled == [1, 2]

    run(body)


def test_stop_before_start(run: Run) -> None:
    """A worker that was never started drops what waits, and does not start any more."""

    def body() -> None:
        dropped: list[int] = []
        worker = Worker[int]("test", lambda item: None, 5, on_drop=dropped.append)
        worker.submit(1, 0)
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert dropped == [1]
        worker.start()
        assert not worker.is_alive

    run(body)


def test_stop_from_the_own_thread(run: Run) -> None:
    """A handler may stop its own worker: it does not wait for itself."""

    def body() -> None:
        handled: list[int] = []

        def handle(item: int) -> None:
            handled.append(item)
            worker.stop(drain=True, timeout_s=PATIENCE_S)

        worker = Worker[int]("test", handle, 5)
        worker.submit(1, 0)
        worker.submit(2, 0)
        worker.start()
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert handled == [1, 2]

    run(body)


def test_own_thread_never_waits_for_room(run: Run) -> None:
    """A handler that submits to its own full queue is refused at once: no other thread would make room."""

    def body() -> None:
        outcome: list[str] = []

        def handle(item: int) -> None:
            try:
                worker.submit(item + 10, PATIENCE_S)
                worker.submit(item + 20, PATIENCE_S)
            except Overloaded as error:
                outcome.append(error.code)
            except Unavailable:
                pass

        worker = Worker[int]("test", handle, 1)
        worker.start()
        began = threads.monotonic()
        worker.submit(1, 0)
        while not outcome:
            threads.sleep(0.001)
        assert threads.monotonic() - began < PATIENCE_S / 2
        assert worker.stop(drain=False, timeout_s=PATIENCE_S)

    run(body)


def test_error_ends_the_worker_and_is_reported(run: Run) -> None:
    """Without ``on_error`` the thread dies with a report, and the remaining items are dropped."""

    def body() -> None:
        told, dropped = list[str](), list[int]()
        threads.on_death(lambda name, error: told.append(f"{name}: {error}"))
        try:
            worker = Worker[int]("test", lambda item: fail(), 5, on_drop=dropped.append)
            worker.submit(1, 0)
            worker.submit(2, 0)
            worker.start()
            limit_at = threads.monotonic() + PATIENCE_S
            while len(dropped) < 1 or not told:
                assert threads.monotonic() < limit_at, "items are not dropped, or the death not reported"
                threads.sleep(0.001)
            assert not worker.is_alive
            assert not worker.try_submit(3)
            assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        finally:
            threads.on_death(None)
        assert told == ["test: on purpose"]
        assert dropped == [2]
        assert worker.errors == 1
        with pytest.raises(Unavailable):
            worker.submit(3, PATIENCE_S)

    run(body)


@pytest.mark.parametrize("go_on", [True, False])
def test_on_error_decides(run: Run, go_on: bool) -> None:
    """``on_error`` gets the exception and says whether the next item is handled."""

    def body() -> None:
        errors, handled, dropped = list[str](), list[int](), list[int]()

        def handle(item: int) -> None:
            if item == 1:
                fail()
            handled.append(item)

        def decide(error: Exception) -> bool:
            errors.append(str(error))
            return go_on

        worker = Worker[int]("test", handle, 5, on_error=decide, on_drop=dropped.append)
        worker.submit(1, 0)
        worker.submit(2, 0)
        worker.start()
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert errors == ["on purpose"]
        assert (handled, dropped) == (([2], []) if go_on else ([], [2]))

    run(body)


def test_batches(run: Run) -> None:
    """A batch takes the waiting items, up to a number and a size; a large item still goes alone."""

    def body() -> None:
        batches: list[list[int]] = []
        worker = BatchWorker[int](
            "test", batches.append, 100, items_max=3, size_max=10, size_of=lambda item: item
        )
        for item in (1, 1, 1, 1, 9, 1, 50, 2):
            worker.submit(item, 0)
        worker.start()
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert batches == [[1, 1, 1], [1, 9], [1, 50], [2]]

    run(body)


def test_clear(run: Run) -> None:
    """Waiting items can be dropped at once, and the worker continues."""

    def body() -> None:
        gate, dropped = Gate(), list[int]()
        worker = Worker[int]("test", gate.handle, 5, on_drop=dropped.append)
        worker.start()
        worker.submit(1, 0)
        assert gate.entered.wait(PATIENCE_S)
        worker.submit(2, 0)
        worker.submit(3, 0)
        assert worker.clear() == 2
        gate.opened.set()
        worker.submit(4, PATIENCE_S)
        assert worker.stop(drain=True, timeout_s=PATIENCE_S)
        assert (gate.handled, dropped) == ([1, 4], [2, 3])

    run(body)


def test_room_is_needed(run: Run) -> None:
    """A worker without room is refused."""

    def body() -> None:
        with pytest.raises(ValueError, match="room"):
            Worker("test", _ignore, 0)

    run(body)


@pytest.mark.parametrize("drain", [True, False])
def test_every_item_ends_somewhere(drain: bool) -> None:
    """Under many schedules: submitters, a stop in between, an error; no item is lost, nothing is left."""
    for seed in range(60):
        fate: dict[int, list[str]] = {number: [] for number in range(12)}
        with Scheduler(seed, stall_chance=0.02) as scheduler:
            process = scheduler.process("p")
            scheduler.call(process, _exercise, fate, seed, drain)
            process.stopped = True
            assert scheduler.rest() == []
        assert all(len(ends) == 1 for ends in fate.values()), (seed, fate)
        if drain and seed % 3:
            assert not [number for number, ends in fate.items() if ends == ["dropped"]], (seed, fate)


def _exercise(fate: dict[int, list[str]], seed: int, drain: bool) -> None:
    def handle(item: int) -> None:
        threads.sleep(0.001)
        fate[item].append("handled")
        if seed % 3 == 0 and item == 5:
            raise OSError("on purpose")

    worker = Worker[int](
        "worker", handle, 2, on_error=lambda error: False, on_drop=lambda item: fate[item].append("dropped")
    )

    def submit(first: int) -> None:
        for item in range(first, first + 3):
            try:
                worker.submit(item, 0.002)
            except (Overloaded, Unavailable) as error:
                fate[item].append(error.code)

    submitters = [threads.start(f"submitter-{first}", submit, first) for first in (0, 3, 6, 9)]
    worker.start()
    threads.sleep(0.004)
    worker.stop(drain=drain, timeout_s=PATIENCE_S)
    for thread in submitters:
        thread.join()


def _ignore(item: object) -> None:
    """A handler."""
