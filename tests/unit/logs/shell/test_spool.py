"""The spool: stored records survive a crash, torn tails do not, and old segments are deleted."""

from __future__ import annotations

import errno
import random
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from agent.common import message
from agent.common.errors import Corrupt, DiskFailed, DiskFull, InvalidMessage
from agent.common.shell import disk, seam
from agent.logs.core.collector import Collector, Record, Target
from agent.logs.core.position import Position
from agent.logs.shell import spool as spooling
from agent.logs.shell.spool import Spool
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import power_cuts


def _record(number: int, size: int = 20) -> Record:
    data = (b"line %06d " % number).ljust(size - 1, b".") + b"\n"
    return Record(Position("a.log", 1, 1, 1, number * size, 0, 0), Target(1, "20261120", number * size), data)


def _reopened(folder: Path) -> tuple[Spool, list[Record]]:
    core = Collector(target_bytes_max=1000)
    found = Spool(folder, core.snapshot)
    applied: list[Record] = []
    found.recover(core.restore, applied.append)
    return found, applied


def _drain(spool: Spool) -> list[bytes]:
    found = []
    while (record := spool.first()) is not None:
        found.append(bytes(record.data))
        spool.acknowledge()
    return found


def test_records_survive_and_acknowledged_ones_do_not_come_back(tmp_path: Path) -> None:
    spool, _ = _reopened(tmp_path)
    identity = spool.identity
    for number in range(1, 6):
        spool.store(_record(number))
    spool.acknowledge()
    spool.close()
    again, applied = _reopened(tmp_path)
    assert again.identity == identity
    # Positions come from all records, the records to send from those that have not arrived.
    assert [each.position.offset for each in applied] == [20, 40, 60, 80, 100]
    assert _drain(again) == [_record(number).data for number in range(2, 6)]
    again.close()
    last, _ = _reopened(tmp_path)
    assert last.first() is None
    assert last.size_bytes == 0
    last.close()


def test_a_spool_in_a_new_folder_has_another_name(tmp_path: Path) -> None:
    """Its numbers begin again, and HyDFS must not take its records for those of the lost spool."""
    spools = [_reopened(tmp_path / name)[0] for name in ("lost", "new")]
    for spool in spools:
        spool.close()
    assert spools[0].identity != spools[1].identity


