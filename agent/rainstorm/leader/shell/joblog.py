"""A leader's use of HyDFS: the index of jobs, the job logs, fencing when it takes over.

``.rainstorm/index`` lists the submitted jobs and how they ended; ``.rainstorm/<job>/log`` is the log of one
job. A leader writes both only by conditional appends at the place where it believes them to end. Taking over
means appending a term record to each of them. After that every append of the former leader meets a longer
file and is refused. So whoever reads up to its own term record has read everything that the former leader
will ever have written.

A record that cannot be used never stops a leader. A job whose log holds one is set aside: it is listed as
unreadable, with the reason, and its files stay as they are for a release that can read them. Such a record of
the index is skipped: if it said that a job has ended, the job's own log says so too.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from agent.common.errors import (
    Conflict,
    Corrupt,
    Fenced,
    InvalidMessage,
    NotFound,
    RainStormError,
    UsageError,
)
from agent.common.failure import Failure
from agent.common.message import Vocabulary
from agent.common.shell import clock, threads
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core import status
from agent.rainstorm.leader.core.effects import AppendLog
from agent.rainstorm.leader.core.joblog import JobState, fold
from agent.rainstorm.leader.core.leader import LogAppended, LogRejected, RecordsRefused, TookOver
from agent.rainstorm.messages import joblog as records
from agent.rainstorm.messages.joblog import INDEX, JOB_LOG, R, TermRecord
from agent.rainstorm.messages.status import JobStatus

logger = logging.getLogger("agent.rainstorm.leader.shell.joblog")

FOLDER = ".rainstorm/"
INDEX_FILE = f"{FOLDER}index"
APPEND_TIMEOUT_S = 30.0
# A store that cannot serve now is often back at once; if it stays away, it is asked less and less often.
TAKE_OVER_RETRY_S, TAKE_OVER_RETRY_S_MAX = 0.1, 5.0
# A leader that must take over again in the same term within this time will probably have to do so once more.
TAKE_OVER_AGAIN_S = 10.0
# The number of ended jobs that are listed: a status takes about half a kilobyte, and an answer may have four
# megabytes. The index file keeps all of them.
ENDED_MAX = 1000


TERMS: Vocabulary[TermRecord] = Vocabulary("term", TermRecord, tag="t")


def log_file(job: str) -> str:
    """Returns the name of a job's log."""
    return f"{FOLDER}{job}/log"


