"""One-line jobs of the courses: both years' forms, and every mistake with the number of its field."""

from __future__ import annotations

from typing import Any

import pytest

from agent.common.errors import UsageError
from agent.rainstorm.job import spec as job
from ops.oneline import parse

WHOLE = {"operator": "filter", "column": "*", "matches": "error", "tasks": 3}
COUNT = {"operator": "aggregate-by-key", "key": "c1", "function": "count", "emit": "epoch", "tasks": 3}
CSV = {"file": "logs.csv", "format": "csv", "header": False, "rate": 1000}


def test_the_form_of_2025() -> None:
    found = parse("2 3 Filter error Count 0 logs.csv out.txt true true 1000 0.2 0.8")
    assert found.job == {
        "name": "filter-count",
        "exactly_once": True,
        "source": CSV,
        "stages": [WHOLE, COUNT],
        "sink": {"file": "out.txt"},
    }
    assert len(found.notes) == 1
    assert "autoscaling is not supported yet" in found.notes[0]


@pytest.mark.parametrize(
    ("line", "source", "stages", "notes"),
    [
        ("Filter error Count 0 logs.csv out 3", {**CSV, "rate": 0}, [WHOLE, COUNT], 0),
        ("RainStorm 'Filter error' './count.py 0' logs.csv out 3", {**CSV, "rate": 0}, [WHOLE, COUNT], 0),
        ("2 3 bin/grep error aggregate_by_key 0 logs.csv out yes no", {**CSV, "rate": 0}, [WHOLE, COUNT], 0),
        (
            "1 2 identity logs out false false 100",
            {"file": "logs", "format": "lines", "rate": 100},
            [{"operator": "identity", "tasks": 2}],
            0,
        ),
        (
            "2 1 Filter 'No Outlet' Transform '' logs.csv out true false 1000 1 2",
            CSV,
            [
                {**WHOLE, "matches": "No Outlet", "tasks": 1},
                {"operator": "transform", "select": ["c1", "c2", "c3"], "tasks": 1},
            ],
            1,
        ),
        (  # columns are renumbered after a transform
            "3 1 equals '6 Punched Telespar' cut 8,2 count 1 logs.csv out true false 1000",
            CSV,
            [
                {"operator": "filter", "column": "c7", "equals": "Punched Telespar", "tasks": 1},
                {"operator": "transform", "select": ["c9", "c3"], "tasks": 1},
                {**COUNT, "key": "c3", "tasks": 1},
            ],
            0,
        ),
        (
            "1 1 sum 0 4 logs.csv out true false 1000",
            CSV,
            [{**COUNT, "function": "sum", "value": "c5", "tasks": 1}],
            0,
        ),
    ],
)
def test_lines(line: str, source: dict[str, Any], stages: list[dict[str, Any]], notes: int) -> None:
    found = parse(line)
    assert (found.job["source"], found.job["stages"], len(found.notes)) == (source, stages, notes)
    job.parse(found.job)  # the engine accepts it


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "empty"),
        ("2 3 'open", "quot"),
        ("0 3 identity a b true false", r"field 1 \(Nstages\)"),
        ("1 65 identity a b true false", r"field 2 \(Ntasks_per_stage\)"),
        ("1 3 idnetity x a b true false", r"field 3 \(op1_exe\).*did you mean 'identity'"),
        ("2 3 filter x myprogram y a b true false", r"announces 2"),
        ("1 3 filter '(' a b true false", r"field 4 \(op1_args\): not a regular"),
        ("1 3 filter x y a b true false", r"field 4 \(op1_args\): a filter takes one"),
        ("1 3 count x a b true false", r"field 4 \(op1_args\): 'x' is not a column number"),
        ("2 1 transform 4 count 1 a b true false", r"this stage has no column 1"),
        ("1 3 filter x folder/ b true false", r"field 5 \(src\)"),
        ("1 3 filter x a b true maybe", "exactly_once and autoscale_enabled"),
        ("1 3 filter x a b true true", r"field 8 \(autoscale_enabled\).*INPUT_RATE, LW and HW"),
        ("1 3 filter x a b true true 9 1", r"field 8 \(autoscale_enabled\): 2 fields follow it"),
        ("1 3 filter x a b true true 9 2 1", r"field 10 \(LW\)"),
        ("1 3 filter x a b true false fast", r"field 9 \(INPUT_RATE\)"),
        ("1 3 filter x a b true false -1", r"field 9 \(INPUT_RATE\)"),
        ("filter x count 0 a b many", r"field 7 \(num_tasks\)"),
        ("filter x a b 3", "1 operators"),
        ("filter a 3", "too few"),
    ],
)
def test_each_mistake_is_named_with_its_field(line: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(line)
