"""Turns the one-line jobs of the courses in which RainStorm began into job files.

2025:  RainStorm <Nstages> <Ntasks_per_stage> <op1_exe> <op1_args> ... <opN_exe> <opN_args>
           <src> <dest> <exactly_once> <autoscale_enabled> [<INPUT_RATE> [<LW> <HW>]]
2024:  RainStorm <op1_exe> [<op1_args>] <op2_exe> [<op2_args>] <src> <dest> <num_tasks>

In the courses an operator is a program that a student wrote; here its name selects one of our operators (in
any case, with or without a path and an extension). The arguments of an operator are one field, quoted if it
contains blanks, or several fields. Columns are numbered from 0 and belong to CSV without a header, because
the courses' sources emit every line of a file. A filter is a regular expression that is searched for in the
whole line.

Unsupported options are never ignored silently: they are rejected, or reported in a *note* of the result.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

from agent.common.errors import UsageError

USAGE = (
    'fab rainstorm "2 3 Filter error Count 0 logs.csv out.txt true false 1000"   '
    "(the meaning of each field: fab --help rainstorm)"
)
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")
STAGES_MAX, TASKS_MAX = 16, 64
NOTHING = ("", "-", "none")
FIRST_COLUMNS = (0, 1, 2)


@dataclass(frozen=True, slots=True)
class Field:
    """One field of the line; ``place`` counts from 1, not counting the word RainStorm."""

    place: int
    text: str


@dataclass(frozen=True, slots=True)
class Course:
    """The meaning of a line: the content of a job file, and notes about what has no effect."""

    job: dict[str, Any]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Operator:
    """One operator of the line with its arguments."""

    name: Field
    kind: str
    arguments: list[Field]


# Returns the name of a column, given its number, for the stage that is being built.
Columns = Callable[[int], str]


def parse(line: str) -> Course:
    """Returns the job that a line describes.

    Raises:
        UsageError: the first mistake found, with the number of its field.
    """
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise UsageError(f"the line cannot be split into fields: {error}", hint=USAGE) from None
    if words and words[0].lower() == "rainstorm":
        words = words[1:]
    fields = [Field(place, text) for place, text in enumerate(words, 1)]
    if not fields:
        raise UsageError("the line is empty", hint=USAGE)
    return _of_2025(fields) if fields[0].text.lstrip("+-").isdecimal() else _of_2024(fields)


def _of_2025(fields: list[Field]) -> Course:
    if len(fields) < 7:
        last = fields[-1].place
        raise UsageError(
            f"{last} fields are too few: a job of one stage has at least 7 (Nstages Ntasks op src dest "
            "exactly_once autoscale)",
            hint=USAGE,
        )
    stages = _whole(fields[0], "Nstages", 1, STAGES_MAX)
    tasks = _whole(fields[1], "Ntasks_per_stage", 1, TASKS_MAX)
    middle, (source, sink, once, autoscale), numbers = _split_2025(fields)
    exactly_once = _truth(once, "exactly_once")
    notes = []
    rate = int(_real(numbers[0], "INPUT_RATE", 0)) if numbers else 0
    marks = [_real(each, name, 0) for each, name in zip(numbers[1:], ("LW", "HW"), strict=False)]
    if _truth(autoscale, "autoscale_enabled"):
        if len(marks) < 2:
            _refuse(autoscale, "autoscale_enabled", "autoscaling needs INPUT_RATE, LW and HW after it")
        if marks[0] > marks[1]:
            _refuse(numbers[1], "LW", f"the low mark {marks[0]:g} is above the high mark {marks[1]:g}")
        notes.append(
            f"autoscaling is not supported yet: every stage keeps its {tasks} tasks; "
            f"LW {marks[0]:g} and HW {marks[1]:g} have no effect"
        )
    elif marks:
        notes.append("LW and HW have no effect without autoscaling")
    operators = _operators(middle, stages)
    return Course(_job(operators, tasks, source, sink, rate, exactly_once), notes)


def _split_2025(fields: list[Field]) -> tuple[list[Field], list[Field], list[Field]]:
    """Returns the operators' fields, the four fields before the numbers, and the 0, 1 or 3 numbers."""
    for count in (3, 1, 0):
        at = len(fields) - count
        truths = fields[at - 2 : at]
        if at >= 7 and all(each.text.lower() in (*TRUE, *FALSE) for each in truths):
            # A rate of 1 or 0 could also be a truth value, so the interpretation with the most numbers wins.
            return fields[2 : at - 4], fields[at - 4 : at], fields[at:]
    words = [each for each in fields[2:] if each.text.lower() in ("true", "false")]
    if len(words) >= 2:
        behind = len(fields) - words[-1].place
        _refuse(
            words[-1],
            "autoscale_enabled",
            f"{behind} fields follow it; there may be none, INPUT_RATE, or INPUT_RATE LW HW",
        )
    raise UsageError(
        "exactly_once and autoscale_enabled, each true or false, are missing after the destination",
        hint=USAGE,
    )


