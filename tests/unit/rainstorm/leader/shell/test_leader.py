"""The dispatcher: submissions, statuses, waits, and the behaviour of its threads after failures."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidMessage,
    JobInvalid,
    NotFound,
    NotLeader,
    RainStormError,
    Unavailable,
)
from agent.common.shell import clock
from agent.rainstorm.leader.core.effects import AppendLog, DeleteFiles
from agent.rainstorm.leader.core.leader import (
    CancelRequested,
    LogRejected,
    NodeLife,
    ReplyStatus,
    StepDown,
    ViewChanged,
)
from agent.rainstorm.leader.shell import leader as module
from agent.rainstorm.leader.shell.joblog import INDEX_FILE, log_file
from agent.rainstorm.leader.shell.leader import Dispatcher
from agent.rainstorm.messages.commands import CommandRequest, Deploy
from agent.rainstorm.messages.joblog import JOB_LOG, LENGTH, OutcomeRecord, decode
from agent.rainstorm.messages.reports import Prepared, Published
from agent.rainstorm.messages.status import JobStatus
from agent.wire.client import Client
from tests.support import wait_until
from tests.unit.rainstorm.chain import job_file
from tests.unit.rainstorm.memorystore import MemoryStore
from tests.unit.rainstorm.nodeconfig import node_config

RAW = job_file({"operator": "identity"}, format="lines")


class Nodes:
    """A client whose requests all succeed; it notes them."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, Any]] = []

    def ask(self, target: Any, request: CommandRequest, *, timeout_s: float) -> None:
        self.commands.append((target.node, request.command()))


class Leader:
    """A dispatcher over a store in memory."""

    def __init__(self, folder: Path) -> None:
        self.store = MemoryStore()
        self.store.put_bytes("in", b"a\nb\n")
        self.nodes = Nodes()
        self.crashes: list[BaseException] = []
        self.dispatcher = Dispatcher(
            node_config(folder),
            cast("Client", self.nodes),
            self.store.storage(),
            self.crashes.append,
            lambda job: b"pem of " + job.encode(),
        )
        self.version = 0

    def view(self, leader: str = "n1", term: int = 1) -> None:
        """Shows the dispatcher a newer view."""
        self.version += 1
        nodes = {name: NodeLife(f"{name}:1", True) for name in ("n1", "n2", "n3")}
        self.dispatcher.set_view(ViewChanged(self.version, term, leader, nodes))

    def lead(self) -> Dispatcher:
        """Starts it and makes it the leader."""
        self.dispatcher.start()
        self.view()
        wait_until(lambda: self.dispatcher._core.leading, 5, "it leads")
        return self.dispatcher


@pytest.fixture
def leader(tmp_path: Path) -> Iterator[Leader]:
    """A dispatcher that was not started."""
    made = Leader(tmp_path)
    yield made
    made.dispatcher.stop(5.0)


def test_a_job_is_durable_before_its_tasks_are_deployed(leader: Leader) -> None:
    """All deployments of a generation carry the same certificate."""
    dispatcher = leader.lead()
    job = dispatcher.submit({**RAW, "sink": {"file": "out-{job}"}})
    wait_until(lambda: [c for _, c in leader.nodes.commands if isinstance(c, Deploy)], 5, "it is deployed")
    deploys = [c for _, c in leader.nodes.commands if isinstance(c, Deploy)]
    assert {deploy.identity for deploy in deploys} == {b"pem of " + job.encode()}
    kinds = [record.kind for record in decode(JOB_LOG, leader.store.files[log_file(job)].data)]
    assert kinds == ["job", "generation"]
    status = dispatcher.job(job[:4])
    assert (status.job, status.state, status.sink) == (job, "deploying", f"out-{job}")
    assert [found.job for found in dispatcher.jobs()] == [job]


def test_a_node_that_is_not_configured_costs_the_leader_nothing(leader: Leader) -> None:
    """It reports an unknown job, and should be told to stop it."""
    dispatcher = leader.lead()
    dispatcher.report("n9", Prepared("other", 1, {}, {}))
    assert dispatcher.jobs() == []
    assert leader.crashes == []


def test_a_node_that_does_not_lead_says_who_does(leader: Leader) -> None:
    """For reports, submissions and questions alike."""
    leader.dispatcher.start()
    leader.view("n2")
    wait_until(lambda: leader.dispatcher._core.view.leader == "n2", 5, "it knows")
    for ask in (
        lambda: leader.dispatcher.submit(RAW),
        lambda: leader.dispatcher.report("n2", Published("j-1", 1, "1.0")),
        leader.dispatcher.jobs,
    ):
        with pytest.raises(NotLeader) as refused:
            ask()
        assert refused.value.details == {"leader": "n2"}


