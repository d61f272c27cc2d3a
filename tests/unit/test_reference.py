"""The reference program gives the result of careful counting by hand, even on files full of traps."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ops.demo import citysigns
from ops.demo.reference import NoSingleAnswer, expected_lines, expected_records, main, output_records
from tests.support import shared_data

COUNT_BY_CATEGORY = [
    {"operator": "filter", "column": "Sign_Post", "equals": "Punched Telespar"},
    {"operator": "aggregate-by-key", "key": "Category", "function": "count"},
]


def job(*stages: dict[str, Any], **source: Any) -> dict[str, Any]:
    """Returns a job over a csv source unless ``format`` says otherwise."""
    return {
        "name": "test",
        "source": {"file": "in", "format": "csv", **source},
        "stages": list(stages),
        "sink": {"file": "out"},
    }


def run(tmp_path: Path, data: bytes, spec: dict[str, Any]) -> list[str]:
    """Returns the sorted expected lines over ``data``."""
    path = tmp_path / "input"
    path.write_bytes(data)
    return expected_lines(spec, path)


IDENTITY = {"operator": "identity"}
COUNT_B = {"operator": "aggregate-by-key", "key": "b", "function": "count"}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        pytest.param(b"a,b\n1,x\n2,x\n", ["x,2"], id="plain"),
        pytest.param(b"\xef\xbb\xbfb,a\nx,1\nx,2\n", ["x,2"], id="byte-order mark before the key's column"),
        pytest.param(b"a,b\r\n1,x\r\n2,x\r\n", ["x,2"], id="CRLF"),
        pytest.param(b"a,b\n1,x\n2,x", ["x,2"], id="no newline at the end"),
        pytest.param(b'a,b\n1,"x\ny"\n2,"x\ny"\n', ['"x\ny",2'], id="newline inside quotes"),
        pytest.param(b'a,b\n"1,5",x\n"say ""x""",x\n', ["x,2"], id="quoted comma, doubled quotes"),
        pytest.param(b'a,b\n1,"p,q"\n', ['"p,q",1'], id="key that needs quotes"),
        pytest.param(b'a,b\n1,"say ""x"""\n', ['"say ""x""",1'], id="key with quotes"),
        pytest.param(b"a,b\n1\n2,x,3\n", [",1", "x,1"], id="short row filled, long row cut"),
        pytest.param(b"a,b\n\n1,x\n\n", ["x,1"], id="blank lines are no records"),
        pytest.param(b"a,b\n1, x\n2,x\n3,x \n", [" x,1", "x ,1", "x,1"], id="blanks are kept"),
        pytest.param("a,b\n1,東京\n2,東京\n".encode(), ["東京,2"], id="UTF-8"),
        pytest.param(b"a,b\n1,\xff\n", ["\udcff,1"], id="bytes that are not UTF-8"),
        pytest.param(b"a,b\n", [], id="header alone"),
        pytest.param(b"", [], id="empty file"),
    ],
)
def test_csv_is_read_as_the_csv_module_reads_it(tmp_path: Path, data: bytes, expected: list[str]) -> None:
    """Counting by column b survives each trap."""
    assert run(tmp_path, data, job(COUNT_B, header=True)) == expected


def test_columns_without_header(tmp_path: Path) -> None:
    """Without a header, columns are c1 ... cn or those that the job names; a header can be renamed."""
    data = b"1,x\n2,x\n3,y\n"
    by_number = job({**COUNT_B, "key": "c2"}, header=False)
    assert run(tmp_path, data, by_number) == ["x,2", "y,1"]
    assert run(tmp_path, data, job(COUNT_B, columns=["a", "b"])) == ["x,2", "y,1"]
    assert run(tmp_path, data, job(COUNT_B, columns=["a", "b"], header=True)) == ["x,1", "y,1"]


