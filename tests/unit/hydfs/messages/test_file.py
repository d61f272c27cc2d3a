"""The messages of a store's clients: neighbouring releases understand each other, the rest is refused."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.common.message import COUNTER_MAX
from agent.hydfs.messages import file as messages
from agent.hydfs.messages.file import Append, AppendResult, Described, FileStat, PutBegun, Read, StoredBlock
from tests.fuzz.strategies import message_classes

STAT: dict[str, Any] = {
    "name": "f",
    "file_id": "id1",
    "length": 10,
    "blocks": [{"number": 0, "offset": 0, "length": 10, "replicas": ["a"], "state": "sealed", "later": 1}],
}


def over_the_wire(sent: Any) -> Any:
    return message.decode(type(sent), msgpack.unpackb(msgpack.packb(message.encode(sent))))


def test_messages_survive_the_wire() -> None:
    for sent in (
        Append("f", "w", 3, None),
        Append("f", "w", COUNTER_MAX, 0),
        AppendResult(-1, 0, 3, True),
        message.decode(Described, {"stat": STAT}),
        StoredBlock("", "id1", 0, 5, "promised", ""),
    ):
        assert over_the_wire(sent) == sent


def test_a_newer_release_may_say_more_and_an_older_one_less() -> None:
    stat = message.decode(FileStat, {**STAT, "later": {"x": 1}})
    assert stat.blocks[0].ring_id == ""
    assert message.decode(Read, {"name": "f", "offset": 0, "length": 5, "later": 1}).file_id is None
    assert message.decode(Append, {"name": "f", "writer": "w", "sequence": 0}).if_offset is None


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (Append, {"name": "f", "writer": "w", "sequence": -1}),
        (Append, {"name": "f", "writer": "w", "sequence": 1.5}),
        (Append, {"name": "f", "writer": "", "sequence": 1}),
        (Append, {"name": "f" * 70_000, "writer": "w", "sequence": 1}),
        (Read, {"name": "f", "offset": 0, "length": COUNTER_MAX + 1}),
        (Read, {"name": "f", "offset": 0, "length": 1, "file_id": "../../etc/passwd"}),
        (FileStat, {**STAT, "length": -1}),
        (FileStat, {**STAT, "blocks": [{**STAT["blocks"][0], "state": "melted"}]}),
        (PutBegun, {"file_id": "id1", "piece_bytes": 0}),
    ],
)
def test_what_is_out_of_range_is_refused(cls: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        message.decode(cls, fields)


def test_every_request_has_a_kind_of_its_own() -> None:
    kinds = [cls.kind for cls in message_classes(messages) if issubclass(cls, message.Request)]
    assert len(kinds) == len(set(kinds))
    assert all(kind.startswith("hydfs.") for kind in kinds)
