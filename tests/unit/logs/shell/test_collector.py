"""The threads of the collection: the records that they send, and their behaviour during failures."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from agent.common.config import LogsConfig
from agent.common.errors import (
    AlreadyExists,
    Corrupt,
    DiskFailed,
    DiskFull,
    InvalidMessage,
    NotFound,
    RainStormError,
    Unavailable,
)
from agent.hydfs.client import FileStat, HydfsClient
from agent.logs.shell import collector as collecting
from agent.logs.shell import journald
from agent.logs.shell.collector import Collection
from agent.logs.shell.spool import Spool
from agent.wire.client import Client
from tests.support import wait_until

SPOOL_BYTES = 100_000
KNOBS = LogsConfig(
    collect_delay_s=0.0, collect_interval_s=0.02, spool_bytes=SPOOL_BYTES, journal_units=(), system_files=()
)


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes collections whose HyDFS does not answer."""
    monkeypatch.setattr(collecting, "SPOOL_RETRY_S", 0.05)
    client = Client(None)
    made: list[Collection] = []
    crashes: list[BaseException] = []

    def make() -> Collection:
        hydfs = HydfsClient(client, str(tmp_path / "no.sock"))
        found = Collection(
            "vm1",
            tmp_path / "logs",
            tmp_path / "spool",
            KNOBS,
            hydfs,
            record_bytes_max=4000,
            on_crash=crashes.append,
        )
        made.append(found)
        found.start()
        return found

    (tmp_path / "logs").mkdir()
    yield make
    for each in made:
        each.stop(5.0)
    client.close()
    assert not crashes


def test_without_hydfs_the_spool_fills_and_then_the_files_wait(away: Any, tmp_path: Path) -> None:
    data = b"".join(b"2026-11-20T10:00:00Z line %06d\n" % number for number in range(10_000))
    (tmp_path / "logs" / "a.log").write_bytes(data)
    first = away()
    wait_until(lambda: first.status().spool_full, 10, "the spool is full")
    found = first.status()
    assert SPOOL_BYTES - 10_000 < found.waiting_bytes <= SPOOL_BYTES + 10_000
    assert found.waiting_bytes + found.unread_bytes >= len(data)
    assert found.lost_bytes == 0
    wait_until(lambda: "UNREACHABLE" in first.status().trouble, 10, "the trouble is named")
    first.stop(5.0)
    # After a restart the same records wait, and nothing is read twice.
    again = away()
    wait_until(lambda: again.status().spool_full, 10, "the spool is full again")
    assert again.status().waiting_records == found.waiting_records
    assert again.status().unread_bytes == found.unread_bytes


def test_a_spool_that_cannot_be_opened_is_tried_again(away: Any, tmp_path: Path) -> None:
    (tmp_path / "spool").write_text("in the way\n")
    (tmp_path / "logs" / "a.log").write_text("2026-11-20T10:00:00Z one line\n")
    found = away()
    wait_until(lambda: "cannot be opened" in found.status().trouble, 10, "the trouble is named")
    assert found.makes_progress(5.0)
    (tmp_path / "spool").unlink()
    wait_until(lambda: found.status().waiting_records == 1, 10, "the line is in the spool")


class Store:
    """A HyDFS in memory, with the calls that the collection uses; each call raises ``fails`` if it is set."""

    def __init__(self) -> None:
        self.files: dict[str, bytearray] = {}
        self.marks: set[tuple[str, str, int]] = set()
        self.fails: RainStormError | None = None
        self.deleted: list[str] = []

    def create(self, name: str, **_: Any) -> None:
        self._check()
        if name in self.files:
            raise AlreadyExists(name)
        self.files[name] = bytearray()

    def append(self, name: str, data: bytes, *, writer: str, sequence: int, **_: Any) -> None:
        self._check()
        if name not in self.files:
            raise NotFound(name)
        if (name, writer, sequence) not in self.marks:
            self.marks.add((name, writer, sequence))
            self.files[name] += data

    def list(self, prefix: str = "", **_: Any) -> list[FileStat]:
        self._check()
        return [
            FileStat(name, f"id-{name}", len(data), ())
            for name, data in self.files.items()
            if name.startswith(prefix)
        ]

    def delete(self, name: str, **_: Any) -> None:
        self._check()
        del self.files[name]
        self.deleted.append(name)

    def content(self, log: str = "a.log") -> bytes:
        """Returns the collected bytes of a log."""
        names = sorted(name for name in self.files if name.startswith(f".logs/vm1/{log}/"))
        return b"".join(bytes(self.files[name]) for name in names)

    def _check(self) -> None:
        if self.fails is not None:
            raise self.fails


