"""The invariants of the stream engine, checked while it runs (R1-R10 of the reliability study).

``Watch`` sees every append, from any node, at the instant at which it takes effect. From the index and the
job logs it knows which jobs were submitted and which output is committed. Nothing else may reach a
destination file, and nothing twice or in another order.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from agent.rainstorm.host.shell.writers import PIECES_PER_EPOCH_MAX
from agent.rainstorm.leader.core.joblog import JobState
from agent.rainstorm.leader.shell.joblog import INDEX_FILE, log_file
from agent.rainstorm.messages.joblog import (
    INDEX,
    JOB_LOG,
    CommitRecord,
    EndedRecord,
    GenerationRecord,
    JobRecord,
    OutcomeRecord,
    SubmittedRecord,
    TermRecord,
    decode,
)
from tests.simulation.rainstorm import output
from tests.simulation.rainstorm.hydfs import Store
from tests.simulation.rainstorm.jobs import Workload

LOG_PREFIX, LOG_SUFFIX = log_file("\n").split("\n")


class WatchedJob:
    """The state of one job according to its log so far, and its published output."""

    def __init__(self, job: str, workload: Workload, sink: str) -> None:
        self.job = job
        self.workload = workload
        self.sink = sink
        self.term = 0
        self.generation = 0
        self.epoch = 0
        self.outcome = ""
        self.error: Any = None
        # Whether it is in the index: if so, any leader must complete it.
        self.is_submitted = False
        self.in_index_as_ended = False
        self.ended_at = 0.0
        self.commits = 0
        self.committed: dict[tuple[int, str], bytes] = {}
        self.published: dict[tuple[int, str], bytes] = {}
        self.seen = b""
        # The state that a leader would find when it takes over.
        self.state = JobState()


class Watch:
    """The checks and the reachability counters of one run."""

    def __init__(self, store: Store, *, end_to_end_only: bool = False) -> None:
        self.hits: Counter[str] = Counter()
        self.jobs: dict[str, WatchedJob] = {}
        # Jobs for which a cancellation was requested.
        self.cancelled: dict[str, bool] = {}
        self._workloads: dict[str, Workload] = {}
        self._store = store
        self._generations: dict[tuple[str, int], int] = {}
        self._bases: dict[tuple[str, int], bool] = {}
        self._end_to_end_only = end_to_end_only
        self._by_sink: dict[str, WatchedJob] = {}
        store.on_append = self._appended
        store.on_lost_answer = self._lost
        store.on_delete = self._deleted
        store.on_conflict = self._refused

    def add(self, workload: Workload) -> None:
        """Expects submissions of a workload."""
        self._workloads[str(workload.raw["name"])] = workload

    def hit(self, what: str) -> None:
        """Counts that a moment was reached."""
        self.hits[what] += 1

    def over(self) -> bool:
        """Tells whether all submitted jobs have ended according to the index."""
        return all(job.in_index_as_ended for job in self.jobs.values() if job.is_submitted)

    def restored(self, file: str, offset: int) -> None:
        """A task loaded a segment."""
        self.hit("fresh restore from segments")
        if (file, offset) in self._bases:
            self.hit("base snapshot restored")

    def triggered(self, job: str, generation: int, epoch: int) -> None:
        """An agent was told to end an epoch: a number belongs to one generation only."""
        if self._end_to_end_only:
            return
        first = self._generations.setdefault((job, epoch), generation)
        assert first == generation, f"R5: epoch {epoch} of {job} in generations {first} and {generation}"

    def ended(self, job: str, outcome: str) -> None:
        """A leader ended a job: its log must say so."""
        assert self.jobs[job].outcome == outcome, f"{job} ended before its log says so"

    def reported(self, job: str, epoch: int, task: str) -> None:
        """An agent says that it has published the output of an epoch: all of it must be there."""
        if not self._end_to_end_only:
            found = self.jobs[job]
            committed = found.committed.get((epoch, task), b"")
            made = found.published.get((epoch, task), b"")
            assert made == committed, f"R4: {job} calls {(epoch, task)} published: {made!r} of {committed!r}"

    # -- the appends and deletions that the store reports ---------------------------------------------

    def _lost(self, name: str) -> None:
        if _job_of(name) in self.jobs:
            self.hit("commit outcome unknown")

    def _refused(self, name: str, writer: str) -> None:
        if _job_of(name) in self.jobs and writer.startswith("leader-"):
            self.hit("zombie append refused")

    def _appended(self, name: str, writer: str, sequence: int, data: bytes) -> None:
        job = _job_of(name)
        if name == INDEX_FILE:
            self._indexed(data)
        elif job:
            self._logged(job, writer, data)
        elif name in self._by_sink and not self._end_to_end_only:
            self._published(self._by_sink[name], writer, sequence, data)

    def _deleted(self, name: str) -> None:
        if "/segments-" in name:
            self.hit("segment file deleted")
        output = self._by_sink.get(name)
        assert output is None or not output.is_submitted, f"R2: the output of {name} deleted"
        for job in self.jobs.values():
            references = [found for files in job.state.segments.values() for found in files]
            for _, _, found in job.state.unpublished:
                references += found
            needed = any(file == name for file, _, _ in references) and not job.outcome
            assert not needed, f"R9: {name} deleted, which the next leader of {job.job} would need"

    def _indexed(self, data: bytes) -> None:
        for record in decode(INDEX, data):
            match record:
                case SubmittedRecord(job=job):
                    self.jobs[job].is_submitted = True
                case EndedRecord(job=job):
                    self.jobs[job].in_index_as_ended = True
                    self.jobs[job].ended_at = self._store.now

    def _logged(self, name: str, writer: str, data: bytes) -> None:
        term = int(writer.split("-")[2])
        for record in decode(JOB_LOG, data):
            if isinstance(record, JobRecord):
                workload = self._workloads[str(record.spec["name"])]
                job = self.jobs[name] = WatchedJob(name, workload, record.sink)
                self._by_sink[job.sink] = job
            job = self.jobs[name]
            assert term >= job.term, f"R6: {writer} wrote to the log of {job.job} in term {job.term}"
            job.state.apply(record)
            match record:
                case TermRecord(term=later):
                    job.term = later
                case GenerationRecord(generation=generation):
                    assert generation == job.generation + 1, f"generation {generation}: {job.generation}"
                    job.generation = generation
                case CommitRecord():
                    self._committed(job, record)
                case OutcomeRecord():
                    assert not job.outcome, f"{job.job} ended twice"
                    job.outcome, job.error = record.outcome, record.error
                    if job.outcome == "cancelled":
                        self.hit("job cancelled")

    def _committed(self, job: WatchedJob, record: CommitRecord) -> None:
        epoch, generation = record.epoch, record.generation
        assert not job.outcome, f"R5: epoch {epoch} committed after the end of {job.job}"
        assert epoch > job.epoch, f"R5: epoch {epoch} committed after {job.epoch}"
        assert generation == job.generation, f"R6: generation {generation} committed, not {job.generation}"
        job.epoch = epoch
        job.commits += 1
        for task, references in record.sink.items():
            parts = [self._segment(*reference) for reference in references]
            job.committed[epoch, task] = b"".join(parts)
        for references in record.base.values():
            self._bases.update({(file, offset): True for file, offset, _ in references})
        for references in [*record.base.values(), *record.delta.values()]:
            for reference in references:
                self._segment(*reference)

    def _segment(self, file: str, offset: int, length: int) -> bytes:
        data = self._store.read(file, offset, length)
        assert len(data) == length, f"a commit refers to bytes that {file} does not have"
        return data

    def _published(self, job: WatchedJob, writer: str, sequence: int, data: bytes) -> None:
        task = writer.split("/")[1]
        key = (sequence // PIECES_PER_EPOCH_MAX, task)
        assert key in job.committed, f"R2: {key} of {job.job} published, which is not committed"
        done = job.published.get(key, b"")
        wanted = job.committed[key][len(done) : len(done) + len(data)]
        assert data == wanted, f"R5: {key} of {job.job} published with other content than was committed"
        job.published[key] = done + data
        for earlier, committed in job.committed.items():
            if earlier[1] == task and earlier[0] < key[0]:
                assert job.published.get(earlier) == committed, f"R4: {key} published before {earlier}"

    # -- the reader and the end -----------------------------------------------------------------------

    def poll(self) -> None:
        """Reads all destinations as a client would (R2)."""
        for job in self.jobs.values():
            if job.sink not in self._store.files:
                assert not job.is_submitted, f"R2: the output of {job.job} is gone"
                continue
            data = bytes(self._store.files[job.sink].data)
            assert data.startswith(job.seen), f"R2: output of {job.job} vanished"
            if len(data) > len(job.seen):
                job.seen = data
                output.check_seen(job.workload, job.job, data)

    def check_end(self) -> None:
        """Checks the whole output of all jobs (R1, R4)."""
        self.poll()
        for job in self.jobs.values():
            if not job.is_submitted:
                continue  # its leader was lost before it was in the index: it never began
            if job.outcome == "cancelled" and job.job in self.cancelled:
                continue
            assert job.outcome == "finished", f"R9: {job.job} is {job.outcome or 'not over'}: {job.error}"
            output.check_whole(job.workload, job.job, job.seen)


def _job_of(name: str) -> str:
    """Returns the job whose log a file is, or ''."""
    if name.startswith(LOG_PREFIX) and name.endswith(LOG_SUFFIX):
        return name[len(LOG_PREFIX) : -len(LOG_SUFFIX)]
    return ""
