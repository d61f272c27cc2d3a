"""Searches, lists and followers over a real socket, with real greps."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.config import LogsConfig
from agent.common.errors import Forbidden, InvalidMessage, NotFound, Overloaded, RainStormError, UsageError
from agent.hydfs.client import HydfsClient
from agent.logs.client import LogsClient
from agent.logs.messages import EndSearch, Follow, StartSearch, Summary, TakePiece
from agent.logs.shell import follower, search, searches
from agent.logs.shell.archive import Archive
from agent.logs.shell.follower import Follower
from agent.logs.shell.searches import Searches
from agent.wire.client import Client
from agent.wire.endpoint import by_kind
from agent.wire.server import Server
from tests.support import wait_until

LINES = b"".join(
    b"2026-11-20T10:%02d:00Z line %04d %s\n" % (n % 60, n, b"error" if n % 7 == 0 else b"fine")
    for n in range(600)
)
# With back references in this number grep tries every way to cut a line.
CATASTROPHE = rb"^(.*)(.*)(.*)\3\2\1.\2..\3..\1$"
LETTERS = "".join(random.Random(1).choices("abcdefghij", k=2000)).encode() + b"\n"


class Place:
    """The parts of a logs agent that answer requests, on a Unix socket."""

    def __init__(self, folder: Path) -> None:
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.client = Client(None)
        self.path = str(folder / "logs.sock")
        (folder / "system").write_bytes(b"root line\n")
        self.system = str(folder / "system")
        knobs = LogsConfig(journal_units=(), system_files=(self.system,), system_units=("cron",))
        hydfs = HydfsClient(self.client, str(folder / "none.sock"))
        self.searches = Searches(self.logs, knobs, Archive(hydfs))
        self.follower = Follower(self.logs, ())
        self.server = Server("logs", by_kind(*self.searches.endpoints(), self.follower.endpoint()))
        self.server.listen_unix(self.path)
        self.agent = LogsClient(self.client, self.path)

    def search(self, pattern: bytes, **fields: Any) -> tuple[bytes, Summary]:
        """Returns the output and the summary of a search."""
        pieces = self.agent.search(StartSearch("-", pattern, **fields))
        found = b""
        while True:
            try:
                found += bytes(next(pieces))
            except StopIteration as ended:
                return found, ended.value

    def grep(self, *words: str) -> bytes:
        """Returns what grep prints for ``a.log``."""
        command = ["grep", "-a", "-H", "--label=a.log", *words]
        with open(self.logs / "a.log", "rb") as file:
            done = subprocess.run(command, stdin=file, capture_output=True, check=False)
        return done.stdout

    def close(self) -> None:
        self.follower.stop()
        self.client.close()
        self.server.stop()
        self.searches.stop(5.0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    found = Place(tmp_path)
    with contextlib.closing(found):
        yield found


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        (["-e", "error"], {"pattern": b"error"}),
        (["-i", "-n", "-e", "ERROR"], {"pattern": b"ERROR", "ignore_case": True, "line_numbers": True}),
        (["-v", "-c", "-e", "error"], {"pattern": b"error", "invert": True, "count": True}),
        (["-F", "-C2", "-e", "line 0007"], {"pattern": b"line 0007", "fixed": True, "context": 2}),
        (["-E", "-m3", "-e", "(fine|d)$"], {"pattern": b"(fine|d)$", "extended": True, "max_count": 3}),
        (["-e", "nothing like it"], {"pattern": b"nothing like it"}),
    ],
)
def test_a_search_prints_what_grep_prints(place: Place, words: list[str], fields: dict[str, Any]) -> None:
    (place.logs / "a.log").write_bytes(LINES)
    expected = place.grep(*words, "-")
    output, summary = place.search(**fields)
    assert output == expected
    assert (summary.files, summary.searched_bytes, summary.cut, summary.problems) == (1, len(LINES), "", ())
    assert summary.lines == output.count(b"\n")


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


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"pattern": b"\\("}, UsageError),
        ({"pattern": b"x" * 40_000}, UsageError),
        ({"pattern": b"x", "files": ("../a",)}, UsageError),
        ({"pattern": b"x", "system": ("/etc/passwd",)}, Forbidden),
        ({"pattern": b"x", "system": ("sshd",)}, Forbidden),
        ({"pattern": b"x", "collected_of": "../x"}, NotFound),
        ({"pattern": 5}, InvalidMessage),
    ],
)
def test_a_search_that_is_not_allowed_is_refused(
    place: Place, fields: dict[str, Any], error: type[RainStormError]
) -> None:
    with pytest.raises(error):
        place.search(**fields)
    assert place.searches.status() == "0 searches"


def test_a_system_file_that_is_allowed_is_searched(place: Place) -> None:
    output, _ = place.search(b"root", system=(place.system,))
    assert output == f"{place.system}:root line\n".encode()


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


def test_a_lost_answer_is_asked_for_again_and_a_wrong_number_refused(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES)
    client = place.client
    start = StartSearch("mine", b"error")
    for _ in range(2):  # the answer to the first was lost
        assert client.ask(place.path, start).message.sources == 1
    first = client.ask(place.path, TakePiece("mine", 1))
    again = client.ask(place.path, TakePiece("mine", 1))
    assert bytes(first.payload) == bytes(again.payload) == place.grep("-e", "error", "-")
    with pytest.raises(UsageError, match="piece 3 of the search is gone"):
        client.ask(place.path, TakePiece("mine", 3))
    assert client.ask(place.path, TakePiece("mine", 2)).message.done
    with pytest.raises(NotFound):
        client.ask(place.path, TakePiece("yours", 1))


def test_ending_a_search_ends_its_grep(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LETTERS)
    place.client.ask(place.path, StartSearch("mine", CATASTROPHE, extended=True))
    assert place.searches.status() == "1 searches"
    for _ in range(2):
        place.client.ask(place.path, EndSearch("mine"))
    assert place.searches.status() == "0 searches"


def test_closing_the_generator_ends_the_search(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES * 400)
    pieces = place.agent.search(StartSearch("-", b""))
    next(pieces)
    pieces.close()
    assert place.searches.status() == "0 searches"


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


def test_the_number_of_searches_is_bounded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searches, "SEARCHES_MAX", 1)
    monkeypatch.setattr(searches, "ENDED_MAX", 2)
    (place.logs / "a.log").write_bytes(LETTERS)
    place.client.ask(place.path, StartSearch("slow", CATASTROPHE, extended=True))
    with pytest.raises(Overloaded, match="1 searches"):
        place.client.ask(place.path, StartSearch("other", b"x"))
    place.client.ask(place.path, EndSearch("slow"))
    for number in range(5):
        place.search(b"%d" % number)
    assert len(place.searches._searches) <= 3


def test_the_logs_of_a_node_are_listed(place: Place) -> None:
    (place.logs / "a.log").write_bytes(b"12345\n")
    found = place.agent.list()
    assert [(each.name, each.bytes) for each in found.files] == [("a.log", 6)]
    assert (found.system_files, found.system_units) == ((place.system,), ("cron",))


def test_a_follower_gets_each_line_once_across_rotation(place: Place) -> None:
    log = place.logs / "a.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    begun = place.agent.follow(None, tail=2)
    assert begun.pieces == ()
    found = place.agent.follow(begun.positions)
    assert found.pieces == (("a.log", b"two\nthree\n"),)
    with log.open("ab") as file:
        file.write(b"four\nhalf a li")
    found = place.agent.follow(found.positions)
    assert found.pieces == (("a.log", b"four\n"),)
    with log.open("ab") as file:
        file.write(b"ne\n")
    log.rename(place.logs / "a.log.1")
    log.write_bytes(b"new file\n")
    found = place.agent.follow(found.positions)
    assert dict(found.pieces) == {"a.log.1": b"half a line\n", "a.log": b"new file\n"}
    assert place.agent.follow(found.positions).pieces == ()


def test_a_follower_reads_the_rest_of_a_file_that_was_compressed(place: Place) -> None:
    log = place.logs / "a.log"
    (place.logs / "a.log.2.gz").write_bytes(gzip.compress(b"old and read long ago\n"))
    log.write_bytes(b"a first line that is long enough to be told apart\nsecond\n")
    begun = place.agent.follow(None, tail=1)
    with log.open("ab") as file:
        file.write(b"third\n")
    (place.logs / "a.log.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    log.unlink()
    found = place.agent.follow(begun.positions)
    assert found.pieces == (("a.log.1.gz", b"second\nthird\n"),)
    (place.logs / "b.log.1.gz").write_bytes(gzip.compress(b"never followed\n"))
    (place.logs / "c.log.1.gz").write_bytes(b"not finished")
    for _ in range(3):
        found = place.agent.follow(found.positions)
        assert found.pieces == ()


def test_a_follower_may_begin_at_a_time(place: Place) -> None:
    (place.logs / "a.log").write_bytes(LINES[: len(LINES) // 2])
    found = place.agent.follow(None, since=2e9)
    assert place.agent.follow(found.positions).pieces == ()
    found = place.agent.follow(None, since=0.0)
    assert place.agent.follow(found.positions).pieces[0][1].startswith(LINES[:40])


@pytest.mark.parametrize(("tail", "lines"), [(0, 0), (1, 1), (599, 599), (600, 600), (5000, 600)])
def test_the_last_lines_are_found_from_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch, tail: int, lines: int
) -> None:
    monkeypatch.setattr(follower, "BACK_BYTES", 500)
    (place.logs / "a.log").write_bytes(LINES)
    begun = place.agent.follow(None, tail=tail)
    found = b"".join(data for _, data in place.agent.follow(begun.positions).pieces)
    assert found.count(b"\n") == lines
    assert LINES.endswith(found)


def test_a_waiting_follower_is_answered_when_there_is_a_line(place: Place) -> None:
    begun = place.agent.follow(None)
    timer = threading.Timer(0.05, lambda: (place.logs / "a.log").write_bytes(b"late\n"))
    timer.start()
    assert place.agent.follow(begun.positions, wait_s=10.0).pieces == (("a.log", b"late\n"),)
    timer.join()


def test_a_busy_file_leaves_room_for_the_others(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follower, "CHUNK_BYTES_MAX", 1000)
    (place.logs / "a.log").write_bytes(LINES)
    (place.logs / "b.log").write_bytes(b"quiet\n")
    begun = place.agent.follow(None, tail=100_000)
    found = place.agent.follow(begun.positions)
    pieces = dict(found.pieces)
    assert pieces["b.log"] == b"quiet\n"
    assert len(pieces["a.log"]) <= 1000
    read = pieces["a.log"]
    while found.pieces:
        found = place.agent.follow(found.positions)
        read += dict(found.pieces).get("a.log", b"")
    assert read == LINES


def test_positions_of_files_that_are_gone_are_dropped_in_the_end(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "ABSENT_POLLS_MAX", 3)
    (place.logs / "a.log").write_bytes(b"one\n")
    found = place.agent.follow(None)
    (place.logs / "a.log").unlink()
    for _ in range(3):
        assert len(found.positions) == 1
        found = place.agent.follow(found.positions)
    assert place.agent.follow(found.positions).positions == ()


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"tail": -1}, UsageError),
        ({"tail": 10**9}, UsageError),
        ({"since": -1.0}, UsageError),
        ({"files": ("a/b",)}, UsageError),
        ({"positions": ((),)}, InvalidMessage),
        ({"positions": (("a", 1, 1, 0, -5, 0, 0, ""),)}, InvalidMessage),
        ({"positions": (("a", 1, 1, 0, 5, 9999, 0, ""),)}, InvalidMessage),
        ({"positions": (("a", 1, 1, 0, 5, 9, 0, "x\n"),)}, UsageError),
        ({"positions": (("a", 1, 1, 0, 0, 0, 0, ""),) * 1025}, InvalidMessage),
    ],
)
def test_an_invalid_request_of_a_follower_is_refused(
    place: Place, fields: dict[str, Any], error: type[RainStormError]
) -> None:
    with pytest.raises(error):
        place.client.ask(place.path, Follow(**fields))
