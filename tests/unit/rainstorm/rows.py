"""Small helpers of the engine's unit tests: batches from and to rows; Python's csv module as reference."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

Row = tuple[bytes, ...]

# The bytes that have a meaning in CSV, and some that do not.
MARK = b"\xef\xbb\xbf"
CSV_PIECES = (b"a", b"7", b",", b'"', b'""', b"\n", b"\r\n", b"\r", b" ", b"\xff", b"\xc3\xa9", MARK)


def batch(names: Sequence[str], *rows: Sequence[bytes]) -> pa.RecordBatch:
    """Returns a batch of binary columns."""
    columns = [pa.array([row[place] for row in rows], pa.binary()) for place in range(len(names))]
    return pa.RecordBatch.from_arrays(columns, names=list(names))


def rows_of(*batches: pa.RecordBatch) -> list[Row]:
    """Returns the rows of batches in order."""
    return [
        row for one in batches for row in zip(*(column.to_pylist() for column in one.columns), strict=True)
    ]


def csv_rows(data: bytes, width: int | None = None) -> list[Row]:
    """Returns the records that Python's csv module finds, filled up or cut to ``width`` fields."""
    csv.field_size_limit(1 << 30)
    text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
    found = []
    for fields in csv.reader(text):
        if fields:
            cut = fields if width is None else (fields + [""] * width)[:width]
            found.append(tuple(field.encode("utf-8", "surrogateescape") for field in cut))
    return found


def quoted(field: bytes) -> bytes:
    """Returns a field in quotes, as in RFC 4180."""
    return b'"' + field.replace(b'"', b'""') + b'"'


def _field() -> st.SearchStrategy[bytes]:
    plain = st.lists(st.sampled_from((b"a", b"7", b" ", b"\xff", b"\xc3\xa9")), max_size=4).map(b"".join)
    rich = st.lists(st.sampled_from(CSV_PIECES), max_size=6).map(b"".join).map(quoted)
    return st.one_of(plain, plain, rich)


def csv_texts(*, width: int | None = None) -> st.SearchStrategy[bytes]:
    """Returns RFC 4180 texts: quoted commas, line ends and quotes, empty fields, blank lines, LF and CRLF,
    with and without a last line end; rows have ``width`` fields, or one to four.
    """
    counts: dict[str, Any] = (
        {"min_size": 1, "max_size": 4} if width is None else {"min_size": width, "max_size": width}
    )
    row = st.lists(_field(), **counts).map(b",".join)
    line = st.tuples(st.one_of(row, row, row, st.just(b"")), st.sampled_from((b"\n", b"\n", b"\r\n")))
    text = st.lists(line.map(b"".join), max_size=12).map(b"".join)
    return st.tuples(text, st.one_of(st.just(b""), row)).map(b"".join)
