"""Whole chains of operators against the plain sequential reference program."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ops.demo import reference
from tests.properties import examples
from tests.unit.rainstorm.chain import Chain, job_file
from tests.unit.rainstorm.rows import csv_texts


def check(raw: dict[str, Any], data: bytes, cuts: list[int], seed: int) -> None:
    """Runs a job on its cores, with failures, and compares with the reference program."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "in")
        path.write_bytes(data)
        expected = reference.expected_records(raw, path)
    found = Chain(raw, data, cuts, seed).run(failures=seed % 3)
    assert reference.output_records(raw, found) == expected


CUTS = st.lists(st.integers(1, 120), max_size=5)
SEEDS = st.integers(0, 1 << 30)
CHAINS = settings(max_examples=examples(30), deadline=None, suppress_health_check=[HealthCheck.too_slow])

CSV_STAGES = [
    [{"operator": "identity", "tasks": 2}],
    [{"operator": "filter", "column": "b", "contains": "a"}, {"operator": "transform", "select": ["c", "a"]}],
    [{"operator": "transform", "select": ["b", "b"], "tasks": 2}, {"operator": "identity", "tasks": 3}],
    [{"operator": "aggregate-by-key", "key": "b", "tasks": 2}],
    [
        {"operator": "filter", "column": "a", "matches": "^.?$", "invert": True, "tasks": 2},
        {"operator": "aggregate-by-key", "key": "c", "tasks": 3},
        {"operator": "filter", "column": "count", "equals": "1", "tasks": 3},
    ],
    [{"operator": "identity"}, {"operator": "aggregate-by-key", "key": "a", "emit": "tuple", "tasks": 2}],
    [
        {"operator": "aggregate-by-key", "key": "a", "tasks": 2},
        {"operator": "aggregate-by-key", "key": "count"},
    ],
]


@CHAINS
@given(st.sampled_from(CSV_STAGES), csv_texts(width=3) | csv_texts(), CUTS, SEEDS)
def test_csv_jobs_give_what_the_reference_gives(
    stages: list[dict[str, Any]], data: bytes, cuts: list[int], seed: int
) -> None:
    """Any chain on any CSV, cut anywhere, with failures in between."""
    check(job_file(*stages, format="csv", columns=["a", "b", "c"]), data, cuts, seed)


LINE_STAGES = [
    [{"operator": "identity", "tasks": 3}],
    [{"operator": "filter", "equals": "a", "tasks": 2}],
    [{"operator": "filter", "matches": "a$", "invert": True, "tasks": 2}, {"operator": "identity"}],
    [{"operator": "aggregate-by-key", "tasks": 2}],
    [{"operator": "filter", "contains": "a"}, {"operator": "aggregate-by-key", "emit": "tuple", "tasks": 2}],
]
LINES = st.lists(
    st.sampled_from((b"a\n", b"a\r\n", b"ba\n", b"\n", b"\r\n", b'"\n', b"\xff,\n")), max_size=15
)


@CHAINS
@given(st.sampled_from(LINE_STAGES), LINES, st.sampled_from((b"", b"a", b"last")), CUTS, SEEDS)
def test_line_jobs_give_what_the_reference_gives(
    stages: list[dict[str, Any]], lines: list[bytes], last: bytes, cuts: list[int], seed: int
) -> None:
    """Any chain on any lines, including identical ones."""
    check(job_file(*stages), b"".join(lines) + last, cuts, seed)


AMOUNT = st.one_of(st.just(""), st.integers(-5, 5).map(str), st.decimals(-9, 9, places=2).map(str))


@CHAINS
@given(st.lists(st.tuples(st.sampled_from("xyz"), AMOUNT), min_size=1, max_size=20), CUTS, SEEDS)
def test_sums_give_what_the_reference_gives(rows: list[tuple[str, str]], cuts: list[int], seed: int) -> None:
    """Exact sums of integers, decimals and empty fields."""
    stage = {"operator": "aggregate-by-key", "key": "k", "function": "sum", "value": "v", "tasks": 2}
    data = "".join(f"{key},{value}\n" for key, value in [("k", "v"), *rows]).encode()
    check(job_file(stage, format="csv"), data, cuts, seed)
