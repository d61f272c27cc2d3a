"""The dispatcher in the simulator: mirrors ``dispatcher``, ``joblogs`` and ``links``."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from agent.common.errors import (
    Conflict,
    DeadlineExceeded,
    Fenced,
    NotFound,
    NotLeader,
    RainStormError,
)
from agent.common.message import Vocabulary, encode
from agent.rainstorm.io.links import (
    COMMAND_TIMEOUT_S,
    COMMAND_TRIES,
    QUEUE_MAX,
    REPORT_TIMEOUT_S,
    RETRY_S,
)
from agent.rainstorm.leader.core.effects import AppendLog, DeleteFiles, JobEnded, Tell
from agent.rainstorm.leader.core.joblog import JobState, fold
from agent.rainstorm.leader.core.leader import (
    AgentUnreachable,
    JobSubmitted,
    LogAppended,
    LogRejected,
    ReportReceived,
    StepDown,
    TakeOver,
    TookOver,
    ViewChanged,
)
from agent.rainstorm.leader.core.status import describe
from agent.rainstorm.leader.shell.joblog import (
    APPEND_TIMEOUT_S,
    INDEX_FILE,
    TAKE_OVER_RETRY_S,
    _newest_term,
    log_file,
)
from agent.rainstorm.messages import joblog as records
from agent.rainstorm.messages.commands import Command, CommandRequest, Deploy
from agent.rainstorm.messages.joblog import INDEX, JOB_LOG, R
from agent.rainstorm.messages.reports import Report, ReportRequest
from agent.rainstorm.messages.status import JobStatus
from tests.simulation.rainstorm_kernel import Runner, Thread, Worker, sleep

if TYPE_CHECKING:
    from tests.simulation.rainstorm_node import Agent


class AgentLink:
    """Mirrors ``links.AgentLink``."""

    def __init__(self, agent: Agent, node: str) -> None:
        self._agent = agent
        self._node = node
        self._worker = Worker(self._deliver)

    def send(self, command: Command) -> None:
        """Queues a command."""
        if len(self._worker.queue) >= QUEUE_MAX:
            self._fail()
        else:
            self._worker.put(command)

    def _deliver(self, command: Command) -> Thread:
        request = encode(CommandRequest.of(command))
        for attempt in range(COMMAND_TRIES):
            try:
                yield self._agent.rpc.call(self._node, CommandRequest.kind, request, COMMAND_TIMEOUT_S)
                return
            except DeadlineExceeded:
                self._fail()
                return
            except RainStormError:
                if attempt + 1 < COMMAND_TRIES:
                    yield sleep(self._agent.node, RETRY_S)
                else:
                    self._fail()

    def _fail(self) -> None:
        self._worker.queue.clear()
        self._agent.dispatcher.runner.post(AgentUnreachable(self._node))


class ReportLink:
    """Mirrors ``links.ReportLink``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._worker = Worker(self._deliver)

    def put(self, report: Report) -> None:
        """Queues a report; the oldest gives way."""
        if len(self._worker.queue) >= QUEUE_MAX:
            self._worker.queue.popleft()
        self._worker.put(report)

    def _deliver(self, report: Report) -> Thread:
        request = encode(ReportRequest.of(report))
        node = self._agent.node
        end = node.now + REPORT_TIMEOUT_S
        while node.now < end:
            leader = self._agent.view.leader
            if leader:
                try:
                    yield self._agent.rpc.call(leader, ReportRequest.kind, request, COMMAND_TIMEOUT_S)
                    return
                except RainStormError as error:
                    if not error.retryable:
                        return
                    # Tried again until it is too old to matter, as the link does.
            yield sleep(node, RETRY_S)


class JobLogs:
    """Mirrors ``joblogs.JobLogs``."""

    def __init__(self, agent: Agent, term: int) -> None:
        self._storage = agent.storage
        self._name = agent.node.name
        self._term = term
        unique = f"{agent.node.random('logs').getrandbits(32):08x}"
        self._writer = f"leader-{self._name}-{term}-{unique}"
        self._lock: deque[object] = deque()
        self._files: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, None] = {}
        self._node = agent.node

    def take_over(self) -> Thread:
        """Mirrors ``JobLogs.take_over``."""
        yield from self._storage.create_if_missing(INDEX_FILE)
        submitted: dict[str, None] = {}
        for record in records.decode(INDEX, (yield from self._fence(INDEX_FILE))):
            match record:
                case records.SubmittedRecord(job=job):
                    submitted[job] = None
                case records.EndedRecord(job=job):
                    self.ended[job] = None
        states = []
        for job in submitted:
            if job not in self.ended:
                data = yield from self._fence(log_file(job))
                states.append(fold(job, records.decode(JOB_LOG, data)))
        return states

    def open_job(self, record: records.JobRecord) -> Thread:
        """Mirrors ``JobLogs.create_log`` and ``open_job``."""
        file = log_file(record.job)
        yield from self._storage.direct(file, lambda: self._storage.store.create(file))
        self._files[file] = (0, 0)
        yield from self.append(JOB_LOG, file, [record])
        yield from self.append(INDEX, INDEX_FILE, [records.SubmittedRecord(record.job, record.at)])

    def append(self, vocabulary: Vocabulary[R], file: str, entries: Sequence[R]) -> Thread:
        """Mirrors ``JobLogs.append``; one at a time, as its lock has it."""
        me = object()
        self._lock.append(me)
        while self._lock[0] is not me:
            yield sleep(self._node, 0.0005)
        try:
            if file not in self._files:
                raise Fenced(f"{file} has to be taken over again")
            length, sequence = self._files.pop(file)
            data = records.encode(vocabulary, entries)
            yield from self._storage.append(
                file, data, self._writer, sequence + 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
            )
            self._files[file] = (length + len(data), sequence + 1)
        finally:
            self._lock.remove(me)

    def close_job(self, job: str, summary: JobStatus) -> Thread:
        """Mirrors ``JobLogs.close_job``."""
        yield from self.append(INDEX, INDEX_FILE, [records.EndedRecord(job, summary)])
        self.ended[job] = None
        prefix = f".rainstorm/{job}/segments-"
        with suppress(RainStormError):
            yield from self._storage.direct(prefix, lambda: self._storage.store.delete_prefix(prefix))

    def _fence(self, file: str) -> Thread:
        mark = records.encode(JOB_LOG, [records.TermRecord(self._term, self._name)])
        while True:
            length = yield from self._storage.length(file)
            data = yield from self._storage.read_exactly(file, 0, length)
            if _newest_term(bytes(data)) > self._term:
                raise Fenced(f"{file} belongs to a later term than {self._term}")
            try:
                yield from self._storage.append(
                    file, mark, self._writer, 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
                )
            except Conflict:
                continue
            self._files[file] = (length + len(mark), 1)
            return bytes(data) + mark


