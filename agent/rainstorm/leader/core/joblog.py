"""The job log: the only durable state of a job, folded from the records of one HyDFS file.

The leader appends records conditionally (each at the offset where it believes the log ends), so that a leader
that has been replaced fails at its next append. A ``commit`` record is the commit point of an epoch: once it
is in the log the epoch happened, before that it never did. Bulk data (state, sink output) lies in the agents'
own logs; records hold references to it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from agent.common.errors import Corrupt
from agent.rainstorm.job.segment import Reference
from agent.wire.codec.framing import Buffer

LENGTH = struct.Struct(">I")
Record = Mapping[str, Any]
# What people can look back at; older history is in the log itself.
HISTORY_MAX = 500
# How much the last epoch counts in a task's rate: a step in the load shows within a second.
RATE_WEIGHT = 0.3


def encode(records: Iterable[Record]) -> bytes:
    """Returns records as bytes of a job log."""
    packed = [msgpack.packb(dict(record), use_bin_type=True) for record in records]
    return b"".join(LENGTH.pack(len(body)) + body for body in packed)


def decode(data: Buffer) -> Iterator[Record]:
    """Yields the records of a whole job log.

    Raises:
        Corrupt: the bytes are no sequence of records.
    """
    view = memoryview(data)
    at = 0
    while at < len(view):
        if at + LENGTH.size > len(view):
            raise Corrupt("the job log ends inside a record")
        (length,) = LENGTH.unpack_from(view, at)
        at += LENGTH.size
        if at + length > len(view):
            raise Corrupt("the job log ends inside a record")
        yield msgpack.unpackb(view[at : at + length], raw=False, strict_map_key=False)
        at += length


@dataclass(slots=True)
class JobState:
    """What the job log says."""

    job: str = ""
    spec: dict[str, Any] = field(default_factory=dict)
    header: dict[str, Any] = field(default_factory=dict)
    sink: str = ""
    submitted_at: float = 0.0
    term: int = 0
    generation: int = 0
    placement: dict[str, str] = field(default_factory=dict)
    epoch: int = 0
    #: The highest epoch number that may have been used: numbers are never used twice, also after a rollback.
    epoch_max: int = 0
    positions: dict[int, int] = field(default_factory=dict)
    inside: dict[int, bool] = field(default_factory=dict)
    segments: dict[str, list[Reference]] = field(default_factory=dict)
    done: tuple[str, ...] = ()
    unpublished: list[tuple[int, str, list[Reference]]] = field(default_factory=list)
    published: int = 0
    #: What each task has taken in: records and bytes.
    counts: dict[str, list[int]] = field(default_factory=dict)
    #: Records a second that each task took in, over the last epochs.
    rates: dict[str, float] = field(default_factory=dict)
    #: The last epochs committed, and the generations after the first with the time until their first commit.
    commits: list[dict[str, Any]] = field(default_factory=list)
    recoveries: list[dict[str, Any]] = field(default_factory=list)
    epochs_committed: int = 0
    outcome: str = ""
    error: dict[str, Any] | None = None
    finished_at: float = 0.0

    def apply(self, record: Record) -> None:
        """Folds the next record in."""
        match record["t"]:
            case "job":
                self.job, self.spec, self.header = record["job"], record["spec"], record["header"]
                self.sink, self.submitted_at = record["sink"], record["at"]
            case "term":
                self.term = record["term"]
            case "generation":
                self.generation, self.placement = record["g"], dict(record["placement"])
                self.epoch_max = max(self.epoch_max, record["epoch_max"])
                if self.generation > 1:
                    about = {"generation": self.generation, "cause": record["cause"], "at": record["at"]}
                    self.recoveries.append({**about, "seconds": None})
                    del self.recoveries[:-HISTORY_MAX]
            case "commit":
                self._commit(record)
            case "outcome":
                self.outcome, self.error, self.finished_at = record["outcome"], record["error"], record["at"]

    def _commit(self, record: Record) -> None:
        self.epoch = record["e"]
        self.epoch_max = max(self.epoch_max, self.epoch)
        self.positions.update(record["positions"])
        self.done = tuple(record["done"])
        for task, references in record["base"].items():
            self.segments[task] = [_reference(found) for found in references]
        for task, references in record["delta"].items():
            self.segments.setdefault(task, []).extend(_reference(found) for found in references)
        for task, references in record["sink"].items():
            self.unpublished.append((self.epoch, task, [_reference(found) for found in references]))
        self._measure(record)
        self.counts.update(record["counts"])
        self.mark_published(record["published"])
        self._remember(record)

    def _measure(self, record: Record) -> None:
        took_s = record["at"] - self.commits[-1]["at"] if self.commits else 0.0
        if took_s <= 0.0:
            return
        for task, counted in record["counts"].items():
            grown = counted[0] - self.counts.get(task, [0, 0])[0]
            before = self.rates.get(task, grown / took_s)
            self.rates[task] = (1 - RATE_WEIGHT) * before + RATE_WEIGHT * grown / took_s

    def _remember(self, record: Record) -> None:
        at = record["at"]
        about = {"epoch": self.epoch, "generation": record["g"], "records": self.records()}
        self.commits.append({**about, "at": at})
        del self.commits[:-HISTORY_MAX]
        self.epochs_committed += 1
        for recovery in self.recoveries:
            if recovery["seconds"] is None and recovery["generation"] <= record["g"]:
                recovery["seconds"] = at - recovery["at"]

    def records(self) -> int:
        """Returns how many records the source tasks have read."""
        return sum(counted[0] for task, counted in self.counts.items() if task.startswith("0."))

    def bytes(self) -> int:
        """Returns how many bytes the source tasks have read."""
        return sum(counted[1] for task, counted in self.counts.items() if task.startswith("0."))

    def mark_published(self, epoch: int) -> None:
        """Notes that the output of all epochs up to ``epoch`` is in the destination file."""
        self.published = max(self.published, epoch)
        self.unpublished = [entry for entry in self.unpublished if entry[0] > self.published]


def _reference(found: Any) -> Reference:
    return (str(found[0]), int(found[1]), int(found[2]))
