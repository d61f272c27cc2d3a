"""Records are found by exactly one task, whole and in order, however a file is cut and read."""

from __future__ import annotations

import random
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.common.errors import JobFailed
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.job.boundaries import parities as quote_parities
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.job.plan import Plan, Split
from agent.rainstorm.job.spec import parse
from agent.rainstorm.task.batches import CsvParser, from_lines, to_output
from agent.rainstorm.task.shell.source import SourceFile
from agent.rainstorm.task.sources import splitreader
from agent.rainstorm.task.sources.splitreader import SplitReader
from tests.properties import examples
from tests.unit.rainstorm.chain import job_file
from tests.unit.rainstorm.rows import Row, csv_rows, csv_texts, rows_of

CUTS = st.lists(st.integers(1, 150), max_size=6)
SEEDS = st.integers(0, 1 << 30)
# A read brings a record or doubles the next one, and no text of these tests has so many records.
READS_MAX = 10_000


def splits_of(data: bytes, start: int, cuts: list[int]) -> list[Split]:
    """Returns splits of [start, end of data) cut at ``cuts``."""
    edges = sorted({start, len(data), *(cut for cut in cuts if start < cut < len(data))})
    edges = edges if len(edges) > 1 else [start, start]
    return [Split(n, edges[n], edges[n + 1], 0) for n in range(len(edges) - 1)]


def parities(data: bytes, start: int, splits: list[Split]) -> dict[int, bool]:
    """Returns whether the byte before each split lies inside quotes."""
    return {s.index: data.count(b'"', start, max(start, s.start - 1)) % 2 == 1 for s in splits}


class OneReader:
    """Reads splits to their end, in reads of sizes that a random source chooses."""

    def __init__(
        self, data: bytes, start: int, splits: list[Split], inside: dict[int, bool], csv: bool
    ) -> None:
        self.data = data
        self.reader = SplitReader(splits, start, len(data), quoted=csv)
        self.reader.seek({}, inside)
        self.inside = inside

    def run(self, source: random.Random, sizes: list[int], stop: float = 0.0) -> list[tuple[int, bytes]]:
        """Returns the runs of records with their splits, until the end or a random stop."""
        found: list[tuple[int, bytes]] = []
        reads = 0
        while source.random() >= stop:
            reads += 1
            assert reads <= READS_MAX, "the reader makes no progress"
            request = self.reader.next_read(source.choice(sizes))
            if request is None:
                assert self.reader.finished
                return found
            assert 0 <= request.offset < request.offset + request.size <= len(self.data)
            piece = bytearray(self.data[request.offset : request.offset + request.size])
            begin, end = self.reader.take(request, piece)
            if end > begin:
                found.append((request.split, bytes(piece[begin:end])))
        return found


def records(data: bytes, csv: bool) -> list[Row] | list[bytes]:
    """Returns the records of a piece of a file."""
    if csv:
        return csv_rows(data)
    parts = data.split(b"\n")
    return parts[:-1] if not parts[-1] else parts


@settings(max_examples=examples(80))
@given(
    csv_texts(), st.integers(0, 5), CUTS, SEEDS, st.booleans(), st.sampled_from([[1], [1, 2, 7], [30, 400]])
)
def test_every_record_is_read_once_and_in_order(
    data: bytes, start: int, cuts: list[int], seed: int, csv: bool, sizes: list[int]
) -> None:
    """For any text, cuts and read sizes the runs of a split are whole records in order, and the splits
    together are the whole file; stopping anywhere and restarting from the positions changes nothing.
    """
    data = b"x" * start + data  # bytes before the data, such as a header
    source = random.Random(seed)
    splits = splits_of(data, start, cuts)
    inside = parities(data, start, splits)
    task = OneReader(data, start, splits, inside, csv)
    found = task.run(source, sizes)
    whole = [record for _, piece in found for record in records(piece, csv)]
    assert b"".join(piece for _, piece in found) == data[start:]
    assert whole == records(data[start:], csv)

    again = OneReader(data, start, splits, inside, csv)
    resumed = again.run(source, sizes, stop=0.15)
    positions = again.reader.positions()
    other = OneReader(data, start, splits, inside, csv)
    other.reader.seek(positions, inside)
    rest = other.run(source, sizes)
    assert b"".join(piece for _, piece in resumed + rest) == data[start:]
    assert [record for _, piece in resumed + rest for record in records(piece, csv)] == whole