def test_lines_pass_byte_for_byte(tmp_path: Path) -> None:
    """Identity on lines keeps every byte, equal lines, blank lines and carriage returns."""
    data = b"same\nsame\n\r\n\n \xff\x00\x0b\nlast without newline"
    lines = run(tmp_path, data, job(IDENTITY, format="lines"))
    assert sorted(lines) == sorted(["same", "same", "\r", "", " \udcff\x00\x0b", "last without newline"])


def test_ten_thousand_identical_lines(tmp_path: Path) -> None:
    """Identical lines are different records."""
    path = tmp_path / "input"
    path.write_bytes(b"twin\n" * 10_000)
    assert expected_records(job(IDENTITY, format="lines"), path) == Counter({"twin": 10_000})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"equals": "Stop"}, ["Stop"]),
        ({"equals": "Stop", "invert": True}, ["All Way Stop", "stop sign"]),
        ({"contains": "Stop"}, ["All Way Stop", "Stop"]),
        ({"matches": "^[Ss]top"}, ["Stop", "stop sign"]),
        ({"matches": "top$", "invert": True}, ["stop sign"]),
    ],
)
def test_filter(tmp_path: Path, options: dict[str, Any], expected: list[str]) -> None:
    """Each test works on a whole line and on a column."""
    texts = b"Stop\nAll Way Stop\nstop sign\n"
    stage = {"operator": "filter", **options}
    assert run(tmp_path, texts, job(stage, format="lines")) == expected
    on_column = job({**stage, "column": "text"}, columns=["text"])
    assert run(tmp_path, texts, on_column) == expected


def test_transform(tmp_path: Path) -> None:
    """Select orders and repeats columns; replace changes every occurrence."""
    data = b'a,b,c\n1,"x,y",\n'
    assert run(tmp_path, data, job({"operator": "transform", "select": ["c", "b", "a"]})) == [',"x,y",1']
    assert run(tmp_path, data, job({"operator": "transform", "select": ["c"]})) == ['""']
    change = {"operator": "transform", "replace": {"column": "b", "from": ",", "to": "--"}}
    assert run(tmp_path, data, job(change)) == ["1,x--y,"]


def test_sum_is_exact(tmp_path: Path) -> None:
    """Sums do not depend on the order of addition; an empty value adds nothing."""
    stage = {"operator": "aggregate-by-key", "key": "k", "function": "sum", "value": "v"}
    data = b"k,v\na,1\na,-3\nb,0.1\nb,0.2\nc,\nd,99999999999999999999\nd,1\n"
    assert run(tmp_path, data, job(stage)) == ["a,-2", "b,0.3", "c,0", "d,100000000000000000000"]
    with pytest.raises(ValueError, match="'many' is not a number"):
        run(tmp_path, b"k,v\na,many\n", job(stage))


def test_running_counts(tmp_path: Path) -> None:
    """emit: tuple gives every count of a key once."""
    stage = {**COUNT_B, "emit": "tuple"}
    assert run(tmp_path, b"a,b\n1,x\n2,y\n3,x\n", job(stage)) == ["x,1", "x,2", "y,1"]


@pytest.mark.parametrize(
    "stage",
    [
        {**COUNT_B, "emit": "epoch"},
        {"operator": "aggregate-by-key", "key": "b", "function": "sum", "value": "a", "emit": "tuple"},
    ],
)
def test_no_single_answer(tmp_path: Path, stage: dict[str, Any]) -> None:
    """A job whose output depends on timing is refused rather than guessed."""
    with pytest.raises(NoSingleAnswer):
        run(tmp_path, b"a,b\n1,x\n", job(stage))


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    """A wrong column or operator is named."""
    with pytest.raises(ValueError, match="there is no column 'z'; the columns are a, b"):
        run(tmp_path, b"a,b\n1,x\n", job({**COUNT_B, "key": "z"}))
    with pytest.raises(ValueError, match="'explode'"):
        run(tmp_path, b"a,b\n1,x\n", job({"operator": "explode"}))


