"""Jobs on healthy nodes, with one killed task: awkward inputs, refusals, errors, cancellation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import AlreadyExists, JobInvalid, NotFound
from ops.cluster.connections import connected
from ops.demo.reference import expected_records, output_records
from tests.integration.cluster import Sandbox, shared
from tests.integration.engine import JOB_TIMEOUT_S, NODES, Engine, count_by, spec_of
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """Five nodes for all tests, none of which loses one."""
    with shared(request, tmp_path_factory.mktemp("jobs"), NODES) as found:
        yield found


@pytest.fixture
def engine(place: Sandbox, tmp_path: Path) -> Iterator[Engine]:
    with connected(place.inventory()) as connections:
        yield Engine(place, connections, tmp_path)


def test_identical_lines_all_arrive(engine: Engine) -> None:
    """10,000 identical lines through identity arrive 10,000 times, although a task dies on the way."""
    source = engine.store(b"the same line\n" * 10_000)
    job = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 3}, rate=2500))
    engine.wait_for_epochs(job, 5)
    engine.jobs.kill_task(task="0.1")
    ended = engine.finish(job)
    assert engine.output(ended) == b"the same line\n" * 10_000
    assert ended.lines_read == 10_000


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
        for stages in ([count_by("k")], [select]):
            spec = spec_of(source, *stages, format="csv", **options)
            ended = engine.finish(engine.jobs.submit(spec))
            found = Counter(output_records(spec, engine.output(ended)))
            assert found == Counter(expected_records(spec, engine.local(source)))


def test_bad_jobs_are_refused_before_anything_changes(engine: Engine) -> None:
    """A missing source, an unknown column, a taken destination: each gives one clear error and no trace."""
    source = engine.store(b"a,b\n1,2\n")
    engine.files.create("taken")
    good = spec_of(source, count_by("a"), format="csv")
    before, jobs = set(engine.names()), [job.job for job in engine.jobs.jobs()]
    for spec, error in (
        ({**good, "source": {"file": "absent", "format": "csv"}}, NotFound),
        ({**good, "stages": [{**count_by("nope")}]}, JobInvalid),
        ({**good, "stages": [{"operator": "agregate-by-key"}]}, JobInvalid),
        ({**good, "stages": [{**count_by("a"), "tasks": -1}]}, JobInvalid),
        ({**good, "sink": {"file": "taken"}}, AlreadyExists),
        ({**good, "sink": {"file": "../up"}}, JobInvalid),
        ({**good, "stage": []}, JobInvalid),
        ("no job", JobInvalid),
    ):
        with pytest.raises(error) as refused:
            engine.jobs.submit(spec)
        assert refused.value.hint, spec
    # The segments of another test's job may be removed meanwhile.
    assert set(engine.names()) <= before
    assert [job.job for job in engine.jobs.jobs()] == jobs


def test_a_number_that_is_none_fails_the_job_with_its_text(engine: Engine) -> None:
    """A deterministic error of an operator ends the job at once, named, instead of a restart loop."""
    source = engine.store(b"k,v\na,1\nb,many\n")
    spec = spec_of(source, {**count_by("k"), "function": "sum", "value": "v"}, format="csv")
    ended = engine.jobs.wait(engine.jobs.submit(spec), JOB_TIMEOUT_S)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.code == "JOB_FAILED"
    assert "many" in ended.error.message
    assert engine.jobs.tasks() == []


def test_a_cancelled_job_ends_and_a_second_job_runs_beside_a_first(engine: Engine) -> None:
    """Two jobs share the cluster; cancelling one leaves the other alone."""
    source = engine.store(b"".join(b"%d\n" % number for number in range(3000)))
    slow = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 2}, rate=100))
    quick = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 2}, rate=1500))
    engine.wait_for_epochs(slow, 3)
    assert engine.jobs.cancel(slow).state == "cancelled"
    assert engine.output(engine.finish(quick)).count(b"\n") == 3000
    states = [job.state for job in engine.jobs.jobs() if job.job in (slow, quick)]
    assert states == ["finished", "cancelled"]
    wait_until(lambda: engine.jobs.tasks() == [], PATIENCE_S, "no task is left")


def test_a_job_whose_destination_is_deleted_fails_and_says_so(engine: Engine) -> None:
    """There is nowhere to publish to, so the job ends instead of waiting indefinitely."""
    source = engine.store(b"".join(b"%d\n" % number for number in range(3000)))
    job = engine.jobs.submit(spec_of(source, {"operator": "identity", "tasks": 2}, rate=500))
    engine.wait_for_epochs(job, 3)
    engine.files.delete(f"out-{job}")
    ended = engine.jobs.wait(job, JOB_TIMEOUT_S)
    assert ended.state == "failed"
    assert ended.error is not None
    assert ended.error.code == "NOT_FOUND"
    assert f"out-{job}" in ended.error.message
