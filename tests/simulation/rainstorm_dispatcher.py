"""The dispatcher in the simulator: mirrors ``dispatcher``, ``joblogs`` and ``links``."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
from agent.rainstorm.io.links import (
    COMMAND_TIMEOUT_S,
    COMMAND_TRIES,
    QUEUE_MAX,
    REPORT_TIMEOUT_S,
    RETRY_S,
)
from agent.rainstorm.leader.core.joblog import JobState, Record, decode, encode
from agent.rainstorm.leader.core.jobmachine import AppendLog, DeleteFiles, JobEnded, Tell
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
from agent.rainstorm.leader.shell.joblog import APPEND_TIMEOUT_S, INDEX, TAKE_OVER_RETRY_S, log_file
from tests.simulation.rainstorm_kernel import Runner, Thread, Worker, sleep

if TYPE_CHECKING:
    from tests.simulation.rainstorm_node import Agent


class AgentLink:
    """Mirrors ``links.AgentLink``."""

    def __init__(self, agent: Agent, node: str) -> None:
        self._agent = agent
        self._node = node
        self._worker = Worker(self._deliver)

    def send(self, message: Mapping[str, Any]) -> None:
        """Queues a command."""
        if len(self._worker.queue) >= QUEUE_MAX:
            self._fail()
        else:
            self._worker.put(message)

    def _deliver(self, message: Mapping[str, Any]) -> Thread:
        for attempt in range(COMMAND_TRIES):
            try:
                yield self._agent.rpc.call(
                    self._node, "rainstorm.command", {"message": message}, COMMAND_TIMEOUT_S
                )
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

    def put(self, report: Mapping[str, Any]) -> None:
        """Queues a report; the oldest gives way."""
        if len(self._worker.queue) >= QUEUE_MAX:
            self._worker.queue.popleft()
        self._worker.put(report)

    def _deliver(self, report: Mapping[str, Any]) -> Thread:
        node = self._agent.node
        end = node.now + REPORT_TIMEOUT_S
        while node.now < end:
            leader = str(self._agent.view["leader"])
            if leader:
                try:
                    yield self._agent.rpc.call(
                        leader, "rainstorm.report", {"report": report}, COMMAND_TIMEOUT_S
                    )
                    return
                except RainStormError:
                    pass  # tried again until it is too old to matter, as the link does
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
        self.ended: dict[str, Mapping[str, Any]] = {}
        self._node = agent.node

    def take_over(self) -> Thread:
        """Mirrors ``JobLogs.take_over``."""
        yield from self._storage.create_if_missing(INDEX)
        submitted: dict[str, Record] = {}
        for record in (yield from self._fence(INDEX)):
            if record["t"] == "submitted":
                submitted[record["job"]] = record
            elif record["t"] == "ended":
                self.ended[record["job"]] = record["summary"]
        states = []
        for job in submitted:
            if job not in self.ended:
                state = JobState()
                for record in (yield from self._fence(log_file(job))):
                    state.apply(record)
                states.append(state)
        return states

    def open_job(self, state: JobState, record: Record) -> Thread:
        """Mirrors ``JobLogs.open_job``."""
        file = log_file(state.job)
        yield from self._storage.direct(file, lambda: self._storage.store.create(file))
        self._files[file] = (0, 0)
        yield from self.append(file, [record])
        yield from self.append(INDEX, [{"t": "submitted", "job": state.job, "at": state.submitted_at}])

    def append(self, file: str, records: Sequence[Record]) -> Thread:
        """Mirrors ``JobLogs.append``; one at a time, as its lock has it."""
        me = object()
        self._lock.append(me)
        while self._lock[0] is not me:
            yield sleep(self._node, 0.0005)
        try:
            if file not in self._files:
                raise Fenced(f"{file} has to be taken over again")
            length, sequence = self._files.pop(file)
            data = encode(records)
            yield from self._storage.append(
                file, data, self._writer, sequence + 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
            )
            self._files[file] = (length + len(data), sequence + 1)
        finally:
            self._lock.remove(me)

    def close_job(self, job: str, summary: Mapping[str, Any]) -> Thread:
        """Mirrors ``JobLogs.close_job``."""
        yield from self.append(INDEX, [{"t": "ended", "job": job, "summary": summary}])
        self.ended[job] = summary
        prefix = f".rainstorm/{job}/segments-"
        with suppress(RainStormError):
            yield from self._storage.direct(prefix, lambda: self._storage.store.delete_prefix(prefix))

    def _fence(self, file: str) -> Thread:
        mark = encode([{"t": "term", "term": self._term, "node": self._name}])
        while True:
            length = yield from self._storage.length(file)
            records = list(decode((yield from self._storage.read_exactly(file, 0, length))))
            if any(record["t"] == "term" and record["term"] > self._term for record in records):
                raise Fenced(f"{file} belongs to a later term than {self._term}")
            try:
                yield from self._storage.append(
                    file, mark, self._writer, 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
                )
            except Conflict:
                continue
            self._files[file] = (length + len(mark), 1)
            return [*records, {"t": "term", "term": self._term, "node": self._name}]


class Dispatcher:
    """Mirrors ``dispatcher.Dispatcher`` and ``joblogs.LogWriter``."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self.core = agent.parts.leader(agent.node.name)
        self.runner = Runner(agent.node, self.core, self._execute)
        self.logs: JobLogs | None = None
        self._log_thread = Worker(lambda thread: thread)
        self._links: dict[str, AgentLink] = {}

    def see_view(self, view: Mapping[str, Any]) -> None:
        """Tells the core about a new view."""
        self.runner.post(ViewChanged(view))

    def report(self, node: str, report: Mapping[str, Any]) -> None:
        """Takes an agent's report."""
        if not self.core.leading:
            raise NotLeader(f"{self._agent.node.name} does not lead")
        self.runner.post(ReportReceived(node, report))

    def submit(self, state: JobState) -> Thread:
        """Mirrors ``Dispatcher.submit`` behind ``prepare``."""
        if self.logs is None or not self.core.leading:
            raise NotLeader("no leader yet")
        record = {
            "t": "job",
            "job": state.job,
            "spec": state.spec,
            "header": state.header,
            "sink": state.sink,
            "at": state.submitted_at,
        }
        yield from self.logs.open_job(state, record)
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
                self._agent.watch.ended(job, self.core.jobs[job])
                self._log_thread.put(self._close(job))
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
        records = [{**record, "at": now} for record in effect.records]
        try:
            yield from self.logs.append(log_file(effect.job), records)
        except (Conflict, NotFound):
            self._agent.watch.hit("zombie append refused")
            self.runner.post(LogRejected(effect.job))
            return
        except RainStormError:
            self.runner.post(LogRejected(effect.job))
            return
        self.runner.post(LogAppended(effect.job, effect.token, now))

    def _close(self, job: str) -> Thread:
        if self.logs is None:
            return
        try:
            yield from self.logs.close_job(job, {"job": job})
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

    def _with_identity(self, message: Mapping[str, Any]) -> Mapping[str, Any]:
        if message["type"] != "deploy":
            return message
        # The real one makes a certificate; one leader makes one a generation.
        node = self._agent.node
        return {**message, "identity": f"{node.name}/{node.generation}/{message['generation']}".encode()}

    def _link(self, node: str) -> AgentLink:
        if node not in self._links:
            self._links[node] = AgentLink(self._agent, node)
        return self._links[node]
