"""Rules of membership's shells, each broken on purpose (see ``planted.membership``)."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.common.errors import RainStormError
from agent.common.shell import clock, disk
from agent.membership import attachment, follower
from agent.membership.core import events
from agent.membership.messages.events import ClusterEvent
from agent.membership.messages.view import ViewReply, WatchView
from agent.membership.service import Service
from agent.membership.shell import requests, store, transport
from agent.membership.shell.eventlog import EventLog
from agent.membership.shell.exchange import AntiEntropy
from agent.membership.shell.requests import Requests
from agent.membership.shell.transport import Transport
from agent.membership.view import View
from agent.wire.endpoint import Call
from tests.simulation.planted.bug import PlantedBug
from tests.simulation.planted.membership import MEMBERSHIP

# They include the answer of a machine on which no process listens.
TOO_MANY_ERRORS = (*transport.SOCKET_ERRORS, errno.ECONNREFUSED)
CRASHES = ("kill", "restart", "rolling_restart", "refuse")


def _wake_no_follower(self: EventLog, event: ClusterEvent) -> None:
    with self._changed:
        self._last += 1
        self._events.append(replace(event, sequence=self._last, wall_at=clock.wall()))


def _wake_no_waiter(self: Service, view: View) -> None:
    self.view = view


def _drop_failed_outcome(self: Service, job: events.ReadView | events.ChangeView) -> None:
    outcome = self._use_register(job)
    if not isinstance(outcome, events.RegisterFailed):
        self.post(outcome)


def _end_silently(self: Transport) -> None:
    with contextlib.suppress(OSError):
        while not self._stopping.is_set():
            self._receive()


def _replace_in_memory(path: Path, text: str) -> None:
    disk.makedirs(path.parent)
    fresh = path.with_suffix(".new")
    with disk.opened(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as descriptor:
        disk.write_fully(descriptor, text.encode())
    disk.rename(fresh, path)


def _leave_connection_open(self: AntiEntropy, name: str) -> None:
    with contextlib.suppress(RainStormError):
        self._exchange(self._make_client(), name)


def _wait_for_the_view_alone(self: Requests, request: WatchView, call: Call) -> ViewReply:
    service = self._service
    with service.changed:
        service.changed.wait_for(
            lambda: service.view.version > request.version, min(request.wait_s, requests.WATCH_S_MAX)
        )
        return ViewReply(service.view)


def _nothing(*_: Any) -> None:
    """Does not do what it should."""


BUGS: tuple[PlantedBug, ...] = (
    PlantedBug(
        "a new event wakes no follower",
        "a waiting follower is told (lost wake-up)",
        MEMBERSHIP,
        ((EventLog, "add", _wake_no_follower),),
    ),
    PlantedBug(
        "a new view wakes no waiter",
        "a thread that waits for a view is told (lost wake-up)",
        MEMBERSHIP,
        ((Service, "_announce_view", _wake_no_waiter),),
    ),
    PlantedBug(
        "the outcome of a failed register operation is dropped",
        "every operation has an outcome",
        MEMBERSHIP,
        ((Service, "_work", _drop_failed_outcome),),
    ),
    PlantedBug(
        "a refused datagram crashes the agent",
        "the network's errors end no thread",
        MEMBERSHIP,
        ((transport, "SOCKET_ERRORS", TOO_MANY_ERRORS),),
        CRASHES,
    ),
    PlantedBug(
        "the receiver of datagrams ends silently",
        "a thread that ends is noticed (dies silently)",
        MEMBERSHIP,
        ((transport, "SOCKET_ERRORS", TOO_MANY_ERRORS), (Transport, "_run", _end_silently)),
        CRASHES,
    ),
    PlantedBug(
        "the attachment tries again without a pause",
        "a retry waits (no back-off)",
        MEMBERSHIP,
        ((attachment, "RETRY_S", 0.0),),
        ("kill", "restart"),
    ),
    PlantedBug(
        "the follower tries again without a pause",
        "a retry waits (no back-off)",
        MEMBERSHIP,
        ((follower, "RETRY_S", 0.0), (follower, "RETRY_S_MAX", 0.0)),
        ("kill", "restart"),
    ),
    PlantedBug(
        "the identity is not durable",
        "no two lives share a node id (missing fdatasync and folder sync)",
        MEMBERSHIP,
        ((store, "_replace", _replace_in_memory),),
        ("power", "power_all"),
    ),
    PlantedBug(
        "an exchange leaves its connection open",
        "agents that stop leave nothing behind",
        MEMBERSHIP,
        ((AntiEntropy, "_exchange_with", _leave_connection_open),),
    ),
    PlantedBug(
        "a long poll outlasts the agent",
        "a stopping agent ends waiting requests",
        MEMBERSHIP,
        ((Requests, "_watch", _wait_for_the_view_alone),),
    ),
    PlantedBug(
        "a stopping agent does not wake its receiver",
        "agents that stop leave nothing behind (closing wakes nobody)",
        MEMBERSHIP,
        ((Transport, "_wake", _nothing),),
    ),
)