def test_a_job_can_be_cancelled_and_waited_for(leader: Leader) -> None:
    """A waiting client hears of the end at once; afterwards the end is in the index."""
    dispatcher = leader.lead()
    job = dispatcher.submit(RAW)
    found: list[Any] = []
    waiting = threading.Thread(target=lambda: found.append(dispatcher.wait(job, 30.0)), daemon=True)
    waiting.start()
    assert dispatcher.wait(job, 0.01).state == "deploying"
    assert dispatcher.cancel(job).state == "cancelled"
    waiting.join(5.0)
    assert [status.state for status in found] == ["cancelled"]
    wait_until(lambda: job in dispatcher._log_writer.logs.ended, 5, "the index has it")  # type: ignore[union-attr]
    begun = clock.monotonic()
    assert dispatcher.wait(job, 30.0).state == "cancelled"
    assert clock.monotonic() - begun < 15, "a wait for an ended job returns at once"
    records = decode(JOB_LOG, leader.store.files[log_file(job)].data)
    assert [r.outcome for r in records if isinstance(r, OutcomeRecord)] == ["cancelled"]
    (listed,) = dispatcher.jobs()
    assert (listed.state, listed.commits) == ("cancelled", ())


def test_a_wait_ends_with_the_leadership(leader: Leader) -> None:
    """The next leader is asked instead."""
    dispatcher = leader.lead()
    job = dispatcher.submit(RAW)
    failures: list[RainStormError] = []

    def wait() -> None:
        try:
            dispatcher.wait(job, 30.0)
        except RainStormError as error:
            failures.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    wait_until(lambda: dispatcher._changed._waiters, 5, "it waits")  # type: ignore[attr-defined]
    leader.view("n2", 2)
    waiting.join(5.0)
    assert [type(error) for error in failures] == [NotLeader]


def test_a_new_leader_reads_what_the_former_one_wrote(leader: Leader, tmp_path: Path) -> None:
    """Jobs continue; a job whose log cannot be read is listed with the reason."""
    dispatcher = leader.lead()
    good = dispatcher.submit({**RAW, "sink": {"file": "good"}})
    bad = dispatcher.submit({**RAW, "sink": {"file": "bad"}})
    wait_until(lambda: len(leader.nodes.commands) > 1, 5, "they are deployed")
    leader.view("n2", 2)
    wait_until(lambda: not dispatcher._core.leading, 5, "it has stepped down")
    leader.store.files[log_file(bad)].data += LENGTH.pack(3) + b"\x81\xa1t"
    leader.view("n1", 3)
    wait_until(lambda: dispatcher._core.leading, 5, "it leads again")
    states = {job.job: job for job in dispatcher.jobs()}
    assert states[bad].state == "unreadable"
    assert states[bad].error is not None
    assert states[good].state in ("deploying", "recovering")
    assert dispatcher.cancel(good).state == "cancelled"


