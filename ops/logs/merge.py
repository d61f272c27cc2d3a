"""Merges log lines of several nodes by their times; a line without a time stays with the line above it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime

# ``tasks.log:12:2026-11-20T10:24:21.123Z ...``: grep's prefix, then the time of the line.
STAMP = re.compile(
    rb"[^\n]{0,300}?[:-](\d{4}-\d\d-\d\d)[T ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9}))?(Z|[+-]\d\d:?\d\d)?"
)


class Merge:
    """Holds lines until all have arrived, then yields them ordered by time."""

    def __init__(self, bytes_max: int) -> None:
        self.dropped = 0
        self._bytes_max = bytes_max
        self._held = 0
        self._latest: dict[str, float] = {}
        self._lines: list[tuple[float, bytes]] = []

    def add(self, node: str, data: bytes) -> None:
        """Adds whole lines of a node."""
        if self._held + len(data) > self._bytes_max:
            self.dropped += len(data)
            return
        self._held += len(data)
        name = node.encode() + b":"
        latest = self._latest.get(node, 0.0)
        for line in data.splitlines(keepends=True) if b"\r" not in data else _split(data):
            at = time_of(line)
            latest = latest if at is None else at
            self._lines.append((latest, name + line))
        self._latest[node] = latest

    def lines(self) -> Iterator[bytes]:
        """Yields all lines; lines with the same time keep the order in which they arrived."""
        self._lines.sort(key=lambda entry: entry[0])
        for _, line in self._lines:
            yield line


def time_of(line: bytes) -> float | None:
    """Returns the time in a line that grep printed, in seconds since 1970."""
    found = STAMP.match(line)
    if found is None:
        return None
    day, clock, fraction, zone = (part.decode() if part else "" for part in found.groups())
    try:
        at = datetime.fromisoformat(f"{day}T{clock}{zone}")
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() + float(f"0.{fraction or 0}")


def _split(data: bytes) -> list[bytes]:
    return [line + b"\n" for line in data[:-1].split(b"\n")]
