"""Makes Arrow record batches, in which tuples travel, from raw bytes, and turns them back into output lines.

All columns are binary: bytes come out as they went in, even if they are not valid UTF-8. In format
``lines`` a record keeps its line feed, so lines are written by writing the column's data buffer without
touching a single record. CSV rows with too few fields are filled up with empty ones, and rows with too many
are cut. Arrow parses runs whose rows all have the right width; it refuses any other run, which Python's csv
module then reads: both treat quotes, line ends and blank lines in the same way.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from agent.rainstorm.job.boundaries import BOM
from agent.rainstorm.job.plan import LINE


def from_lines(data: bytes | bytearray | memoryview) -> pa.RecordBatch:
    """Returns one row for each line; the bytes are copied only if the last line lacks its line feed."""
    if len(data) and data[-1] != 10:
        data = bytes(data) + b"\n"
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == 10).astype(np.int32) + 1
    offsets = np.concatenate((np.zeros(1, np.int32), ends))
    column = pa.Array.from_buffers(
        pa.binary(), len(ends), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data)]
    )
    return pa.RecordBatch.from_arrays([column], names=[LINE])


class CsvParser:
    """Parses runs of whole CSV records into the columns that a chain needs."""

    def __init__(self, columns: Sequence[str], needed: Sequence[str] | None) -> None:
        self._columns = list(columns)
        self._needed = list(columns) if needed is None else list(needed)
        self._parse = pacsv.ParseOptions(newlines_in_values=True)
        self._convert = pacsv.ConvertOptions(
            include_columns=self._needed,
            column_types={column: pa.binary() for column in columns},
            strings_can_be_null=False,
        )

    def parse(self, data: bytes | bytearray | memoryview) -> pa.RecordBatch:
        """Returns the records of ``data`` with the needed columns, in order."""
        if bytes(data[: len(BOM)]) == BOM:
            data = b"\n" + data  # Arrow would drop this mark; only at the start of the file it is not data
        read = pacsv.ReadOptions(
            use_threads=False, column_names=self._columns, block_size=max(len(data) + 1, 1024)
        )
        try:
            table = pacsv.read_csv(
                pa.BufferReader(pa.py_buffer(data)),
                read_options=read,
                parse_options=self._parse,
                convert_options=self._convert,
            )
        except pa.ArrowInvalid:
            # Arrow could return odd rows one by one, but not those that are not valid UTF-8.
            return self._parse_odd(bytes(data))
        return _one_batch(table)

    def _parse_odd(self, data: bytes) -> pa.RecordBatch:
        csv.field_size_limit(max(csv.field_size_limit(), len(data)))
        text = io.StringIO(data.decode("utf-8", "surrogateescape"), newline="")
        width = len(self._columns)
        rows = [(fields + [""] * width)[:width] for fields in csv.reader(text) if fields]
        columns = [
            pa.array([row[place].encode("utf-8", "surrogateescape") for row in rows], pa.binary())
            for place in (self._columns.index(column) for column in self._needed)
        ]
        return pa.RecordBatch.from_arrays(columns, names=self._needed)


def _one_batch(table: pa.Table) -> pa.RecordBatch:
    batches = table.combine_chunks().to_batches()
    if batches:
        return batches[0]
    return pa.RecordBatch.from_arrays(
        [pa.array([], kind.type) for kind in table.schema], names=table.schema.names
    )


def to_output(batch: pa.RecordBatch) -> bytes:
    """Returns the output lines of a batch: lines as they are, columns as CSV with few quotes."""
    if batch.num_rows == 0:
        return b""
    if batch.schema.names == [LINE]:
        return _joined(batch.column(0))
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return b"".join(csv_line(row) for row in rows)


def _joined(column: pa.Array) -> bytes:
    _, offsets, data = column.buffers()
    bounds = np.frombuffer(offsets, np.int32)
    begin, end = bounds[column.offset], bounds[column.offset + len(column)]
    return bytes(memoryview(data)[begin:end])


def csv_line(fields: Sequence[bytes | int | str]) -> bytes:
    """Returns one CSV line; a field is quoted only when it holds a quote, a comma or a line end.

    A line of one empty field is written as ``""``, because an empty line is not a record.
    """
    if len(fields) == 1 and fields[0] == b"":
        return b'""\n'
    return b",".join(_csv_field(field) for field in fields) + b"\n"


def _csv_field(field: bytes | int | str) -> bytes:
    if not isinstance(field, bytes):
        field = str(field).encode("utf-8")
    if b'"' in field or b"," in field or b"\n" in field or b"\r" in field:
        return b'"' + field.replace(b'"', b'""') + b'"'
    return field


def column_of(batch: pa.RecordBatch, name: str) -> pa.Array:
    """Returns the first column called ``name``; a job may select one twice."""
    return batch.column(batch.schema.names.index(name))


def records_of(batch: pa.RecordBatch) -> pa.Array:
    """Returns each row as it would be written, without its line end."""
    rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
    return pa.array([csv_line(row)[:-1] for row in rows], pa.binary())


def bare(line: bytes) -> bytes:
    """Returns a line without its line end (LF or CRLF), as filters and keys see it."""
    return line.removesuffix(b"\n").removesuffix(b"\r")


def take_rows(batch: pa.RecordBatch, mask: pa.BooleanArray) -> pa.RecordBatch:
    """Returns the rows for which ``mask`` is true."""
    return batch.filter(mask) if pc.any(mask).as_py() else batch.slice(0, 0)
