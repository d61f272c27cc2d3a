"""The vocabulary of the logs agent: the forms of earlier releases, and refused values."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common import message
from agent.common.errors import InvalidMessage
from agent.logs.core.collector import Collector, Record, Target, record_from_wire
from agent.logs.core.position import Position
from agent.logs.messages import (
    CollectionStatus,
    CollectorState,
    Follow,
    Followed,
    Piece,
    StartSearch,
    Summary,
    TakePiece,
)

POSITION: list[Any] = ["a.log", 65025, 1 << 63, 3, 1024, 1024, 0xFFFFFFFF, ""]


def test_requests_have_the_form_of_earlier_releases() -> None:
    found = message.decode(
        StartSearch, {"type": "logs.search", "search": "s", "pattern": b"x", "files": ["a*"], "after": 2}
    )
    assert (found.files, found.after, found.before, found.since) == (("a*",), 2, None, None)
    assert message.decode(TakePiece, {"search": "s", "number": 1}) == TakePiece("s", 1)
    followed = message.decode(Follow, {"positions": [POSITION], "tail": 10, "since": None, "wait_s": 1.0})
    assert followed.positions == (tuple(POSITION),)
    sent = message.encode(Followed((Position(*POSITION).fields,), (("a.log", 7),)))
    assert msgpack.unpackb(msgpack.packb(sent)) == {"positions": [POSITION], "pieces": [["a.log", 7]]}


def test_answers_of_neighbouring_releases_are_understood() -> None:
    assert message.decode(Piece, {"ok": True, "number": 1, "done": False}) == Piece(1)
    newer = {"number": 2, "done": True, "summary": {"matches": 3, "cpu_s": 0.5}, "compressed": True}
    assert message.decode(Piece, newer) == Piece(2, True, Summary(3))
    assert message.decode(CollectionStatus, {"collects": False}) == CollectionStatus(False)


@pytest.mark.parametrize(
    ("cls", "fields"),
    [
        (StartSearch, {"search": "s"}),
        (StartSearch, {"search": "s" * 65, "pattern": b"x"}),
        (StartSearch, {"search": "s", "pattern": "text"}),
        (StartSearch, {"search": "s", "pattern": b"x", "count": 1}),
        (StartSearch, {"search": "s", "pattern": b"x", "after": 1 << 64}),
        (StartSearch, {"search": "s", "pattern": b"x", "since": float("nan")}),
        (TakePiece, {"search": "s", "number": 0}),
        (TakePiece, {"search": "s", "number": True}),
        (Follow, {"positions": [POSITION[:-1]]}),
        (Follow, {"positions": [["", *POSITION[1:]]]}),
        (Follow, {"positions": [[*POSITION[:-1], "c" * 513]]}),
        (Follow, {"positions": {}}),
        (Followed, {"positions": [], "pieces": [["a.log", -1]]}),
        (CollectionStatus, {"collects": "yes"}),
    ],
)
def test_malformed_fields_are_refused(cls: type[Any], fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidMessage):
        message.decode(cls, fields)


def test_a_record_survives_the_spool() -> None:
    record = Record(Position(*POSITION), Target(2, "20261120", 99), b"lines\n")
    assert record_from_wire(msgpack.unpackb(msgpack.packb(record.to_wire()))) == record


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [POSITION, [1, "20261120", 0]],
        [POSITION, [1, "20261120", -1], b"x"],
        [POSITION, [1, "20261120", 0], "x"],
        [POSITION[:-1], [1, "20261120", 0], b"x"],
        {"position": POSITION},
    ],
)
def test_a_record_that_is_none_is_refused_by_name(value: Any) -> None:
    with pytest.raises(InvalidMessage, match="record of the spool"):
        record_from_wire(value)


def test_a_state_that_contradicts_itself_changes_nothing() -> None:
    core = Collector(target_bytes_max=1000)
    core.restore(CollectorState(4, (Position(*POSITION).fields,), (3,), {"a.log": (1, "20261120", 5)}))
    before = core.snapshot()
    for bad in (CollectorState(4, (), (3,)), CollectorState(3, (Position(*POSITION).fields,), (3,))):
        with pytest.raises(InvalidMessage):
            core.restore(bad)
        assert core.snapshot() == before
    core.check_invariants()
