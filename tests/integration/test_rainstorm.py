"""Exactly once on real processes: tasks, machines and leaders die in the middle, the result stays right."""

from __future__ import annotations

import io
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import AlreadyExists, JobInvalid, NotFound, RainStormError
from agent.hydfs.client import HydfsClient
from agent.rainstorm.client import RainstormClient
from agent.rainstorm.messages.status import JobStatus
from ops.cluster.connections import Connections, connected
from ops.demo import citysigns
from ops.demo.reference import expected_records, output_records
from tests.integration.cluster import Sandbox
from tests.support import shared_data, wait_until

pytestmark = pytest.mark.integration

NODES = 5
JOB_TIMEOUT_S = 60.0
# How the outcomes of the traffic-sign jobs are known: counted with Python's csv module (README of the data).
GOLDEN = {
    "Regulatory": 1063,
    "Streetname": 1053,
    "Parking": 496,
    "Warning": 96,
    "School": 89,
    "Object Marker": 66,
    "Custom": 48,
    "Guide": 25,
    "MTD": 16,
}


class Engine:
    """A running cluster and what tests do with it."""

    def __init__(self, sandbox: Sandbox, connections: Connections, folder: Path) -> None:
        self.sandbox = sandbox
        self.connections = connections
        self._folder = folder
        self._files = 0

    @property
    def jobs(self) -> RainstormClient:
        """Returns a client of the stream engine."""
        return self.connections.rainstorm()

    @property
    def files(self) -> HydfsClient:
        """Returns a client of the store."""
        return self.connections.hydfs()

    def store(self, data: bytes) -> str:
        """Stores bytes under a new name, and locally under the same name."""
        self._files += 1
        name = f"input-{self._files}"
        (self._folder / name).write_bytes(data)
        self.files.put(name, io.BytesIO(data))
        return name

    def names(self) -> list[str]:
        """Returns the names of all files but the collected logs, which grow by themselves."""
        return [stat.name for stat in self.files.list("") if not stat.name.startswith(".logs/")]

    def local(self, name: str) -> Path:
        """Returns the local copy of a stored input."""
        return self._folder / name

    def output(self, job: JobStatus) -> bytes:
        """Returns the bytes of a job's destination file."""
        sink = io.BytesIO()
        self.files.get(job.sink, sink)
        return sink.getvalue()

    def finish(self, job: str) -> JobStatus:
        """Waits for the end of a job, which must be a good one."""
        ended = self.jobs.wait(job, JOB_TIMEOUT_S)
        assert ended.state == "finished", (ended.state, ended.error, ended.recoveries)
        return ended

    def wait_for_epochs(self, job: str, count: int) -> JobStatus:
        """Waits until so many epochs of a job are committed and all its tasks run."""
        found: list[JobStatus] = []

        def enough() -> bool:
            found[:] = [self.jobs.job(job)]
            ready = all(task.pid for task in found[0].tasks)
            return found[0].epochs_committed >= count and bool(found[0].tasks) and ready

        wait_until(enough, 30, f"{count} epochs of {job} are committed")
        return found[0]

    def bystander(self, job: JobStatus) -> str:
        """Returns a node with tasks that does not lead; the test talks to another one from now on."""
        victim = next(task.node for task in job.tasks if task.node != job.leader)
        self.prefer(victim, job.leader)
        return victim

    def prefer(self, *avoid: str) -> None:
        """Talks to a node from now on that will not be harmed."""
        names = [name for name in self.connections.inventory.names() if name not in avoid]
        self.connections.prefer(names[-1])


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Five nodes of the test's own."""
    place = Sandbox(tmp_path)
    place.cluster.up(NODES)
    try:
        with connected(place.inventory()) as connections:
            yield Engine(place, connections, tmp_path)
    finally:
        place.cluster.down()


def _spec(source: str, *stages: dict[str, Any], rate: int = 0, **options: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "source": {"file": source, "rate": rate, **options},
        "stages": list(stages),
        "sink": {"file": "out-{job}"},
        "epoch_interval_ms": 50,
    }


def _count(key: str, emit: str = "final", tasks: int = 2) -> dict[str, Any]:
    return {"operator": "aggregate-by-key", "key": key, "function": "count", "emit": emit, "tasks": tasks}


FILTER = {"operator": "filter", "column": "Sign_Post", "equals": "Punched Telespar", "tasks": 2}


class Reader:
    """A program that polls the destination while the job runs: what it has read must never vanish (R2)."""

    def __init__(self, files: Callable[[], HydfsClient], name: str) -> None:
        self._files = files
        self._name = name
        self.seen = b""

    def poll(self) -> None:
        """Reads the whole file; it must begin with what was read before."""
        sink = io.BytesIO()
        try:
            self._files().get(self._name, sink)
        except RainStormError:
            return  # a node on the way was just killed; the next poll tells
        data = sink.getvalue()
        assert data.startswith(self.seen), "the destination file lost or changed what was read from it"
        self.seen = data


