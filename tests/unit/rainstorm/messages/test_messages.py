"""Neighbouring releases understand each other: each vocabulary reads the previous release's messages."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from agent.common import message
from agent.common.errors import Corrupt, InvalidMessage
from agent.rainstorm.messages import channel, client, commands, control, joblog, reports
from agent.rainstorm.messages.commands import COMMANDS, CommandRequest
from agent.rainstorm.messages.control import FIRST_OF_TASK, FROM_TASK, TO_TASK
from agent.rainstorm.messages.joblog import INDEX, JOB_LOG, LENGTH
from agent.rainstorm.messages.reports import REPORTS, ReportRequest

JOB: dict[str, Any] = {"job": "j-1", "term": 3, "generation": 2}
HEADER = {
    "columns": ["k"],
    "data_start": 0,
    "data_end": 9,
    "batch_bytes": 100,
    "file_id": "f",
    "splits": [[0, 0, 9, 0]],
    "homes": {"0.0": "n1"},
}
TASK = {
    "epoch": 4,
    "done": False,
    "segments": [["s", 0, 5]],
    "in_place": True,
    "positions": {0: 7},
    "counts": [1, 2],
}
ERROR = {"code": "JOB_FAILED", "message": "m", "hint": "", "details": {}}
STATUS = {
    "job": "j-1",
    "name": "n",
    "state": "finished",
    "error": None,
    "submitted_at": 1.0,
    "finished_at": 2.0,
    "elapsed_s": 1.0,
    "epochs_committed": 1,
    "epoch": 1,
    "lines_read": 1,
    "lines_total": 0,
    "bytes_read": 1,
    "bytes_total": 1,
    "lines_per_s": 0.0,
    "generation": 1,
    "commits": [{"epoch": 1, "generation": 1, "records": 1, "at": 1.5}],
    "recoveries": [{"generation": 2, "cause": "c", "at": 1.5, "seconds": None}],
    "tasks": [],
    "sink": "out",
    "leader": "n1",
    "term": 1,
}
# Messages of earlier releases, word for word: a change here breaks a rolling upgrade.
BEFORE: list[tuple[message.Vocabulary[Any], dict[str, Any]]] = [
    (
        COMMANDS,
        {
            "type": "deploy",
            **JOB,
            "spec": {},
            "header": HEADER,
            "tasks": {"0.0": TASK},
            "survey": True,
            "identity": b"p",
        },
    ),
    (
        COMMANDS,
        {"type": "start", **JOB, "endpoints": {"0.0": ["127.0.0.1", 9]}, "inside": {0: True}, "epoch": 4},
    ),
    (COMMANDS, {"type": "trigger", **JOB, "epoch": 5, "committed": 4}),
    (
        COMMANDS,
        {"type": "publish", **JOB, "epoch": 5, "task": "1.0", "sink": "out", "references": [["s", 0, 5]]},
    ),
    (COMMANDS, {"type": "stop", **JOB}),
    (COMMANDS, {"type": "keep", "term": 3, "jobs": {"j-1": 2}}),
    (COMMANDS, {"type": "ping", "term": 3}),
    (
        REPORTS,
        {
            "type": "prepared",
            "job": "j-1",
            "generation": 2,
            "node": "n1",
            "endpoints": {"0.0": {"host": "127.0.0.1", "port": 9, "pid": 7, "node": "n1"}},
            "quotes": {0: 3},
        },
    ),
    (
        REPORTS,
        {
            "type": "ack",
            "job": "j-1",
            "generation": 2,
            "node": "n1",
            "epoch": 5,
            "tasks": {
                "0.0": {
                    "base": False,
                    "positions": {0: 8},
                    "done": True,
                    "records": 1,
                    "bytes": 2,
                    "state": [["s", 0, 5]],
                    "sink": [],
                }
            },
        },
    ),
    (
        REPORTS,
        {
            "type": "epoch-wanted",
            "job": "j-1",
            "generation": 2,
            "node": "n1",
            "task": "0.0",
            "done": True,
        },
    ),
    (REPORTS, {"type": "published", "job": "j-1", "generation": 0, "node": "n1", "epoch": 5, "task": "1.0"}),
    (
        REPORTS,
        {
            "type": "publication-refused",
            "job": "j-1",
            "generation": 0,
            "node": "n1",
            "epoch": 5,
            "task": "1.0",
            "error": ERROR,
        },
    ),
    (
        REPORTS,
        {
            "type": "task-failed",
            "job": "j-1",
            "generation": 2,
            "node": "n1",
            "task": "0.0",
            "cause": "c",
            "error": None,
        },
    ),
    (
        TO_TASK,
        {
            "type": "assign",
            **JOB,
            **TASK,
            "task": "0.0",
            "spec": {},
            "header": HEADER,
            "survey": False,
            "identity": b"p",
        },
    ),
    (FIRST_OF_TASK, {"t": "hello", "pid": 7, "port": 9}),
    (
        FROM_TASK,
        {"t": "prepared", "generation": 2, "task": "0.0", "host": "127.0.0.1", "port": 9, "quotes": {0: 1}},
    ),
    (
        FROM_TASK,
        {
            "t": "snapshot",
            "generation": 2,
            "task": "0.0",
            "epoch": 5,
            "state_bytes": 3,
            "base": False,
            "positions": {0: 8},
            "done": False,
            "records": 1,
            "bytes": 2,
        },
    ),
    (FROM_TASK, {"t": "epoch-wanted", "generation": 2, "task": "0.0", "done": True}),
    (FROM_TASK, {"t": "error", "generation": 2, "task": "0.0", "error": ERROR}),
    (channel.CHANNEL, {"t": "batch"}),
    (channel.CHANNEL, {"t": "barrier", "epoch": 5}),
    (channel.CHANNEL, {"t": "end"}),
]
LOGGED: list[tuple[message.Vocabulary[Any], dict[str, Any]]] = [
    (JOB_LOG, {"t": "job", "job": "j-1", "spec": {}, "header": HEADER, "sink": "out", "at": 1.0}),
    (JOB_LOG, {"t": "term", "term": 3, "node": "n1"}),
    (
        JOB_LOG,
        {"t": "generation", "g": 2, "placement": {"0.0": "n1"}, "cause": "c", "epoch_max": 4, "at": 1.0},
    ),
    (
        JOB_LOG,
        {
            "t": "commit",
            "e": 5,
            "g": 2,
            "positions": {0: 8},
            "base": {},
            "delta": {"1.0": [["s", 0, 5]]},
            "sink": {},
            "done": ["0.0"],
            "counts": {"0.0": [1, 2]},
            "published": 4,
            "at": 1.0,
        },
    ),
    (JOB_LOG, {"t": "outcome", "outcome": "failed", "error": ERROR, "at": 1.0}),
    (INDEX, {"t": "submitted", "job": "j-1", "at": 1.0}),
    (INDEX, {"t": "ended", "job": "j-1", "summary": STATUS}),
    (INDEX, {"t": "term", "term": 3, "node": "n1"}),
]


def packed(value: Any) -> Any:
    """Returns a value as it comes off the wire."""
    return msgpack.unpackb(msgpack.packb(value), raw=False, strict_map_key=False)


@pytest.mark.parametrize(("vocabulary", "fields"), BEFORE)
def test_the_wire_is_that_of_the_release_before(
    vocabulary: message.Vocabulary[Any], fields: dict[str, Any]
) -> None:
    """Its messages are read completely, and it gets every field that it expects."""
    sent = vocabulary.encode(vocabulary.decode(packed(fields)))
    assert packed(sent) == packed(fields)
    newer = {**fields, "of a later release": [1]}
    assert vocabulary.decode(packed(newer)) == vocabulary.decode(packed(fields))


@pytest.mark.parametrize(("vocabulary", "fields"), LOGGED)
def test_the_log_is_that_of_the_release_before(
    vocabulary: message.Vocabulary[Any], fields: dict[str, Any]
) -> None:
    """Either release may lead next."""
    body = msgpack.packb(fields)
    (record,) = joblog.decode(vocabulary, LENGTH.pack(len(body)) + body)
    written = joblog.encode(vocabulary, [record])
    stored = msgpack.unpackb(written[LENGTH.size :], raw=False, strict_map_key=False)
    assert {name: stored[name] for name in fields} == packed(fields)
    assert set(stored) - set(fields) <= {"at"}


def test_a_hello_between_tasks_is_that_of_the_release_before() -> None:
    """The field of the sender has a name that Python reserves."""
    fields = {"from": "0.0", "generation": 2}
    assert channel.Hello.decode(fields).encode() == fields
    for bad in ({"generation": 2}, {"sender": "0.0", "generation": 2}, {"from": "x", "generation": 2}):
        with pytest.raises(InvalidMessage):
            channel.Hello.decode(bad)


@pytest.mark.parametrize(
    ("kind", "fields", "missing"),
    [
        (COMMANDS, {"type": "deploy", **JOB, "spec": {}, "header": HEADER, "tasks": {}}, commands.Deploy),
        (REPORTS, {"type": "published", "job": "j-1", "epoch": 1, "task": "1.0"}, reports.Published),
        (
            TO_TASK,
            {"type": "start", "generation": 1, "endpoints": {}, "inside": {}, "epoch": 0},
            control.Start,
        ),
    ],
)
def test_fields_that_may_be_missing_have_defaults(
    kind: message.Vocabulary[Any], fields: dict[str, Any], missing: type[Any]
) -> None:
    """A message of an earlier release lacks the fields that were added later."""
    assert isinstance(kind.decode(fields), missing)


def test_requests_carry_commands_and_reports() -> None:
    """Unread until the handler decodes them; an unknown one is refused by name."""
    ping = commands.Ping(3)
    assert CommandRequest.of(ping) == CommandRequest({"type": "ping", "term": 3})
    assert CommandRequest.of(ping).command() == ping
    published = reports.Published("j-1", 1, "1.0")
    assert ReportRequest.of(published).message() == published
    for refused in (CommandRequest({}).command, ReportRequest({"type": "ack"}).message):
        with pytest.raises(InvalidMessage):
            refused()


def test_requests_of_clients_are_those_of_the_release_before() -> None:
    """Their kinds, and the fields that they may leave out."""
    kinds = {
        each.kind
        for each in (client.Submit, client.Jobs, client.Job, client.Wait, client.Cancel, client.Kill)
    }
    assert kinds == {f"rainstorm.{name}" for name in ("submit", "jobs", "job", "wait", "cancel", "kill")}
    assert message.decode(client.Kill, {"node": None, "task": "1.0", "pid": None}).task == "1.0"
    assert message.decode(client.OneJob, {"ok": True, "status": STATUS}).status.has_ended


def test_a_torn_log_is_noticed_wherever_it_is_cut() -> None:
    """If it is cut between records it is a shorter log; cut anywhere else it is corrupt."""
    records: list[Any] = [joblog.TermRecord(number, "n1") for number in range(3)]
    data = joblog.encode(JOB_LOG, records)
    size = len(data) // 3
    for cut in range(len(data)):
        if cut % size:
            with pytest.raises(Corrupt, match="ends inside a record"):
                list(joblog.decode(JOB_LOG, data[:cut]))
        else:
            assert list(joblog.decode(JOB_LOG, data[:cut])) == records[: cut // size]
