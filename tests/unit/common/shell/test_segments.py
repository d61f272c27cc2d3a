"""A log in segments: rolled, dropped, recovered after a power cut at every call, and refused when damaged."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull
from agent.common.framedlog import Layout
from agent.common.shell import disk, seam
from agent.common.shell.framedlog import FramedLog
from agent.common.shell.segments import Segments
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import power_cuts

LAYOUT = Layout(rb"[0-9]", body_bytes_max=20_000)
FOLDER = "/data/logs"


def body(number: int) -> bytes:
    return b"%d:" % number * (1 + 397 * number % 1500)


@pytest.fixture(params=["real", "simulated"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder on either disk; nothing may stay open on the simulated one."""
    if request.param == "real":
        yield str(tmp_path / "logs")
        return
    process = MachineDisk(random.Random(1)).process("p")
    with seam.use(seam.Seam(disk=process)):
        yield FOLDER
        assert process.open_paths() == []


Found = list[tuple[int, int, bytes]]


def opened(folder: str, *, newest_only: bool = False) -> tuple[Segments, Found]:
    segments, found = Segments(folder, LAYOUT, suffix=".log"), []

    def take(number: int, offset: int, body: bytes) -> None:
        found.append((number, offset, body))

    segments.open(take, newest_only=newest_only)
    return segments, found


def test_records_of_all_segments_come_back_in_order_with_their_places(folder: str) -> None:
    segments, found = opened(folder)
    assert found == []
    places = [segments.append([body(1)])]
    assert segments.roll([body(2), body(3)]) == 2
    places += [segments.append([body(4)]), segments.append([body(5)], sync=False)]
    assert [number for number, _ in places] == [1, 2, 2]
    assert list(segments.numbers) == [1, 2]
    assert [segments.read(*place, len(body(n))) for place, n in zip(places, (1, 4, 5), strict=True)] == [
        body(1),
        body(4),
        body(5),
    ]
    segments.close()
    segments, found = opened(folder)
    assert [each for _, _, each in found] == [body(n) for n in (1, 2, 3, 4, 5)]
    assert [
        (number, offset) for number, offset, each in found if each in (body(1), body(4), body(5))
    ] == places
    segments.drop_before(2)
    assert disk.listdir(folder) == ["00000002.log"]
    segments.close()
    segments, found = opened(folder, newest_only=True)
    assert [each for _, _, each in found] == [body(n) for n in (2, 3, 4, 5)]
    segments.close()


def test_of_segments_that_are_replaced_whole_only_the_newest_is_read(folder: str) -> None:
    segments, _ = opened(folder, newest_only=True)
    segments.append([body(1)])
    segments.roll([body(2)])
    segments.close()
    disk.truncate(f"{folder}/00000001.log", 3)
    segments, found = opened(folder, newest_only=True)
    assert [each for _, _, each in found] == [body(2)]
    segments.close()


def test_a_torn_tail_of_an_older_segment_is_damage(folder: str) -> None:
    segments, _ = opened(folder)
    segments.append([body(1)])
    segments.roll([body(2)])
    segments.close()
    size = disk.size(f"{folder}/00000001.log")
    disk.truncate(f"{folder}/00000001.log", size - 1)
    with pytest.raises(Corrupt, match="at byte 0, with a newer one behind it"):
        opened(folder)
    assert disk.listdir(folder) == ["00000001.log", "00000002.log"]


def test_what_a_crash_left_unfinished_is_removed_and_other_files_stay(folder: str) -> None:
    disk.makedirs(folder)
    for name in ("00000004.log.new", "torn", "notes.log"):
        disk.write_durably(f"{folder}/{name}.x", b"")
        disk.rename(f"{folder}/{name}.x", f"{folder}/{name}")
    segments, _ = opened(folder)
    segments.close()
    assert disk.listdir(folder) == ["00000001.log", "notes.log", "torn"]