class Bench:
    """Collections into a store in memory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir()
        self.store = Store()
        self.crashes: list[BaseException] = []
        self.running: list[Collection] = []

    def start(self, **knobs: Any) -> Collection:
        found = Collection(
            "vm1",
            self.logs,
            self.folder / "spool",
            replace(KNOBS, collect_bytes_per_s=10**9, **knobs),
            cast(HydfsClient, self.store),
            record_bytes_max=4000,
            on_crash=self.crashes.append,
        )
        self.running.append(found)
        found.start()
        return found

    def restart(self, **knobs: Any) -> Collection:
        self.running.pop().stop(5.0)
        return self.start(**knobs)

    def wait_for(self, data: bytes, log: str = "a.log") -> None:
        wait_until(lambda: self.store.content(log) == data, 10.0, f"{log} is collected")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setattr(collecting, "RETRY_S", (0.01, 0.02))
    monkeypatch.setattr(collecting, "SPOOL_RETRY_S", 0.02)
    found = Bench(tmp_path)
    yield found
    for each in found.running:
        each.stop(5.0)
    assert not found.crashes


def _lines(first: int, last: int) -> bytes:
    return b"".join(b"2026-11-20T10:00:00Z line %05d\n" % number for number in range(first, last))


def test_lines_are_collected_once_across_rotation_and_restarts(bench: Bench) -> None:
    log = bench.logs / "a.log"
    log.write_bytes(_lines(0, 500))
    bench.start()
    bench.wait_for(_lines(0, 500))
    found = bench.restart()
    with log.open("ab") as file:
        file.write(_lines(500, 600))
    bench.wait_for(_lines(0, 600))
    log.rename(bench.logs / "a.log.1")
    log.write_bytes(_lines(600, 700))
    bench.wait_for(_lines(0, 700))
    (bench.logs / "a.log.2.gz").write_bytes(gzip.compress((bench.logs / "a.log.1").read_bytes()))
    (bench.logs / "a.log.1").unlink()
    with log.open("ab") as file:
        file.write(_lines(700, 710))
    bench.wait_for(_lines(0, 710))
    assert found.status().trouble == ""
    assert found.status().lost_bytes == 0


def test_a_compressed_log_is_collected_and_a_damaged_one_is_not(bench: Bench) -> None:
    (bench.logs / "a.log.1.gz").write_bytes(gzip.compress(_lines(0, 400)))
    (bench.logs / "b.log.1.gz").write_bytes(gzip.compress(_lines(0, 400))[:-30])
    (bench.logs / "odd name.log").write_bytes(_lines(0, 1))
    bench.start()
    bench.wait_for(_lines(0, 400))
    assert {name.split("/")[2] for name in bench.store.files} == {"a.log"}


def test_a_log_of_the_system_keeps_its_path_in_its_name(bench: Bench) -> None:
    (bench.folder / "syslog").write_bytes(_lines(0, 3))
    bench.start(system_files=(str(bench.folder / "sys*"),))
    name = str(bench.folder / "syslog").replace("/", "+").lstrip("+")
    bench.wait_for(_lines(0, 3), name)


def test_a_store_that_fails_is_named_and_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bench.store.fails = Unavailable("no replica")
    (bench.logs / "a.log").write_bytes(_lines(0, 50))
    found = bench.start()
    wait_until(lambda: "UNAVAILABLE" in found.status().trouble, 10.0, "the trouble is named")
    bench.store.fails = None
    bench.wait_for(_lines(0, 50))
    wait_until(lambda: found.status().trouble == "", 5.0, "the trouble is over")
    wait_until(lambda: "collection_resumed" in caplog.text, 5.0, "the end of the trouble is logged")
    assert caplog.text.count("collection_waits about=hydfs") == 1


def test_a_spooled_record_that_is_damaged_is_dropped_by_name(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad record must neither end the agent nor stop the others."""
    bench.store.fails = Unavailable("no replica")
    (bench.logs / "a.log").write_bytes(_lines(0, 50))
    found = bench.start()
    wait_until(lambda: found.status().waiting_records == 1, 10.0, "the record waits")
    first = Spool.first
    failing = [Corrupt("bad checksum"), InvalidMessage("not a record")]

    def damaged(self: Spool) -> Any:
        if failing:
            raise failing.pop()
        return first(self)

    with (bench.logs / "a.log").open("ab") as file:
        file.write(_lines(50, 60))
    wait_until(lambda: found.status().waiting_records == 2, 10.0, "two records wait")
    with (bench.logs / "a.log").open("ab") as file:
        file.write(_lines(60, 70))
    wait_until(lambda: found.status().waiting_records == 3, 10.0, "three records wait")
    monkeypatch.setattr(Spool, "first", damaged)
    bench.store.fails = None
    bench.wait_for(_lines(60, 70))
    assert caplog.text.count("spool_record_dropped") == 2


