"""The dispatcher of a node: accepts jobs, drives the leader core and carries out its effects.

It exists on every node and does nothing until the view says that this node leads. Effects that take time go
to other threads: commands to the links; appends, take-overs and deletions to the log thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, assert_never

from agent.common.config import NodeConfig
from agent.common.errors import (
    ConfigError,
    Conflict,
    Fenced,
    InvalidMessage,
    NotFound,
    NotLeader,
    RainStormError,
    Unavailable,
)
from agent.common.shell import clock, threads
from agent.common.shell.runner import CoreRunner
from agent.common.shell.worker import Worker
from agent.rainstorm.io.links import AgentLink, address_of
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core import status
from agent.rainstorm.leader.core.effects import AppendLog, DeleteFiles, JobEnded, Tell
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.core.leader import (
    AgentUnreachable,
    CancelRequested,
    Effect,
    JobSubmitted,
    LeaderCore,
    LogRejected,
    ReplyStatus,
    ReportReceived,
    StatusWanted,
    StepDown,
    TakeOver,
    ViewChanged,
)
from agent.rainstorm.leader.shell.joblog import LogWriter
from agent.rainstorm.leader.shell.submission import prepare
from agent.rainstorm.messages.commands import Command, Deploy
from agent.rainstorm.messages.joblog import JobRecord
from agent.rainstorm.messages.reports import Report
from agent.rainstorm.messages.status import JobStatus
from agent.wire.authority import ephemeral_identity
from agent.wire.client import Client

logger = logging.getLogger("agent.rainstorm.leader.shell.leader")

STATUS_TIMEOUT_S = 5.0
CANCEL_TIMEOUT_S = 30.0
# The length of an ended job's history in the index.
SUMMARY_COMMITS_MAX = SUMMARY_RECOVERIES_MAX = 100
# The length of each job's history in a list of all jobs, which must fit into one answer. The status of a
# single job has the whole history.
LISTED_COMMITS_MAX = LISTED_RECOVERIES_MAX = 20
# Each job has at most one append, one deletion and its end waiting for the log thread: enough for 300 jobs.
LOG_QUEUE_MAX = 1000
# Jobs whose end is remembered for clients that wait for it; later clients find it in the index.
OVER_MAX = 1000


class Dispatcher:
    """Leads while the view says so."""

    def __init__(
        self,
        config: NodeConfig,
        client: Client,
        storage: Storage,
        on_crash: Callable[[BaseException], None],
        make_identity: Callable[[str], bytes] = ephemeral_identity,
    ) -> None:
        self._config = config
        # Returns the certificate of a job's generation.
        self._make_identity = make_identity
        self._client = client
        self._storage = storage
        self._core = LeaderCore(config.name)
        self._runner = CoreRunner("leader-core", self._core, self._execute, on_crash=on_crash)
        self._log_writer = LogWriter(storage, config.name, self._runner.post)
        self._on_crash = on_crash
        # An exception there is a defect. Without its logs a leader must not continue as if nothing was wrong.
        self._log_thread: Worker[Callable[[], None]] = Worker(
            "job-log", lambda work: work(), LOG_QUEUE_MAX, on_error=self._log_failed
        )
        self._links: dict[str, AgentLink] = {}
        self._identities: dict[tuple[str, int], bytes] = {}
        self._asked: dict[int, threads.Future[dict[str, JobStatus]]] = {}
        self._lock = threads.lock()
        self._tokens = 0
        self._changed = threads.condition()
        self._over: dict[str, None] = {}

    @property
    def loop(self) -> CoreRunner:
        """Returns the core's loop."""
        return self._runner

    def start(self) -> None:
        """Starts the threads."""
        self._log_thread.start()
        self._runner.start()

    def stop(self, timeout_s: float) -> None:
        """Ends the threads; jobs go on under the next leader."""
        self._log_writer.stop()
        self._runner.stop(timeout_s)
        self._log_thread.stop(drain=False, timeout_s=timeout_s)
        for link in self._links.values():
            link.stop(timeout_s)

    def set_view(self, view: ViewChanged) -> None:
        """Tells the core about a new view."""
        self._runner.post(view)

    def report(self, node: str, report: Report) -> None:
        """Takes an agent's report.

        Raises:
            NotLeader: this node does not lead.
        """
        if not self._core.leading:
            raise self._not_leader()
        self._runner.post(ReportReceived(node, report))

    def submit(self, raw: Any) -> str:
        """Checks a job, makes it durable and starts it; returns its id.

        Raises:
            RainStormError: the job is refused, or this node does not lead.
        """
        logs = self._log_writer.logs
        if logs is None or not self._core.leading:
            raise self._not_leader()
        job = f"j-{threads.unique_id()[:8]}"
        batch_bytes = self._config.rainstorm.batch_bytes
        nodes = self._core.usable(job)
        state: JobState = prepare(self._storage, raw, job, batch_bytes, nodes, clock.wall())
        record = JobRecord(job, state.spec, state.header, state.sink, state.submitted_at)
        try:
            logs.create_log(job)
        except RainStormError:
            self._remove_sink(state)  # the job never began
            raise
        try:
            logs.open_job(record)
        except InvalidMessage:
            self._remove_sink(state)
            raise
        except (Conflict, Fenced):
            self._remove_sink(state)  # it never began: another node leads
            self._runner.post(LogRejected(job))
            raise
        except RainStormError:
            self._runner.post(LogRejected(job))  # a take-over will show whether it began
            raise
        logger.info("job_submitted job=%s name=%s", job, state.spec.get("name", "job"))
        self._runner.post(JobSubmitted(state))
        return job

    def jobs(self) -> list[JobStatus]:
        """Returns the status of all jobs, the newest first, each with the end of its history.

        Raises:
            NotLeader: this node does not lead.
        """
        return [
            status.shortened(job, 0 if job.has_ended else LISTED_COMMITS_MAX, LISTED_RECOVERIES_MAX)
            for job in self._all_jobs()
        ]

    def job(self, wanted: str) -> JobStatus:
        """Returns the status of the job whose id is, or begins with, ``wanted``.

        Raises:
            NotFound: no job or several jobs fit.
        """
        everyone = self._all_jobs()
        fitting = [job for job in everyone if job.job == wanted]
        fitting = fitting or [job for job in everyone if job.job.startswith(wanted)]
        if len(fitting) != 1:
            what = "no job" if not fitting else f"{len(fitting)} jobs"
            raise NotFound(f"{what} with an id that begins with {wanted!r}", hint="see them all: fab jobs")
        return fitting[0]

    def wait(self, wanted: str, timeout_s: float) -> JobStatus:
        """Returns the status of a job once it has ended, or its current status after ``timeout_s``."""
        found = self.job(wanted)
        if found.has_ended:
            return found
        job = found.job
        with self._changed:
            self._changed.wait_for(lambda: job in self._over or not self._core.leading, timeout_s)
        return self.job(job)

    def cancel(self, wanted: str) -> JobStatus:
        """Ends a job and returns its status."""
        job = self.job(wanted).job
        self._runner.post(CancelRequested(job))
        return self.wait(job, CANCEL_TIMEOUT_S)

    def _remove_sink(self, state: JobState) -> None:
        with contextlib.suppress(RainStormError):  # the error that led here is the one to report
            self._storage.client.delete(state.sink)

    def _not_leader(self) -> NotLeader:
        details = {"leader": self._core.view.leader}
        return NotLeader(f"{self._config.name} does not lead", hint="try again in a second", details=details)

    def _all_jobs(self) -> list[JobStatus]:
        """Returns the status of all jobs, the newest first."""
        found = self._ask()
        logs = self._log_writer.logs
        others = {} if logs is None else {**logs.ended, **logs.unreadable}
        return sorted({**others, **found}.values(), key=lambda job: -job.submitted_at)

    def _ask(self) -> dict[str, JobStatus]:
        answer: threads.Future[dict[str, JobStatus]] = threads.future()
        with self._lock:
            self._tokens += 1
            token = self._tokens
            self._asked[token] = answer
        try:
            self._runner.post(StatusWanted(token))
            return answer.result(STATUS_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable("the leader does not answer in time", hint="try again later") from None
        finally:
            with self._lock:
                self._asked.pop(token, None)

    def _execute(self, effect: Effect) -> None:
        match effect:
            case Tell(node=node, message=message):
                self._tell(node, message)
            case AppendLog():
                if not self._log_thread.try_submit(lambda: self._log_writer.append(effect)):
                    self._runner.post(LogRejected(effect.job))
            case TakeOver(term=term):
                logger.info("taking_over term=%d", term)
                self._log_thread.displace(lambda: self._log_writer.take_over(term))
            case StepDown():
                logger.info("stepped_down term=%d", self._core.term)
                self._log_thread.clear()  # the waiting work belongs to a term that has ended
                with self._changed:
                    self._changed.notify_all()
            case ReplyStatus():
                self._answer(effect)
            case JobEnded(job=job):
                self._end(job)
            case DeleteFiles(names=names):
                # A deletion that finds no room waits until the job ends.
                self._log_thread.try_submit(lambda: self._delete(names))
            case _:
                assert_never(effect)

    def _answer(self, effect: ReplyStatus) -> None:
        with self._lock:
            answer = self._asked.pop(effect.token, None)
        if answer is None:
            return  # the caller has stopped waiting
        if not effect.leading:
            answer.set_exception(self._not_leader())
            return
        now, name = clock.wall(), self._config.name
        answer.set_result({job: status.describe(machine, now, name) for job, machine in effect.jobs.items()})

    def _end(self, job: str) -> None:
        machine = self._core.jobs[job]
        summary = status.describe(machine, clock.wall(), self._config.name)
        logger.info("job_ended job=%s state=%s epochs=%d", job, summary.state, summary.epoch)
        with self._changed:
            self._over[job] = None
            for old in list(self._over)[:-OVER_MAX]:
                del self._over[old]
            self._changed.notify_all()
        self._identities = {key: pem for key, pem in self._identities.items() if key[0] != job}
        short = status.shortened(summary, SUMMARY_COMMITS_MAX, SUMMARY_RECOVERIES_MAX)
        if not self._log_thread.try_submit(lambda: self._close(job, short)):
            self._runner.post(LogRejected(job))  # taking over again enters it into the index

    def _log_failed(self, error: Exception) -> bool:
        self._on_crash(error)
        return False

    def _close(self, job: str, summary: JobStatus) -> None:
        logs = self._log_writer.logs
        if logs is None:
            return
        try:
            try:
                logs.close_job(job, summary)
            except InvalidMessage as error:
                # A history that is too long for one append is left out of the index; the job's log has it.
                logger.warning("summary_shortened job=%s error=%s", job, error)
                logs.close_job(job, status.shortened(summary, 0, 0))
        except RainStormError as error:
            # The job's own log has its outcome; taking over again enters it into the index.
            logger.warning("index_not_written job=%s error=%s", job, error)
            self._runner.post(LogRejected(job))

    def _delete(self, names: Sequence[str]) -> None:
        for name in names:
            try:
                self._storage.client.delete(name)
            except RainStormError as error:
                # Files that are left are deleted with the job's other segments when the job ends.
                logger.info("segments_not_deleted name=%s error=%s", name, error)

    def _with_identity(self, command: Command) -> Command:
        """Adds the certificate that the tasks of this generation share to a deployment."""
        if not isinstance(command, Deploy):
            return command
        key = (command.job, command.generation)
        if key not in self._identities:
            self._identities = {old: pem for old, pem in self._identities.items() if old[0] != command.job}
            self._identities[key] = self._make_identity(command.job)
        return replace(command, identity=self._identities[key])

    def _tell(self, node: str, message: Command) -> None:
        try:
            link = self._link(node)
        except ConfigError as error:
            # A node that joined after this one was configured, or an impostor that uses its name.
            logger.warning("command_not_sent node=%s error=%s", node, error)
            self._runner.post(AgentUnreachable(node))
            return
        link.send(self._with_identity(message))

    def _link(self, node: str) -> AgentLink:
        if node not in self._links:
            self._links[node] = AgentLink(
                node,
                address_of(self._config, node),
                self._client,
                lambda name: self._runner.post(AgentUnreachable(name)),
            )
        return self._links[node]
