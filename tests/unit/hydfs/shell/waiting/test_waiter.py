"""Requests that wait for the core: each is answered, refused, or forgotten at its deadline."""

from __future__ import annotations

import threading

import pytest

from agent.common.deadline import Deadline
from agent.common.errors import Conflict, DeadlineExceeded, Fenced, RainStormError, Unavailable
from agent.common.shell import clock
from agent.hydfs.core.errors import FoundLength
from agent.hydfs.core.events import Answer, AnswerTail, AnswerWrite, CallerLeft, Event, Refuse, TailRequested
from agent.hydfs.shell.waiting.waiter import Waiter, Waiters
from tests.support import wait_until

KEY = ("id1", 0)


def soon(timeout_s: float = 5.0) -> Deadline:
    return Deadline(clock.monotonic(), timeout_s)


def test_an_answer_reaches_the_request_that_asked() -> None:
    waiters, waiter = Waiters(), Waiter()
    answer = AnswerTail(waiter, 7)
    found = waiters.ask(TailRequested(waiter, KEY), lambda event: waiter.put(answer), soon(), "tail")
    assert found is answer
    assert len(waiters) == 0


def test_a_second_answer_is_ignored() -> None:
    waiter = Waiter()
    waiter.put(AnswerTail(waiter, 1))
    waiter.put(AnswerTail(waiter, 2))
    assert waiter.get(0.0) == AnswerTail(waiter, 1)


def test_a_refusal_is_raised_with_its_code_and_details() -> None:
    waiters, waiter = Waiters(), Waiter()
    refused = Refuse(waiter, "CONFLICT", "no", FoundLength(9))
    with pytest.raises(Conflict) as found:
        waiters.ask(TailRequested(waiter, KEY), lambda event: waiter.put(refused), soon(), "tail")
    assert found.value.details == {"length": 9}
    written = AnswerWrite(waiter := Waiter(), 0, "FENCED", "sealed")
    with pytest.raises(Fenced):
        waiters.ask(TailRequested(waiter, KEY), lambda event: waiter.put(written), soon(), "record")


def test_the_core_forgets_a_request_whose_deadline_has_passed() -> None:
    waiters, waiter = Waiters(), Waiter()
    events: list[Event] = []
    with pytest.raises(DeadlineExceeded, match="tail"):
        waiters.ask(TailRequested(waiter, KEY), events.append, soon(0.01), "tail")
    assert events[-1] == CallerLeft(KEY, waiter)
    assert len(waiters) == 0


def test_a_request_waits_for_what_is_left_until_its_deadline() -> None:
    class Impatient(Waiter):
        waited_s = -1.0

        def get(self, timeout_s: float) -> Answer:
            self.waited_s = timeout_s
            raise TimeoutError

    waiters, waiter = Waiters(), Impatient()
    with pytest.raises(DeadlineExceeded):
        waiters.ask(TailRequested(waiter, KEY), lambda event: None, soon(5.0), "tail")
    assert 0.0 <= waiter.waited_s <= 5.0


def test_all_are_refused_when_the_core_stops() -> None:
    waiters = Waiters()
    errors: list[RainStormError] = []

    def ask() -> None:
        try:
            waiters.ask(TailRequested(Waiter(), KEY), lambda event: None, soon(60.0), "tail")
        except RainStormError as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(waiters) == 3, 5.0, "three requests wait")
    waiters.refuse_all()
    for thread in threads:
        thread.join(5.0)
    ask()
    assert [type(error) for error in errors] == [Unavailable] * 4
