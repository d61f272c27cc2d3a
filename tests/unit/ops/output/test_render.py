"""The output of commands."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

from ops.output import render


@dataclass(frozen=True)
class _Thing:
    name: str


def test_plain_columns_line_up(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("name", "bytes"), [["a", 1234567], ["longer name", 5]])
    assert capsys.readouterr().out.splitlines() == [
        "name             bytes",
        "a            1,234,567",
        "longer name          5",
    ]


def test_missing_values_and_truth_are_words(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("a", "b", "c"), [[None, "", True]])
    assert capsys.readouterr().out.splitlines()[1].split() == ["-", "-", "yes"]


def test_an_empty_table_prints_its_head(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_table(("a", "b"), [])
    assert capsys.readouterr().out == "a  b\n"


def test_json_has_a_version_and_plain_values(capsys: pytest.CaptureFixture[str]) -> None:
    render.print_json(thing=_Thing("Évacuation"), raw=b"x")
    text = capsys.readouterr().out
    assert json.loads(text) == {"schema_version": 1, "thing": {"name": "Évacuation"}, "raw": "x"}
    assert "Évacuation" in text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (3 << 40, "3,072.0 GiB")],
)
def test_sizes(value: int, text: str) -> None:
    assert render.size(value) == text


def test_times() -> None:
    assert render.utc(0) == "-"
    assert render.utc(None) == "-"
    assert render.utc(1_700_000_000.4) == "2023-11-14T22:13:20Z"
    assert render.seconds(None) == "-"
    assert render.seconds(0.456) == "0.46 s"
