"""Exactly once on real processes: tasks, machines and leaders die half-way, and the result is still right."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.common.errors import RainStormError
from agent.hydfs.client import HydfsClient
from ops.cluster.connections import connected
from ops.demo import citysigns
from ops.demo.reference import expected_records, output_records
from tests.integration.cluster import Sandbox
from tests.integration.engine import NODES, Engine, count_by, spec_of
from tests.support import PATIENCE_S, shared_data, wait_until

pytestmark = pytest.mark.integration

# The expected results of the traffic-sign jobs, counted with Python's csv module (README of the data).
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


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The test's own five nodes."""
    place = Sandbox(tmp_path)
    place.cluster.up(NODES)
    try:
        with connected(place.inventory()) as connections:
            yield Engine(place, connections, tmp_path)
    finally:
        place.cluster.down()


FILTER = {"operator": "filter", "column": "Sign_Post", "equals": "Punched Telespar", "tasks": 2}


class Reader:
    """A program that polls the destination while the job runs: records that it has read must stay (R2)."""

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
            return  # a node in between was just killed; the next poll will succeed
        data = sink.getvalue()
        assert data.startswith(self.seen), "the destination file lost or changed records that were read"
        self.seen = data


def test_real_signs_are_counted_right_although_a_task_and_a_node_die(engine: Engine) -> None:
    """The golden values of the data's README, with a killed task and a killed node in the middle."""
    data = shared_data("traffic_signs", "TrafficSigns_5000.csv").read_bytes()
    source = engine.store(data)
    engine.prefer("vm1")
    job = engine.jobs.submit(spec_of(source, FILTER, count_by("Category"), rate=1000, format="csv"))
    engine.wait_for_epochs(job, 5)
    killed = engine.jobs.kill_task(task="1.0")
    wait_until(lambda: engine.jobs.job(job).generation == 2, PATIENCE_S, "the killed task is noticed")
    status = engine.wait_for_epochs(job, 20)
    assert killed.pid not in [task.pid for task in status.tasks]
    engine.sandbox.cluster.crash(engine.bystander(status))
    ended = engine.finish(job)
    assert ended.generation == 3, ended.recoveries
    rows = dict(line.rsplit(",", 1) for line in engine.output(ended).decode().splitlines())
    assert {key: int(value) for key, value in rows.items()} == GOLDEN


def test_task_node_and_leader_die_and_every_running_count_is_right(engine: Engine) -> None:
    """Counts of each key run 1, 2, 3, ... without a gap or a repeat, through three failures."""
    rows = 20_000
    data = b"".join(citysigns.generate(rows, 7))
    source = engine.store(data)
    spec = spec_of(source, FILTER, count_by("Category", "tuple"), rate=2500, format="csv")
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
    final = {**spec, "stages": [FILTER, count_by("Category")]}
    expected = [record.rsplit(",", 1) for record in expected_records(final, engine.local(source))]
    assert dict(running) == {key: int(value) for key, value in expected}


def test_a_machine_that_was_only_paused_writes_nothing_when_it_comes_back(engine: Engine) -> None:
    """The generation fences a zombie's tasks, which have output of their own."""
    lines = [f"line {number}\n".encode() for number in range(8000)]
    source = engine.store(b"".join(lines))
    engine.prefer("vm1")
    job = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 4}, rate=1000))
    status = engine.wait_for_epochs(job, 5)
    victim = engine.bystander(status)
    engine.sandbox.cluster.pause(victim)
    wait_until(lambda: engine.jobs.job(job).generation > 1, PATIENCE_S, "the paused node's tasks are moved")
    status = engine.wait_for_epochs(job, status.epochs_committed + 10)
    engine.sandbox.cluster.resume(victim)
    ended = engine.finish(job)
    assert Counter(engine.output(ended).splitlines(keepends=True)) == Counter(lines)


def test_a_killed_agent_takes_its_tasks_with_it_and_the_job_goes_on(engine: Engine) -> None:
    """Tasks end with their agent; others take over; at the end no task and no temporary file is left."""
    lines = [f"{number % 97}\n".encode() for number in range(9000)]
    source = engine.store(b"".join(lines))
    engine.prefer("vm1")
    job = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 3}, rate=1500))
    status = engine.wait_for_epochs(job, 5)
    victim = engine.bystander(status)
    processes = engine.sandbox.cluster.processes(victim)
    agent = next(each for each in processes if "rainstorm" in each.process.cmdline())
    tasks = [each for each in processes if "agent.rainstorm.task.shell.task" in each.process.cmdline()]
    agent.process.kill()
    wait_until(
        lambda: not any(each.process.is_running() for each in tasks), PATIENCE_S, "its tasks end with it"
    )
    ended = engine.finish(job)
    assert Counter(engine.output(ended).splitlines(keepends=True)) == Counter(lines)
    wait_until(
        lambda: not engine.files.list(f".rainstorm/{job}/segments"), PATIENCE_S, "the segments are removed"
    )
    assert engine.jobs.tasks() == []
