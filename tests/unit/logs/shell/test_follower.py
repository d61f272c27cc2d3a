"""Followers over a real socket: each line once, across rotation, compression and restarts."""

from __future__ import annotations

import gzip
import threading
from typing import Any

import pytest

from agent.common.errors import InvalidMessage, RainStormError, UsageError
from agent.logs.messages import Follow
from agent.logs.shell import follower
from tests.unit.logs.place import LINES, Place


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


def test_lines_stay_in_order_when_an_older_file_has_more_than_one_answer(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file after a rotation waits until the one before it was read to its end; other logs do not."""
    monkeypatch.setattr(follower, "CHUNK_BYTES_MAX", 20)
    log = place.logs / "a.log"
    log.write_bytes(b"begin\n")
    found = place.agent.follow(None, tail=0)
    with log.open("ab") as file:
        file.writelines(b"older %d\n" % number for number in range(5))
    log.rename(place.logs / "a.log.1")
    log.write_bytes(b"newer\n")
    (place.logs / "b.log").write_bytes(b"other\n")
    lines: list[tuple[str, bytes]] = []
    for _ in range(5):
        found = place.agent.follow(found.positions)
        lines += found.pieces
    assert b"".join(data for file, data in lines if file.startswith("a.log")) == (
        b"older 0\nolder 1\nolder 2\nolder 3\nolder 4\nnewer\n"
    )
    assert lines[1] == ("b.log", b"other\n")


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
