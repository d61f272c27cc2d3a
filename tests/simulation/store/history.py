"""The operations of a store's clients and their results, and the rules that these must satisfy.

A log file, to which clients append self-describing lines: H1 no acknowledged line is lost; H2 no line is
there twice; H3 every line was written; H4 of any two reads one is a prefix of the other; H5 the answered
offset is the line's place; H6 a client's lines are in its order, it reads its own, and its reads never go
back; H7 a line that was acknowledged before another append began stands before it.

Whole files, which clients put, read and delete under a few names: H8 a read returns all bytes of one put that
had begun and was not deleted; H9 a file that was stored and not deleted is found.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field


@dataclass(slots=True)
class Version:
    """One put of a name: when it was requested, when it was acknowledged, when its deletion was."""

    name: str
    content: bytes
    began_at: float
    acked_at: float = math.inf
    # The start of the first deletion that may have deleted this one.
    delete_began_at: float = math.inf
    # When it was certainly gone.
    deleted_at: float = math.inf


@dataclass(frozen=True, slots=True)
class Seen:
    """A read of a whole file: None when there was none."""

    name: str
    content: bytes | None
    began_at: float
    ended_at: float


@dataclass
class History:
    """The results that the clients saw."""

    acked: list[tuple[float, str, int, int]] = field(default_factory=list)
    invoked: dict[tuple[str, int], bytes] = field(default_factory=dict)
    invoked_at: dict[bytes, float] = field(default_factory=dict)
    reads: list[tuple[float, float, str, bytes]] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    # Names with a deletion in progress, or with an unknown outcome: it may take effect much later.
    deletions: dict[str, int] = field(default_factory=dict)

    def put_begins(self, name: str, content: bytes, now: float) -> Version:
        """Notes that a put was requested."""
        version = Version(name, content, now)
        if self.deletions.get(name):
            version.delete_began_at = now
        self.versions.append(version)
        return version

    def delete_begins(self, name: str, now: float) -> None:
        """Notes that a deletion was requested."""
        self.deletions[name] = self.deletions.get(name, 0) + 1
        for version in self.of(name):
            version.delete_began_at = min(version.delete_began_at, now)

    def delete_ends(self, name: str, began_at: float, now: float) -> None:
        """Notes that a deletion was acknowledged: everything stored before it began is gone."""
        self.deletions[name] -= 1
        for version in self.of(name):
            if version.acked_at < began_at:
                version.deleted_at = min(version.deleted_at, now)

    def of(self, name: str) -> list[Version]:
        """Returns the puts of a name."""
        return [version for version in self.versions if version.name == name]


def check_log(history: History, final: bytes) -> list[str]:
    """Returns the violations in the lines of the log; ``final`` is the last read."""
    found = []
    lines = final.splitlines(keepends=True)
    known = {line: key for key, line in history.invoked.items()}
    unknown = [line for line in lines if line not in known]
    if unknown:
        return [f"H3: {unknown[0]!r} was never written"]
    places: dict[bytes, list[int]] = {}
    for line, end in zip(lines, itertools.accumulate(map(len, lines)), strict=True):
        places.setdefault(line, []).append(end - len(line))
    for line, at in places.items():
        if len(at) > 1:
            found.append(f"H2: {line!r} is there {len(at)} times")
    for _, writer, sequence, offset in history.acked:
        at = places.get(history.invoked[writer, sequence], [])
        if not at:
            found.append(f"H1: {writer}:{sequence} was acknowledged and is lost")
        elif offset >= 0 and at[0] != offset:
            found.append(f"H5: {writer}:{sequence} is at {at[0]}, not at {offset}")
    for writer in sorted({writer for writer, _ in known.values()}):
        order = [known[line][1] for line in lines if known[line][0] == writer]
        if order != sorted(order):
            found.append(f"H6: the lines of {writer} are out of order: {order}")
    return found or [*_check_reads(history, final, places), *_check_real_time(history, places)]


def _check_reads(history: History, final: bytes, places: dict[bytes, list[int]]) -> list[str]:
    last: dict[str, int] = {}
    for began, ended, reader, data in history.reads:
        if not final.startswith(data):
            return [f"H4: a read at {ended:.3f} is not a prefix of the file"]
        if len(data) < last.get(reader, 0):
            return [f"H6: {reader} read less than before"]
        last[reader] = len(data)
        for acked_at, writer, sequence, _ in history.acked:
            line = history.invoked[writer, sequence]
            if acked_at < began and places[line][0] + len(line) > len(data):
                return [f"H1: a read from {began:.3f} on misses {writer}:{sequence}"]
    return []


def _check_real_time(history: History, places: dict[bytes, list[int]]) -> list[str]:
    answers = [
        (at, places[history.invoked[writer, sequence]][0]) for at, writer, sequence, _ in history.acked
    ]
    begun = sorted((history.invoked_at[line], found[0]) for line, found in places.items())
    furthest, answered = -1, iter(sorted(answers))
    at, place = next(answered, (math.inf, -1))
    for began, own in begun:
        while at < began:
            furthest = max(furthest, place)
            at, place = next(answered, (math.inf, -1))
        if own < furthest:
            return [f"H7: the line at {own}, begun at {began:.3f}, stands before older ones"]
    return []


def check_files(history: History) -> list[str]:
    """Returns the violations in the reads of whole files."""
    found = []
    for seen in history.seen:
        versions = history.of(seen.name)
        if seen.content is None:
            found += [
                f"H9: {seen.name} was stored at {version.acked_at:.3f} and not found at {seen.ended_at:.3f}"
                for version in versions
                if version.acked_at < seen.began_at and seen.ended_at < version.delete_began_at
            ]
            continue
        matching = [version for version in versions if version.content == seen.content]
        if not matching:
            found.append(f"H8: {seen.name} has bytes that were never put: {seen.content[:60]!r}")
        elif matching[0].began_at > seen.ended_at:
            found.append(f"H8: {seen.name} was read before it was put")
        elif matching[0].deleted_at < seen.began_at:
            found.append(f"H8: {seen.name} was deleted at {matching[0].deleted_at:.3f}, and read afterwards")
    return found
