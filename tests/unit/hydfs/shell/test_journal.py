"""The journal and the store on a real disk: SIGKILL in a write loop, torn tails, flipped bits."""

from __future__ import annotations

import errno
import os
import queue
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest

from agent.common.errors import Corrupt, DiskFull, NotFound
from agent.common.shell import disk
from agent.hydfs.core.block import (
    BlockKey,
    DroppedEntry,
    Record,
    RecordEntry,
    SealedEntry,
    chain,
    pack_entry,
)
from agent.hydfs.shell.journal import LAYOUT, Journal
from agent.hydfs.shell.store import Store
from tests.support import REPOSITORY

KEY = ("id1", 0)
FIRST, SECOND = pack_entry(DroppedEntry(("first", 1))), pack_entry(DroppedEntry(("second", 2)))


def fail(error: BaseException) -> None:
    raise AssertionError(f"the store crashed: {error!r}")


def opened(root: Path, **settings: int) -> Store:
    store = Store(root, reserve_bytes=0, on_crash=fail, **settings)
    store.start()
    return store


def append(store: Store, data: bytes, key: BlockKey = KEY) -> None:
    meta = store.index.get(key)
    offset, crc = (meta.length, meta.crc) if meta is not None else (0, 0)
    record = Record(offset, len(data), chain(data, crc), "w", offset, 1)
    done: list[str] = []
    store.submit(RecordEntry(key, "f", "s", record, None), data, done.append)
    store.write(RecordEntry(("other", 0), "g", "s", Record(0, 0, 0, "", 0, 0), None))  # waits for both
    assert done == [""]


def contents(store: Store, key: BlockKey = KEY) -> bytes:
    part = store.slice(key, 0, store.index[key].length)
    try:
        return os.pread(part.descriptor, part.length, part.offset)
    finally:
        os.close(part.descriptor)


WRITER = """
import sys
from pathlib import Path
from agent.hydfs.core.block import Record, RecordEntry, chain
from agent.hydfs.shell.store import Store
store = Store(Path(sys.argv[1]), reserve_bytes=0, on_crash=sys.exit, segment_bytes=200_000)
store.start()
offset, crc = 0, 0
for number in range(1_000_000):
    data = (b"%08d" % number) * (12_000 if number % 20 == 0 else 100)
    crc = chain(data, crc)
    record = Record(offset, len(data), crc, "w", number, 1)
    store.submit(RecordEntry(("id1", 0), "f", "s", record, None), data,
                 lambda code, number=number: print(number, flush=True))
    offset += len(data)
    if number % 7 == 0:
        store.write(RecordEntry(("id2", 0), "g", "s", Record(0, 0, 0, "", 0, 0), None))
"""


@pytest.mark.parametrize("acks", [1, 60, 300])
def test_what_was_acknowledged_survives_sigkill(tmp_path: Path, acks: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    ) as process:
        assert process.stdout is not None
        last = -1
        for line in process.stdout:
            last = int(line)
            if last >= acks:
                break
        process.kill()
        rest = process.stdout.read().splitlines()
    if rest and rest[-1].isdigit():
        last = max(last, *(int(line) for line in rest[:-1] if line), last)
    store = opened(tmp_path)
    try:
        data = contents(store)
        numbers = expected_numbers(data)
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > last, f"record {last} was acknowledged, {len(numbers)} are there"
    finally:
        store.stop()


def expected_numbers(data: bytes) -> list[int]:
    """Returns the numbers of the writer's records, after checking that each is complete."""
    found, offset = [], 0
    while offset < len(data):
        number = int(data[offset : offset + 8])
        whole = (b"%08d" % number) * (12_000 if number % 20 == 0 else 100)
        assert data[offset : offset + len(whole)] == whole
        found.append(number)
        offset += len(whole)
    return found


