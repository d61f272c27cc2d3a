"""Turns a job file into a job that the leader can run. Everything that can be rejected is rejected here,
before anything changes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from agent.common.errors import AlreadyExists, JobInvalid, NotFound
from agent.hydfs.client import FileStat
from agent.rainstorm.io.storage import Storage
from agent.rainstorm.job import plan
from agent.rainstorm.job.boundaries import BOM, first_end
from agent.rainstorm.job.header import COLUMNS_MAX, HEADER_BYTES_MAX, SourceHeader
from agent.rainstorm.job.placement import Extent, homes, splits
from agent.rainstorm.job.plan import LINE
from agent.rainstorm.job.spec import JobSpec, parse
from agent.rainstorm.leader.core.joblog import JobState

JOB_MARK = "{job}"


def prepare(
    storage: Storage, raw: Any, job: str, batch_bytes: int, nodes: Sequence[str], now_wall: float
) -> JobState:
    """Returns the state of a new job whose destination file has been created; ``nodes`` may get tasks.

    Raises:
        JobInvalid: the job file is wrong.
        NotFound: the source does not exist.
        AlreadyExists: the destination exists.
    """
    raw = _with_sink_name(raw, job)
    spec = parse(raw)
    source = _source(storage, spec)
    columns, data_start = _columns(storage, spec, source)
    extents = [
        Extent(max(block.offset, data_start), block.offset + block.length, block.replicas)
        for block in source.blocks
        if block.offset + block.length > data_start
    ] or [Extent(data_start, data_start, ())]
    task_nodes = homes(extents, spec.stages[0].tasks, nodes) or [""] * spec.stages[0].tasks
    header = SourceHeader(
        columns=tuple(columns),
        data_start=data_start,
        data_end=source.length,
        splits=tuple(
            (split.index, split.start, split.end, split.task) for split in splits(extents, task_nodes)
        ),
        batch_bytes=batch_bytes,
        file_id=source.file_id,
        homes={f"0.{number}": node for number, node in enumerate(task_nodes)},
    )
    plan.make(spec, header)  # refuses columns that do not exist
    try:
        storage.client.create(spec.sink.file)
    except AlreadyExists:
        raise AlreadyExists(
            f"the destination {spec.sink.file!r} exists",
            hint=f"put '{JOB_MARK}' into the name, or remove the file: fab delete {spec.sink.file}",
        ) from None
    return JobState(job=job, spec=raw, header=header, sink=spec.sink.file, submitted_at=now_wall)


def _with_sink_name(raw: Any, job: str) -> Any:
    """Returns the job file with the job's id in place of ``{job}`` in the destination's name."""
    if not isinstance(raw, dict) or not isinstance(raw.get("sink"), dict):
        return raw
    file = raw["sink"].get("file")
    if not isinstance(file, str):
        return raw
    return {**raw, "sink": {**raw["sink"], "file": file.replace(JOB_MARK, job)}}


def _source(storage: Storage, spec: JobSpec) -> FileStat:
    try:
        return storage.client.stat(spec.source.file)
    except NotFound:
        raise NotFound(
            f"the source {spec.source.file!r} does not exist in HyDFS",
            hint=f"store it first: fab put LOCALFILE {spec.source.file}",
        ) from None


def _columns(storage: Storage, spec: JobSpec, source: FileStat) -> tuple[list[str], int]:
    """Returns the column names and where the data begins."""
    head = bytes(storage.read_exactly(source.name, 0, min(source.length, HEADER_BYTES_MAX)))
    start = len(BOM) if head.startswith(BOM) else 0
    if spec.source.format == "lines":
        return [LINE], start
    while head[start:].startswith((b"\n", b"\r\n")):
        start = head.index(b"\n", start) + 1  # blank lines are not records, so the header comes after them
    end = first_end(head, start, quoted=True)
    if end < 0:
        if len(head) < source.length:
            raise JobInvalid(
                f"the first record of {source.name!r} is longer than {HEADER_BYTES_MAX} bytes",
                hint="is it CSV? read it as 'format: lines'",
            )
        end = len(head)
    text = io.StringIO(head[start:end].decode("utf-8", "replace"), newline="")
    try:
        first = next(csv.reader(text), [])
    except csv.Error as error:
        raise JobInvalid(f"the first record of {source.name!r} is not CSV: {error}") from None
    if len(first) > COLUMNS_MAX:
        raise JobInvalid(f"{source.name!r} has {len(first)} columns; the limit is {COLUMNS_MAX}")
    if spec.source.header:
        _check_header(source.name, first)
        return first, end
    if spec.source.columns:
        return list(spec.source.columns), start
    return [f"c{number + 1}" for number in range(len(first))], start


def _check_header(name: str, header: list[str]) -> None:
    if not header:
        raise JobInvalid(f"{name!r} is empty, so it has no header", hint="write 'header: false'")
    if len(set(header)) != len(header):
        raise JobInvalid(
            f"two columns of {name!r} have the same name",
            hint="name the columns in the job file: 'header: false' and 'columns: [...]'",
        )
