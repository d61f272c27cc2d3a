"""Small shells with the faults that real shells had, each beside its correct form.

A fault is a function ``play(right)`` that runs as the main thread of a simulated process. In its correct form
it leaves nothing at rest under any seed; otherwise some seed finds it. Together they show which faults the
machine can find, without the size of the real shells.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from dataclasses import dataclass

from agent.common.shell import network, threads

HOST = "10.0.0.1"
PORT = 7000


@dataclass(frozen=True, slots=True)
class Fault:
    """A mistake, and the words by which the report names it."""

    play: Callable[[bool], None]
    finding: str

    @property
    def name(self) -> str:
        """Returns the mistake's name."""
        return self.play.__name__.replace("_", " ")


class _Put:
    """A put that holds a slot while it fills a block, as the gateway's did."""

    def __init__(self, slots: threads.Semaphore, right: bool) -> None:
        self.slots = slots
        self.right = right
        self.lock = threads.lock()
        self.holds_slot = False
        self.aborted = False

    def piece(self) -> None:
        """Takes a slot for a block that fills."""
        with self.lock:
            if not self.holds_slot and not (self.right and self.aborted):
                self.slots.acquire()
                self.holds_slot = True

    def abort(self) -> None:
        """Gives back the put's slot; the faulty form does so while a piece is just taking it."""
        with self.lock if self.right else contextlib.nullcontext():
            self.aborted = True
            if self.holds_slot:
                self.holds_slot = False
                self.slots.release()


def slot_not_given_back_on_abort(right: bool) -> None:
    """A client aborts while its last piece is on the way in."""
    slots = threads.semaphore(3)
    for _ in range(3):
        put = _Put(slots, right)
        threads.start("piece", put.piece)
        threads.start("abort", put.abort)


def accept_under_a_lock(right: bool) -> None:
    """A server waits for connections while it holds the lock that its status needs."""
    lock, listener = threads.lock(), network.listen_tcp(HOST, PORT)

    def serve() -> None:
        with contextlib.nullcontext() if right else lock:
            listener.accept()
            if right:
                touch()

    def touch() -> None:
        with lock:
            pass

    threads.start("serve", serve)
    threads.start("status", touch)


def lost_wake_up(right: bool) -> None:
    """A consumer looks, then clears the event, then waits for it: an item may come in between."""
    event, items, outcome = threads.event(), list[int](), threads.future()

    def consume() -> int:
        while True:
            if right:
                event.clear()
            if items:
                return items.pop()
            if not right:
                event.clear()
            event.wait()

    def produce() -> None:
        items.append(1)
        event.set()

    threads.start("consume", lambda: outcome.set_result(consume()))
    threads.start("produce", produce)
    outcome.result()


def future_never_resolved(right: bool) -> None:
    """A worker resolves what succeeds, and forgets what fails in a rare way."""
    future, queue = threads.future(), threads.queue(1)

    def work() -> None:
        try:
            queue.get(timeout=0.001)
        except threads.Empty:
            if right:
                future.set_result(0)
            return
        future.set_result(1)

    threads.start("work", work)
    threads.sleep(0.00099)
    with contextlib.suppress(threads.Full):
        queue.put_nowait(1)
    future.result()


def retry_without_back_off(right: bool) -> None:
    """A loop asks a vanished peer again and again, without a pause."""
    for attempt in range(1_000_000):
        try:
            network.dial_tcp("10.0.0.2", PORT, 1.0)
            return
        except OSError:
            threads.sleep(min(2.0**attempt, 3600.0) if right else 0.0)


def callback_under_a_lock(right: bool) -> None:
    """An owner calls its listener while it holds its lock, and the listener asks the owner."""
    lock, heard = threads.lock(), threads.future()

    def ask() -> None:
        with lock:
            pass
        heard.set_result(1)

    def tell() -> None:
        with lock:
            if not right:
                ask()
        if right:
            ask()

    threads.start("tell", tell)
    heard.result()