def test_a_torn_tail_is_cut_wherever_it_was_torn(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        spool, _ = _reopened(folder)
        ends = []
        path = folder / "00000002.spool"
        for number in range(1, 4):
            spool.store(_record(number))
            ends.append(path.stat().st_size)
        spool.close()
        cut = rng.randrange(ends[0], ends[2] + 1)
        with path.open("r+b") as file:
            file.truncate(cut)
            if rng.random() < 0.5 and cut < ends[2]:
                file.seek(cut)
                file.write(bytes(rng.randrange(256) for _ in range(9)))
        again, _ = _reopened(folder)
        whole = sum(end <= cut for end in ends)
        again.store(_record(9))
        assert _drain(again) == [_record(n).data for n in [*range(1, whole + 1), 9]]
        again.close()


def test_segments_go_when_their_records_have_arrived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES_MAX", 400)
    spool, _ = _reopened(tmp_path)
    for number in range(1, 31):
        spool.store(_record(number))
    assert len(list(tmp_path.glob("*.spool"))) > 3
    for _ in range(15):
        spool.acknowledge()
    spool.close()
    # The acknowledgements of records in segments that are gone must not count for others.
    again, _ = _reopened(tmp_path)
    assert _drain(again) == [_record(number).data for number in range(16, 31)]
    assert len(list(tmp_path.glob("*.spool"))) <= 2
    again.close()


def _entry(kind: bytes, payload: bytes) -> bytes:
    return struct.pack(">IIc", len(payload), zlib.crc32(kind + payload), kind) + payload


def test_the_segments_of_earlier_releases_are_read(tmp_path: Path) -> None:
    snapshot = msgpack.packb(message.encode(Collector(target_bytes_max=1000).snapshot()))
    records = [msgpack.packb(_record(number).to_wire()) for number in (1, 2, 3)]
    first = _entry(b"s", snapshot) + b"".join(_entry(b"r", each) for each in records)
    acknowledged = _entry(b"a", msgpack.packb([1, 9 + len(snapshot)]))
    (tmp_path / "00000001.spool").write_bytes(first + acknowledged)
    spool, applied = _reopened(tmp_path)
    assert len(applied) == 3
    assert _drain(spool) == [_record(2).data, _record(3).data]
    spool.close()


def test_damage_before_good_entries_is_reported_and_nothing_is_cut(tmp_path: Path) -> None:
    """Earlier releases cut off everything behind a flipped bit, including records that were never sent."""
    spool, _ = _reopened(tmp_path)
    for number in range(1, 6):
        spool.store(_record(number))
    spool.close()
    (path,) = tmp_path.glob("*.spool")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 2
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="good records behind"):
        _reopened(tmp_path)
    assert path.read_bytes() == data


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of ten pages; nothing may stay open on it."""
    found = MachineDisk(random.Random(seed), capacity_bytes=10 * 4096)
    process = found.process("p")
    with seam.use(seam.Seam(disk=process)):
        yield found
        assert process.open_paths() == []


FOLDER = Path("/data/logspool")


def test_a_full_disk_refuses_records_and_keeps_those_before(machine: MachineDisk) -> None:
    spool, _ = _reopened(FOLDER)
    spool.store(_record(1))
    with pytest.raises(DiskFull):
        spool.store(_record(2, 50_000))
    spool.store(_record(3))
    assert spool.unsent_records == 2
    spool.close()
    again, _ = _reopened(FOLDER)
    assert _drain(again) == [_record(1).data, _record(3).data]
    again.close()


def test_a_spool_that_failed_is_opened_again_and_says_what_it_has(machine: MachineDisk) -> None:
    spool, _ = _reopened(FOLDER)
    spool.store(_record(1))
    machine.faults = [Fault("fdatasync", error=errno.EIO)]
    with pytest.raises(DiskFailed):
        spool.store(_record(2))
    with pytest.raises(DiskFailed, match="failed earlier"):
        spool.store(_record(2))
    spool.close()
    again, _ = _reopened(FOLDER)
    assert _drain(again)[:1] == [_record(1).data]
    again.close()


@pytest.mark.parametrize("luck", range(6))
def test_a_record_whose_sync_failed_is_rewritten_before_its_position_counts(seed: int, luck: int) -> None:
    """The next process may read it from memory, and then its snapshot continues behind the record."""
    machine = MachineDisk(random.Random(f"{seed}/{luck}"))
    with seam.use(seam.Seam(disk=machine.process("first"))):
        spool, _ = _reopened(FOLDER)
        machine.faults = [Fault("fdatasync", error=errno.EIO)]
        with pytest.raises(DiskFailed):
            spool.store(_record(1))
    machine.processes[0].kill()
    with seam.use(seam.Seam(disk=machine.process("second"))):
        _, read = _reopened(FOLDER)
    machine.crash("nothing")
    with seam.use(seam.Seam(disk=machine.process("third"))):
        again, _ = _reopened(FOLDER)
        assert _drain(again) == [record.data for record in read]
        again.close()


def test_a_note_that_cannot_be_written_means_that_the_record_is_sent_again(machine: MachineDisk) -> None:
    spool, _ = _reopened(FOLDER)
    spool.store(_record(1))
    machine.faults = [Fault("pwrite", error=errno.EIO)]
    spool.acknowledge()
    assert spool.first() is None
    spool.close()
    again, _ = _reopened(FOLDER)
    assert _drain(again) == [_record(1).data]
    again.close()


@pytest.mark.slow
def test_what_was_stored_survives_every_power_cut(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spooling, "SEGMENT_BYTES_MAX", 900)
    stored = sent = 0

    def program() -> None:
        nonlocal stored, sent
        stored = sent = 0
        spool, _ = _reopened(FOLDER)
        for number in range(1, 25):
            spool.store(_record(number, 100))
            stored = number
            if number % 3:
                sent += 1
                spool.acknowledge()
        spool.close()

    identities = set()
    for moment in power_cuts(program, seed=seed, lucks=6):
        spool, applied = _reopened(FOLDER)
        left = [int(data[5:11]) for data in _drain(spool)]
        spool.close()
        # Acknowledgements may be lost, but records may not, and they come back in order.
        assert left == list(range(left[0], left[-1] + 1) if left else []), str(moment)
        assert not left or left[0] <= sent + 1, str(moment)
        assert (left[-1] if left else sent) >= stored, str(moment)
        assert len(applied) >= len(left), str(moment)
        identities.add(disk.read_text(FOLDER / "identity"))
    assert len(identities) > 5, "each life made its own"


@pytest.mark.parametrize("body", [b"\x91\xc1", msgpack.packb([1, 2, 3]), msgpack.packb([])])
def test_a_record_that_is_none_is_refused_by_name_and_the_others_are_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, body: bytes
) -> None:
    spool, _ = _reopened(tmp_path)
    spool.store(_record(1))
    spool._segments.append([spooling.RECORD + body])
    spool.store(_record(2))
    spool.close()
    again, applied = _reopened(tmp_path)
    assert [each.data for each in applied] == [_record(1).data, _record(2).data]
    assert _drain(again) == [_record(1).data, _record(2).data]
    assert caplog.text.count("spool_record_refused segment=") == 1
    again.close()


def test_a_state_that_cannot_be_used_is_named_and_nothing_is_removed(tmp_path: Path) -> None:
    """A new state could lose lines, because it would use the numbers of the writers again."""
    spool, _ = _reopened(tmp_path)
    spool.store(_record(1))
    spool._segments.roll([spooling.SNAPSHOT + msgpack.packb({"next": -1})])
    spool.close()
    before = sorted(each.name for each in tmp_path.iterdir())
    with pytest.raises(InvalidMessage, match="state of the collector"):
        _reopened(tmp_path)
    assert sorted(each.name for each in tmp_path.iterdir()) == before
