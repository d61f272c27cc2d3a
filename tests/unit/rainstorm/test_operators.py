"""Each operator by itself, and whole chains of them against the plain sequential reference program."""

from __future__ import annotations

import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.rainstorm.job.plan import OperatorPlan
from agent.rainstorm.task import operators
from agent.rainstorm.task.batches import from_lines, to_output
from agent.rainstorm.task.operators import combine
from agent.rainstorm.task.operators.aggregate import AggregateByKey, add, number, text_of
from agent.rainstorm.task.operators.combine import Combine, Project
from agent.rainstorm.task.operators.filter import Filter
from agent.rainstorm.task.operators.transform import Transform
from ops.demo import reference
from tests.unit.rainstorm.chain import Chain, job_file
from tests.unit.rainstorm.rows import batch, csv_texts, rows_of

KV = ("k", "v")


def kept(options: dict[str, Any], *values: bytes) -> list[bytes]:
    """Returns which values of column ``k`` pass a filter."""
    found = Filter({"column": "k", **options}, KV).process(batch(KV, *((value, b"") for value in values)))
    return [row[0] for row in rows_of(*found)]


def kept_lines(options: dict[str, Any], data: bytes) -> bytes:
    """Returns which lines pass a filter."""
    return b"".join(map(to_output, Filter(options, ("line",)).process(from_lines(data))))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"equals": "Stop"}, [b"Stop"]),
        ({"equals": "Stop", "invert": True}, [b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n"]),
        ({"contains": "Stop"}, [b"Stop", b"All Stop", b"Stop\n"]),
        ({"contains": ""}, [b"Stop", b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n"]),
        ({"matches": "^[Ss]top"}, [b"Stop", b"stop", b"Stop\n"]),
        ({"matches": r"top\Z"}, [b"Stop", b"All Stop", b"stop"]),
        ({"matches": "^$"}, [b""]),
        ({"matches": "[Ss]t", "invert": True}, [b""]),
        ({"equals": "nothing"}, []),
    ],
)
def test_filter_by_column(options: dict[str, Any], expected: list[bytes]) -> None:
    """equals is the whole value, contains a part of it, matches a search; invert keeps the others."""
    assert kept(options, b"Stop", b"All Stop", b"stop", b"", b"St\xffop", b"Stop\n") == expected


def test_filter_by_the_whole_record() -> None:
    """Column * is the record as it would be written, so a pattern may reach over several fields."""
    rows = batch(KV, (b"a", b"1"), (b"a,b", b"1"), (b"b", b"a"), (b"", b"\xff"))
    cases: list[tuple[dict[str, Any], list[bytes]]] = [
        ({"matches": "^a,1$"}, [b"a"]),
        ({"contains": "a"}, [b"a", b"a,b", b"b"]),
        ({"equals": '"a,b",1'}, [b"a,b"]),
        ({"contains": "a", "invert": True}, [b""]),
    ]
    for options, expected in cases:
        found = Filter({"column": "*", **options}, KV).process(rows)
        assert [row[0] for row in rows_of(*found)] == expected


@pytest.mark.parametrize(
    ("pattern", "value"),
    [
        ("^a.b$", "aéb"),
        (r"^\w+$", "ñandú"),
        ("(?i)É", "é"),
        ("^[éà]$", "à"),
        ("\\u00e9", "é"),
        ("(?u)^.$", "東"),
    ],
)
def test_a_regular_expression_is_about_characters(pattern: str, value: str) -> None:
    """A pattern that the job file may hold works on text, not on UTF-8 bytes."""
    assert kept({"matches": pattern}, value.encode(), b"\xff\xff") == [value.encode()]


@pytest.mark.parametrize(
    "options", [{"equals": "abc"}, {"contains": "bc"}, {"matches": "bc$"}, {"matches": r"^abc\Z"}]
)
def test_filters_on_lines_do_not_see_the_line_end(options: dict[str, Any]) -> None:
    """CRLF and LF files are filtered alike; a line that passes keeps its line end."""
    assert kept_lines(options, b"abc\r\nx\nabc\n\nabc") == b"abc\r\nabc\nabc\n"


def test_line_ends_are_part_of_no_line() -> None:
    """Looking for a line end finds one inside a line only."""
    assert kept_lines({"contains": "\n"}, b"a\nb\r\n") == b""
    assert kept_lines({"contains": "\r"}, b"a\r\nb\rc\n") == b"b\rc\n"
    assert kept_lines({"equals": ""}, b"\n\r\na\n") == b"\n\r\n"
    assert kept_lines({"equals": "a\r"}, b"a\r\na\r\r\n") == b"a\r\r\n"


def test_filter_on_a_csv_column_called_line() -> None:
    """A CSV column ``line`` is compared as it is."""
    found = Filter({"column": "line", "equals": "U2"}, ("line",)).process(batch(["line"], [b"U2"], [b"U3"]))
    assert rows_of(*found) == [(b"U2",)]


def test_transform_takes_columns_in_the_order_named() -> None:
    """Columns may be reordered, dropped and repeated; a repeated one is found by its name afterwards."""
    found = Transform({"select": ["v", "v", "k"]}, KV).process(batch(KV, [b"1", b"2"]))
    assert rows_of(*found) == [(b"2", b"2", b"1")]
    again = Filter({"column": "v", "equals": "2"}, ("v", "v", "k")).process(found[0])
    assert rows_of(*Transform({"select": ["k", "v"]}, ()).process(again[0])) == [(b"1", b"2")]


@pytest.mark.parametrize(
    ("text", "value"),
    [(b"", 0), (b"  ", 0), (b" 12 ", 12), (b"-0", 0), (b"+7", 7), (b"1.50", Decimal("1.50")), (b"1e2", 100)],
)
def test_numbers(text: bytes, value: int | Decimal) -> None:
    """Integers and decimals with blanks around them; an empty field counts as zero."""
    assert number(text) == value


@pytest.mark.parametrize("text", [b"x", b"1,5", b"nan", b"inf", b"-Infinity", b"0x10", b"\xff", b"1 2"])
def test_what_is_no_number_is_refused(text: bytes) -> None:
    """A sum over something that is no finite number would be wrong, so it is an error."""
    with pytest.raises(ValueError, match="number"):
        number(text)


@given(st.permutations(["0.1", "1e25", "-1e25", "12345678901234567890123456789", "1e-30", "3"]))
def test_sums_do_not_depend_on_the_order(texts: list[str]) -> None:
    """Additions are exact, so any order and any grouping gives the same digits."""
    whole = split = 0
    for text in texts:
        whole = add(whole, number(text.encode()))  # type: ignore[assignment]
    for part in (texts[:3], texts[3:]):
        partial: Any = 0
        for text in part:
            partial = add(partial, number(text.encode()))
        split = add(split, number(text_of(partial)))  # type: ignore[assignment]
    expected = b"12345678901234567890123456792.100000000000000000000000000001"
    assert text_of(whole) == text_of(split) == expected


def aggregate(emit: str, *, function: str = "count") -> AggregateByKey:
    """Returns an aggregation over (key, partial) rows."""
    return AggregateByKey({"key": "k", "function": function, "emit": emit}, KV)


def test_emit_final_gives_each_key_once_at_the_end() -> None:
    """Nothing leaves before the input has ended; then every key with its total, sorted."""
    operator = aggregate("final")
    assert operator.process(batch(KV, [b"b", b"2"], [b"a", b"1"], [b"b", b"3"])) == []
    assert operator.end_epoch() == []
    assert rows_of(*operator.end_input()) == [(b"a", b"1"), (b"b", b"5")]
    assert aggregate("final").end_input() == []


def test_emit_epoch_gives_the_keys_that_changed() -> None:
    """At the end of an epoch the changed keys leave with their running values, then no more."""
    operator = aggregate("epoch")
    assert operator.state is not None
    operator.process(batch(KV, [b"a", b"1"], [b"b", b"1"]))
    assert sorted(rows_of(*operator.end_epoch())) == [(b"a", b"1"), (b"b", b"1")]
    operator.state.close_epoch(1)
    operator.process(batch(KV, [b"a", b"4"]))
    assert rows_of(*operator.end_epoch()) == [(b"a", b"5")]
    operator.state.close_epoch(2)
    assert operator.end_epoch() == []
    assert operator.end_input() == []


def test_emit_tuple_runs_without_a_gap() -> None:
    """Every tuple gives the value that it brought its key to."""
    found = aggregate("tuple").process(batch(KV, [b"a", b"1"], [b"b", b"1"], [b"a", b"1"]))
    assert rows_of(*found) == [(b"a", b"1"), (b"b", b"1"), (b"a", b"2")]
    assert [column for one in found for column in one.schema.names] == ["k", "count"]


def test_a_combiner_sends_one_row_a_key_and_epoch() -> None:
    """Partial results are held until the epoch ends, and nothing is held over it."""
    operator = Combine({"key": "k"}, KV)
    assert operator.process(batch(KV, [b"a", b""], [b"b", b""], [b"a", b""])) == []
    assert rows_of(*operator.end_epoch()) == [(b"a", b"2"), (b"b", b"1")]
    assert operator.end_epoch() == operator.end_input() == []
    operator.process(batch(KV, [b"a", b""]))
    operator.reset()
    assert operator.end_epoch() == [], "a reset forgets what was not sent"


def test_a_combiner_holds_a_bounded_number_of_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many keys it sends what it has in the middle of an epoch, and loses nothing."""
    monkeypatch.setattr(combine, "KEYS_MAX", 2)
    operator = Combine({"key": "k", "function": "sum", "value": "v"}, KV)
    found = operator.process(batch(KV, [b"a", b"1.5"], [b"b", b"2"]))
    assert rows_of(*found) == [(b"a", b"1.5"), (b"b", b"2")]
    assert operator.end_epoch() == []


def test_line_keys_are_without_line_end() -> None:
    """Equal lines with different line ends are one key, for the combiner and for single tuples."""
    lines = from_lines(b"a\r\na\nb")
    counter = Combine({}, ("line",))
    counter.process(lines)
    assert rows_of(*counter.end_epoch()) == [(b"a", b"2"), (b"b", b"1")]
    assert rows_of(*Project({}, ("line",)).process(lines)) == [(b"a", b"1"), (b"a", b"1"), (b"b", b"1")]


def test_project_sends_every_tuple() -> None:
    """One row a tuple: (key, 1) to count, (key, value) to sum."""
    rows = batch(KV, [b"a", b"5"], [b"a", b""])
    assert rows_of(*Project({"key": "k"}, KV).process(rows)) == [(b"a", b"1")] * 2
    summed = Project({"key": "v", "function": "sum", "value": "k"}, KV).process(batch(KV, [b"5", b"a"]))
    assert rows_of(*summed) == [(b"a", b"5")]


def test_every_step_of_a_plan_can_be_built() -> None:
    """The registry knows all names that plans use."""
    for name in operators.REGISTRY:
        built = operators.build(OperatorPlan(name, {"key": "k", "equals": "x"}, KV))
        assert (built.state is not None) == (name == "aggregate-by-key")


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
CHAINS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

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
    """Any chain on any lines, identical ones included."""
    check(job_file(*stages), b"".join(lines) + last, cuts, seed)


AMOUNT = st.one_of(st.just(""), st.integers(-5, 5).map(str), st.decimals(-9, 9, places=2).map(str))


@CHAINS
@given(st.lists(st.tuples(st.sampled_from("xyz"), AMOUNT), min_size=1, max_size=20), CUTS, SEEDS)
def test_sums_give_what_the_reference_gives(rows: list[tuple[str, str]], cuts: list[int], seed: int) -> None:
    """Exact sums of integers, decimals and empty fields."""
    stage = {"operator": "aggregate-by-key", "key": "k", "function": "sum", "value": "v", "tasks": 2}
    data = "".join(f"{key},{value}\n" for key, value in [("k", "v"), *rows]).encode()
    check(job_file(stage, format="csv"), data, cuts, seed)