def test_output_records_are_compared_whole(tmp_path: Path) -> None:
    """The output of a csv writer is read back as the same multiset, including newlines inside quotes."""
    path = tmp_path / "input"
    path.write_bytes(b"".join(citysigns.generate(3_500, 11)))
    spec = job({"operator": "transform", "select": ["Notes", "Street", "Category"]})
    expected = expected_records(spec, path)
    assert any("\n" in record for record in expected)
    output = "".join(f"{line}\n" for line in expected.elements()).encode()
    assert output_records(spec, output) == expected
    assert output_records(spec, output + b"extra,,\n") != expected
    with path.open(encoding="utf-8", newline="") as source:
        rows = Counter((row["Notes"], row["Street"], row["Category"]) for row in csv.DictReader(source))
    assert sorted(expected.values()) == sorted(rows.values())


@pytest.mark.parametrize("torn", [b"x,1\ny,", b'x,1\n"y\n'])
def test_torn_output_is_refused(torn: bytes) -> None:
    """An output that ends inside a record is not valid."""
    with pytest.raises(ValueError, match="incomplete"):
        output_records(job(COUNT_B), torn)


def test_command(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """``python -m ops.demo.reference JOB INPUT`` prints the expected lines."""
    (tmp_path / "job.yml").write_text(
        "source: {file: in, format: csv, header: true}\n"
        "stages: [{operator: aggregate-by-key, key: b, function: count}]\n"
        "sink: {file: out}\n"
    )
    (tmp_path / "in").write_bytes(b"a,b\n1,x\n2,\xff\n")
    assert main([str(tmp_path / "job.yml"), str(tmp_path / "in")]) == 0
    assert capfdbinary.readouterr().out == b"x,1\n\xff,1\n"


def test_module_runs_from_the_command_line() -> None:
    """The command has a help text."""
    command = [sys.executable, "-m", "ops.demo.reference", "--help"]
    assert b"job" in subprocess.run(command, check=True, capture_output=True, timeout=30).stdout


@pytest.mark.parametrize(
    ("rows", "golden"),
    [
        (
            5000,
            "Regulatory 1063|Streetname 1053|Parking 496|Warning 96|School 89|Object Marker 66|Custom 48|"
            "Guide 25|MTD 16",
        ),
        (1000, "Streetname 312|Regulatory 178|Parking 80|Warning 33|Custom 22|School 5|Object Marker 1"),
    ],
)
def test_golden_counts_of_real_signs(rows: int, golden: str) -> None:
    """The counts of a real inventory equal those from another program."""
    path = shared_data("traffic_signs", f"TrafficSigns_{rows}.csv")
    lines = expected_lines(job(*COUNT_BY_CATEGORY), path)
    assert sorted(lines) == sorted(",".join(pair.rsplit(" ", 1)) for pair in golden.split("|"))


@pytest.mark.parametrize(("rows", "word", "count"), [(1000, "No Outlet", 37), (5000, "Stop", 1136)])
def test_golden_lines_of_real_signs(rows: int, word: str, count: int) -> None:
    """The number of lines that contain a word equals the number that grep finds."""
    path = shared_data("traffic_signs", f"TrafficSigns_{rows}.csv")
    spec = job({"operator": "filter", "contains": word}, format="lines")
    assert expected_records(spec, path).total() == count


def test_golden_records_of_austin() -> None:
    """Quoted numbers with commas do not move the columns."""
    path = shared_data("traffic_signs", "austin_3000.csv")
    spec = job({"operator": "filter", "column": "MUTCD Code", "equals": "D3-1"})
    assert expected_records(spec, path).total() == 924


def test_real_logs_pass_byte_for_byte() -> None:
    """Identity over a real log without a final newline gives each of its lines."""
    path = shared_data("loghub", "Linux_2k.log")
    records = expected_records(job(IDENTITY, format="lines"), path)
    lines = path.read_bytes().removesuffix(b"\n").split(b"\n")
    assert records == Counter(line.decode("utf-8", "surrogateescape") for line in lines)