def test_real_signs_are_counted_right_although_a_task_and_a_node_die(engine: Engine) -> None:
    """The golden values of the data's README, with a killed task and a killed node in the middle."""
    data = shared_data("traffic_signs", "TrafficSigns_5000.csv").read_bytes()
    source = engine.store(data)
    engine.prefer("vm1")
    job = engine.jobs.submit(_spec(source, FILTER, _count("Category"), rate=1000, format="csv"))
    engine.wait_for_epochs(job, 5)
    killed = engine.jobs.kill_task(task="1.0")
    wait_until(lambda: engine.jobs.job(job).generation == 2, 10, "the killed task is noticed")
    status = engine.wait_for_epochs(job, 20)
    assert killed.pid not in [task.pid for task in status.tasks]
    engine.sandbox.cluster.crash(engine.bystander(status))
    ended = engine.finish(job)
    assert ended.generation == 3, ended.recoveries
    rows = dict(line.rsplit(",", 1) for line in engine.output(ended).decode().splitlines())
    assert {key: int(value) for key, value in rows.items()} == GOLDEN


def test_identical_lines_all_arrive(engine: Engine) -> None:
    """10,000 identical lines through identity arrive 10,000 times, although a task dies on the way."""
    source = engine.store(b"the same line\n" * 10_000)
    job = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 3}, rate=5000))
    engine.wait_for_epochs(job, 5)
    engine.jobs.kill_task(task="0.1")
    ended = engine.finish(job)
    assert engine.output(ended) == b"the same line\n" * 10_000
    assert ended.lines_read == 10_000


def test_task_node_and_leader_die_and_every_running_count_is_right(engine: Engine) -> None:
    """Counts of each key run 1, 2, 3, ... without a gap or a repeat, through three failures."""
    rows = 20_000
    data = b"".join(citysigns.generate(rows, 7))
    source = engine.store(data)
    spec = _spec(source, FILTER, _count("Category", "tuple"), rate=2500, format="csv")
    job = engine.jobs.submit(spec)
    reader = Reader(lambda: engine.files, f"out-{job}")
    status = engine.wait_for_epochs(job, 5)
    engine.jobs.kill_task(task="0.0")
    reader.poll()
    status = engine.wait_for_epochs(job, status.epochs_committed + 10)
    reader.poll()
    victim = engine.bystander(status)
    engine.sandbox.cluster.crash(victim)
    status = engine.wait_for_epochs(job, status.epochs_committed + 10)
    reader.poll()
    engine.sandbox.cluster.crash(status.leader)
    engine.wait_for_epochs(job, status.epochs_committed + 10)
    reader.poll()
    ended = engine.finish(job)
    assert ended.term == status.term + 1
    assert ended.leader != status.leader
    reader.poll()
    running: Counter[str] = Counter()
    for record in output_records(spec, reader.seen):
        key, value = record.rsplit(",", 1)
        running[key] += 1
        assert int(value) == running[key], f"{record!r} after {running[key] - 1}"
    final = {**spec, "stages": [FILTER, _count("Category")]}
    expected = [record.rsplit(",", 1) for record in expected_records(final, engine.local(source))]
    assert dict(running) == {key: int(value) for key, value in expected}


def test_a_machine_that_was_only_paused_writes_nothing_when_it_comes_back(engine: Engine) -> None:
    """A zombie's tasks, with output of their own at hand, are fenced by the generation."""
    lines = [f"line {number}\n".encode() for number in range(8000)]
    source = engine.store(b"".join(lines))
    engine.prefer("vm1")
    job = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 4}, rate=1000))
    status = engine.wait_for_epochs(job, 5)
    victim = engine.bystander(status)
    engine.sandbox.cluster.pause(victim)
    wait_until(lambda: engine.jobs.job(job).generation > 1, 15, "the paused node's tasks are moved")
    status = engine.wait_for_epochs(job, status.epochs_committed + 10)
    engine.sandbox.cluster.resume(victim)
    ended = engine.finish(job)
    assert Counter(engine.output(ended).splitlines(keepends=True)) == Counter(lines)


def test_a_killed_agent_takes_its_tasks_with_it_and_the_job_goes_on(engine: Engine) -> None:
    """Tasks end with their agent; others take over; at the end no task and no temporary file is left."""
    lines = [f"{number % 97}\n".encode() for number in range(9000)]
    source = engine.store(b"".join(lines))
    engine.prefer("vm1")
    job = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 3}, rate=1500))
    status = engine.wait_for_epochs(job, 5)
    victim = engine.bystander(status)
    processes = engine.sandbox.cluster.processes(victim)
    agent = next(each for each in processes if "rainstorm" in each.process.cmdline())
    tasks = [each for each in processes if "agent.rainstorm.task.shell.task" in each.process.cmdline()]
    agent.process.kill()
    wait_until(lambda: not any(each.process.is_running() for each in tasks), 10, "its tasks end with it")
    ended = engine.finish(job)
    assert Counter(engine.output(ended).splitlines(keepends=True)) == Counter(lines)
    wait_until(lambda: not engine.files.list(f".rainstorm/{job}/segments"), 10, "the segments are removed")
    assert engine.jobs.tasks() == []