def test_a_job_without_a_log_never_began(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its destination is deleted again, and the other jobs are not disturbed."""
    dispatcher = leader.lead()
    leader.store.fail("create", Unavailable("no copy"))
    with pytest.raises(RainStormError):
        dispatcher.submit(RAW)
    leader.store.files.pop("out", None)
    real, calls = leader.store.create, []

    def second_fails(name: str, **options: Any) -> Any:
        calls.append(name)
        if name.endswith("/log"):
            raise Unavailable("no copy")
        return real(name, **options)

    monkeypatch.setattr(leader.store, "create", second_fails)
    with pytest.raises(Unavailable):
        dispatcher.submit(RAW)
    assert "out" not in leader.store.files
    assert dispatcher._core.leading


@pytest.mark.parametrize("error", [Conflict("longer"), DeadlineExceeded("late")])
def test_a_job_whose_first_append_fails_makes_the_leader_take_over_again(
    leader: Leader, error: RainStormError
) -> None:
    """Only the logs can tell whether it began; if it did not, its destination is deleted."""
    dispatcher = leader.lead()
    first = dispatcher._log_writer.logs
    leader.store.fail("append", error)
    leader.store.gives_up.set()
    with pytest.raises(type(error)):
        dispatcher.submit(RAW)
    wait_until(lambda: dispatcher._log_writer.logs is not first, 5, "it has taken over again")
    assert ("out" in leader.store.files) is not isinstance(error, Conflict)


def test_a_job_that_cannot_be_found_is_named(leader: Leader) -> None:
    """So is a prefix that fits several jobs."""
    dispatcher = leader.lead()
    with pytest.raises(NotFound, match="no job with an id"):
        dispatcher.job("j-")
    for sink in ("a", "b"):
        dispatcher.submit({**RAW, "sink": {"file": sink}})
    with pytest.raises(NotFound, match="2 jobs with an id"):
        dispatcher.job("j-")
    with pytest.raises(JobInvalid):
        dispatcher.submit("no job")


def test_a_question_that_is_not_answered_leaves_nothing_behind(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A late answer is dropped."""
    monkeypatch.setattr(module, "STATUS_TIMEOUT_S", 0.01)
    with pytest.raises(Unavailable, match="does not answer in time"):
        leader.dispatcher.jobs()
    assert leader.dispatcher._asked == {}
    leader.dispatcher._answer(ReplyStatus(1, True, {}))


def test_an_exception_in_the_log_thread_ends_the_agent(leader: Leader) -> None:
    """A leader without its logs must not continue as if nothing had happened."""
    dispatcher = leader.lead()
    leader.store.fail("append", cast("RainStormError", ValueError("a defect")))
    dispatcher.submit.__self__._log_thread.submit(_raise, 1.0)  # type: ignore[attr-defined]
    wait_until(lambda: leader.crashes, 5, "the agent is told to end")
    assert isinstance(leader.crashes[0], ZeroDivisionError)
    leader.store._failures.clear()


def _raise() -> None:
    raise ZeroDivisionError


def test_a_full_log_queue_costs_the_leadership_not_the_core(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Appends that find no room count as rejected; deletions are dropped."""
    dispatcher = leader.dispatcher
    posted: list[Any] = []
    monkeypatch.setattr(dispatcher._runner, "post", posted.append)
    for _ in range(module.LOG_QUEUE_MAX):
        assert dispatcher._log_thread.try_submit(lambda: None)
    dispatcher._execute(DeleteFiles(["f"]))
    assert posted == []
    dispatcher._execute(AppendLog("j-1", 1, []))
    assert posted == [LogRejected("j-1")]
    dispatcher._execute(StepDown())
    assert dispatcher._log_thread.waiting == 0


def test_files_that_cannot_be_deleted_stay(leader: Leader) -> None:
    """They are deleted later, with the job's other segments."""
    leader.store.put_bytes("segments-2", b"x")
    leader.store.fail("delete", Unavailable("no copy"))
    leader.dispatcher._delete(["segments-1", "segments-2"])
    assert "segments-2" not in leader.store.files


def test_an_end_that_the_index_does_not_take_is_entered_by_the_next_take_over(leader: Leader) -> None:
    """The job's own log has its outcome."""
    dispatcher = leader.lead()
    job = dispatcher.submit(RAW)
    logs = dispatcher._log_writer.logs
    assert logs is not None
    logs._files.pop(INDEX_FILE)
    # Not cancel(): it asks for the status afterwards, when this node may be taking over.
    dispatcher.loop.post(CancelRequested(job))
    wait_until(lambda: dispatcher._log_writer.logs is not logs, 5, "it has taken over again")
    wait_until(lambda: job in dispatcher._log_writer.logs.ended, 5, "the index has it")  # type: ignore[union-attr]


def test_an_end_that_is_too_long_for_the_index_is_shortened(
    leader: Leader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the leader would take over again and again."""
    dispatcher = leader.lead()
    job = dispatcher.submit(RAW)
    logs = dispatcher._log_writer.logs
    assert logs is not None
    close, tried = logs.close_job, list[JobStatus]()

    def close_if_short(job: str, summary: JobStatus) -> None:
        tried.append(summary)
        if len(tried) == 1:
            raise InvalidMessage("one append may have 1024 bytes")
        close(job, summary)

    monkeypatch.setattr(logs, "close_job", close_if_short)
    dispatcher.cancel(job)
    wait_until(lambda: job in logs.ended, 5, "the index has it")
    assert dispatcher._log_writer.logs is logs
    assert (tried[1].commits, tried[1].recoveries) == ((), ())


def test_the_ends_of_few_jobs_are_remembered(leader: Leader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones are in the index."""
    monkeypatch.setattr(module, "OVER_MAX", 1)
    dispatcher = leader.lead()
    for sink in ("a", "b"):
        dispatcher.cancel(dispatcher.submit({**RAW, "sink": {"file": sink}}))
    assert len(dispatcher._over) == 1
