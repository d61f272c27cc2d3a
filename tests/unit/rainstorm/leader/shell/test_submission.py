"""From a job file to a job that the leader can run: a mistake is refused before anything changes."""

from __future__ import annotations

import csv
from typing import Any

import pytest

from agent.common.errors import AlreadyExists, JobInvalid, NotFound, RainStormError
from agent.rainstorm.job.plan import LINE
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.shell import submission
from agent.rainstorm.leader.shell.submission import prepare
from tests.unit.rainstorm.chain import job_file
from tests.unit.rainstorm.memorystore import MemoryStore

IDENTITY = {"operator": "identity", "tasks": 2}


def prepared(data: bytes, **source: Any) -> JobState:
    """Returns the state of a job over these bytes."""
    store = MemoryStore()
    store.replicas = ("n2", "n3")
    store.put_bytes("in", data)
    raw = job_file(IDENTITY, **source)
    return prepare(store.storage(), raw, "j-7", 1000, ["n1", "n2"], 5.0)


@pytest.mark.parametrize(
    ("data", "source", "columns", "start"),
    [
        (b"a\nb\n", {}, (LINE,), 0),
        (b"\xef\xbb\xbfa\nb\n", {}, (LINE,), 3),
        (b"a,b\n1,2\n", {"format": "csv"}, ("a", "b"), 4),
        (b'\n\r\n"a\n",b\n1,2\n', {"format": "csv"}, ("a\n", "b"), 10),
        (b"\xef\xbb\xbfa,b\n1,2\n", {"format": "csv"}, ("a", "b"), 7),
        (b"a,b", {"format": "csv"}, ("a", "b"), 3),
        (b"1,2\n", {"format": "csv", "header": False}, ("c1", "c2"), 0),
        (b"1,2\n", {"format": "csv", "columns": ["x", "y"]}, ("x", "y"), 0),
        (b"", {"format": "csv", "header": False}, (), 0),
    ],
)
def test_the_columns_and_the_begin_of_the_data_are_found(
    data: bytes, source: dict[str, Any], columns: tuple[str, ...], start: int
) -> None:
    """They come after byte-order marks, blank lines and a header."""
    state = prepared(data, **source)
    assert (state.header.columns, state.header.data_start, state.header.data_end) == (
        columns,
        start,
        len(data),
    )


def test_source_tasks_go_where_the_data_is() -> None:
    """Splits cover the data; the destination exists afterwards, under its final name."""
    state = prepared(b"0123456789\n" * 30)
    assert state.header.homes == {"0.0": "n2", "0.1": "n1"}
    assert state.header.splits[0][1] == 0
    assert state.header.splits[-1][2] == 330
    assert (state.job, state.submitted_at, state.header.batch_bytes) == ("j-7", 5.0, 1000)


def test_the_jobs_id_takes_its_place_in_the_name_of_the_destination() -> None:
    """So that a job file can be used again."""
    store = MemoryStore()
    store.put_bytes("in", b"a\n")
    raw = {**job_file(IDENTITY), "sink": {"file": "out-{job}"}}
    state = prepare(store.storage(), raw, "j-7", 1000, [], 5.0)
    assert (state.sink, "out-j-7" in store.files) == ("out-j-7", True)
    assert state.spec["sink"] == {"file": "out-j-7"}


@pytest.mark.parametrize(
    ("raw", "error", "message"),
    [
        ("no job", JobInvalid, "expected a mapping"),
        ({"sink": "out"}, JobInvalid, "stages"),
        ({**job_file(IDENTITY), "sink": {"file": 3}}, JobInvalid, "sink"),
        (job_file(IDENTITY, file="absent"), NotFound, "fab put"),
        (job_file({"operator": "filter", "column": "z", "equals": "1"}, format="csv"), JobInvalid, "'z'"),
        ({**job_file(IDENTITY), "sink": {"file": "taken"}}, AlreadyExists, "the destination 'taken' exists"),
        (job_file(IDENTITY, file="empty", format="csv"), JobInvalid, "is empty"),
        (job_file(IDENTITY, file="doubled", format="csv"), JobInvalid, "two columns"),
        (job_file(IDENTITY, file="wide", format="csv"), JobInvalid, "2 columns; the limit is 1"),
        (job_file(IDENTITY, file="long", format="csv"), JobInvalid, "longer than 8 bytes"),
    ],
)
def test_a_job_that_cannot_be_run_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, raw: Any, error: type[RainStormError], message: str
) -> None:
    """The error names the mistake."""
    store = MemoryStore()
    for name, data in (
        ("in", b"a\n1\n"),
        ("taken", b""),
        ("empty", b""),
        ("doubled", b"a,a\n"),
        ("wide", b"a,b\n"),
        ("long", b"abcdefghijklmno\n"),
    ):
        store.put_bytes(name, data)
    if "wide" in message or "the limit" in message:
        monkeypatch.setattr(submission, "COLUMNS_MAX", 1)
    if "longer" in message:
        monkeypatch.setattr(submission, "HEADER_BYTES_MAX", 8)
    before = list(store.files)
    with pytest.raises(error) as refused:
        prepare(store.storage(), raw, "j-7", 1000, ["n1"], 5.0)
    assert message in f"{refused.value.message} {refused.value.hint}"
    assert list(store.files) == before


def test_a_first_record_that_csv_cannot_read_is_named() -> None:
    """A field beyond the limit of Python's csv module."""
    store = MemoryStore()
    store.put_bytes("in", b"a-long-field,b\n")
    before = csv.field_size_limit(5)
    try:
        with pytest.raises(JobInvalid, match="is not CSV"):
            prepare(store.storage(), job_file(IDENTITY, format="csv"), "j-7", 1000, ["n1"], 5.0)
    finally:
        csv.field_size_limit(before)
