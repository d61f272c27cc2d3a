"""Generated inputs and jobs for the simulator, and their expected output.

Inputs have the difficulties of real ones: lines that are equal, empty or not UTF-8, carriage returns, quoted
commas and line feeds, short and long rows, skewed keys. The expected output comes from
``ops.demo.reference``, which shares no code with the engine.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ops.demo.reference import expected_records, output_records

KINDS = ("identity", "rebalance", "final", "tuple", "epoch", "transform", "sum", "wide")


@dataclass(frozen=True, slots=True)
class Workload:
    """A job with its input and expected output."""

    kind: str
    raw: dict[str, Any]
    data: bytes
    expected: Counter[str]


def generate(rng: random.Random, kind: str, name: str, records: int) -> Workload:
    """Returns a job of a kind with an input of about ``records`` records in the file ``name``."""
    tasks = [rng.randint(1, 3) for _ in range(3)]
    csv = kind in ("final", "transform", "sum")
    stages: list[dict[str, Any]]
    match kind:
        case "identity":
            stages = [{"operator": "identity", "tasks": tasks[0]}]
        case "rebalance":
            stages = [{"operator": "identity", "tasks": number + 1} for number in rng.sample(range(3), 2)]
        case "final":
            stages = [
                {"operator": "filter", "tasks": tasks[0], "column": "kind", "equals": "stop", "invert": True},
                {"operator": "aggregate-by-key", "tasks": tasks[1], "key": "place", "function": "count"},
            ]
        case "tuple" | "epoch" | "wide":
            emit = "final" if kind == "wide" else kind
            stages = [{"operator": "aggregate-by-key", "tasks": tasks[1], "emit": emit}]
            stages.insert(0, {"operator": "identity", "tasks": tasks[0]})
        case "transform":
            stages = [{"operator": "transform", "tasks": tasks[0], "select": ["place", "kind"]}]
        case _:
            sums = {"operator": "aggregate-by-key", "key": "place", "function": "sum", "value": "size"}
            stages = [{"operator": "identity", "tasks": tasks[0]}, {**sums, "tasks": tasks[1]}]
    raw = {
        "name": name,
        "source": {
            "file": name,
            "format": "csv" if csv else "lines",
            "rate": int(records / rng.uniform(0.7, 1.7)),
        },
        "stages": stages,
        # Each submission has its own sink, because an earlier submission may have succeeded.
        "sink": {"file": "out-{job}"},
        "epoch_interval_ms": rng.choice([50, 100, 200]),
    }
    data = _csv(rng, records) if csv else _lines(rng, records, wide=kind == "wide")
    return Workload(kind, raw, data, expected(raw, data))


def expected(raw: dict[str, Any], data: bytes) -> Counter[str]:
    """Returns the reference program's output for the input; for ``emit: epoch``, the final values."""
    stages = [
        {**stage, "emit": "final"} if stage.get("emit") == "epoch" else stage for stage in raw["stages"]
    ]
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        return expected_records({**raw, "stages": stages}, Path(file.name))


def _lines(rng: random.Random, records: int, *, wide: bool) -> bytes:
    words = [b"main st", b"", b"\xff\xfe", b"oak", b"a,b", b'say "hi"', b"caf\xc3\xa9", b"tab\t", b"cr\r"]
    if wide:
        words += [b"w%d" % number for number in range(60)]
    lines = []
    for _ in range(records):
        place = min(int(rng.expovariate(0.5 if not wide else 0.05)), len(words) - 1)
        lines.append(words[place])
    return b"\n".join(lines) + (b"\n" if rng.random() < 0.7 else b"")


def _csv(rng: random.Random, records: int) -> bytes:
    places = ['"Main, 1st"', "Oak", '""', "", '"two\nlines"', '"said ""no"""', "café", "x"]
    rows = ["place,kind,size"]
    for _ in range(records):
        place = places[min(int(rng.expovariate(0.4)), len(places) - 1)]
        kind = rng.choice(["stop", "yield", "", '"a\n""b"""'])
        size = rng.choice(["1", "2.50", "", "-3", "1000000000000000000000"])
        rows.append(f"{place},{kind},{size}")
    end = "\n" if rng.random() < 0.7 else ""
    return ("\n".join(rows) + end).encode()


def whole_records(raw: dict[str, Any], data: bytes) -> Counter[str]:
    """Returns the records that a reader sees, without an incomplete last one."""
    try:
        return output_records(raw, data)
    except ValueError:
        for end in range(len(data) - 1, -1, -1):
            if data[end - 1 : end] == b"\n" and data.count(b'"', 0, end) % 2 == 0:
                return output_records(raw, data[:end])
        return Counter()
