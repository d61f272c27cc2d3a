"""Hostile messages and log records of the stream engine, alone, in its cores and against a real service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.common import message
from agent.common.errors import Corrupt, InvalidMessage, JobInvalid, RainStormError
from agent.rainstorm.host.core.events import CommandReceived, TaskGone, TaskPrepared, TaskSnapshot
from agent.rainstorm.host.core.host import HostCore
from agent.rainstorm.job import header, plan
from agent.rainstorm.job.spec import parse
from agent.rainstorm.leader.core.joblog import fold
from agent.rainstorm.leader.core.jobmachine import JobMachine
from agent.rainstorm.leader.core.leader import ReportReceived
from agent.rainstorm.leader.core.status import describe
from agent.rainstorm.messages import channel, client, commands, control, joblog, reports, status
from agent.rainstorm.messages.commands import COMMANDS, CommandRequest
from agent.rainstorm.messages.control import FROM_TASK, TO_TASK
from agent.rainstorm.messages.joblog import INDEX, JOB_LOG, LENGTH
from agent.rainstorm.messages.reports import REPORTS, ReportRequest
from agent.rainstorm.task.state.keyed import decode_changes
from agent.wire.client import Client
from tests import untyped
from tests.fuzz.strategies import check, hostile, junk, message_classes, valid
from tests.support import wait_until
from tests.unit.rainstorm.cluster import JOB, Cluster, job_record, new_job
from tests.unit.rainstorm.host.shell.test_host import Recorder
from tests.unit.rainstorm.host.shell.test_supervisor import ASSIGN, KEY
from tests.unit.rainstorm.host.shell.test_supervisor import Node as Processes
from tests.unit.rainstorm.test_service import Node as Agent

MODULES = (header, channel, client, commands, control, joblog, reports, status)
CLASSES = [cls for module in MODULES for cls in message_classes(module)]
REQUESTS = [cls for cls in CLASSES if issubclass(cls, message.Request)]
VOCABULARIES: list[message.Vocabulary[Any]] = [
    COMMANDS,
    REPORTS,
    TO_TASK,
    FROM_TASK,
    channel.CHANNEL,
    JOB_LOG,
    INDEX,
]
# A frame that msgpack itself refuses never leaves a client; these are defects of ours.
DEFECTS = {"INTERNAL"}
FIXTURES = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]


@given(st.data())
@settings(max_examples=150)
def test_hostile_messages_are_refused_or_valid(data: st.DataObject) -> None:
    """Hostile fields of any class give InvalidMessage or a message, and nothing else."""
    cls = data.draw(st.sampled_from(CLASSES))
    check(cls, data.draw(hostile(cls)))


@given(st.data())
@settings(max_examples=100)
def test_hostile_kinds_are_refused_or_valid(data: st.DataObject) -> None:
    """The field with the kind may have any value too."""
    vocabulary = data.draw(st.sampled_from(VOCABULARIES))
    cls = data.draw(st.sampled_from(list(vocabulary.classes.values())))
    fields = data.draw(hostile(cls))
    if isinstance(fields, dict):
        fields[vocabulary.tag] = data.draw(st.one_of(st.just(cls.kind), junk()))
    try:
        found = vocabulary.decode(fields)
    except InvalidMessage:
        return
    assert vocabulary.decode(vocabulary.encode(found)) == found


@given(junk())
@settings(max_examples=50)
def test_a_hello_on_a_channel_is_refused_or_valid(fields: Any) -> None:
    """The field of its sender has a name that Python reserves."""
    for hello in ({"from": fields, "generation": 1}, {"from": "0.0", "generation": fields}):
        try:
            found = channel.Hello.decode(hello)
        except InvalidMessage:
            continue
        assert channel.Hello.decode(found.encode()) == found


@given(st.binary(max_size=60), junk())
@settings(max_examples=100)
def test_bytes_of_a_log_or_a_segment_are_refused_by_name(data: bytes, value: Any) -> None:
    """This holds for any bytes from a disk or a task."""
    bodies = [data]
    with contextlib.suppress(ValueError, OverflowError, TypeError):  # msgpack cannot deliver it
        bodies.append(msgpack.packb(value))
    for body in bodies:
        for vocabulary in VOCABULARIES[-2:]:
            with pytest.raises((InvalidMessage, Corrupt)):
                list(joblog.decode(vocabulary, LENGTH.pack(len(body)) + body))
        try:
            decode_changes(body)
        except Corrupt:
            continue


RECORDS = [joblog.TermRecord, joblog.GenerationRecord, joblog.CommitRecord, joblog.OutcomeRecord]


@given(st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_a_log_that_is_let_through_can_be_led(data: st.DataObject) -> None:
    """A leader runs, describes and ends the job, or refuses its log: it never fails on it."""
    machine = new_job()
    tasks = JobMachine(machine, 1, ["n1"]).plan.tasks()
    records: list[Any] = [job_record(machine)]
    for cls in data.draw(st.lists(st.sampled_from(RECORDS), max_size=4)):
        fields = data.draw(valid(cls))
        if cls is joblog.GenerationRecord and data.draw(st.booleans()):
            fields["placement"] = dict.fromkeys(tasks, "n1")
        records.append(message.decode(cls, fields))
    try:
        state = fold(JOB, joblog.decode(JOB_LOG, joblog.encode(JOB_LOG, records)))
    except Corrupt:
        return
    found = JobMachine(state, state.term + 1, ["n1", "n2"])
    found.begin(1.0, "taken over")
    check(status.JobStatus, message.encode(describe(found, 2.0, "n1")))
    found.cancel(3.0)


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_no_report_that_is_let_through_stops_a_leader(data: st.DataObject) -> None:
    """This holds for senseless reports, and in any phase of the job."""
    cluster = Cluster()
    cluster.lead()
    cluster.submit()
    for _ in range(data.draw(st.integers(0, 2))):
        cluster.settle()
        cluster.pass_time(0.125)
    for cls in data.draw(st.lists(st.sampled_from(list(REPORTS.classes.values())), max_size=4)):
        fields = {**data.draw(valid(cls)), "job": JOB}
        if data.draw(st.booleans()):
            machine = cluster.leader.jobs[JOB]
            fields["generation"] = machine.state.generation
            if "epoch" in fields:
                fields["epoch"] = machine.state.epoch_max
        cluster.tell_leader(ReportReceived("n1", message.decode(cls, fields)))
    assert JOB in cluster.leader.jobs


@given(st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_no_message_that_is_let_through_stops_a_host(data: st.DataObject) -> None:
    """Neither a command nor a message of a task does."""
    core = HostCore("n1")
    for cls in data.draw(st.lists(st.sampled_from(list(COMMANDS.classes.values())), max_size=4)):
        fields = {**data.draw(valid(cls)), "term": 1}
        core.handle(0.0, CommandReceived(message.decode(cls, fields)))
    for job, known in list(core.jobs.items()):
        task = known.tasks[0] if known.tasks else "0.0"
        generation = known.generation
        said = message.decode(control.Snapshot, data.draw(valid(control.Snapshot)))
        core.handle(0.0, TaskSnapshot(job, task, said, b"s", b"o"))
        core.handle(0.0, TaskPrepared(job, task, generation, "h", 1, 1, {}))
        core.handle(0.0, TaskGone(job, task, generation, "cause", None))
        core.check_invariants()


@given(st.one_of(hostile(header.SourceHeader), valid(header.SourceHeader)))
@settings(max_examples=80)
def test_a_header_that_is_let_through_makes_a_plan_or_is_refused(fields: Any) -> None:
    """A split that no task reads would be lost silently."""
    found = check(header.SourceHeader, fields)
    if found is not None:
        try:
            plan.make(parse(new_job().spec), found)
        except JobInvalid:
            return


@given(st.one_of(junk(), st.dictionaries(st.sampled_from(["source", "stages", "sink", "name"]), junk())))
@settings(max_examples=100)
def test_a_hostile_job_file_is_refused_by_place(raw: Any) -> None:
    """It gives JobInvalid or a job, and nothing else."""
    with pytest.raises(JobInvalid):
        parse(raw)


@pytest.fixture
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """A service that leads, without other nodes."""
    with pytest.MonkeyPatch.context() as patch:
        made = Agent(tmp_path_factory.mktemp("agent"), patch)
        patch.setattr(made.service, "_require_node", lambda call: None)
        made.service._host.supervisor = cast("Any", Recorder())
        made.lead()
        try:
            yield made
        finally:
            made.close()


@given(data=st.data())
@settings(max_examples=80, suppress_health_check=FIXTURES)
def test_a_service_answers_every_request_with_a_code(agent: Agent, data: st.DataObject) -> None:
    """Nothing is written, and the service survives."""
    cls = data.draw(st.sampled_from(REQUESTS))
    fields = data.draw(hostile(cls))
    if cls in (CommandRequest, ReportRequest):
        field, vocabulary = ("message", COMMANDS) if cls is CommandRequest else ("report", REPORTS)
        inner: Any = data.draw(st.sampled_from(list(vocabulary.classes.values())))
        fields = {field: {**_map(data.draw(hostile(inner))), "type": inner.kind}}
    fields = _map(fields)
    fields.pop("wait_s", None)
    before = dict(agent.store.files)
    refused = agent.server.refused.total()
    code = ask(agent.wire, agent.path, cls.kind, fields)
    assert code not in DEFECTS
    assert agent.store.files == before
    assert (agent.server.refused.total() > refused) is (code == InvalidMessage.code)
    assert agent.client.jobs() == []


def _map(fields: Any) -> dict[Any, Any]:
    return dict(fields) if isinstance(fields, dict) else {"junk": fields}


def ask(wire: Client, target: str, kind: str, fields: dict[Any, Any]) -> str:
    """Returns the code with which a request is refused, '' when it is not."""
    try:
        untyped.send(wire, target, kind, fields, timeout_s=10.0)
    except RainStormError as error:
        return error.code
    except (ValueError, TypeError, OverflowError):
        return ""  # a client cannot pack it
    return ""


@given(data=st.data())
@settings(max_examples=25, suppress_health_check=FIXTURES)
def test_a_task_that_sends_anything_harms_itself_only(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """It is ended and named, or its message is valid; its supervisor survives."""
    cls = data.draw(st.sampled_from(list(FROM_TASK.classes.values())))
    fields = _map(data.draw(hostile(cls)))
    fields["t"] = cls.kind
    folder: Path = tmp_path_factory.mktemp("task")
    node = Processes(folder)
    try:
        node.supervisor.assign(KEY, 1, False, ASSIGN)
        task = node.launcher.task(1)
        task.hello(1)
        try:
            task.send_header(fields)
        except (ValueError, TypeError, OverflowError):
            return  # a task cannot pack it
        with contextlib.suppress(RainStormError):  # it may already have been ended
            task.send(control.EpochWanted(1, False))
        task.connection.close()
        node.launcher.end(1)
        wait_until(lambda: node.exits, 5, "the task is reported as ended")
        assert node.supervisor.refused <= 1
    finally:
        node.close()
