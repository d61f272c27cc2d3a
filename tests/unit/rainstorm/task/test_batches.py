"""Bytes to batches and back, with the same result as Python's csv module, or a line splitter."""

from __future__ import annotations

import csv
import io

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.rainstorm.job.plan import LINE
from agent.rainstorm.task.batches import CsvParser, csv_line, from_lines, take_rows, to_output
from tests.properties import examples
from tests.unit.rainstorm.rows import CSV_PIECES, batch, csv_rows, csv_texts, rows_of

AB = ("a", "b")


@given(st.binary(max_size=40) | st.lists(st.sampled_from(CSV_PIECES)).map(b"".join))
@example(b"\n\n")
@example(b"\xff\n\xfe")
def test_lines_come_out_as_they_went_in(data: bytes) -> None:
    """A row is a line with its line feed, whatever its bytes; writing the rows gives the input again,
    plus the line feed that the last line may lack.
    """
    found = from_lines(data)
    whole = data if not data or data.endswith(b"\n") else data + b"\n"
    assert [row[0] for row in rows_of(found)] == [part + b"\n" for part in whole.split(b"\n")[:-1]]
    assert to_output(found) == whole


def test_lines_are_not_copied() -> None:
    """The column's data buffer is the memory of the input, unless its last line feed is missing."""
    data = bytearray(b"one\n\ntwo\n")
    found = from_lines(memoryview(data)[4:])
    assert found.column(0).buffers()[2].address == pa.py_buffer(data).address + 4
    assert rows_of(found) == [(b"\n",), (b"two\n",)]
    assert rows_of(from_lines(memoryview(data)[:2])) == [(b"on\n",)]


@given(st.lists(st.sampled_from((b"x\n", b"\n", b"long line\n", b"\xff\r\n")), max_size=12), st.data())
def test_lines_that_pass_a_filter_are_written_whole(lines: list[bytes], data: st.DataObject) -> None:
    """A filtered or sliced batch writes exactly its own lines, wherever they lie in the buffer."""
    mask = data.draw(st.lists(st.booleans(), min_size=len(lines), max_size=len(lines)))
    found = from_lines(b"".join(lines))
    kept = [line for line, keep in zip(lines, mask, strict=True) if keep]
    assert to_output(take_rows(found, pa.array(mask, pa.bool_()))) == b"".join(kept)
    assert to_output(found.slice(1)) == b"".join(lines[1:])


@given(st.lists(st.sampled_from(CSV_PIECES), min_size=1, max_size=12).map(b"".join))
@example(b"\xff\n1,2\n")
@example(b"x,\xff,3\n1,2\n")
@example(b'"a\nb"\n1,2\n"c",\xff,"\n"\n')
@example(b"\r\n\r\n1,2\n\n")
@example(b"\r")
@example(b"\xef\xbb\xbf1,2\n")
@example(b'"open,1\n')
def test_any_bytes_parse_as_the_csv_module_has_them(data: bytes) -> None:
    """Short rows are filled up, long rows cut, blank lines are not records, and bytes do not change."""
    assert rows_of(CsvParser(AB, None).parse(data)) == csv_rows(data, 2)


@settings(max_examples=examples(60))
@given(csv_texts(width=3))
def test_regular_csv_parses_as_the_csv_module_has_it(data: bytes) -> None:
    """Rows of the right width, with everything that quotes may hold."""
    assert rows_of(CsvParser(("a", "b", "c"), None).parse(data)) == csv_rows(data, 3)


@settings(max_examples=examples(50))
@given(csv_texts(), st.sampled_from([("c",), ("b", "a"), ("a", "b", "c")]))
def test_only_the_needed_columns_come_in_the_order_asked(data: bytes, needed: tuple[str, ...]) -> None:
    """Regular and irregular runs give the same columns, so there is no difference downstream."""
    found = CsvParser(("a", "b", "c"), needed).parse(data or b"\n")
    places = ["abc".index(name) for name in needed]
    assert found.schema == pa.schema([(name, pa.binary()) for name in needed])
    assert rows_of(found) == [tuple(row[place] for place in places) for row in csv_rows(data, 3)]


def test_a_parser_forgets_the_run_before() -> None:
    """A parser is used for one run after the other; odd rows of one never appear in the next."""
    parser = CsvParser(AB, None)
    assert rows_of(parser.parse(b"1\n2,3,4\n")) == [(b"1", b""), (b"2", b"3")]
    assert rows_of(parser.parse(b"5,6\n")) == [(b"5", b"6")]
    assert rows_of(parser.parse(b"\n")) == []


def test_a_huge_field_of_an_odd_row_is_no_error() -> None:
    """The csv module's limit of 128 KiB a field is not ours: a record may have 8 MiB."""
    huge = b"x" * 300_000
    assert rows_of(CsvParser(AB, None).parse(huge + b"\n1,2\n")) == [(huge, b""), (b"1", b"2")]


FIELD = st.lists(st.sampled_from(CSV_PIECES), max_size=5).map(b"".join)


@settings(max_examples=examples(60))
@given(st.lists(st.lists(FIELD, min_size=2, max_size=2), max_size=8))
def test_columns_written_are_read_back_unchanged(rows: list[list[bytes]]) -> None:
    """to_output quotes enough for Python's csv module, and our own parser, to find the same fields."""
    data = to_output(batch(AB, *rows))
    assert csv_rows(data, 2) == [tuple(row) for row in rows]
    assert rows_of(CsvParser(AB, None).parse(data or b"\n")) == [tuple(row) for row in rows]


@given(st.lists(FIELD, min_size=1, max_size=4))
def test_quotes_are_as_few_as_the_csv_module_writes(fields: list[bytes]) -> None:
    """The bytes are those of csv.writer with QUOTE_MINIMAL and LF, so that outputs compare as text."""
    text = io.StringIO(newline="")
    words = [one.decode("utf-8", "surrogateescape") for one in fields]
    csv.writer(text, lineterminator="\r\n").writerow(words)
    written = text.getvalue().removesuffix("\r\n") + "\n"
    assert csv_line(fields) == written.encode("utf-8", "surrogateescape")


def test_a_lone_empty_field_is_not_a_blank_line() -> None:
    """A blank line is not a record, so a record of one empty field is written as two quotes."""
    assert to_output(batch(["a"], [b""], [b"x"])) == b'""\nx\n'


@pytest.mark.parametrize("names", [["line"], ["line", "n"]])
def test_a_csv_column_called_line_is_a_column(names: list[str]) -> None:
    """Only the column of format lines is written raw."""
    rows = [[b"U2"] * len(names), [b"a,b"] * len(names)]
    assert csv_rows(to_output(batch(names, *rows))) == [tuple(row) for row in rows]
    assert LINE not in names


def test_an_empty_batch_writes_nothing() -> None:
    """No rows, no bytes."""
    assert to_output(batch(AB)) == b""
    assert to_output(from_lines(b"")) == b""