def _of_2024(fields: list[Field]) -> Course:
    if len(fields) < 5:
        raise UsageError(
            f"{len(fields)} fields are too few: the 2024 form is op1 op2 src dest num_tasks, "
            "the 2025 form begins with the number of stages",
            hint=USAGE,
        )
    source, sink, tasks = fields[-3:]
    count = _whole(tasks, "num_tasks", 1, TASKS_MAX)
    split: list[Field] = []
    for each in fields[:-3]:
        # An operator and its arguments may be one quoted field.
        name, _, rest = each.text.partition(" ")
        quoted = rest and _kind(name) is not None
        split += [Field(each.place, name), Field(each.place, rest)] if quoted else [each]
    return Course(_job(_operators(split, 2), count, source, sink, 0, True))


def _operators(fields: list[Field], stages: int) -> list[_Operator]:
    pairs = len(fields) == 2 * stages and all(_kind(each.text) for each in fields[::2])
    starts = (
        list(range(0, len(fields), 2))
        if pairs
        else [place for place, each in enumerate(fields) if place == 0 or _kind(each.text)]
    )
    found: list[_Operator] = []
    for start, end in zip(starts, [*starts[1:], len(fields)], strict=True):
        name = fields[start]
        kind = _kind(name.text)
        number = len(found) + 1
        if kind is None:
            near = difflib.get_close_matches(_bare(name.text), list(KINDS), n=1)
            known = ", ".join(sorted({each.title() for each in KINDS.values()}))
            _refuse(
                name,
                f"op{number}_exe",
                f"unknown operator {name.text!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known: {known}"),
            )
        found.append(_Operator(name, kind, fields[start + 1 : end]))
    if len(found) != stages:
        last = found[-1].name if found else Field(0, "")
        raise UsageError(
            f"the line has {len(found)} operators ({', '.join(each.name.text for each in found)}) "
            f"but announces {stages}; the last one found is field {last.place}; "
            "quote an argument that has the name of an operator together with the other arguments",
            hint=USAGE,
        )
    return found


def _job(
    operators: list[_Operator], tasks: int, source: Field, sink: Field, rate: int, exactly_once: bool
) -> dict[str, Any]:
    if source.text.endswith("/"):
        _refuse(source, "src", f"{source.text!r} is a folder, but a job can only read one file")
    # Plain lines are cheaper, so the source is CSV only if an operator needs columns.
    csv = any(each.kind in ("equals", "transform", "sum") or _counts_column(each) for each in operators)
    columns: Columns = _source_column
    stages = []
    for number, each in enumerate(operators, 1):
        options, columns = BUILDERS[each.kind](each, number, columns, csv)
        stages.append({"operator": OPERATORS[each.kind], **options, "tasks": tasks})
    header: dict[str, Any] = {"header": False} if csv else {}
    return {
        "name": "-".join(each.kind for each in operators),
        "exactly_once": exactly_once,
        "source": {"file": source.text, "format": "csv" if csv else "lines", **header, "rate": rate},
        "stages": stages,
        "sink": {"file": sink.text},
    }


def _source_column(index: int) -> str:
    return f"c{index + 1}"  # the engine's names for the columns of CSV without a header


def _among(names: Sequence[str], operator: Field) -> Columns:
    def column(index: int) -> str:
        if index >= len(names):
            raise UsageError(
                f"this stage has no column {index}: after field {operator.place} "
                f"({operator.text}) there are {len(names)}, numbered from 0",
                hint=USAGE,
            )
        return names[index]

    return column


Built = tuple[dict[str, Any], Columns]


