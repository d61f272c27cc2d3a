"""A leader's logs: fencing, take-over, bad records, appends whose outcome is unknown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest

from agent.common.errors import (
    Conflict,
    Corrupt,
    DeadlineExceeded,
    Fenced,
    InvalidMessage,
    NotFound,
    RainStormError,
    Unavailable,
    UsageError,
)
from agent.common.failure import Failure
from agent.common.shell import threads
from agent.rainstorm.leader.core.effects import AppendLog
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.leader import LogAppended, LogRejected, RecordsRefused, TookOver
from agent.rainstorm.leader.core.status import unreadable
from agent.rainstorm.leader.shell import joblog
from agent.rainstorm.leader.shell.joblog import INDEX_FILE, JobLogs, LogWriter, log_file
from agent.rainstorm.messages.joblog import (
    INDEX,
    JOB_LOG,
    LENGTH,
    CommitRecord,
    EndedRecord,
    GenerationRecord,
    OutcomeRecord,
    SubmittedRecord,
    TermRecord,
    decode,
    encode,
)
from tests.unit.rainstorm.cluster import JOB, job_record, new_job
from tests.unit.rainstorm.memorystore import MemoryStore

FILE = log_file(JOB)
PLACED = {"0.0": "n1", "0.1": "n2", "1.0": "n1", "1.1": "n2"}


@pytest.fixture
def store() -> MemoryStore:
    """A store without files, and no waiting between attempts."""
    return MemoryStore()


def leader(store: MemoryStore, term: int = 1, name: str = "vm1") -> JobLogs:
    """Returns the logs of a leader that has taken over."""
    logs = JobLogs(store.storage(), name, term)
    logs.take_over()
    return logs


def submit(logs: JobLogs, job: str = JOB) -> None:
    """Submits a job."""
    logs.create_log(job)
    logs.open_job(job_record(new_job(job)))


def summary(job: str) -> Any:
    """Returns the status of an ended job."""
    return replace(unreadable(job, 1.0, Failure(), "vm1", 1), state="finished", error=None)


def test_what_one_leader_wrote_the_next_one_reads(store: MemoryStore) -> None:
    """Jobs that have not ended come back with all their records, the others with their summaries."""
    first = leader(store)
    submit(first)
    submit(first, "j-2")
    first.append(JOB_LOG, FILE, [GenerationRecord(1, PLACED, "submitted", 0)])
    first.append(JOB_LOG, FILE, [CommitRecord(1, 1, {0: 5}, {}, {}, {}, (), {}, 0)])
    first.close_job("j-2", summary("j-2"))
    second = JobLogs(store.storage(), "vm2", 2)
    (state,) = second.take_over()
    assert (state.job, state.generation, state.epoch, state.term) == (JOB, 1, 1, 2)
    assert second.ended == {"j-2": summary("j-2")}
    assert second.unreadable == {}


def test_a_leader_that_was_replaced_writes_nothing_more(store: MemoryStore) -> None:
    """Its appends meet a longer file, and after that it stops trying."""
    first = leader(store)
    submit(first)
    leader(store, 2, "vm2")
    before = bytes(store.files[FILE].data)
    with pytest.raises(Conflict):
        first.append(JOB_LOG, FILE, [OutcomeRecord("failed")])
    with pytest.raises(Fenced, match="taken over again"):
        first.append(JOB_LOG, FILE, [OutcomeRecord("failed")])
    assert bytes(store.files[FILE].data) == before


@pytest.mark.parametrize("file", [INDEX_FILE, FILE])
def test_a_leader_of_an_older_term_takes_nothing_over(store: MemoryStore, file: str) -> None:
    """It finds the term of a later leader in the index, or in the log of a job, and appends nothing there."""
    submit(leader(store))
    store.files[file].data += encode(JOB_LOG, [TermRecord(5, "vm5")])
    before = bytes(store.files[file].data)
    with pytest.raises(Fenced, match=f"{file} belongs to a later term than 4"):
        leader(store, 4)
    assert bytes(store.files[file].data) == before
    assert leader(store, 5).unreadable == {}, "its own term is not a later one"


def test_two_take_overs_in_one_term_are_two(store: MemoryStore) -> None:
    """The second one must not be taken for a repetition of the first."""
    submit(leader(store))
    leader(store)
    terms = [record for record in decode(JOB_LOG, store.files[FILE].data) if record.kind == "term"]
    assert terms == [TermRecord(1, "vm1")]
    leader(store)
    assert len([r for r in decode(JOB_LOG, store.files[FILE].data) if r.kind == "term"]) == 2


def test_a_former_leader_that_is_faster_once_more_is_read(store: MemoryStore) -> None:
    """An append between reading and fencing makes the fence fail: the log is read again."""
    first = leader(store)
    submit(first)
    store.fail("append", Conflict("longer"))
    second = JobLogs(store.storage(), "vm2", 2)
    assert [state.job for state in second.take_over()] == [JOB]


BAD_RECORDS = [
    {"t": "commit", "e": [], "g": 1, "positions": {}, "base": {}, "delta": {}, "sink": {}, "done": []},
    {"t": "commit", "e": 1, "g": 1, "counts": {"0.0": ["x", 1]}},
    {"t": "of a later release"},
    {"no": "kind"},
    ["no map"],
]


@pytest.mark.parametrize("bad", BAD_RECORDS)
def test_a_job_with_a_bad_record_is_set_aside_and_the_others_go_on(store: MemoryStore, bad: Any) -> None:
    """The leader lists it as unreadable, with the reason, and leaves its files alone."""
    first = leader(store)
    submit(first)
    submit(first, "j-2")
    body = msgpack.packb(bad)
    store.files[FILE].data += LENGTH.pack(len(body)) + body
    second = JobLogs(store.storage(), "vm2", 2)
    assert [state.job for state in second.take_over()] == ["j-2"]
    status = second.unreadable[JOB]
    assert (status.state, status.submitted_at, status.has_ended) == ("unreadable", 1.0, False)
    assert status.error is not None
    assert status.error.code == "INVALID_MESSAGE"
    assert JOB not in second.ended
    assert FILE in store.files


def test_a_torn_log_and_a_missing_log_set_their_jobs_aside(store: MemoryStore) -> None:
    """Neither stops the leader."""
    first = leader(store)
    for job in (JOB, "j-2", "j-3"):
        submit(first, job)
    store.files[FILE].data += b"\x00\x00\x01\x00rest"
    del store.files[log_file("j-2")]
    second = JobLogs(store.storage(), "vm2", 2)
    assert [state.job for state in second.take_over()] == ["j-3"]
    codes = {job: status.error and status.error.code for job, status in second.unreadable.items()}
    assert codes == {JOB: Corrupt.code, "j-2": NotFound.code}


def test_a_bad_record_of_the_index_is_passed_over(store: MemoryStore) -> None:
    """If it said that a job has ended, the job's own log says so as well."""
    first = leader(store)
    submit(first)
    for bad in BAD_RECORDS:
        body = msgpack.packb(bad)
        store.files[INDEX_FILE].data += LENGTH.pack(len(body)) + body
    store.files[INDEX_FILE].data += encode(INDEX, [SubmittedRecord("j-gone", 1.0)])
    second = JobLogs(store.storage(), "vm2", 2)
    assert [state.job for state in second.take_over()] == [JOB]
    assert list(second.unreadable) == ["j-gone"]