def test_a_torn_tail_is_cut_and_the_open_copies_are_doubtful(tmp_path: Path) -> None:
    store = opened(tmp_path)
    append(store, b"one")
    append(store, b"two")
    store.stop()
    (segment,) = (tmp_path / "journal").glob("*.log")
    with open(segment, "ab") as file:
        file.write(LAYOUT.record(pack_entry(DroppedEntry(KEY)) + bytes(100))[:50])
    store = opened(tmp_path)
    assert contents(store) == b"onetwo"
    assert store.index[KEY].doubtful
    store.stop()
    store = opened(tmp_path)  # the doubtful state itself is durable
    assert store.index[KEY].doubtful
    store.stop()


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_doubt_for_which_there_is_no_room_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The torn tail was cut off, but the disk is too full to record that, so the store does not start."""
    store = opened(tmp_path)
    append(store, b"one")
    store.stop()
    (segment,) = (tmp_path / "journal").glob("*.log")
    with open(segment, "ab") as file:
        file.write(LAYOUT.record(pack_entry(DroppedEntry(KEY)) + bytes(100))[:50])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename", no_room)
        full = Store(tmp_path, reserve_bytes=0, on_crash=fail)
        with pytest.raises(DiskFull, match="No space left"):
            full.start()
        full.stop()
    store = opened(tmp_path)
    assert store.index[KEY].doubtful
    store.stop()
    assert not (tmp_path / "journal" / "torn").exists()


def test_a_journal_that_cannot_be_shortened_for_want_of_room_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(tmp_path, segment_bytes=2000)
    with monkeypatch.context() as patch:
        patch.setattr(disk, "rename", no_room)
        for _ in range(20):
            append(store, b"x" * 200)
        assert list((tmp_path / "journal").glob("*.new")) == []
    for _ in range(20):
        append(store, b"y" * 200)
    store.stop()
    (segment,) = (tmp_path / "journal").glob("*.log")
    assert int(segment.stem) > 1, "it is shortened once there is room"
    store = opened(tmp_path)
    assert contents(store) == b"x" * 4000 + b"y" * 4000
    store.stop()


def damage(folder: Path, place: Callable[[int], int]) -> None:
    (segment,) = folder.glob("*.log")
    data = bytearray(segment.read_bytes())
    data[place(len(data))] ^= 0x10
    segment.write_bytes(data)


def test_a_flipped_bit_in_the_middle_is_reported(tmp_path: Path) -> None:
    store = opened(tmp_path)
    for number in range(10):
        append(store, b"record %d" % number)
    store.stop()
    damage(tmp_path / "journal", lambda size: size // 2)
    broken = Store(tmp_path, reserve_bytes=0, on_crash=fail)
    with pytest.raises(Corrupt, match="good records behind"):
        broken.start()


def test_a_flipped_bit_at_the_end_is_a_torn_tail(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.recover(lambda body: None)
    journal.append([FIRST, SECOND])
    journal.close()
    damage(tmp_path, lambda size: size - 1)
    found: list[bytes] = []
    journal = Journal(tmp_path)
    journal.recover(found.append)
    journal.close()
    assert found == [FIRST]
    assert journal.torn


def test_segments_are_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    store = opened(tmp_path, segment_bytes=4000)
    data = b""
    for number in range(60):
        piece = b"%04d" % number * 60
        append(store, piece)
        data += piece
    store.stop()
    (segment,) = (tmp_path / "journal").glob("*.log")
    assert int(segment.stem) > 2
    store = opened(tmp_path)
    assert contents(store) == data
    store.stop()


def test_a_received_block_is_whole_or_not_there(tmp_path: Path) -> None:
    store = opened(tmp_path)
    part = store.receive(KEY)
    part.write(b"abc")
    with pytest.raises(Corrupt):
        part.finish("f", 3, 1)
    with pytest.raises(NotFound):
        store.slice(KEY, 0, 3)
    part = store.receive(KEY)
    part.write(b"abc")
    part.finish("f", 3, chain(b"abc", 0))
    assert contents(store) == b"abc"
    store.stop()
    (tmp_path / "blocks" / "id1.0").write_bytes(b"abd")
    store = opened(tmp_path)
    with pytest.raises(Corrupt, match="checksum"):
        store.slice(KEY, 0, 3)
    assert KEY not in store.index
    store.stop()


def test_nothing_is_written_behind_a_refused_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    append(store, b"abc")
    codes: queue.SimpleQueue[str] = queue.SimpleQueue()

    def submit(data: bytes, offset: int) -> str:
        record = Record(offset, len(data), chain(data, 0), "w", offset, 1)
        store.submit(RecordEntry(KEY, "f", "s", record, None), data, codes.put)
        return codes.get(timeout=10.0)

    with monkeypatch.context() as patched:
        patched.setattr(store, "free_bytes", lambda: 2)
        assert submit(b"def", 3) == "DISK_FULL"
        assert submit(b"gh", 6) == "DISK_FULL"  # a smaller one in progress, for which there is room
    assert submit(b"ijk", 8) == "DISK_FULL"
    assert store.index[KEY].length == 3
    store.write(DroppedEntry(KEY))
    append(store, b"abc")  # a new copy starts from nothing
    store.stop()


def test_an_entry_that_is_not_valid_is_set_aside_and_does_not_end_the_store(tmp_path: Path) -> None:
    """The entry may have been a promise, so open copies take no more records; no file is removed either."""
    store = opened(tmp_path)
    append(store, b"one")
    store.stop()
    journal = Journal(tmp_path / "journal")
    journal.recover(lambda body: None)
    invalid: bytes = msgpack.packb(["promise", "id9", -1, "g"])
    journal.append([invalid])
    journal.close()
    (tmp_path / "blocks" / "id9.0").write_bytes(b"bytes of a block")
    store = opened(tmp_path)
    assert store.refused_entries == 1
    assert (store.index[KEY].state, store.index[KEY].doubtful) == ("promised", True)
    assert contents(store) == b"one"
    quarantine = tmp_path / "quarantine"
    assert (quarantine / "entry.1").read_bytes() == invalid
    assert (quarantine / "id9.0").read_bytes() == b"bytes of a block"
    store.stop()
    store = opened(tmp_path)
    assert store.refused_entries == 0, "the new journal does not have it"
    assert store.index[KEY].state == "promised"
    store.stop()


def test_a_copy_whose_file_is_gone_is_damaged(tmp_path: Path) -> None:
    store = opened(tmp_path)
    append(store, b"one")
    store.write(SealedEntry(KEY, "f", 3, chain(b"one", 0)))
    (tmp_path / "blocks" / "id1.0").unlink()
    with pytest.raises(Corrupt):
        store.slice(KEY, 0, 3)
    assert KEY not in store.index
    store.stop()
