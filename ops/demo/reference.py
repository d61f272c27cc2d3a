"""The plain sequential program that computes what a job's output must be.

It shares no code with the agents, and is simple enough to be checked by reading: one pass, Python's csv
module, a dictionary. The exactly-once tests and the demo compare the cluster's committed output with it as a
multiset.

How it interprets a job:

- ``format: lines``: a record is everything before a newline byte, including a carriage return; the last
  record needs no newline. Nothing is stripped, but filters and keys ignore a carriage return at the end.
- ``format: csv``: records are read like Python's csv module does with ``newline=""``. A byte-order mark is
  stripped, blank lines are not records, short rows are padded with empty fields, and long rows are truncated.
  Without a header the columns are ``source.columns`` or ``c1`` ... ``cn``, as many as the first record has.
- Output records are CSV with no more quotes than needed, or the line itself as long as a record is a plain
  line. An aggregate's record is ``key,value``. Bytes that are not UTF-8 pass through unchanged.
- ``matches`` searches anywhere in the value; ``sum`` is exact (integers or decimals), and an empty value adds
  0.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from decimal import Context, Decimal, InvalidOperation
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

# A field may be as long as a block; the csv module's own limit is 128 KiB.
FIELD_BYTES_MAX = 1 << 30
ENCODING_ERRORS = "surrogateescape"
LINE = "line"
_EXACT = Context(prec=1000)

Row = list[str]


class NoSingleAnswer(ValueError):
    """The output of this job depends on timing, so no sequential program can predict it."""


def expected_records(job: Mapping[str, Any], source: Path) -> Counter[str]:
    """Returns the sink's records, without their line ends, as a multiset.

    Args:
        job: the job file's content.
        source: the input.

    Raises:
        NoSingleAnswer: the output depends on timing (``emit: epoch``, running sums over several tasks).
        ValueError: the job names something that does not exist.
    """
    bare = job["source"].get("format", "lines") != "csv"
    if source.stat().st_size == 0:
        return Counter()
    columns, rows = ([LINE], _read_lines(source)) if bare else _read_csv(job["source"], source)
    for stage in job["stages"]:
        if bare and stage["operator"] == "aggregate-by-key":
            rows = ([row[0].removesuffix("\r")] for row in rows)
        columns, rows, bare = _apply(stage, columns, rows, bare)
    return Counter(row[0] for row in rows) if bare else Counter(map(_as_csv, rows))


def expected_lines(job: Mapping[str, Any], source: Path) -> list[str]:
    """Returns the sink's records sorted, without their line ends."""
    return sorted(expected_records(job, source).elements())


def output_records(job: Mapping[str, Any], data: bytes) -> Counter[str]:
    """Returns the records of a sink file as a multiset, comparable with ``expected_records``.

    Raises:
        ValueError: the file does not end with a whole record.
    """
    if data and not data.endswith(b"\n"):
        raise ValueError("the output does not end with a newline: its last record is incomplete")
    if _writes_lines(job):
        return Counter(line.decode("utf-8", ENCODING_ERRORS) for line in data.split(b"\n")[:-1])
    text = data.decode("utf-8", ENCODING_ERRORS)
    records: Counter[str] = Counter()
    start, quotes = 0, 0
    for match in re.finditer(r'["\n]', text):
        if match.group() == '"':
            quotes += 1
        elif quotes % 2 == 0:
            records[text[start : match.start()]] += 1
            start = match.end()
    if start != len(text):
        raise ValueError("the output ends inside a quoted field: its last record is incomplete")
    return records


def _writes_lines(job: Mapping[str, Any]) -> bool:
    is_csv = job["source"].get("format", "lines") == "csv"
    return not is_csv and all(stage["operator"] != "aggregate-by-key" for stage in job["stages"])


def _read_lines(source: Path) -> Iterator[Row]:
    with source.open("rb") as lines:
        for line in lines:
            yield [line.removesuffix(b"\n").decode("utf-8", ENCODING_ERRORS)]


def _read_csv(settings: Mapping[str, Any], source: Path) -> tuple[Row, Iterator[Row]]:
    records = _csv_records(source)
    columns = list(settings.get("columns") or [])
    if settings.get("header", not columns):
        header = next(records, [])
        columns = columns or header
        return columns, _squared(records, len(columns))
    if not columns:
        first = next(records, [])
        columns = [f"c{number}" for number in range(1, len(first) + 1)]
        records = chain([first] if first else [], records)
    return columns, _squared(records, len(columns))


def _csv_records(source: Path) -> Iterator[Row]:
    csv.field_size_limit(FIELD_BYTES_MAX)
    with source.open(encoding="utf-8-sig", errors=ENCODING_ERRORS, newline="") as text:
        yield from filter(None, csv.reader(text))