def _identity(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    _texts(operator, number, 0, 0)
    return {}, columns


def _filter(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    if len(operator.arguments) != 1 or not operator.arguments[0].text:
        place = operator.arguments[0] if operator.arguments else operator.name
        _refuse(place, f"op{number}_args", "a filter takes one pattern; quote it if it contains blanks")
    pattern = operator.arguments[0]
    try:
        re.compile(pattern.text)
    except re.error as error:
        _refuse(pattern, f"op{number}_args", f"not a regular expression: {error}")
    return ({"column": "*"} if csv else {}) | {"matches": pattern.text}, columns


def _equals(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    column, *words = _texts(operator, number, 2, None)
    index = _index(column, f"op{number}_args")
    return {"column": columns(index), "equals": " ".join(each.text for each in words)}, columns


def _transform(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    given = [_index(each, f"op{number}_args") for each in _texts(operator, number, 0, None)]
    selected = [columns(index) for index in given or FIRST_COLUMNS]
    return {"select": selected}, _among(selected, operator.name)


def _count(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    texts = _texts(operator, number, 0, 1)
    if csv and not texts:
        _refuse(
            operator.name,
            f"op{number}_exe",
            "when other operators use columns, a count needs a column number",
        )
    key = {"key": columns(_index(texts[0], f"op{number}_args"))} if texts else {}
    return {**key, "function": "count", "emit": "epoch"}, _among(
        [str(key.get("key", "line")), "count"], operator.name
    )


def _sum(operator: _Operator, number: int, columns: Columns, csv: bool) -> Built:
    key, value = (columns(_index(each, f"op{number}_args")) for each in _texts(operator, number, 2, 2))
    return {"key": key, "function": "sum", "value": value, "emit": "epoch"}, _among(
        [key, "sum"], operator.name
    )


BUILDERS: dict[str, Callable[[_Operator, int, Columns, bool], Built]] = {
    "identity": _identity,
    "filter": _filter,
    "equals": _equals,
    "transform": _transform,
    "count": _count,
    "sum": _sum,
}
OPERATORS = {
    "identity": "identity",
    "filter": "filter",
    "equals": "filter",
    "transform": "transform",
    "count": "aggregate-by-key",
    "sum": "aggregate-by-key",
}
# The names used in the courses, in lower case and without path, extension, '-' and '_'.
KINDS = {
    "identity": "identity",
    "filter": "filter",
    "grep": "filter",
    "equals": "equals",
    "transform": "transform",
    "cut": "transform",
    "csvfirst3": "transform",
    "count": "count",
    "countbycolumn": "count",
    "aggregate": "count",
    "aggregatebykey": "count",
    "sum": "sum",
}


def _counts_column(operator: _Operator) -> bool:
    return operator.kind == "count" and any(each.text not in NOTHING for each in operator.arguments)


def _bare(text: str) -> str:
    name = PurePosixPath(text).name
    return name.split(".")[0].replace("-", "").replace("_", "").lower()


def _kind(text: str) -> str | None:
    return KINDS.get(_bare(text))


def _texts(operator: _Operator, number: int, least: int, most: int | None) -> list[Field]:
    """Returns the arguments one by one, however they were quoted."""
    found = [
        Field(each.place, word)
        for each in operator.arguments
        for word in each.text.replace(",", " ").split()
        if each.text not in NOTHING
    ]
    if len(found) < least or (most is not None and len(found) > most):
        wanted = str(least) if most == least else f"at least {least}" if most is None else f"at most {most}"
        place = operator.arguments[0] if operator.arguments else operator.name
        _refuse(place, f"op{number}_args", f"{operator.name.text} takes {wanted} arguments, not {len(found)}")
    return found


def _index(each: Field, name: str) -> int:
    if not each.text.isdecimal():
        _refuse(each, name, f"{each.text!r} is not a column number; columns are numbered from 0")
    return int(each.text)


def _whole(each: Field, name: str, low: int, high: int) -> int:
    if not each.text.isdecimal() or not low <= int(each.text) <= high:
        _refuse(each, name, f"{each.text!r} is not a number from {low} to {high}")
    return int(each.text)


def _real(each: Field, name: str, low: float) -> float:
    try:
        found = float(each.text)
    except ValueError:
        found = float("nan")
    if not low <= found < float("inf"):
        _refuse(each, name, f"{each.text!r} is not a number of at least {low:g}")
    return found


def _truth(each: Field, name: str) -> bool:
    if each.text.lower() not in (*TRUE, *FALSE):
        _refuse(each, name, f"{each.text!r} is neither true nor false")
    return each.text.lower() in TRUE


def _refuse(each: Field, name: str, problem: str) -> NoReturn:
    raise UsageError(f"field {each.place} ({name}): {problem}", hint=USAGE)
