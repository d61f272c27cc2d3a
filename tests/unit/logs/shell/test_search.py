"""Searches with real greps: order, ranges of time, limits, and logs that cannot be searched or read."""

from __future__ import annotations

import gzip
import os
import subprocess
import threading
from typing import Any

import pytest

from agent.logs.messages import StartSearch, TakePiece
from agent.logs.shell import search
from tests.support import wait_until
from tests.unit.logs.place import CATASTROPHE, LETTERS, LINES, Place


def test_rotated_and_compressed_files_are_searched_in_their_order(place: Place) -> None:
    (place.logs / "a.log.2.gz").write_bytes(gzip.compress(b"x first\n"))
    (place.logs / "a.log.1").write_bytes(b"x second\n")
    (place.logs / "a.log").write_bytes(b"x third\n")
    (place.logs / "b.log").write_bytes(b"x other\n")
    output, summary = place.search(b"x", files=("a.log*",), context=1)
    assert output == b"a.log.2.gz:x first\n--\na.log.1:x second\n--\na.log:x third\n"
    assert (summary.matches, summary.files) == (3, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_a_range_of_time_is_a_range_of_lines_with_their_numbers(place: Place, packed: bool) -> None:
    data = b"".join(b"1970-01-01T00:%02d:00Z line %02d\n" % (n, n) for n in range(30))
    name = "a.log.1.gz" if packed else "a.log"
    (place.logs / name).write_bytes(gzip.compress(data) if packed else data)
    for until, last in ((None, 29), (720.0, 11)):
        output, _ = place.search(b"line", since=600.0, until=until, line_numbers=True)
        lines = output.splitlines()
        assert lines[0] == f"{name}:11:1970-01-01T00:10:00Z line 10".encode()
        assert lines[-1] == f"{name}:{last + 1}:1970-01-01T00:{last:02d}:00Z line {last:02d}".encode()


def test_output_beyond_the_limit_is_cut_at_a_line(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES)
    output, summary = place.search(b"", output_bytes_max=1000)
    assert 900 < len(output) <= 1000
    assert output.endswith(b"\n")
    assert summary.cut == "cut at 1,000 bytes of output"


def test_a_search_ends_at_its_time_limit(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LETTERS)
    _, summary = place.search(CATASTROPHE, extended=True, time_limit_s=0.2)
    assert summary.cut == "cut after 0.2 s"


def test_a_line_that_needs_too_much_memory_ends_its_grep(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The machine keeps its memory, and the other logs are searched."""
    monkeypatch.setattr(search, "GREP_MEMORY_BYTES_MAX", 32 * 1024 * 1024)
    (place.logs / "a.log.1.gz").write_bytes(gzip.compress(b"x" * (64 * 1024 * 1024), 1))
    (place.logs / "a.log").write_bytes(b"y here\n")
    output, summary = place.search(b"y here")
    assert output == b"a.log:y here\n"
    assert summary.problems == ("a.log.1.gz: memory exhausted",)


def test_a_file_that_cannot_be_read_is_a_problem_of_its_own(place: Place) -> None:
    (place.logs / "a.log").write_bytes(b"x here\n")
    (place.logs / "b.log.1.gz").write_bytes(gzip.compress(b"x" * 100_000)[:-30])
    output, summary = place.search(b"x here")
    assert output == b"a.log:x here\n"
    assert summary.problems == ("b.log.1.gz: read only in part: it is damaged: " + summary.problems[0][46:],)


def test_a_grep_that_cannot_be_started_leaks_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many processes: each log is named, and its open file is closed."""
    (place.logs / "a.log").write_bytes(b"2026-11-20T10:00:00Z x\n" * 3)
    (place.logs / "a.log.1.gz").write_bytes(gzip.compress(b"2026-11-20T10:00:00Z x\n"))

    def fail(*arguments: Any, **options: Any) -> Any:
        raise OSError(11, "Resource temporarily unavailable")

    place.search(b"x")
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(subprocess, "Popen", fail)
    _, summary = place.search(b"x", since=0.0, until=2e9)
    assert [each.split(":")[0] for each in summary.problems] == ["a.log.1.gz", "a.log"]
    assert "grep cannot be started: Resource temporarily unavailable" in summary.problems[0]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_feeder_that_cannot_be_started_leaks_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    (place.logs / "a.log.1.gz").write_bytes(gzip.compress(b"x\n"))
    place.search(b"x")
    before = len(os.listdir("/proc/self/fd"))
    start = threading.Thread.start

    def cannot(self: threading.Thread) -> None:
        if self.name.startswith("log-feed"):
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", cannot)
    _, summary = place.search(b"x")
    assert "can't start new thread" in summary.problems[0]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_search_whose_output_is_not_taken_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "IDLE_S_MAX", 0.05)
    monkeypatch.setattr(search, "QUEUE_BYTES_MAX", 1024)
    (place.logs / "a.log").write_bytes(LINES * 100)
    place.client.ask(place.path, StartSearch("full", b""))
    (place.logs / "a.log").write_bytes(LINES)
    place.client.ask(place.path, StartSearch("short", b"line 0000"))
    wait_until(lambda: place.searches.status() == "0 searches", 5.0, "both searches have ended")
    answer = place.client.ask(place.path, TakePiece("short", 1)).message
    assert answer.done
    assert answer.summary is not None
    assert "output" in answer.summary.cut
