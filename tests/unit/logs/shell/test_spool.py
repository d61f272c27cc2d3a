"""The spool on a real disk: what was stored is there after a crash, torn tails are not, old segments go."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from agent.common import message
from agent.logs.core.collector import Collector, Record, Target
from agent.logs.core.position import Position
from agent.logs.messages import CollectorState
from agent.logs.shell import spool as spooling
from agent.logs.shell.spool import Spool


def _record(number: int, size: int = 20) -> Record:
    data = (b"line %06d " % number).ljust(size - 1, b".") + b"\n"
    return Record(Position("a.log", 1, 1, 1, number * size, 0, 0), Target(1, "20261120", number * size), data)


def _reopened(folder: Path) -> tuple[Spool, list[Record]]:
    core = Collector(target_bytes_max=1000)
    found = Spool(folder, lambda: message.encode(core.snapshot()))
    applied: list[Record] = []
    found.recover(lambda fields: core.restore(message.decode(CollectorState, fields)), applied.append)
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
    # Positions come from all records, what is to be sent from those that have not arrived.
    assert [each.position.offset for each in applied] == [20, 40, 60, 80, 100]
    assert _drain(again) == [_record(number).data for number in range(2, 6)]
    again.close()
    last, _ = _reopened(tmp_path)
    assert last.first() is None
    assert last.size_bytes == 0
    last.close()


def test_a_torn_tail_is_cut_wherever_it_was_torn(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    for attempt in range(20):
        folder = tmp_path / str(attempt)
        spool, _ = _reopened(folder)
        ends = []
        path = folder / "00000001.spool"
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
