"""The generator of city traffic signs: equal seeds give equal bytes, with every promised trap."""

from __future__ import annotations

import csv
import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest

from ops.demo import citysigns

ROWS = 10_000
GOLDEN_SHA256 = "4195dec150f87d1d35d129b31b530d9fe2b637941f84176be2ccb6be837b74f2"


def make(rows: int, seed: int) -> bytes:
    """Returns a whole generated file."""
    return b"".join(citysigns.generate(rows, seed))


@pytest.fixture(scope="module")
def data() -> bytes:
    """Ten thousand rows of seed 7."""
    return make(ROWS, 7)


def test_same_seed_same_bytes(data: bytes) -> None:
    """The bytes of a seed are the same on every machine and in every release; another seed gives others."""
    assert hashlib.sha256(data).hexdigest() == GOLDEN_SHA256
    assert not data.startswith(make(100, 8))


def test_smaller_file_begins_the_larger(data: bytes) -> None:
    """Row n does not depend on the number of rows."""
    assert data.startswith(make(8_193, 7))


def test_every_row_has_thirteen_fields(data: bytes) -> None:
    """Python's csv module reads back the requested rows and writes the same bytes."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))
    assert rows[0] == list(citysigns.COLUMNS)
    assert len(rows) == ROWS + 1
    assert {len(row) for row in rows} == {13}
    again = io.StringIO(newline="")
    csv.writer(again, lineterminator="\n").writerows(rows)
    assert again.getvalue().encode("utf-8") == data


def test_about_one_line_in_a_hundred_is_a_duplicate(data: bytes) -> None:
    """A duplicate repeats a whole line, including its OBJECTID; without duplicates ids are unique."""
    rows = list(csv.reader(io.StringIO(data.decode("utf-8"), newline="")))[1:]
    lines = Counter(map(tuple, rows))
    duplicates = ROWS - len(lines)
    assert 0.007 * ROWS < duplicates < 0.013 * ROWS
    assert len({row[0] for row in lines}) == len(lines)


def test_values_follow_the_inventory(data: bytes) -> None:
    """The common post is common, an empty category is one of twenty, and each trap occurs."""
    rows = list(csv.DictReader(io.StringIO(data.decode("utf-8"), newline="")))
    posts = Counter(row["Sign_Post"] for row in rows)
    assert 0.27 < posts["Punched Telespar"] / ROWS < 0.33
    categories = Counter(row["Category"] for row in rows)
    assert len(categories) == 20
    assert categories[""] > 0
    notes = [row["Notes"] for row in rows]
    assert 0 < sum("\n" in note for note in notes) < 0.002 * ROWS
    assert " " in notes
    assert "  check  " in notes
    assert b'"30"" X 30"""' in data
    streets = " ".join(row["Street"] for row in rows)
    assert all(word in streets for word in ("Peñarol", "Café", "東京通り", "🦊"))
    assert 90 < len(data) / ROWS < 130


def test_pieces_are_bounded_and_end_with_a_row() -> None:
    """No piece grows with the number of rows."""
    pieces = list(citysigns.generate(9_000, 3))
    assert all(len(piece) < 2 * 1024 * 1024 for piece in pieces)
    assert all(piece.endswith(b"\n") for piece in pieces)


@pytest.mark.slow
def test_command_writes_the_file(tmp_path: Path) -> None:
    """``python -m ops.demo.citysigns`` writes the output of ``generate``; zero rows give only the header."""
    target = tmp_path / "signs.csv"
    assert citysigns.main(["--rows", "50", "--seed", "7", "--out", str(target)]) == 0
    assert target.read_bytes() == make(50, 7)
    assert make(0, 7).count(b"\n") == 1


def test_negative_rows_are_refused(tmp_path: Path) -> None:
    """A negative number is refused before a file is made."""
    target = tmp_path / "signs.csv"
    with pytest.raises(SystemExit):
        citysigns.main(["--rows", "-1", "--out", str(target)])
    assert not target.exists()
    with pytest.raises(ValueError, match="negative"):
        next(citysigns.generate(-1, 0))