def test_behind_damage_in_the_index_jobs_are_found_by_their_logs(store: MemoryStore) -> None:
    """The logs replace the part of the index that cannot be read."""
    first = leader(store)
    submit(first)
    first.close_job(JOB, summary(JOB))
    store.files[INDEX_FILE].data += b"\xff\xff\xff\xffdamage"
    later = JobLogs(store.storage(), "vm2", 2)
    later.take_over()
    submit(later, "j-2")
    third = JobLogs(store.storage(), "vm3", 3)
    assert [state.job for state in third.take_over()] == ["j-2"]
    assert list(third.ended) == [JOB]


def test_every_append_says_where_the_log_ends(store: MemoryStore) -> None:
    """Numbers and offsets continue from the last append."""
    logs = leader(store)
    submit(logs)
    for generation in (1, 2):
        logs.append(JOB_LOG, FILE, [GenerationRecord(generation, PLACED, "", 0)])
    records = list(decode(JOB_LOG, store.files[FILE].data))
    assert [record.kind for record in records] == ["job", "generation", "generation"]


@pytest.mark.parametrize("outcome", [DeadlineExceeded("late"), Conflict("longer"), Unavailable("no copy")])
def test_after_a_failed_append_nothing_more_is_sent(store: MemoryStore, outcome: RainStormError) -> None:
    """Sending other records under the same number could be taken for a repetition, and be lost."""
    logs = leader(store)
    submit(logs)
    store.fail("append", outcome)
    store.gives_up.set()
    before = len(store.calls)
    with pytest.raises(type(outcome)):
        logs.append(JOB_LOG, FILE, [OutcomeRecord("failed")])
    sent = len(store.calls)
    assert sent == before + 1
    with pytest.raises(Fenced, match="taken over again"):
        logs.append(JOB_LOG, FILE, [OutcomeRecord("finished")])
    assert len(store.calls) == sent


def test_records_that_could_not_be_read_again_are_not_written(store: MemoryStore) -> None:
    """The check comes before the append, so that the log stays usable."""
    logs = leader(store)
    submit(logs)
    bad: Any = GenerationRecord(1, {"no task": "n1"}, "", 0)
    before = bytes(store.files[FILE].data)
    with pytest.raises(InvalidMessage):
        logs.append(JOB_LOG, FILE, [bad])
    assert bytes(store.files[FILE].data) == before
    logs.append(JOB_LOG, FILE, [GenerationRecord(1, PLACED, "", 0)])


