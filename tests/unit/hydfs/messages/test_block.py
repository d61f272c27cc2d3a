"""The messages between store agents: neighbouring releases understand each other, the rest is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.hydfs.core import filetable
from agent.hydfs.core.block import WRITERS_MAX, Record
from agent.hydfs.messages.block import AppendToBlock, BlockAppended, Promised, StorePiece, WriteRecord


def over_the_wire(sent: Any) -> Any:
    return message.decode(type(sent), msgpack.unpackb(msgpack.packb(message.encode(sent))))


def test_messages_survive_the_wire() -> None:
    value = filetable.open_next("f", "id1", ["a", "b"], 1, "s")(filetable.create("f", "id1", "all")(None))
    for sent in (
        AppendToBlock("f", "id1", None, "w", 0, 5, ("a",), 7),
        BlockAppended(0, 3, 3, False, filetable.live("f", value)),
        WriteRecord("id1", 0, "f", "s", Record(0, 3, 9, "w", 0, 1)),
        Promised(3, 9, {"w": (0, 0, 3)}, True),
    ):
        assert over_the_wire(sent) == sent


def test_a_record_is_a_list_as_it_was_before() -> None:
    sent = message.encode(WriteRecord("id1", 0, "f", "s", Record(0, 3, 9, "w", 0, 1)))
    assert list(sent["record"]) == [0, 3, 9, "w", 0, 1]
    newer = {**sent, "record": [*sent["record"], "later"], "later": 1}
    assert message.decode(WriteRecord, newer).record == Record(0, 3, 9, "w", 0, 1)


def test_an_older_release_says_less() -> None:
    fields = {"name": "f", "file_id": "id1", "number": 3, "writer": "w", "sequence": 0}
    found = message.decode(AppendToBlock, fields)
    assert (found.next, found.avoid, found.if_offset) == (0, (), None)
    assert (
        message.decode(BlockAppended, {"offset": 0, "length": 3, "copies": 3, "duplicate": False}).value
        is None
    )


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (WriteRecord, {"record": [0, 3, 9, "w", 0]}),
        (WriteRecord, {"record": [0, 3, -9, "w", 0, 1]}),
        (WriteRecord, {"file_id": "a/b"}),
        (WriteRecord, {"number": 1 << 40}),
        (WriteRecord, {"session": ""}),
        (Promised, {"writers": {"w": [1, 2]}}),
        (Promised, {"writers": {str(n): [1, 2, 3] for n in range(2 * WRITERS_MAX + 1)}}),
        (StorePiece, {"sender": "x" * 301}),
        (AppendToBlock, {"avoid": ["a"] * 65}),
    ],
)
def test_what_is_out_of_range_is_refused(cls: type[Any], fields: dict[str, Any]) -> None:
    good = {
        WriteRecord: message.encode(WriteRecord("id1", 0, "f", "s", Record(0, 3, 9, "w", 0, 1))),
        Promised: message.encode(Promised(3, 9, {}, True)),
        StorePiece: message.encode(StorePiece("id1", 0, "f", "n1", 0, True, 3, 9)),
        AppendToBlock: message.encode(AppendToBlock("f", "id1", 0, "w", 0)),
    }[cls]
    message.decode(cls, good)
    with pytest.raises(InvalidMessage):
        message.decode(cls, {**good, **fields})
