"""Hostile requests, file entries and journal entries of the store, alone and against a real agent."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.common import message
from agent.common.deadline import Deadline
from agent.common.errors import InvalidMessage
from agent.common.shell import clock, network
from agent.hydfs.core import filetable
from agent.hydfs.core.block import (
    BlockMeta,
    DroppedEntry,
    PromiseEntry,
    Record,
    RecordEntry,
    SealedEntry,
    StateEntry,
    pack_entry,
    unpack_entry,
)
from agent.hydfs.core.errors import FoundLength, Moved
from agent.hydfs.core.filetable import FileEntry, Reservation
from agent.hydfs.messages import block, file
from agent.wire import auth
from agent.wire.codec.framing import PROTOCOL_VERSION
from agent.wire.connection import Connection
from tests.fuzz.strategies import check, hostile, junk, message_classes, valid
from tests.unit.hydfs.stores import Stores

CLASSES = [*message_classes(file), *message_classes(block)]
CLASSES += [Moved, FoundLength, Reservation, FileEntry]
REQUESTS = [cls for cls in CLASSES if issubclass(cls, message.Request)]
# Errors that are defects of ours, or that the agent never answers with.
DEFECTS = {"INTERNAL", "FRAME_TOO_LARGE", ""}


@given(st.data())
@settings(max_examples=150)
def test_hostile_messages_are_refused_or_valid(data: st.DataObject) -> None:
    """Hostile fields of any class give InvalidMessage or a message, and nothing else."""
    cls = data.draw(st.sampled_from(CLASSES))
    check(cls, data.draw(hostile(cls)))


@given(st.one_of(hostile(FileEntry), valid(FileEntry)))
@settings(max_examples=100)
def test_a_hostile_file_entry_is_refused_before_the_vote_or_can_be_used(value: Any) -> None:
    """An entry that a voter accepts can be read, changed and listed."""
    try:
        filetable.check("f", value)
    except InvalidMessage:
        return
    entry = filetable.from_value(value)
    if entry is not None:
        filetable.check("f", msgpack.unpackb(msgpack.packb(filetable.to_value(entry))))


ENTRIES = [
    RecordEntry(("id1", 3), "f", "s", Record(0, 3, 9, "w", 8, 2), b"abc"),
    PromiseEntry(("id1", 3), "f"),
    SealedEntry(("id1", 3), "f", 3, 99),
    DroppedEntry(("id1", 3)),
    StateEntry(BlockMeta(("id1", 3), "f", "s", 3, 99, "open", {"w": (8, 0, 3)}, True)),
]


@given(st.sampled_from(ENTRIES), st.data())
@settings(max_examples=150)
def test_a_hostile_journal_entry_is_refused_or_can_be_written_again(entry: Any, data: st.DataObject) -> None:
    """The checksum proves that an entry was written so, not that a correct release wrote it."""
    values = msgpack.unpackb(pack_entry(entry))
    place = data.draw(st.integers(0, len(values)))
    values[place : place + 1] = [data.draw(junk())]
    try:
        packed = msgpack.packb(values)
    except (ValueError, OverflowError, TypeError):
        return  # msgpack cannot deliver it
    for found in (packed, packed[: data.draw(st.integers(0, len(packed)))]):
        try:
            again = unpack_entry(found)
        except InvalidMessage:
            continue
        assert unpack_entry(pack_entry(again)) == again


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Stores, Connection]]:
    """Returns a store agent, and a connection to it from another agent of the cluster."""
    with Stores(tmp_path_factory.mktemp("store"), 1) as stores:
        stores.start()
        context = auth.client_context(stores.config("n1").tls)
        plain = network.dial_tcp(stores.addresses["n1"], stores.port, 5.0)
        connection = Connection(context.wrap_socket(plain, server_hostname="n1"), "n1")
        ask(connection, {"type": "hello", "version": PROTOCOL_VERSION})
        ask(connection, {"type": file.Create.kind, "name": "f"})
        try:
            yield stores, connection
        finally:
            connection.close()


def ask(connection: Connection, header: dict[str, Any], payload: bytes = b"") -> dict[str, Any]:
    """Sends a request and returns the header of the answer."""
    deadline = Deadline(clock.monotonic(), 30.0)
    connection.send(header, payload, deadline)
    return connection.receive(deadline).header


def durable(stores: Stores) -> Any:
    """Returns the state of the agent: its copies, its puts and the values of its registers."""
    service = stores.services["n1"]
    assert service._voter is not None
    assert service._voter._store is not None
    assert service._puts is not None
    slots = {key: slot.value for key, slot in service._voter._store._slots.items()}
    return dict(service._store.index), sorted(service._puts._puts), slots


@given(st.data())
@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_agent_answers_hostile_requests_with_a_code(
    agent: tuple[Stores, Connection], caplog: pytest.LogCaptureFixture, data: st.DataObject
) -> None:
    """There is no traceback and no crash; a request refused as invalid is counted and changes nothing."""
    stores, connection = agent
    cls = data.draw(st.sampled_from(REQUESTS))
    fields = data.draw(st.one_of(hostile(cls), valid(cls)))
    if not isinstance(fields, dict) or not all(isinstance(key, str) for key in fields):
        return  # not a request at all: the tests of the wire cover it
    header = {**fields, "type": cls.kind, "timeout_s": 0.3}
    try:
        msgpack.packb(header)
    except (ValueError, OverflowError, TypeError):
        return
    before, refused = durable(stores), stores.services["n1"]._server.refused[cls.kind]
    with caplog.at_level(logging.ERROR):
        answer = ask(connection, header, data.draw(st.sampled_from([b"", b"abc"])))
    error = answer.get("error", {"code": "OK", "details": {}})
    code = error["details"].get("store_code", error["code"])
    assert code not in DEFECTS, answer
    assert not [record for record in caplog.records if record.exc_info], caplog.text
    if code == "INVALID_MESSAGE":
        assert stores.services["n1"]._server.refused[cls.kind] == refused + 1
        assert durable(stores) == before
