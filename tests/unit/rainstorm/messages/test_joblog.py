"""The records of job logs: their format in a file; records that cannot be read are never written."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common.errors import Corrupt, InvalidMessage
from agent.rainstorm.messages.joblog import (
    INDEX,
    JOB_LOG,
    LENGTH,
    CommitRecord,
    GenerationRecord,
    OutcomeRecord,
    SubmittedRecord,
    TermRecord,
    bodies,
    decode,
    decode_body,
    encode,
)

COMMIT = CommitRecord(
    epoch=3,
    generation=2,
    positions={0: 10},
    base={},
    delta={"1.0": (("segments", 0, 5),)},
    sink={},
    done=("0.0",),
    counts={"0.0": (4, 40)},
    published=2,
)
RECORDS: list[Any] = [
    TermRecord(4, "n1"),
    GenerationRecord(2, {"0.0": "n1"}, "why", 3),
    COMMIT,
    OutcomeRecord("finished"),
]


def test_records_are_read_as_they_were_written() -> None:
    """They follow each other, each with its length."""
    data = encode(JOB_LOG, RECORDS)
    assert list(decode(JOB_LOG, data)) == RECORDS
    assert [len(body) for body in bodies(data)] == [
        len(encode(JOB_LOG, [record])) - LENGTH.size for record in RECORDS
    ]


def test_the_fields_of_every_commit_have_short_names_on_disk() -> None:
    """Earlier releases wrote them so, and they are read again."""
    (body,) = bodies(encode(JOB_LOG, [COMMIT]))
    fields = msgpack.unpackb(body, strict_map_key=False)
    assert (fields["t"], fields["e"], fields["g"]) == ("commit", 3, 2)
    assert not {"epoch", "generation"} & fields.keys()
    assert decode_body(JOB_LOG, body) == COMMIT


@pytest.mark.parametrize("cut", [1, 3, 4, 5, -1])
def test_a_log_that_ends_inside_a_record_is_damaged(cut: int) -> None:
    """HyDFS appends whole records, so half of one never comes from a crash."""
    data = encode(JOB_LOG, [TermRecord(4)])
    with pytest.raises(Corrupt, match="inside a record"):
        list(bodies(data[:cut]))


def test_a_record_that_could_not_be_read_again_is_not_written() -> None:
    """Nor are the other records of its append: a leader that takes over must be able to read all of them."""
    records: list[Any] = [TermRecord(4), GenerationRecord(-1, {}, "", 0)]
    with pytest.raises(InvalidMessage):
        encode(JOB_LOG, records)


@pytest.mark.parametrize(
    "body",
    [
        b"\xc1",
        msgpack.packb([1]),
        msgpack.packb({"t": "commit"}),
        msgpack.packb({"t": "nothing known"}),
        msgpack.packb({"t": "term", "term": "x"}),
        msgpack.packb({"t": "term", "term": -1}),
    ],
)
def test_bytes_that_hold_something_else_are_refused(body: bytes) -> None:
    """The error names the log."""
    with pytest.raises(InvalidMessage, match="job log"):
        decode_body(JOB_LOG, body)


def test_a_record_of_another_release_is_read() -> None:
    """A field that is new is ignored, one that is missing has its default."""
    body = msgpack.packb({"t": "term", "term": 9, "why": "newer"})
    assert decode_body(JOB_LOG, body) == TermRecord(9)


def test_the_index_knows_other_records_than_a_log() -> None:
    """A record of one vocabulary is not a record of the other."""
    (body,) = bodies(encode(INDEX, [SubmittedRecord("j-1", 5.0)]))
    assert decode_body(INDEX, body) == SubmittedRecord("j-1", 5.0)
    with pytest.raises(InvalidMessage):
        decode_body(JOB_LOG, body)
