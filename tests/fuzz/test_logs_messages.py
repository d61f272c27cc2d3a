"""Hostile requests to the logs agent and entries of its spool: refused with a code, nothing changed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.common.config import LogsConfig
from agent.common.deadline import Deadline
from agent.common.errors import FrameTooLarge, InvalidMessage, RainStormError
from agent.common.shell import clock, network, threads
from agent.hydfs.client import HydfsClient
from agent.logs import messages
from agent.logs.client import LogsClient
from agent.logs.core.collector import Collector, record_from_wire
from agent.logs.messages import CollectorState, EndSearch, Follow, ListLogs, StartSearch, TakePiece
from agent.logs.shell.archive import Archive
from agent.logs.shell.follower import Follower
from agent.logs.shell.searches import Searches
from agent.wire.client import Client
from agent.wire.connection import Connection
from agent.wire.endpoint import by_kind
from agent.wire.server import Server
from tests.fuzz.strategies import check, hostile, junk, message_classes

REQUESTS = (StartSearch, TakePiece, EndSearch, ListLogs, Follow)
# The errors with which the agent refuses a request.
REFUSED = {"INVALID_MESSAGE", "USAGE", "NOT_FOUND", "FORBIDDEN", "OVERLOADED", "UNREACHABLE"}


@pytest.mark.parametrize("cls", message_classes(messages), ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=25)
def test_hostile_fields_end_in_a_refusal_or_a_valid_message(cls: type[Any], data: st.DataObject) -> None:
    check(cls, data.draw(hostile(cls)))


@given(junk())
def test_a_hostile_record_of_the_spool_is_refused(value: Any) -> None:
    with pytest.raises(InvalidMessage):
        record_from_wire(value)


@given(hostile(CollectorState))
@settings(max_examples=200)
def test_a_hostile_state_of_the_collector_is_refused_or_consistent(fields: Any) -> None:
    core = Collector(target_bytes_max=1000)
    before = core.snapshot()
    state = check(CollectorState, fields)
    if state is None:
        return
    try:
        core.restore(state)
    except RainStormError:
        assert core.snapshot() == before
    else:
        core.check_invariants()


class Place:
    """The parts of a logs agent that answer requests."""

    def __init__(self, folder: Path) -> None:
        (folder / "logs").mkdir()
        (folder / "logs" / "a.log").write_bytes(b"2026-11-20T10:00:00Z one line\n" * 50)
        self.client = Client(None)
        hydfs = HydfsClient(self.client, str(folder / "none.sock"))
        knobs = LogsConfig(journal_units=(), search_time_limit_s=1.0)
        self.searches = Searches(folder / "logs", knobs, Archive(hydfs))
        self.follower = Follower(folder / "logs", ())
        self.server = Server("logs", by_kind(*self.searches.endpoints(), self.follower.endpoint()))
        self.path = str(folder / "logs.sock")
        self.server.listen_unix(self.path)

    def close(self) -> None:
        self.follower.stop()
        self.server.stop()
        self.searches.stop(5.0)
        self.client.close()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    with contextlib.closing(found):
        yield found


def test_hostile_requests_are_answered_with_a_code(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    deaths, refused = threads.deaths(), 0
    connection = Connection(network.dial_unix(place.path, 5.0), "logs")
    connection.send({"type": "hello", "version": 1}, b"", Deadline(clock.monotonic(), 5.0))
    connection.receive(Deadline(clock.monotonic(), 5.0))

    @given(st.sampled_from(REQUESTS).flatmap(lambda cls: st.tuples(st.just(cls), hostile(cls))))
    @settings(max_examples=100)
    def attack(request: tuple[type[Any], Any]) -> None:
        nonlocal refused
        cls, fields = request
        header = {**(fields if isinstance(fields, dict) else {"fields": fields}), "type": cls.kind}
        limit = Deadline(clock.monotonic(), 30.0)
        try:
            # A request of a follower must not wait.
            connection.send({**header, "timeout_s": 1.0}, b"", limit)
        except (InvalidMessage, FrameTooLarge):
            return
        answer = connection.receive(limit).header
        if "error" in answer:
            assert answer["error"]["code"] in REFUSED, answer
            refused += answer["error"]["code"] == "INVALID_MESSAGE"

    attack()
    connection.close()
    assert 0 < refused == sum(place.server.refused.values())
    assert threads.deaths() == deaths
    assert "Traceback" not in caplog.text
    assert [each.name for each in LogsClient(place.client, place.path).list().files] == ["a.log"]
