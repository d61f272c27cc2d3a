"""Hostile handshakes, envelopes and register requests: refused with a code, counted, nothing written."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.common import failure, register, votermemory
from agent.common.deadline import Deadline
from agent.common.errors import ConnectionLost, FrameTooLarge, InvalidMessage, by_code
from agent.common.register import Accept, ListKeys, Prepare, Read
from agent.common.shell import clock, network, threads
from agent.common.votermemory import AskStanding
from agent.wire import messages
from agent.wire.client import Client
from agent.wire.connection import Connection
from agent.wire.messages import Envelope, Hello, Ping
from agent.wire.register import voter as voting
from agent.wire.register.proposer import Registers
from agent.wire.register.store import write_log
from agent.wire.register.voter import Voter
from agent.wire.server import Server
from tests.fuzz.strategies import check, hostile, junk, message_classes, valid

REQUESTS = (Prepare, Accept, Read, ListKeys, AskStanding)
# A class of requests, and hostile fields of one.
REQUEST = st.sampled_from(REQUESTS).flatmap(lambda cls: st.tuples(st.just(cls), hostile(cls)))
CLASSES = [
    *message_classes(messages),
    *message_classes(failure),
    *REQUESTS,
    register.Answer,
    register.Keys,
    votermemory.Standing,
    voting.Founders,
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@given(data=st.data())
@settings(max_examples=25)
def test_hostile_fields_end_in_a_refusal_or_a_valid_message(cls: type[Any], data: st.DataObject) -> None:
    check(cls, data.draw(hostile(cls)))


@given(junk())
def test_an_error_of_any_form_is_refused_or_becomes_an_error(value: Any) -> None:
    found = check(failure.Failure, value)
    if found is not None:
        assert found.error().code in by_code()


def only_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise InvalidMessage(f"register {key} holds text")


class Place:
    """A voter behind a real server."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "registers.log"
        write_log(self.log, {})
        self.client = Client(None)
        self.registers = Registers("a", "file", self.client, {})
        self.crashes: list[BaseException] = []
        self.voter = Voter(
            "a", "file", folder, self.client, {}, self.registers, list, self.crashes.append, check=only_text
        )
        self.server = Server("a", self.voter.endpoints())
        self.path = str(folder / "a.sock")
        self.server.listen_unix(self.path)

    def connect(self) -> Connection:
        """Returns a connection that has not said hello."""
        return Connection(network.dial_unix(self.path, 5.0), "a")

    def close(self) -> None:
        self.server.stop()
        self.voter.stop()
        self.registers.close()
        self.client.close()
        assert self.crashes == []


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    with contextlib.closing(found):
        yield found


def _soon() -> Deadline:
    return Deadline(clock.monotonic(), 5.0)


def _exchange(connection: Connection, header: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the answer to a header, or None for one that cannot be sent at all."""
    try:
        connection.send(header, b"", _soon())
    except (InvalidMessage, FrameTooLarge):
        return None
    return connection.receive(_soon()).header


def test_hostile_requests_to_a_voter_are_answered_with_a_code_and_write_nothing(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    connection = place.connect()
    assert _exchange(connection, {"type": "hello", "version": 1}) == {"ok": True, "version": 1}
    deaths, refused = threads.deaths(), 0

    @given(
        st.sampled_from(REQUESTS).flatmap(lambda cls: st.tuples(st.just(cls), hostile(cls))),
        hostile(Envelope),
    )
    @settings(max_examples=120)
    def attack(request: tuple[type[Any], Any], envelope: Any) -> None:
        nonlocal refused
        cls, fields = request
        header = {
            **(envelope if isinstance(envelope, dict) else {}),
            **(fields if isinstance(fields, dict) else {"fields": fields}),
            "type": f"file.{cls.kind}",
        }
        size = os.path.getsize(place.log)
        answer = _exchange(connection, header)
        if answer is None or "error" not in answer:
            return
        assert answer["error"]["code"] == "INVALID_MESSAGE", answer
        assert os.path.getsize(place.log) == size
        refused += 1

    attack()
    connection.close()
    assert 0 < refused == sum(place.server.refused.values())
    assert threads.deaths() == deaths
    assert "Traceback" not in caplog.text
    assert place.client.ask(place.path, Ping()).message.server == "a"


def test_a_hostile_handshake_costs_its_connection_only(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    @given(hostile(Hello))
    @settings(max_examples=40)
    def attack(fields: Any) -> None:
        with contextlib.closing(place.connect()) as connection, contextlib.suppress(ConnectionLost):
            answer = _exchange(connection, fields if isinstance(fields, dict) else {"fields": fields})
            assert answer is None or answer.get("ok") or answer["error"]["code"] in by_code()

    attack()
    assert "Traceback" not in caplog.text
    assert place.client.ask(place.path, Ping()).message.server == "a"


@given(valid(Accept))
@settings(max_examples=30)
def test_valid_requests_are_let_through(fields: dict[str, Any]) -> None:
    assert check(Accept, fields) is not None