@pytest.mark.parametrize("seed", [1, 2])
def test_awkward_files_are_read_as_pythons_csv_module_reads_them(engine: Engine, seed: int) -> None:
    """A byte-order mark, no header, CRLF, newlines in fields, no final newline, short and long rows."""
    rng = random.Random(seed)
    cells = ["", "plain", '"a,b"', '"say ""so"""', '"two\r\nlines"', "ñandú 東京", " padded ", '"\n"']
    cells.append("x" * 300)
    rows = [",".join(rng.choices(cells, k=rng.choice([4, 4, 4, 4, 3, 5]))) for _ in range(4000)]
    text = "\r\n".join(["k,v,w,z", *rows])
    for data, options in (
        (b"\xef\xbb\xbf" + text.encode(), {"header": True}),
        (("\r\n".join(rows) + "\r\n").encode(), {"header": False, "columns": ["k", "v", "w", "z"]}),
    ):
        source = engine.store(data)
        select = {"operator": "transform", "select": ["k", "z"], "tasks": 3}
        for stages in ([_count("k")], [select]):
            spec = _spec(source, *stages, format="csv", **options)
            ended = engine.finish(engine.jobs.submit(spec))
            found = Counter(output_records(spec, engine.output(ended)))
            assert found == Counter(expected_records(spec, engine.local(source)))


def test_bad_jobs_are_refused_before_anything_changes(engine: Engine) -> None:
    """A missing source, an unknown column, a taken destination: one clear error each, no trace left."""
    source = engine.store(b"a,b\n1,2\n")
    engine.files.create("taken")
    good = _spec(source, _count("a"), format="csv")
    before = engine.names()
    for spec, error in (
        ({**good, "source": {"file": "absent", "format": "csv"}}, NotFound),
        ({**good, "stages": [{**_count("nope")}]}, JobInvalid),
        ({**good, "stages": [{"operator": "agregate-by-key"}]}, JobInvalid),
        ({**good, "stages": [{**_count("a"), "tasks": -1}]}, JobInvalid),
        ({**good, "sink": {"file": "taken"}}, AlreadyExists),
        ({**good, "sink": {"file": "../up"}}, JobInvalid),
        ({**good, "stage": []}, JobInvalid),
        ("no job", JobInvalid),
    ):
        with pytest.raises(error) as refused:
            engine.jobs.submit(spec)
        assert refused.value.hint, spec
    assert engine.names() == before
    assert engine.jobs.jobs() == []


def test_a_number_that_is_none_fails_the_job_with_its_text(engine: Engine) -> None:
    """A deterministic error of an operator ends the job at once, named, instead of a restart loop."""
    source = engine.store(b"k,v\na,1\nb,many\n")
    spec = _spec(source, {**_count("k"), "function": "sum", "value": "v"}, format="csv")
    ended = engine.jobs.wait(engine.jobs.submit(spec), JOB_TIMEOUT_S)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.code == "JOB_FAILED"
    assert "many" in ended.error.message
    assert engine.jobs.tasks() == []


def test_a_cancelled_job_ends_and_a_second_job_runs_beside_a_first(engine: Engine) -> None:
    """Two jobs share the cluster; cancelling one leaves the other alone."""
    source = engine.store(b"".join(b"%d\n" % number for number in range(3000)))
    slow = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 2}, rate=100))
    quick = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 2}, rate=1500))
    engine.wait_for_epochs(slow, 3)
    assert engine.jobs.cancel(slow).state == "cancelled"
    assert engine.output(engine.finish(quick)).count(b"\n") == 3000
    assert [job.state for job in engine.jobs.jobs()] == ["finished", "cancelled"]
    wait_until(lambda: engine.jobs.tasks() == [], 10, "no task is left")


def test_a_job_whose_destination_is_deleted_fails_and_says_so(engine: Engine) -> None:
    """There is nowhere to publish to, so the job ends instead of waiting for ever."""
    source = engine.store(b"".join(b"%d\n" % number for number in range(3000)))
    job = engine.jobs.submit(_spec(source, {"operator": "identity", "tasks": 2}, rate=500))
    engine.wait_for_epochs(job, 3)
    engine.files.delete(f"out-{job}")
    ended = engine.jobs.wait(job, JOB_TIMEOUT_S)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.code == "NOT_FOUND"
    assert f"out-{job}" in ended.error.message