def test_records_that_the_store_refuses_leave_the_log_usable(store: MemoryStore) -> None:
    """The store limits the size of an append: nothing was written, so nothing is unknown."""
    logs = leader(store)
    submit(logs)
    store.fail("append", UsageError("one append may have 1024 bytes"))
    with pytest.raises(InvalidMessage, match="1024 bytes"):
        logs.append(JOB_LOG, FILE, [GenerationRecord(1, PLACED, "", 0)])
    logs.append(JOB_LOG, FILE, [GenerationRecord(1, PLACED, "", 0)])
    assert [record.kind for record in decode(JOB_LOG, store.files[FILE].data)] == ["job", "generation"]


def test_an_ended_job_leaves_its_log_and_a_bounded_trace(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its segments are deleted; the oldest summaries are dropped from memory, not from the index."""
    monkeypatch.setattr(joblog, "ENDED_MAX", 2)
    logs = leader(store)
    for job in ("j-1", "j-2", "j-3"):
        submit(logs, job)
        store.put_bytes(f".rainstorm/{job}/segments-n1-000001", b"x")
        logs.close_job(job, summary(job))
    assert list(logs.ended) == ["j-2", "j-3"]
    assert [name for name in store.files if "segments" in name] == []
    ended = [r.job for r in decode(INDEX, store.files[INDEX_FILE].data) if isinstance(r, EndedRecord)]
    assert ended == ["j-1", "j-2", "j-3"]
    store.fail("delete_prefix", Unavailable("no copy"))
    submit(logs, "j-4")
    logs.close_job("j-4", summary("j-4"))
    assert "j-4" in logs.ended


class Writer:
    """A log writer and the events that it posted to the leader core."""

    def __init__(self, store: MemoryStore) -> None:
        self.told: list[Any] = []
        self.writer = LogWriter(store.storage(), "vm1", self.told.append)


def test_a_take_over_is_tried_again_until_the_store_serves(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the core gets the states of the jobs."""
    monkeypatch.setattr(joblog, "TAKE_OVER_RETRY_S", 0.001)
    submit(leader(store))
    store.fail("stat", Unavailable("no copy"), 3)
    found = Writer(store)
    found.writer.take_over(2)
    (event,) = found.told
    assert isinstance(event, TookOver)
    assert (event.term, [state.job for state in event.states]) == (2, [JOB])


def test_taking_over_again_and_again_in_one_term_becomes_slow(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever makes a leader lose its logs again, take-overs must not grow them without bound."""
    monkeypatch.setattr(joblog, "TAKE_OVER_RETRY_S", 0.01)
    monkeypatch.setattr(joblog, "TAKE_OVER_RETRY_S_MAX", 0.03)
    found = Writer(store)
    pauses = []
    for term in (1, 1, 1, 1, 2):
        found.writer.take_over(term)
        pauses.append(found.writer._pause_s)
    assert pauses == [0.0, 0.01, 0.02, 0.03, 0.0]
    monkeypatch.setattr(joblog, "TAKE_OVER_AGAIN_S", 0.0)
    found.writer.take_over(2)
    assert found.writer._pause_s == 0.0


def test_a_take_over_that_is_refused_or_cut_short_says_nothing(store: MemoryStore) -> None:
    """The view will name the leader."""
    leader(store, 5)
    found = Writer(store)
    found.writer.take_over(4)
    found.writer.append(AppendLog(JOB, 1, []))
    assert found.told == []
    store.fail("stat", Unavailable("no copy"), 1000)
    thread = threads.start("take-over", found.writer.take_over, 6)
    found.writer.stop()
    thread.join(5.0)
    assert not thread.is_alive()
    assert found.told == []


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (None, LogAppended),
        (Conflict("x"), LogRejected),
        (NotFound("x"), LogRejected),
        (Corrupt("x"), LogRejected),
    ],
)
def test_the_core_learns_the_outcome_of_each_append(
    store: MemoryStore, error: RainStormError | None, outcome: type[Any]
) -> None:
    """A leader that does not know whether the records are in the log must take over again."""
    found = Writer(store)
    found.writer.take_over(1)
    assert found.writer.logs is not None
    submit(found.writer.logs)
    if error is not None:
        store.fail("append", error)
    found.writer.append(AppendLog(JOB, 7, [GenerationRecord(1, PLACED, "", 0)]))
    assert isinstance(found.told[-1], outcome)
    if error is None:
        (_, record) = decode(JOB_LOG, store.files[FILE].data)
        assert found.told[-1] == LogAppended(JOB, 7, record.at)
        assert record.at > 0


def test_the_core_learns_that_its_records_are_refused(store: MemoryStore) -> None:
    """The job cannot go on, but the leader can."""
    found = Writer(store)
    found.writer.take_over(1)
    assert found.writer.logs is not None
    submit(found.writer.logs)
    bad: Any = GenerationRecord(1, {"no task": "n1"}, "", 0)
    found.writer.append(AppendLog(JOB, 7, [bad]))
    event = found.told[-1]
    assert isinstance(event, RecordsRefused)
    assert (event.job, event.token, event.error.code) == (JOB, 7, "INVALID_MESSAGE")


def test_a_state_comes_back_whole() -> None:
    """The header that a submission made survives the log."""
    state = new_job()
    found = JobState()
    for record in decode(JOB_LOG, encode(JOB_LOG, [job_record(state)])):
        found.apply(record)
    assert found == state