class JobLogs:
    """The logs that one leader writes in one term; used by the log thread and by submissions."""

    def __init__(self, storage: Storage, name: str, term: int) -> None:
        self._storage = storage
        self._name = name
        self._term = term
        # A second take-over in the same term must not look like a repeated request of the first.
        self._writer = f"leader-{name}-{term}-{threads.unique_id()[:8]}"
        self._lock = threads.lock()
        # The length of each log, and the sequence number of the last append to it.
        self._files: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, JobStatus] = {}
        self.unreadable: dict[str, JobStatus] = {}

    def take_over(self) -> list[JobState]:
        """Fences all logs for this term and returns the unfinished jobs.

        Raises:
            Fenced: a leader of a later term was here.
            RainStormError: HyDFS cannot serve now; the caller may try again.
        """
        self._storage.create_if_missing(INDEX_FILE)
        submitted: dict[str, float] = {}
        ended: dict[str, None] = {}
        try:
            for record in _readable(self._fence(INDEX_FILE)):
                match record:
                    case records.SubmittedRecord(job=job, at=at):
                        submitted[job] = at
                    case records.EndedRecord(job=job, summary=summary):
                        ended[job] = None
                        self._note_ended(job, summary)
        except Corrupt as error:
            logger.error("index_damaged file=%s error=%s", INDEX_FILE, error)
            submitted.update({job: 0.0 for job in self._jobs_with_logs() if job not in submitted})
        states = []
        for job, submitted_at in submitted.items():
            if job not in ended and (state := self._take_over_job(job, submitted_at)) is not None:
                states.append(state)
        return states

    def create_log(self, job: str) -> None:
        """Creates the empty log of a new job.

        Raises:
            RainStormError: it does not exist, or that is unknown.
        """
        self._storage.client.create(log_file(job))
        self._files[log_file(job)] = (0, 0)

    def open_job(self, record: records.JobRecord) -> None:
        """Writes the first record of a job's log and enters the job into the index.

        Raises:
            Conflict: this node no longer leads.
            RainStormError: the outcome is unknown.
        """
        self.append(JOB_LOG, log_file(record.job), [record])
        self.append(INDEX, INDEX_FILE, [records.SubmittedRecord(record.job, record.at)])

    def append(self, vocabulary: Vocabulary[R], file: str, entries: Sequence[R]) -> None:
        """Appends records where this leader believes the file to end.

        Raises:
            InvalidMessage: the records could not be read back, or are too large; nothing was appended.
            Conflict: another leader has written.
            RainStormError: the outcome and the end of the file are unknown; only a take-over can find them.
        """
        data = records.encode(vocabulary, entries)
        with self._lock:
            if file not in self._files:
                raise Fenced(f"{file} has to be taken over again", hint="try again in a second")
            length, sequence = self._files.pop(file)
            try:
                self._storage.append(
                    file, data, self._writer, sequence + 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
                )
            except UsageError as error:
                # The store refuses this append, and would refuse it again: the log has not changed.
                self._files[file] = (length, sequence)
                raise InvalidMessage(f"{file}: {error.message}", hint=error.hint) from None
            self._files[file] = (length + len(data), sequence + 1)

    def close_job(self, job: str, summary: JobStatus) -> None:
        """Notes in the index how a job ended and deletes the files that are no longer needed."""
        self.append(INDEX, INDEX_FILE, [records.EndedRecord(job, summary)])
        self._note_ended(job, summary)
        with self._lock:
            self._files.pop(log_file(job), None)  # nothing more will be appended to it
        try:
            self._storage.client.delete_prefix(f"{FOLDER}{job}/segments-")
        except RainStormError as error:
            logger.warning("segments_not_deleted job=%s error=%s", job, error)

    def _jobs_with_logs(self) -> list[str]:
        """Returns the jobs whose logs are in HyDFS: the logs say all that the index says about them."""
        names = [found.name for found in self._storage.client.list(FOLDER)]
        end = "/log"
        return [name[len(FOLDER) : -len(end)] for name in names if name.endswith(end)]

    def _note_ended(self, job: str, summary: JobStatus) -> None:
        self.ended.pop(job, None)
        self.ended[job] = summary
        for oldest in list(self.ended)[:-ENDED_MAX]:
            del self.ended[oldest]

    def _take_over_job(self, job: str, submitted_at: float) -> JobState | None:
        """Returns the state of an unfinished job, or None when its log cannot be read."""
        file = log_file(job)
        try:
            return fold(job, records.decode(JOB_LOG, self._fence(file)))
        except (Corrupt, InvalidMessage, NotFound) as error:
            logger.error("job_set_aside job=%s file=%s error=%s", job, file, error)
            failure = Failure.of(error)
            self.unreadable[job] = status.unreadable(job, submitted_at, failure, self._name, self._term)
            return None

    def _fence(self, file: str) -> bytes:
        """Appends a term record to a log and returns the whole log with it.

        Raises:
            Fenced: the log belongs to a later term.
        """
        mark = records.encode(JOB_LOG, [TermRecord(self._term, self._name)])
        while True:
            length = self._storage.client.stat(file).length
            data = bytes(self._storage.read_exactly(file, 0, length))
            if _newest_term(data) > self._term:
                raise Fenced(f"{file} belongs to a later term than {self._term}")
            try:
                self._storage.append(
                    file, mark, self._writer, 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
                )
            except Conflict:
                continue  # the former leader has appended meanwhile: read that too
            self._files[file] = (length + len(mark), 1)
            return data + mark


