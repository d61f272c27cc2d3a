"""Job files: good ones parse, every mistake is refused with its place before anything exists."""

from __future__ import annotations

import contextlib
import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent.common.errors import JobInvalid
from agent.rainstorm.job.spec import STAGES_MAX, TASKS_PER_STAGE_MAX, parse
from tests.support import REPOSITORY

LINES: dict[str, Any] = {
    "source": {"file": "in/log.txt"},
    "stages": [{"operator": "identity"}],
    "sink": {"file": "out/log.txt"},
}
CSV: dict[str, Any] = {
    "name": "signs",
    "source": {"file": "in.csv", "format": "csv", "header": True, "rate": 10},
    "stages": [
        {"operator": "filter", "column": "a", "equals": "x", "invert": True, "tasks": 2},
        {"operator": "transform", "select": ["a", "b"]},
        {"operator": "aggregate-by-key", "key": "a", "function": "sum", "value": "b", "emit": "epoch"},
    ],
    "sink": {"file": "out.csv"},
    "exactly_once": False,
    "epoch_interval_ms": 20,
}
DROP = object()


def changed(raw: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Returns a job file with one value replaced (or dropped); ``path`` is like ``stages.0.tasks``."""
    made: Any = copy.deepcopy(raw)
    at = made
    *way, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    for part in way:
        at = at[part]
    if value is DROP:
        del at[last]
    else:
        at[last] = value
    return dict(made)


def refused(raw: Any) -> str:
    """Returns the message and hint with which a job file is refused."""
    with pytest.raises(JobInvalid) as caught:
        parse(raw)
    assert caught.value.code == "JOB_INVALID"
    assert caught.value.message.startswith("job file, ")
    assert caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}"


def test_defaults() -> None:
    """A job of three keys: lines, exactly once, an epoch every 100 ms, one task a stage."""
    spec = parse(LINES)
    assert (spec.name, spec.exactly_once, spec.epoch_interval_ms) == ("job", True, 100)
    assert (spec.source.format, spec.source.header, spec.source.rate) == ("lines", False, 0)
    assert [(stage.operator, stage.tasks, dict(stage.options)) for stage in spec.stages] == [
        ("identity", 1, {})
    ]


def test_everything_said_is_taken() -> None:
    """No value of a job file is lost on the way."""
    spec = parse(CSV)
    assert (spec.name, spec.exactly_once, spec.epoch_interval_ms) == ("signs", False, 20)
    assert (spec.source.file, spec.source.header, spec.source.rate) == ("in.csv", True, 10)
    assert spec.stages[0].options == {"column": "a", "equals": "x", "invert": True}
    assert [stage.tasks for stage in spec.stages] == [2, 1, 1]
    assert spec.sink.file == "out.csv"


@pytest.mark.parametrize("path", sorted((REPOSITORY / "jobs").glob("*.yml")), ids=lambda path: path.stem)
def test_the_sample_jobs_are_good(path: Path) -> None:
    """What ships as an example can be run."""
    assert parse(yaml.safe_load(path.read_text("utf-8"))).stages


def test_a_header_is_expected_unless_columns_are_named() -> None:
    """CSV has a header by default; a job that names the columns may say that there is a header to skip."""
    source = changed(CSV, "source.header", DROP)
    assert parse(source).source.header is True
    named = changed(source, "source.columns", ["a", "b"])
    assert (parse(named).source.header, parse(named).source.columns) == (False, ("a", "b"))
    assert parse(changed(named, "source.header", True)).source.header is True


LONG = "é" * 150  # 300 bytes

MISTAKES: list[tuple[dict[str, Any], str, Any, list[str]]] = [
    (LINES, "sourc", {}, ["top level", "'sourc'", "'source'"]),
    (LINES, "source", DROP, ["top level", "missing key 'source'"]),
    (LINES, "stages", DROP, ["missing key 'stages'"]),
    (LINES, "sink", DROP, ["missing key 'sink'"]),
    (LINES, "source", None, ["missing key 'source'"]),
    (LINES, "source", "in.csv", ["top level.source", "expected dict", "'in.csv'"]),
    (LINES, "stages", {"operator": "identity"}, ["top level.stages", "expected list"]),
    (LINES, "stages", [], ["stages", "0 stages"]),
    (LINES, "stages", [{"operator": "identity"}] * (STAGES_MAX + 1), ["17 stages"]),
    (LINES, "stages.0", "identity", ["stages[0]", "expected a mapping", "str"]),
    (LINES, "name", 5, ["top level.name", "expected str", "5"]),
    (LINES, "exactly_once", "yes", ["exactly_once", "expected bool", "'yes'"]),
    (LINES, "exactly_once", 1, ["exactly_once", "expected bool"]),
    (LINES, "epoch_interval_ms", 19, ["epoch_interval_ms", "19", "20"]),
    (LINES, "epoch_interval_ms", 60_001, ["epoch_interval_ms", "60000"]),
    (LINES, "epoch_interval_ms", 100.0, ["epoch_interval_ms", "expected int"]),
    (LINES, "epoch_interval_ms", True, ["epoch_interval_ms", "expected int", "True"]),
    (LINES, "source.fil", "x", ["source", "'fil'", "'file'"]),
    (LINES, "source.file", DROP, ["source", "missing key 'file'"]),
    (LINES, "source.file", 7, ["source.file", "expected str"]),
    (LINES, "source.file", "", ["source.file", "empty"]),
    (LINES, "source.file", "../etc/passwd", ["source.file", "'..'"]),
    (LINES, "source.file", "a//b", ["source.file", "empty"]),
    (LINES, "source.file", "a\0b", ["source.file", "control character"]),
    (LINES, "source.file", LONG, ["source.file", "300 bytes", "255"]),
    (LINES, "source.format", "cvs", ["source.format", "'cvs'", "'csv'"]),
    (LINES, "source.header", True, ["source", "format csv"]),
    (LINES, "source.columns", ["a"], ["source", "format csv"]),
    (LINES, "source.rate", -1, ["source.rate", "-1"]),
    (LINES, "source.rate", True, ["source.rate", "expected int"]),
    (CSV, "source.columns", ["a", "a"], ["source.columns", "different"]),
    (CSV, "source.columns", ["a", ""], ["source.columns"]),
    (CSV, "source.columns", ["a", 1], ["source.columns"]),
    (CSV, "source.columns", [["a"]], ["source.columns"]),
    (CSV, "source.columns", "a,b", ["source.columns", "expected list"]),
    (CSV, "source.header", "true", ["source.header", "expected bool"]),
    (LINES, "sink.file", DROP, ["sink", "missing key 'file'"]),
    (LINES, "sink.files", "x", ["sink", "'files'", "'file'"]),
    (LINES, "sink.file", "a/../b", ["sink.file", "'..'"]),
    (LINES, "sink.file", "in/log.txt", ["sink.file", "source itself"]),
    (LINES, "stages.0.operator", DROP, ["stages[0]"]),
    (LINES, "stages.0.operator", "identiti", ["stages[0].operator", "'identiti'", "'identity'"]),
    (LINES, "stages.0.operator", 3, ["stages[0].operator", "expected str"]),
    (LINES, "stages.0.task", 2, ["stages[0]", "'task'", "'tasks'"]),
    (LINES, "stages.0.tasks", -3, ["stages[0].tasks", "-3", str(TASKS_PER_STAGE_MAX)]),
    (LINES, "stages.0.tasks", 0, ["stages[0].tasks", "0 is not between 1"]),
    (LINES, "stages.0.tasks", TASKS_PER_STAGE_MAX + 1, ["stages[0].tasks", "65"]),
    (LINES, "stages.0.tasks", True, ["stages[0].tasks", "expected int", "True"]),
    (LINES, "stages.0.tasks", "2", ["stages[0].tasks", "expected int", "'2'"]),
    (LINES, "stages.0.tasks", 1.5, ["stages[0].tasks", "expected int"]),
    (LINES, "stages.0", {"operator": "filter"}, ["stages[0]", "exactly one of equals, contains, matches"]),
    (LINES, "stages.0", {"operator": "filter", "equals": 5}, ["stages[0].equals", "expected str", "5"]),
    (
        LINES,
        "stages.0",
        {"operator": "filter", "equals": "a", "column": "b"},
        ["stages[0].column", "format csv"],
    ),
    (LINES, "stages.0", {"operator": "filter", "equal": "a"}, ["stages[0]", "'equal'", "'equals'"]),
    (LINES, "stages.0", {"operator": "transform", "select": ["a"]}, ["stages[0]", "format csv"]),
    (LINES, "stages.0", {"operator": "aggregate-by-key", "key": "a"}, ["stages[0].key", "format csv"]),
    (CSV, "stages.0.contains", "y", ["stages[0]", "exactly one"]),
    (CSV, "stages.0.column", DROP, ["stages[0]", "'column'"]),
    (CSV, "stages.0.column", ["a"], ["stages[0].column", "expected str"]),
    (CSV, "stages.0.invert", "no", ["stages[0].invert", "expected bool"]),
    (
        CSV,
        "stages.0",
        {"operator": "filter", "column": "a", "matches": "(x"},
        ["stages[0].matches", "regular"],
    ),
    (CSV, "stages.1.select", [], ["stages[1].select", "column names"]),
    (CSV, "stages.1.select", ["a", 2], ["stages[1].select", "column names"]),
    (CSV, "stages.1.select", "a", ["stages[1].select", "expected list"]),
    (CSV, "stages.1.select", DROP, ["stages[1]", "missing key 'select'"]),
    (CSV, "stages.2.key", DROP, ["stages[2]", "missing key 'key'"]),
    (CSV, "stages.2.value", DROP, ["stages[2]", "missing key 'value'"]),
    (CSV, "stages.2.function", "summ", ["stages[2].function", "'summ'", "'sum'"]),
    (CSV, "stages.2.function", "count", ["stages[2].value", "only function sum"]),
    (CSV, "stages.2.emit", "epochs", ["stages[2].emit", "'epochs'", "'epoch'"]),
]


@pytest.mark.parametrize(
    ("raw", "path", "value", "says"),
    MISTAKES,
    ids=[f"{path}={str(value)[:20]!r}" for _, path, value, _ in MISTAKES],
)
def test_a_mistake_is_named(raw: dict[str, Any], path: str, value: Any, says: list[str]) -> None:
    """The message has the place, the value found and, for a wrong word, the nearest right one."""
    parse(raw)
    said = refused(changed(raw, path, value))
    assert [part for part in says if part not in said] == [], said


@pytest.mark.parametrize("raw", [None, [], "job", 7, {}, {1: 2}])
def test_what_is_no_job_at_all(raw: Any) -> None:
    """Any YAML value gets an error, not a crash."""
    assert "top level" in refused(raw)


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3)
    ),
    max_leaves=5,
)
PLACES = [
    "name source stages sink exactly_once epoch_interval_ms source.file source.format source.header",
    "source.columns source.rate stages.0 stages.0.operator stages.0.tasks stages.0.column stages.0.equals",
    "stages.0.invert stages.1 stages.1.select stages.2.key stages.2.function stages.2.value stages.2.emit",
    "sink.file",
]


@given(st.sampled_from(" ".join(PLACES).split()), JUNK)
def test_junk_anywhere_is_refused_or_taken(path: str, value: Any) -> None:
    """No value in any place brings an error other than JOB_INVALID."""
    with contextlib.suppress(JobInvalid):
        parse(changed(CSV, path, value))
