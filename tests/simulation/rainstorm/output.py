"""Checks the output that a reader of a job sees, while the job runs and at its end (R1, R2, R4)."""

from __future__ import annotations

from collections import Counter

from tests.simulation.rainstorm.jobs import Workload, whole_records


def check_seen(workload: Workload, job: str, data: bytes) -> None:
    """Fails if a reader sees records that are not in the result, or too often, or in another order."""
    found = whole_records(workload.raw, data)
    if workload.kind == "epoch":
        limits = dict(_split(record) for record in workload.expected)
        for record, times in found.items():
            key, value = _split(record)
            assert times == 1, f"R2: {record!r} {times} times in {job}"
            assert 1 <= value <= limits[key], f"R2: {record!r} in {job}, at most {limits[key]}"
        return
    extra = found - workload.expected
    assert not extra, f"R2: a reader of {job} ({workload.kind}) sees {_some(extra)}"
    if workload.kind == "tuple":
        _check_running(job, data)


def check_whole(workload: Workload, job: str, data: bytes) -> None:
    """Fails if the output of a finished job differs from that of the reference program."""
    found = whole_records(workload.raw, data)
    if workload.kind == "epoch":
        found = _last_values(found)
    missing, extra = workload.expected - found, found - workload.expected
    assert found == workload.expected, (
        f"R1: {job} ({workload.kind}): missing {_some(missing)}, extra {_some(extra)}"
    )


def _check_running(job: str, data: bytes) -> None:
    counts: Counter[str] = Counter()
    for line in data.decode("utf-8", "surrogateescape").split("\n")[:-1]:
        key, _, value = line.rpartition(",")
        if '"' not in key or key.startswith('"'):
            counts[key] += 1
            assert int(value) == counts[key], f"R4: {key!r} counts {value} after {counts[key] - 1}"


def _split(record: str) -> tuple[str, int]:
    key, _, value = record.rpartition(",")
    return key, int(value)


def _last_values(found: Counter[str]) -> Counter[str]:
    last: dict[str, int] = {}
    for record in found:
        key, value = _split(record)
        last[key] = max(value, last.get(key, 0))
    return Counter([f"{key},{value}" for key, value in last.items()])


def _some(records: Counter[str]) -> str:
    return f"{sum(records.values())}: {dict(records.most_common(4))}"