def thread_dies_silently(right: bool) -> None:
    """A thread meets a message that lacks a field, now and then."""
    queue = threads.queue(5)

    def work() -> None:
        while (message := queue.get()) is not None:
            with contextlib.suppress(KeyError) if right else contextlib.nullcontext():
                message["length"]

    thread = threads.start("job-log", work)
    for message in ({"length": 1}, {}, {"length": 2}, None):
        queue.put(message)
    thread.join()


def stop_lost_in_a_full_queue(right: bool) -> None:
    """The item that tells a thread to end does not fit into its queue."""
    queue, stopping = threads.queue(2), threads.event()

    def work() -> None:
        while (queue.get() if not right else _next(queue, stopping)) is not None:
            threads.sleep(0.001)

    thread = threads.start("work", work)
    for number in range(3):
        with contextlib.suppress(threads.Full):
            queue.put_nowait(number)
    stopping.set()
    with contextlib.suppress(threads.Full):
        queue.put_nowait(None)
    thread.join(timeout=10.0)
    if thread.is_alive():
        raise AssertionError("the thread outlives its service")


def _next(queue: threads.Queue[object], stopping: threads.Event) -> object:
    return None if stopping.is_set() else queue.get()


def locks_in_two_orders(right: bool) -> None:
    """Two threads take the same two locks in different orders."""
    one, two = threads.lock(), threads.lock()

    def take(first: threads.Lock, second: threads.Lock) -> None:
        with first, second:
            pass

    threads.start("left", take, one, two)
    threads.start("right", take, *((one, two) if right else (two, one)))


def check_and_act_apart(right: bool) -> None:
    """A bound is checked while the lock is held, but the count changes only when the lock is taken again."""
    lock, count = threads.lock(), [0]

    def enter() -> None:
        with lock:
            free = count[0] < 1
            if free and right:
                count[0] += 1
        if free and not right:
            with lock:
                count[0] += 1

    everyone = [threads.start("enter", enter) for _ in range(2)]
    for thread in everyone:
        thread.join()
    assert count[0] == 1, "the bound was passed"


def listener_closed_without_shutdown(right: bool) -> None:
    """Closing a listener does not wake the thread that waits in ``accept``."""
    listener = network.listen_tcp(HOST, PORT)

    def accept() -> None:
        with contextlib.suppress(OSError):
            listener.accept()

    thread = threads.start("accept", accept)
    threads.sleep(0.0001)
    if right:
        listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    thread.join(10.0)
    assert not thread.is_alive(), "the acceptor outlives its listener"


def notify_one_for_two(right: bool) -> None:
    """Two kinds of waiters share a condition, and only one of them is woken."""
    changed, state = threads.condition(), {"a": False, "b": False}
    done = {name: threads.future() for name in state}

    def wait(name: str) -> None:
        with changed:
            while not state[name]:
                changed.wait()
        done[name].set_result(1)

    for name in state:
        threads.start(f"wait-{name}", wait, name)
    for name in state:
        with changed:
            state[name] = True
            changed.notify_all() if right else changed.notify()
    for future in done.values():
        future.result()


FAULTS = [
    Fault(slot_not_given_back_on_abort, "slots free; taken at"),
    Fault(accept_under_a_lock, "held by thread 'serve'"),
    Fault(lost_wake_up, "waits for future"),
    Fault(future_never_resolved, "waits for future"),
    Fault(retry_without_back_off, "thread 'main' of 10.0.0.1"),
    Fault(callback_under_a_lock, "held by thread 'tell'"),
    Fault(thread_dies_silently, "'job-log' of 10.0.0.1 was ended by KeyError"),
    Fault(stop_lost_in_a_full_queue, "outlives its service"),
    Fault(locks_in_two_orders, "held by thread 'right'"),
    Fault(check_and_act_apart, "the bound was passed"),
    Fault(listener_closed_without_shutdown, "outlives its listener"),
    Fault(notify_one_for_two, "waits for future"),
]
