"""What a leader does with HyDFS: the index of jobs, the job logs, fencing at a take-over.

``.rainstorm/index`` lists what was submitted and how it ended; ``.rainstorm/<job>/log`` is the log of one
job. A leader writes both only by conditional appends at the place where it believes them to end. Taking over
means to append a term record to each of them: after that every append of the former leader meets a longer
file and is refused, so that reading up to the own term record reads all there will ever be of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.common.errors import Conflict, Fenced, NotFound, RainStormError
from agent.common.shell import clock, threads
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.leader.core.joblog import JobState, Record, decode, encode
from agent.rainstorm.leader.core.jobmachine import AppendLog
from agent.rainstorm.leader.core.leader import LogAppended, LogRejected, TookOver

logger = logging.getLogger("agent.rainstorm.leader.shell.joblog")

INDEX = ".rainstorm/index"
APPEND_TIMEOUT_S = 30.0
TAKE_OVER_RETRY_S = 0.1


def log_file(job: str) -> str:
    """Returns the name of a job's log."""
    return f".rainstorm/{job}/log"


class JobLogs:
    """The logs as one leader of one term writes them; used by the log thread and by submissions."""

    def __init__(self, storage: Storage, name: str, term: int) -> None:
        self._storage = storage
        self._name = name
        self._term = term
        # A second take-over in the same term must not look like a repetition of the first.
        self._writer = f"leader-{name}-{term}-{threads.unique_id()[:8]}"
        self._lock = threads.lock()
        self._files: dict[str, tuple[int, int]] = {}
        self.ended: dict[str, Mapping[str, Any]] = {}

    def take_over(self) -> list[JobState]:
        """Fences all logs for this term and returns the unfinished jobs.

        Raises:
            Fenced: a leader of a later term was here.
            RainStormError: HyDFS cannot serve now; it may be tried again.
        """
        self._storage.create_if_missing(INDEX)
        submitted: dict[str, Record] = {}
        for record in self._fence(INDEX):
            if record["t"] == "submitted":
                submitted[record["job"]] = record
            elif record["t"] == "ended":
                self.ended[record["job"]] = record["summary"]
        states = []
        for job in submitted:
            if job not in self.ended:
                state = JobState()
                for record in self._fence(log_file(job)):
                    state.apply(record)
                states.append(state)
        return states

    def open_job(self, state: JobState, record: Record) -> None:
        """Creates a job's log and enters the job into the index.

        Raises:
            Conflict: this node does not lead any more.
        """
        self._storage.client.create(log_file(state.job))
        self._files[log_file(state.job)] = (0, 0)
        self.append(log_file(state.job), [record])
        self.append(INDEX, [{"t": "submitted", "job": state.job, "at": state.submitted_at}])

    def append(self, file: str, records: Sequence[Record]) -> None:
        """Appends records where this leader believes the file to end.

        Raises:
            Conflict: another leader has written.
            RainStormError: the outcome is unknown, and so is where the file ends: only a take-over can tell.
        """
        with self._lock:
            if file not in self._files:
                raise Fenced(f"{file} has to be taken over again", hint="try again in a second")
            length, sequence = self._files.pop(file)
            data = encode(records)
            self._storage.append(
                file, data, self._writer, sequence + 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
            )
            self._files[file] = (length + len(data), sequence + 1)

    def close_job(self, job: str, summary: Mapping[str, Any]) -> None:
        """Notes in the index how a job ended and removes what nobody needs any more."""
        self.append(INDEX, [{"t": "ended", "job": job, "summary": summary}])
        self.ended[job] = summary
        try:
            self._storage.client.delete_prefix(f".rainstorm/{job}/segments-")
        except RainStormError as error:
            logger.warning("segments_left job=%s error=%s", job, error)

    def _fence(self, file: str) -> list[Record]:
        mark = encode([{"t": "term", "term": self._term, "node": self._name}])
        while True:
            length = self._storage.client.stat(file).length
            records = list(decode(self._storage.read_exactly(file, 0, length)))
            if any(record["t"] == "term" and record["term"] > self._term for record in records):
                raise Fenced(f"{file} belongs to a later term than {self._term}")
            try:
                self._storage.append(
                    file, mark, self._writer, 1, if_offset=length, timeout_s=APPEND_TIMEOUT_S
                )
            except Conflict:
                continue  # the former leader was faster once more: read what it wrote
            self._files[file] = (length + len(mark), 1)
            return [*records, {"t": "term", "term": self._term, "node": self._name}]


class LogWriter:
    """The thread that carries out ``AppendLog`` effects in order, and take-overs."""

    def __init__(self, storage: Storage, name: str, post: Callable[[Any], None]) -> None:
        self._storage = storage
        self._name = name
        self._post = post
        self._stopping = threads.event()
        self.logs: JobLogs | None = None

    def take_over(self, term: int) -> None:
        """Fences and reads all logs, trying again while HyDFS cannot serve."""
        while not self._stopping.is_set():
            logs = JobLogs(self._storage, self._name, term)
            try:
                states = logs.take_over()
            except Fenced as error:
                logger.warning("take_over_refused term=%d error=%s", term, error)
                return  # the view will say so too
            except RainStormError as error:
                logger.warning("take_over_retry term=%d error=%s", term, error)
                self._stopping.wait(TAKE_OVER_RETRY_S)
                continue
            self.logs = logs
            logger.info("took_over term=%d jobs=%d", term, len(states))
            self._post(TookOver(term, states))
            return

    def append(self, effect: AppendLog) -> None:
        """Appends records of a job and reports the outcome to the leader core."""
        if self.logs is None:
            return
        now = clock.wall()
        records = [{**record, "at": now} for record in effect.records]
        try:
            self.logs.append(log_file(effect.job), records)
        except (Conflict, NotFound) as error:
            logger.warning("deposed job=%s error=%s", effect.job, error)
            self._post(LogRejected(effect.job))
            return
        except RainStormError as error:
            # Whether the records are in the log is unknown; only a take-over, which reads the log, can tell.
            logger.error("log_unavailable job=%s error=%s", effect.job, error)
            self._post(LogRejected(effect.job))
            return
        self._post(LogAppended(effect.job, effect.token, now))

    def stop(self) -> None:
        """Cuts a take-over short."""
        self._stopping.set()
