"""Hostile messages to a membership agent: refused by name, counted, and neither written nor believed."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.common import message
from agent.common.errors import InvalidMessage, ProtocolError, RainStormError
from agent.common.shell import threads
from agent.membership import datagrams
from agent.membership import view as agreed
from agent.membership.core.dissemination import exchange
from agent.membership.core.dissemination.seal import Sealer
from agent.membership.messages import agents, events, members, orders, view
from agent.membership.messages.events import EventsReply, MemberChanged
from agent.membership.view import View
from agent.wire import auth
from agent.wire.client import Client
from tests import untyped
from tests.fuzz import strategies
from tests.unit.membership.group import Group

MODULES = (members, view, events, agents, orders, agreed)
CLASSES = [cls for module in MODULES for cls in strategies.message_classes(module)]
REQUESTS = [each for each in CLASSES if hasattr(each, "kind") and hasattr(each, "reply")]
# Every example is one request to a real agent.
EXAMPLES = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_valid_messages_pass_and_hostile_ones_are_refused(cls: type[Any]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategies.valid(cls), strategies.hostile(cls))
    def run(good: Any, bad: Any) -> None:
        assert message.decode(cls, good) is not None
        strategies.check(cls, bad)

    run()


@settings(max_examples=100, deadline=None)
@given(strategies.hostile(View))
def test_hostile_view_is_a_consistent_view_or_refused(fields: Any) -> None:
    try:
        found = View.from_fields(fields)
    except InvalidMessage:
        return
    assert not found.leader or found.is_up(found.leader)
    assert View.from_fields(found.as_fields()) == found


@settings(max_examples=100, deadline=None)
@given(st.lists(strategies.hostile(MemberChanged), max_size=4))
def test_hostile_events_are_decoded_or_refused_by_name(events: list[Any]) -> None:
    try:
        reply = message.decode(EventsReply, {"events": events, "last": len(events)})
        found = reply.decoded()
    except InvalidMessage:
        return
    assert len(found) == len(events)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400), strategies.junk())
def test_hostile_datagrams_and_records_are_refused_by_name(data: bytes, value: Any) -> None:
    try:
        packed = msgpack.packb(value, use_bin_type=True)
    except (ValueError, OverflowError):
        packed = b""
    for read in (datagrams.decode, exchange.unpack):
        for each in (data, packed):
            try:
                read(each)
            except ProtocolError:
                continue


class Target:
    """A real agent, and the client of a node that may ask but not order."""

    def __init__(self, folder: Path) -> None:
        self.group = Group(folder, ["n1"])
        self.group.start()
        self.service = self.group.services["n1"]
        self.codes: set[str] = set()
        self.client = Client(auth.client_context(self.group.tls("n2")))

    def stop(self) -> None:
        self.client.close()
        self.group.stop()

    def refused(self) -> int:
        return sum(self.service._server.refused.values())

    def files(self) -> dict[str, bytes]:
        folder = self.group.folder / "n1" / "membership"
        return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}

    def send(self, kind: str, fields: Any, payload: bytes = b"") -> None:
        """Sends a request; a refusal has a code other than INTERNAL, and a bad message is counted."""
        before = self.refused()
        try:
            untyped.send(self.client, self.group.address("n1"), kind, fields, payload, timeout_s=5.0)
        except InvalidMessage:
            assert self.refused() == before + 1
        except RainStormError as error:
            self.codes.add(error.code)


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Target]:
    monkeypatch.setattr("agent.membership.shell.requests.WATCH_S_MAX", 0.0)
    made = Target(tmp_path)
    try:
        yield made
    finally:
        made.stop()


def test_agent_survives_hostile_requests(target: Target, caplog: pytest.LogCaptureFixture) -> None:
    before, held, died = target.files(), target.service.view, threads.deaths()
    caplog.set_level(logging.WARNING)

    @EXAMPLES
    @given(st.data())
    def run(data: st.DataObject) -> None:
        for cls in REQUESTS:
            fields = data.draw(strategies.hostile(cls))
            payload = data.draw(st.binary(max_size=20))
            if isinstance(fields, dict) and all(isinstance(key, str) for key in fields):
                target.send(cls.kind, fields, payload)

    run()
    assert target.files() == before, "nothing was written"
    assert (target.service.view, target.group.crashes) == (held, [])
    assert threads.deaths() == died
    assert [record for record in caplog.records if "handler_failed" in record.message] == []
    assert target.refused() > 0
    assert "INTERNAL" not in target.codes
    assert target.group.ask("n1").members().observer == "n1"


def test_voter_writes_no_hostile_value(target: Target) -> None:
    before, held = target.files(), target.service.view

    @EXAMPLES
    @given(strategies.hostile(View), st.sampled_from(["view", "views", "", "file/x"]))
    def run(value: Any, key: str) -> None:
        try:
            if key == "view" and value is not None:
                View.from_fields(value)
            if key == "view":
                return  # a valid value, which a voter must take
        except InvalidMessage:
            pass
        fields = {"key": key, "ballot": [1 << 40, "n2"], "value": value}
        try:
            target.send("view.accept", fields)
        except (TypeError, ValueError, OverflowError):
            return  # the caller's own codec cannot pack it
        assert target.files() == before

    run()
    assert target.service.view == held
    assert "INTERNAL" not in target.codes


def test_agent_survives_hostile_datagrams(target: Target) -> None:
    key = target.service.ring.primary
    received = target.service.transport.received_bytes
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.77.0.9", 0))

        @settings(max_examples=100, deadline=None)
        @given(st.binary(max_size=1200), st.booleans(), st.integers(0, 1 << 62))
        def run(data: bytes, sealed: bool, boot: int) -> None:
            packet = Sealer(key, "n2", boot, b"s" * 16).seal(data) if sealed else data
            sock.sendto(packet, (target.group.addresses["n1"], target.group.port))

        run()
    assert target.group.ask("n1").members().observer == "n1"
    assert target.service.transport.received_bytes > received
    assert target.group.crashes == []