def _squared(rows: Iterator[Row], width: int) -> Iterator[Row]:
    for row in rows:
        yield row if len(row) == width else (row + [""] * (width - len(row)))[:width]


def _apply(
    stage: Mapping[str, Any], columns: Row, rows: Iterator[Row], bare: bool
) -> tuple[Row, Iterator[Row], bool]:
    operator = stage["operator"]
    if operator == "identity":
        return columns, rows, bare
    if operator == "filter":
        return columns, _filter(stage, columns, rows, bare), bare
    if operator == "transform" and "select" in stage:
        places = [_place(columns, name) for name in stage["select"]]
        return list(stage["select"]), ([row[place] for place in places] for row in rows), False
    if operator == "transform" and "replace" in stage:
        return columns, _replace(stage["replace"], columns, rows), bare
    if operator == "aggregate-by-key":
        return _aggregate(stage, columns, rows)
    raise ValueError(f"the reference program has no operator {operator!r} with {sorted(stage)}")


def _place(columns: Row, name: str) -> int:
    if name not in columns:
        raise ValueError(f"there is no column {name!r}; the columns are {', '.join(columns)}")
    return columns.index(name)


def _filter(stage: Mapping[str, Any], columns: Row, rows: Iterator[Row], bare: bool) -> Iterator[Row]:
    test = _test(stage)
    wanted = not stage.get("invert", False)
    if stage.get("column", "*") != "*":
        place = _place(columns, stage["column"])
        return (row for row in rows if test(row[place]) is wanted)
    if bare:
        return (row for row in rows if test(row[0].removesuffix("\r")) is wanted)
    return (row for row in rows if test(_as_csv(row)) is wanted)


def _test(stage: Mapping[str, Any]) -> Callable[[str], bool]:
    if "equals" in stage:
        wanted = str(stage["equals"])
        return wanted.__eq__
    if "contains" in stage:
        part = str(stage["contains"])
        return lambda value: part in value
    pattern = re.compile(stage["matches"])
    return lambda value: pattern.search(value) is not None


def _replace(change: Mapping[str, str], columns: Row, rows: Iterator[Row]) -> Iterator[Row]:
    place = _place(columns, change["column"]) if "column" in change else 0
    for row in rows:
        yield [*row[:place], row[place].replace(change["from"], change["to"]), *row[place + 1 :]]


def _aggregate(
    stage: Mapping[str, Any], columns: Row, rows: Iterator[Row]
) -> tuple[Row, Iterator[Row], bool]:
    function, emit = stage.get("function", "count"), stage.get("emit", "final")
    if emit == "epoch" or (emit == "tuple" and function != "count"):
        raise NoSingleAnswer(f"with emit: {emit} the output of {function} depends on timing")
    key = _place(columns, stage["key"]) if "key" in stage else 0
    value = _place(columns, stage["value"]) if function == "sum" else None
    names = [columns[key], function]
    if emit == "tuple":
        return names, _running_counts(rows, key), False
    if value is None:
        counts = Counter(row[key] for row in rows)
        return names, ([name, str(count)] for name, count in counts.items()), False
    totals: dict[str, Decimal] = {}
    for row in rows:
        totals[row[key]] = _EXACT.add(totals.get(row[key], Decimal(0)), _number(row[value]))
    return names, ([name, format(total, "f")] for name, total in totals.items()), False


def _running_counts(rows: Iterator[Row], key: int) -> Iterator[Row]:
    counts: Counter[str] = Counter()
    for row in rows:
        counts[row[key]] += 1
        yield [row[key], str(counts[row[key]])]


def _number(text: str) -> Decimal:
    try:
        value = Decimal(text.strip() or "0")
    except InvalidOperation:
        raise ValueError(f"{text!r} is not a number") from None
    if not value.is_finite():
        raise ValueError(f"{text!r} is not a finite number")
    return value


def _as_csv(row: Row) -> str:
    """Returns one record with no more quotes than needed and without its line end."""
    text = ",".join(
        '"' + field.replace('"', '""') + '"' if _NEEDS_QUOTES.search(field) else field for field in row
    )
    # A single empty field would look like a blank line, which is not a record.
    return text or '""'


_NEEDS_QUOTES = re.compile(r'[,"\r\n]')


def main(arguments: list[str] | None = None) -> int:
    """Prints the expected output of a job file over a local copy of its input; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m ops.demo.reference", description="print what a job must produce"
    )
    parser.add_argument("job", type=Path, help="job file (YAML)")
    parser.add_argument("input", type=Path, help="local copy of the source file")
    options = parser.parse_args(arguments)
    job = yaml.safe_load(options.job.read_text("utf-8"))
    for line in expected_lines(job, options.input):
        sys.stdout.buffer.write(line.encode("utf-8", ENCODING_ERRORS) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
