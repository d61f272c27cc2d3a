"""The event log: order, waiting, and honesty about what is gone."""

from __future__ import annotations

import threading

from agent.membership.shell.eventlog import EVENTS_MAX, EventLog


def test_events_have_numbers_and_are_told_from_any_of_them() -> None:
    log = EventLog()
    for kind in ("join", "suspect", "dead"):
        log.add(kind, name="n1")
    found = log.since(1, 0.0)
    assert [(e["sequence"], e["kind"]) for e in found["events"]] == [(2, "suspect"), (3, "dead")]
    assert (found["last"], found["missed"]) == (3, False)


def test_who_falls_behind_is_told_so() -> None:
    log = EventLog()
    for _ in range(EVENTS_MAX + 5):
        log.add("join")
    assert log.since(5, 0.0)["missed"] is False
    assert log.since(4, 0.0)["missed"] is True


def test_a_follower_is_woken_by_the_next_event_and_by_the_end() -> None:
    log = EventLog()
    found: list[int] = []
    follower = threading.Thread(target=lambda: found.append(len(log.since(0, 30.0)["events"])))
    follower.start()
    log.add("join")
    follower.join(10)
    assert found == [1]
    last = threading.Thread(target=lambda: found.append(len(log.since(1, 30.0)["events"])))
    last.start()
    log.close()
    last.join(10)
    assert found == [1, 0]