class Dispatcher:
    """Mirrors ``dispatcher.Dispatcher`` and ``joblogs.LogWriter``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.core = agent.parts.leader(agent.node.name)
        self.runner = Runner(agent.node, self.core, self._execute)
        self.logs: JobLogs | None = None
        self._log_thread = Worker(lambda thread: thread)
        self._links: dict[str, AgentLink] = {}

    def set_view(self, view: ViewChanged) -> None:
        """Tells the core about a new view."""
        self.runner.post(view)

    def report(self, node: str, report: Report) -> None:
        """Takes an agent's report."""
        if not self.core.leading:
            raise NotLeader(f"{self._agent.node.name} does not lead")
        self.runner.post(ReportReceived(node, report))

    def submit(self, state: JobState) -> Thread:
        """Mirrors ``Dispatcher.submit`` behind ``prepare``."""
        if self.logs is None or not self.core.leading:
            raise NotLeader("no leader yet")
        yield from self.logs.open_job(
            records.JobRecord(state.job, state.spec, state.header, state.sink, state.submitted_at)
        )
        self.runner.post(JobSubmitted(state))

    def _execute(self, effect: Any) -> None:
        match effect:
            case Tell(node=node, message=message):
                self._link(node).send(self._with_identity(message))
            case AppendLog():
                self._log_thread.put(self._append(effect))
            case TakeOver(term=term):
                self._log_thread.put(self._take_over(term))
            case StepDown():
                pass
            case JobEnded(job=job):
                machine = self.core.jobs[job]
                self._agent.watch.ended(job, machine)
                summary = describe(machine, self._agent.node.now, self._agent.node.name)
                self._log_thread.put(self._close(job, summary))
            case DeleteFiles(names=names):
                self._log_thread.put(self._delete(names))

    def _take_over(self, term: int) -> Thread:
        while True:
            logs = JobLogs(self._agent, term)
            try:
                states = yield from logs.take_over()
            except Fenced:
                return
            except RainStormError:
                yield sleep(self._agent.node, TAKE_OVER_RETRY_S)
                continue
            self.logs = logs
            self.runner.post(TookOver(term, states))
            return

    def _append(self, effect: AppendLog) -> Thread:
        if self.logs is None:
            return
        now = self._agent.node.now
        stamped = [replace(record, at=now) for record in effect.records]
        try:
            yield from self.logs.append(JOB_LOG, log_file(effect.job), stamped)
        except (Conflict, NotFound):
            self._agent.watch.hit("zombie append refused")
            self.runner.post(LogRejected(effect.job))
            return
        except RainStormError:
            self.runner.post(LogRejected(effect.job))
            return
        self.runner.post(LogAppended(effect.job, effect.token, now))

    def _close(self, job: str, summary: JobStatus) -> Thread:
        if self.logs is None:
            return
        try:
            yield from self.logs.close_job(job, summary)
        except RainStormError:
            self._agent.watch.hit("index not written")
            self.runner.post(LogRejected(job))

    def _delete(self, names: Sequence[str]) -> Thread:
        for name in names:
            try:
                yield from self._agent.storage.direct(name, partial(self._agent.storage.store.delete, name))
            except RainStormError:
                self._agent.watch.hit("segment file not deleted")
            else:
                self._agent.watch.hit("segment file deleted")

    def _with_identity(self, command: Command) -> Command:
        if not isinstance(command, Deploy):
            return command
        # The real one makes a certificate; one leader makes one a generation.
        node = self._agent.node
        return replace(command, identity=f"{node.name}/{node.generation}/{command.generation}".encode())

    def _link(self, node: str) -> AgentLink:
        if node not in self._links:
            self._links[node] = AgentLink(self._agent, node)
        return self._links[node]
