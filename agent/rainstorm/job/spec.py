"""The checked content of a job file: sources → stages → sinks.

A job file is YAML; this module gets it as a mapping. Every key must be known, and every value must have the
right type and range. A mistake is rejected before anything of the job exists; the error names the place, the
expected value and the nearest known word.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from agent.common.errors import JobInvalid, NameInvalid
from agent.common.ids import check_file_name
from agent.common.message import NAME_CHARS_MAX

TASKS_PER_STAGE_MAX = 64
STAGES_MAX = 16
EPOCH_INTERVAL_MS_MIN = 20
EPOCH_INTERVAL_MS_MAX = 60_000
FORMATS = ("lines", "csv")
FUNCTIONS = ("count", "sum")
EMITS = ("final", "epoch", "tuple")
WRITE_CSV = "write 'format: csv' in the source"
TESTS = ("equals", "contains", "matches")


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A HyDFS file read from its first byte to the length that it had when the job was submitted.

    ``rate`` is in records per second for the whole job; 0 means as fast as possible.
    """

    file: str
    format: str = "lines"
    header: bool = False
    columns: tuple[str, ...] = ()
    rate: int = 0


@dataclass(frozen=True, slots=True)
class StageSpec:
    """One operator and the number of its tasks; ``options`` are the operator's own keys."""

    operator: str
    tasks: int
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """The HyDFS file that the output is appended to; it must not exist yet."""

    file: str


@dataclass(frozen=True, slots=True)
class JobSpec:
    """A job that may be run."""

    name: str
    source: SourceSpec
    stages: tuple[StageSpec, ...]
    sink: SinkSpec
    exactly_once: bool = True
    epoch_interval_ms: int = 100


# Keys of each operator besides ``operator`` and ``tasks``.
OPERATORS: dict[str, tuple[str, ...]] = {
    "identity": (),
    "filter": ("column", "equals", "contains", "matches", "invert"),
    "transform": ("select",),
    "aggregate-by-key": ("key", "function", "value", "emit"),
}


def _refuse(where: str, problem: str, hint: str = "") -> NoReturn:
    raise JobInvalid(f"job file, {where}: {problem}", hint=hint or "correct the job file and submit it again")