@settings(max_examples=examples(60))
@given(csv_texts(), CUTS, st.booleans())
def test_each_record_belongs_to_the_split_of_its_first_byte(data: bytes, cuts: list[int], csv: bool) -> None:
    """So no two tasks read the same record, however the splits are assigned to them."""
    splits = splits_of(data, 0, cuts)
    inside = parities(data, 0, splits)
    begin = 0
    for split in splits:
        found = OneReader(data, 0, [split], inside, csv).run(random.Random(1), [10])
        taken = b"".join(piece for _, piece in found)
        assert data[begin : begin + len(taken)] == taken
        assert not taken or split.start <= begin < split.end
        begin += len(taken)
        # The next record, if any, begins at or after the split's end.
        assert begin >= split.end or begin == len(data)
    assert begin == len(data)


def test_a_split_that_begins_inside_quotes_begins_with_the_record_behind_them() -> None:
    """The line feeds before the closing quote end no record."""
    data = b'a,"x\ny\nz"\nb,c\n'
    found = OneReader(data, 0, [Split(1, 6, len(data), 0)], {1: True}, True).run(random.Random(1), [10])
    assert found == [(1, b"b,c\n")]


def test_a_huge_record_is_read_by_asking_for_more() -> None:
    """A record many times longer than a read comes out whole; the reads in between bring nothing."""
    data = b"a,b\n" + b'1,"' + b"x\n" * 5000 + b'"\n2,y\n'
    splits = splits_of(data, 0, [2000, 6000])
    found = OneReader(data, 0, splits, parities(data, 0, splits), True).run(random.Random(1), [100])
    assert b"".join(piece for _, piece in found) == data
    assert len({split for split, _ in found}) < len(splits)


@pytest.mark.parametrize("size", [1, 3, 5, 64, 100, 127, 128, 1000])
def test_the_limit_of_a_record_does_not_depend_on_the_read_size(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A record as long as the limit is read, a longer one fails the job and says where it begins."""
    monkeypatch.setattr(splitreader, "RECORD_BYTES_MAX", 128)
    ends = [b"a\n", b"x" * 126 + b"\n", b"b\n"]
    data = b"".join(ends)
    found = OneReader(data, 0, splits_of(data, 0, []), {}, False).run(random.Random(1), [size])
    assert b"".join(piece for _, piece in found) == data
    data = b"a\n" + b"x" * 2000 + b"\nb\n"
    if size <= 128:
        with pytest.raises(JobFailed, match="near byte 2 "):
            OneReader(data, 0, splits_of(data, 0, []), {}, False).run(random.Random(1), [size])


class SmallFile(SourceFile):
    """A source whose file is in memory."""

    data = b""

    def _read(self, offset: int, size: int, timeout_s: float) -> bytearray:
        assert 0 <= offset < offset + size <= len(self.data)
        return bytearray(self.data[offset : offset + size])


@settings(max_examples=examples(40))
@given(csv_texts(), st.integers(0, 4), CUTS, st.integers(1, 4))
def test_the_survey_tells_which_splits_begin_inside_quotes(
    data: bytes, start: int, cuts: list[int], tasks: int
) -> None:
    """The tasks count, and the leader's sum gives the parity of the quotes before each split."""
    data = b"h" * start + data
    splits = [Split(s.index, s.start, s.end, s.index % tasks) for s in splits_of(data, start, cuts)]
    layout = Plan((), tuple(splits), ("a",), start, len(data))
    spec = parse(job_file({"operator": "identity"}, format="csv"))
    counted: dict[int, int] = {}
    for task in range(tasks):
        storage = cast(Storage, None)
        header = SourceHeader(("a",), start, len(data), (), 10, "id")
        source = SmallFile(storage, spec, layout, f"0.{task}", header)
        source.data = data
        counted.update(source.count_quotes())
    assert quote_parities(layout.splits, counted) == parities(data, start, splits)


@settings(max_examples=examples(50))
@given(csv_texts(width=2), CUTS, SEEDS)
def test_runs_parse_like_the_whole_file(data: bytes, cuts: list[int], seed: int) -> None:
    """Parsing run by run gives the rows of the whole file, or the bytes of its lines."""
    splits = splits_of(data, 0, cuts)
    inside = parities(data, 0, splits)
    parser = CsvParser(("a", "b"), None)
    runs = OneReader(data, 0, splits, inside, True).run(random.Random(seed), [1, 9, 50])
    assert [row for _, piece in runs for row in rows_of(parser.parse(piece))] == csv_rows(data, 2)
    runs = OneReader(data, 0, splits, inside, False).run(random.Random(seed), [1, 9, 50])
    written = b"".join(to_output(from_lines(piece)) for _, piece in runs)
    assert written.removesuffix(b"\n") == data.removesuffix(b"\n")