def test_a_damaged_record_is_not_handed_out(folder: str) -> None:
    segments, _ = opened(folder)
    place = segments.append([body(1)])
    with pytest.raises(Corrupt, match="byte 0"):
        segments.read(*place, len(body(1)) + 1)
    data = bytearray(disk.read_bytes(f"{folder}/00000001.log"))
    data[9] ^= 1
    disk.write_durably(f"{folder}/00000001.log", data)
    with pytest.raises(Corrupt, match="byte 0"):
        segments.read(*place, len(body(1)))
    with pytest.raises(DiskFailed):
        segments.read(7, 0, 1)
    segments.close()


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of ten pages."""
    found = MachineDisk(random.Random(seed), capacity_bytes=10 * 4096)
    with seam.use(seam.Seam(disk=found.process("p"))):
        yield found


def test_without_room_for_a_new_segment_the_old_one_goes_on(machine: MachineDisk) -> None:
    segments, _ = opened("/logs")
    segments.append([body(1)])
    with pytest.raises(DiskFull):
        segments.roll([b"2" * 15_000] * 3)
    segments.append([body(3)])
    segments.close()
    _, found = opened("/logs")
    assert [each for _, _, each in found] == [body(1), body(3)]
    assert machine.paths() == ["/logs/00000001.log"]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("fsync", "*.new", error=errno.EIO),
        Fault("fsync", "/logs", error=errno.EIO),
        Fault("open", "*/00000002.log", error=errno.EMFILE),
        Fault("fdatasync", "*/00000001.log", error=errno.EIO),
    ],
)
def test_a_roll_that_fails_half_way_ends_the_use_of_both_segments(machine: MachineDisk, fault: Fault) -> None:
    """The next start may read only the new one: records that the old one took from here on would be lost."""
    segments, _ = opened("/logs", newest_only=True)
    segments.append([body(1)], sync=False)
    machine.faults = [fault]
    with pytest.raises(DiskFailed):
        segments.roll([body(2)])
    with pytest.raises(DiskFailed, match="failed earlier"):
        segments.append([body(3)])
    segments.close()


def test_segments_that_cannot_be_listed_or_removed_are_a_failure(machine: MachineDisk) -> None:
    segments, _ = opened("/logs")
    segments.roll([body(1)])
    machine.faults = [Fault("unlink", error=errno.EIO)]
    with pytest.raises(DiskFailed, match="cannot be removed"):
        segments.drop_before(2)
    assert list(segments.numbers) == [1, 2]
    segments.drop_before(2)
    segments.close()
    machine.faults = [Fault("listdir", error=errno.EIO)]
    with pytest.raises(DiskFailed, match="cannot be read"):
        opened("/logs")


class Program:
    """Appends with and without syncs, rolls, drops; it knows which records must come back."""

    def __init__(self, *, newest_only: bool) -> None:
        self.newest_only = newest_only
        self.written: list[bytes] = []
        self.synced = 0

    def run(self) -> None:
        self.written, self.synced = [], 0
        segments, _ = opened(FOLDER, newest_only=self.newest_only)
        for number in range(12):
            if number % 4 == 3:
                kept = self.written if self.newest_only else []
                segments.roll([*kept, b"9"])
                if self.newest_only:
                    segments.drop_before(segments.numbers[-1])
                self.synced = len(self.written)
            self.written.append(body(number))
            segments.append([body(number)], sync=number % 3 != 1)
            if number % 3 != 1:
                self.synced = len(self.written)
        segments.close()

    def violation(self) -> str | None:
        try:
            segments, found = opened(FOLDER, newest_only=self.newest_only)
        except Corrupt as error:
            return str(error)
        segments.close()
        bodies = [each for _, _, each in found if each != b"9"]
        if bodies != self.written[: len(bodies)]:
            return "these records were never written in this order"
        return f"{self.synced} synced, {len(bodies)} there" if len(bodies) < self.synced else None


def violations(program: Program, seed: int, lucks: int) -> Iterator[str]:
    return (
        f"{moment}: {found}"
        for moment in power_cuts(program.run, seed=seed, lucks=lucks)
        if (found := program.violation())
    )


@pytest.mark.parametrize("newest_only", [False, True])
def test_what_was_synced_survives_every_power_cut(seed: int, newest_only: bool) -> None:
    assert list(violations(Program(newest_only=newest_only), seed, lucks=10)) == []


def nothing(*_: object) -> None:
    """A step that is left out."""


def test_a_roll_that_does_not_sync_the_old_segment_is_caught(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = FramedLog.sync

    def only_in_appends(log: FramedLog) -> None:
        if log.size == 0 or not str(log.path).endswith("1.log"):
            sync(log)

    monkeypatch.setattr(FramedLog, "sync", only_in_appends)
    assert any(violations(Program(newest_only=False), seed, lucks=30))


def test_dropping_before_the_new_segment_is_durable_is_caught(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "sync_folder", nothing)
    assert any(violations(Program(newest_only=True), seed, lucks=30))