@pytest.mark.parametrize("error", [DiskFull("no room"), DiskFailed("EIO")])
def test_a_spool_that_cannot_be_written_is_named_and_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: RainStormError
) -> None:
    store = Spool.store
    failing = threading.Event()
    failing.set()

    def fails(self: Spool, record: Any) -> None:
        if failing.is_set():
            raise error
        store(self, record)

    monkeypatch.setattr(Spool, "store", fails)
    (bench.logs / "a.log").write_bytes(_lines(0, 50))
    found = bench.start()
    wait_until(lambda: error.code in found.status().trouble, 10.0, "the trouble is named")
    failing.clear()
    bench.wait_for(_lines(0, 50))


def test_a_record_that_cannot_be_stored_keeps_its_place(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of its log may come before it: not the rest of the file, and not the files that are newer."""
    store = Spool.store
    failing = [DiskFull("no room")]

    def fails_once(self: Spool, record: Any) -> None:
        if failing:
            raise failing.pop()
        store(self, record)

    monkeypatch.setattr(Spool, "store", fails_once)
    (bench.logs / "a.log.1").write_bytes(_lines(0, 50))
    (bench.logs / "a.log").write_bytes(_lines(50, 60))
    bench.start()
    bench.wait_for(_lines(0, 60))


def test_old_and_superfluous_files_are_deleted_but_not_the_newest(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = bench.store
    store.files[".logs/vm1/a.log/000001-20200101"] = bytearray(b"old")
    store.files[".logs/vm1/a.log/000002-29990101"] = bytearray(b"x" * 900)
    store.files[".logs/vm1/a.log/000003-29990102"] = bytearray(b"x" * 900)
    store.files[".logs/vm1/b.log/000001-20200101"] = bytearray(b"old, and the newest of its log")
    bench.start(collected_bytes=1000)
    wait_until(lambda: len(store.deleted) == 2, 10.0, "two files are deleted")
    assert sorted(store.files) == [".logs/vm1/a.log/000003-29990102", ".logs/vm1/b.log/000001-20200101"]


def test_a_retention_that_fails_waits(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    bench.store.fails = Unavailable("no replica")
    bench.start()
    wait_until(lambda: "retention_waits error=no replica" in caplog.text, 10.0, "it is logged")


def test_the_journal_is_collected_from_where_it_was_left(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collecting, "JOURNAL_INTERVAL_S", 0.01)
    entries = [b"entry %d\n" % number for number in range(5)]
    fails = [OSError("no journalctl")]

    def read(units: list[str], cursor: str, limit: int, bytes_max: int) -> journald.Entries:
        if fails:
            raise fails.pop()
        begin = int(cursor or 0)
        found = entries[begin : begin + 2]
        return journald.Entries(str(begin + len(found)), b"".join(found))

    monkeypatch.setattr(journald, "units", lambda patterns: ["rainstorm-hydfs.service"])
    monkeypatch.setattr(journald, "read", read)
    found = bench.start()
    bench.wait_for(b"".join(entries), "journal")
    entries.append(b"entry 5\n")
    bench.wait_for(b"".join(entries), "journal")
    bench.restart()
    entries.append(b"entry 6\n")
    bench.wait_for(b"".join(entries), "journal")
    assert found.status().trouble == ""


def test_what_vanishes_before_it_is_read_is_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    log = bench.logs / "a.log"
    log.write_bytes(_lines(0, 10))
    found = bench.start()
    bench.wait_for(_lines(0, 10))
    with log.open("ab") as file:
        file.write(b"a line without an end")
    wait_until(lambda: found.status().unread_bytes == 21, 10.0, "the line is seen")
    log.unlink()
    wait_until(lambda: found.status().lost_bytes == 21, 10.0, "the loss is counted")
    assert "log_lost bytes=21" in caplog.text


def test_a_defect_is_reported_to_who_runs_the_agent(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(Collection, "_scan", fail)
    bench.start()
    wait_until(lambda: bench.crashes, 10.0, "the crash is reported")
    assert type(bench.crashes.pop()) is ZeroDivisionError
