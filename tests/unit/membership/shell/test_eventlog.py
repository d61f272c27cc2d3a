"""The event log: order, waiting, and reports of missed events."""

from __future__ import annotations

import threading

from agent.membership.messages.events import (
    EVENTS_MAX,
    ChangeKind,
    ClusterEvent,
    IdentityConflict,
    MemberChanged,
    SettingsChanged,
    ViewChanged,
)
from agent.membership.shell.eventlog import EventLog


def changed(kind: ChangeKind) -> MemberChanged:
    return MemberChanged(kind, "n1", "n1:1", "dead" if kind == "dead" else "alive")


def test_events_have_numbers_and_are_reported_from_any_of_them() -> None:
    log = EventLog()
    log.add(changed("join"))
    log.add(ViewChanged(7, 2, "n1", ("n1", "n2")))
    log.add(changed("dead"))
    found = log.since(1, 0.0)
    assert [(event.sequence, event.kind) for event in found.decoded()] == [(2, "view"), (3, "dead")]
    assert (found.last, found.missed) == (3, False)


def test_every_kind_of_event_survives_the_wire() -> None:
    log = EventLog()
    events: list[ClusterEvent] = [
        changed("suspect"),
        ViewChanged(7, 2, "", ()),
        IdentityConflict("n2", "10.0.0.9", "n1"),
        SettingsChanged(3, "heartbeat", False),
    ]
    for event in events:
        log.add(event)
    found = log.since(0, 0.0).decoded()
    assert [type(event) for event in found] == [type(event) for event in events]
    assert [event.sequence for event in found] == [1, 2, 3, 4]


def test_a_follower_that_falls_behind_is_informed() -> None:
    log = EventLog()
    for _ in range(EVENTS_MAX + 5):
        log.add(changed("join"))
    assert log.since(5, 0.0).missed is False
    assert log.since(4, 0.0).missed is True


def test_follower_of_an_earlier_life_starts_over_at_once() -> None:
    log = EventLog()
    log.add(changed("join"))
    log.add(changed("dead"))
    found = log.since(40, 30.0)
    assert [event.sequence for event in found.decoded()] == [1, 2]
    assert (found.last, found.missed) == (2, True)


def test_follower_is_woken_by_the_next_event_and_by_the_end() -> None:
    log = EventLog()
    found: list[int] = []
    follower = threading.Thread(target=lambda: found.append(len(log.since(0, 30.0).events)))
    follower.start()
    log.add(changed("join"))
    follower.join(10)
    assert found == [1]
    last = threading.Thread(target=lambda: found.append(len(log.since(1, 30.0).events)))
    last.start()
    log.close()
    last.join(10)
    assert found == [1, 0]