def _nearest(word: Any, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(str(word), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"


def _mapping(value: Any, where: str, known: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        _refuse(where, f"expected a mapping, found {type(value).__name__}")
    for key in value:
        if key not in known:
            _refuse(where, f"unknown key {key!r}", _nearest(key, known))
    return value


def _take(value: Mapping[str, Any], key: str, kind: type[Any], where: str, default: Any = None) -> Any:
    found = value.get(key, default)
    if found is None:
        _refuse(where, f"missing key {key!r}", f"add '{key}:'")
    if not isinstance(found, kind) or (isinstance(found, bool) and kind is not bool):
        _refuse(f"{where}.{key}", f"expected {kind.__name__}, found {found!r}")
    return found


def _number(value: Mapping[str, Any], key: str, low: int, high: int, where: str, default: int) -> int:
    found = _take(value, key, int, where, default)
    if not low <= found <= high:
        _refuse(f"{where}.{key}", f"{found} is not between {low} and {high}")
    return int(found)


def _file(value: Mapping[str, Any], where: str) -> str:
    name = str(_take(value, "file", str, where))
    try:
        return check_file_name(name)
    except NameInvalid as error:
        _refuse(f"{where}.file", error.message, error.hint)


def _choice(value: Mapping[str, Any], key: str, known: tuple[str, ...], where: str, default: str) -> str:
    found = str(_take(value, key, str, where, default))
    if found not in known:
        _refuse(f"{where}.{key}", f"unknown {key} {found!r}", _nearest(found, known))
    return found


def parse(raw: Any) -> JobSpec:
    """Returns the job that a job file describes.

    Raises:
        JobInvalid: the first mistake found, with its place.
    """
    known = ("name", "source", "stages", "sink", "exactly_once", "epoch_interval_ms")
    top = _mapping(raw, "top level", known)
    stages = _take(top, "stages", list, "top level")
    if not 1 <= len(stages) <= STAGES_MAX:
        _refuse("stages", f"{len(stages)} stages; between 1 and {STAGES_MAX} are allowed")
    source = _source(_take(top, "source", dict, "top level"))
    spec = JobSpec(
        name=_name(top),
        source=source,
        stages=tuple(_stage(stage, f"stages[{index}]", source) for index, stage in enumerate(stages)),
        sink=SinkSpec(_file(_mapping(_take(top, "sink", dict, "top level"), "sink", ("file",)), "sink")),
        exactly_once=_take(top, "exactly_once", bool, "top level", True),
        epoch_interval_ms=_number(
            top, "epoch_interval_ms", EPOCH_INTERVAL_MS_MIN, EPOCH_INTERVAL_MS_MAX, "top level", 100
        ),
    )
    if spec.sink.file == spec.source.file:
        _refuse("sink.file", "the sink is the source itself")
    return spec


def _name(top: Mapping[str, Any]) -> str:
    name = str(_take(top, "name", str, "top level", "job"))
    if len(name) > NAME_CHARS_MAX:
        _refuse("name", f"{len(name)} characters; at most {NAME_CHARS_MAX} are allowed")
    return name


def _source(raw: Mapping[str, Any]) -> SourceSpec:
    value = _mapping(raw, "source", ("file", "format", "header", "columns", "rate"))
    columns = _take(value, "columns", list, "source", [])
    if not all(isinstance(column, str) and column for column in columns) or len(set(columns)) != len(columns):
        _refuse("source.columns", "expected a list of different names")
    kind = _choice(value, "format", FORMATS, "source", "lines")
    if kind == "lines" and ("header" in value or columns):
        _refuse("source", "'header' and 'columns' belong to format csv", "write 'format: csv'")
    return SourceSpec(
        file=_file(value, "source"),
        format=kind,
        header=_take(value, "header", bool, "source", kind == "csv" and not columns),
        columns=tuple(columns),
        rate=_number(value, "rate", 0, 1_000_000_000, "source", 0),
    )


def _stage(raw: Any, where: str, source: SourceSpec) -> StageSpec:
    if not isinstance(raw, Mapping):
        _refuse(where, f"expected a mapping, found {type(raw).__name__}")
    operator = _choice(raw, "operator", tuple(OPERATORS), where, "")
    options = _mapping(raw, where, ("operator", "tasks", *OPERATORS[operator]))
    tasks = _number(options, "tasks", 1, TASKS_PER_STAGE_MAX, where, 1)
    checked = {key: value for key, value in options.items() if key not in ("operator", "tasks")}
    check = {"filter": _check_filter, "transform": _check_transform, "aggregate-by-key": _check_aggregate}
    if operator in check:
        check[operator](checked, where, source)
    return StageSpec(operator, tasks, checked)


def _check_filter(options: dict[str, Any], where: str, source: SourceSpec) -> None:
    tests = [test for test in TESTS if test in options]
    if len(tests) != 1:
        _refuse(where, f"a filter needs exactly one of {', '.join(TESTS)}; found {tests or 'none'}")
    wanted = _take(options, tests[0], str, where)
    _take(options, "invert", bool, where, False)
    if "column" in options:
        _take(options, "column", str, where)
        if source.format != "csv":
            _refuse(f"{where}.column", "a column needs a source of format csv", WRITE_CSV)
    elif source.format == "csv":
        _refuse(where, "a filter on csv needs 'column'", "name it; '*' is the whole record")
    if tests[0] == "matches":
        try:
            re.compile(wanted)
        except (re.error, OverflowError, RecursionError) as error:
            _refuse(f"{where}.matches", f"not a regular expression: {error}")


def _check_transform(options: dict[str, Any], where: str, source: SourceSpec) -> None:
    columns = _take(options, "select", list, where)
    if not columns or not all(isinstance(column, str) for column in columns):
        _refuse(f"{where}.select", "expected a list of column names")
    if source.format != "csv":
        _refuse(where, "'select' needs a source of format csv", WRITE_CSV)


def _check_aggregate(options: dict[str, Any], where: str, source: SourceSpec) -> None:
    if source.format == "csv":
        _take(options, "key", str, where)
    elif "key" in options:
        _refuse(f"{where}.key", "a key column needs a source of format csv; lines are counted whole")
    function = _choice(options, "function", FUNCTIONS, where, "count")
    _choice(options, "emit", EMITS, where, "final")
    if function == "sum":
        _take(options, "value", str, where)
    elif "value" in options:
        _refuse(f"{where}.value", "only function sum has a value column")