def _readable(data: bytes) -> Iterator[records.IndexRecord]:
    """Yields the records of the index that can be read.

    Raises:
        Corrupt: the rest of the index cannot be divided into records.
    """
    for body in records.bodies(data):
        try:
            yield records.decode_body(INDEX, body)
        except InvalidMessage as error:
            logger.error("index_record_refused file=%s error=%s", INDEX_FILE, error)


def _newest_term(data: bytes) -> int:
    """Returns the newest term in a log; an unreadable record is left to the reader of all records."""
    newest = 0
    with contextlib.suppress(Corrupt):
        for body in records.bodies(data):
            if TermRecord.kind.encode() in bytes(body):  # few records have it, so few are decoded twice
                with contextlib.suppress(InvalidMessage):
                    newest = max(newest, records.decode_body(TERMS, body).term)
    return newest


class LogWriter:
    """Carries out ``AppendLog`` effects in order, and take-overs; called by the log thread."""

    def __init__(self, storage: Storage, name: str, post: Callable[[Any], None]) -> None:
        self._storage = storage
        self._name = name
        self._post = post
        self._stopping = threads.event()
        # The time and term of the last successful take-over, and how long the next one in that term waits.
        self._took_over = (0, 0.0)
        self._pause_s = 0.0
        self.logs: JobLogs | None = None

    def take_over(self, term: int) -> None:
        """Fences and reads all logs, trying again while HyDFS cannot serve."""
        self._pause_before(term)
        delay_s = TAKE_OVER_RETRY_S
        while not self._stopping.is_set():
            logs = JobLogs(self._storage, self._name, term)
            try:
                states = logs.take_over()
            except Fenced as error:
                logger.warning("take_over_refused term=%d error=%s", term, error)
                return  # the view will soon name the later leader
            except RainStormError as error:
                logger.warning("take_over_retry term=%d error=%s", term, error)
                self._stopping.wait(delay_s)
                delay_s = min(2 * delay_s, TAKE_OVER_RETRY_S_MAX)
                continue
            self.logs = logs
            self._took_over = (term, clock.monotonic())
            logger.info("took_over term=%d jobs=%d", term, len(states))
            self._post(TookOver(term, states))
            return

    def _pause_before(self, term: int) -> None:
        """Waits if the same term was taken over only a moment ago, longer each time."""
        last_term, at = self._took_over
        again = term == last_term and clock.monotonic() - at < TAKE_OVER_AGAIN_S
        longer_s = min(max(2 * self._pause_s, TAKE_OVER_RETRY_S), TAKE_OVER_RETRY_S_MAX)
        self._pause_s = longer_s if again else 0.0
        if self._pause_s:
            self._stopping.wait(self._pause_s)

    def append(self, effect: AppendLog) -> None:
        """Appends records of a job and reports the outcome to the leader core."""
        if self.logs is None:
            return
        now = clock.wall()
        stamped = [replace(record, at=now) for record in effect.records]
        try:
            self.logs.append(JOB_LOG, log_file(effect.job), stamped)
        except InvalidMessage as error:
            logger.error("records_refused job=%s error=%s", effect.job, error)
            self._post(RecordsRefused(effect.job, effect.token, error))
        except (Conflict, NotFound) as error:
            logger.warning("leadership_lost job=%s error=%s", effect.job, error)
            self._post(LogRejected(effect.job))
        except RainStormError as error:
            # The records may or may not be in the log; only a take-over, which reads the log, finds out.
            logger.error("log_unavailable job=%s error=%s", effect.job, error)
            self._post(LogRejected(effect.job))
        else:
            self._post(LogAppended(effect.job, effect.token, now))

    def stop(self) -> None:
        """Interrupts a take-over."""
        self._stopping.set()
