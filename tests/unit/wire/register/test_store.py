"""The log of a voter: reopening, torn tails, flipped bits, full disks, kills and power cuts."""

from __future__ import annotations

import errno
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import Corrupt, DiskFailed, DiskFull, Overloaded, RecordTooLarge, Unavailable
from agent.common.register import Accept, Prepare, Read, Slot
from agent.common.shell import seam
from agent.wire.codec import register_log
from agent.wire.register import store as register_store
from agent.wire.register.store import RegisterStore, write_log
from tests.simulation.machine.disk import Fault, MachineDisk
from tests.simulation.machine.powercut import power_cuts
from tests.support import REPOSITORY


def fill(path: Path, count: int = 5) -> None:
    store = RegisterStore(path)
    for index in range(count):
        assert store.apply(Prepare(f"file/{index}", (index + 1, "p"))).voted
        assert store.apply(Accept(f"file/{index}", (index + 1, "p"), {"n": index})).voted
    store.close()


def test_promises_and_values_survive_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "registers.log"
    fill(path)
    store = RegisterStore(path)
    assert store.slot("file/3") == Slot((4, "p"), (4, "p"), {"n": 3})
    assert not store.apply(Prepare("file/3", (4, "p"))).voted
    assert not store.apply(Accept("file/3", (3, "z"), "late")).voted
    assert store.apply(Read("file/3")).value == {"n": 3}
    assert store.keys("file/") == [f"file/{index}" for index in range(5)]
    assert store.keys("other") == []
    store.close()


def test_a_torn_tail_is_cut_off_at_every_length(tmp_path: Path) -> None:
    whole = tmp_path / "whole.log"
    fill(whole, 1)
    store = RegisterStore(whole)
    store.apply(Prepare("file/1", (2, "p")))
    good = whole.stat().st_size
    store.apply(Accept("file/1", (2, "p"), {"n": 1}))
    store.close()
    data = whole.read_bytes()
    for size in range(good, len(data)):
        torn = tmp_path / f"torn-{size}.log"
        torn.write_bytes(data[:size])
        store = RegisterStore(torn)
        assert store.slot("file/1") == Slot((2, "p"), (0, ""), None), "the promise, not yet the value"
        assert store.slot("file/0").value == {"n": 0}
        assert store.apply(Accept("file/1", (2, "p"), "again")).voted
        store.close()
        reopened = RegisterStore(torn)
        assert reopened.slot("file/1").value == "again"
        reopened.close()


def test_a_flipped_bit_before_good_records_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "registers.log"
    fill(path)
    data = bytearray(path.read_bytes())
    data[12] ^= 4
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="damaged at byte 0"):
        RegisterStore(path)


def test_the_log_is_rewritten_and_keeps_what_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_store, "REWRITE_BYTES_MIN", 4096)
    path = tmp_path / "registers.log"
    store = RegisterStore(path)
    for index in range(1, 240):
        assert store.apply(Accept(f"file/{index % 3}", (index, "p"), "x" * 100)).voted
    assert path.stat().st_size < 20_000
    store.close()
    reopened = RegisterStore(path)
    assert [reopened.slot(f"file/{index}").accepted[0] for index in range(3)] == [237, 238, 239]
    reopened.close()


@pytest.fixture
def machine(seed: int) -> Iterator[MachineDisk]:
    """A simulated disk of two pages."""
    found = MachineDisk(random.Random(seed), capacity_bytes=2 * 4096)
    with seam.use(seam.Seam(disk=found.process("p"))):
        yield found


def test_a_full_disk_refuses_a_vote_and_the_next_one_has_a_whole_log(machine: MachineDisk) -> None:
    path = Path("/registers.log")
    fill(path, 1)
    store = RegisterStore(path)
    with pytest.raises(DiskFull):
        store.apply(Accept("file/1", (1, "p"), "x" * 10_000))
    assert store.slot("file/1") == Slot(), "a change that is not durable is not remembered either"
    assert store.apply(Prepare("file/1", (2, "p"))).voted
    machine.crash("everything")
    with seam.use(seam.Seam(disk=machine.process("q"))):
        reopened = RegisterStore(path)
        assert reopened.slot("file/1") == Slot((2, "p"))
        reopened.close()


def test_promises_without_a_value_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that keeps preparing new names must not fill the memory and the disk of a voter."""
    monkeypatch.setattr(register_store, "VALUELESS_MAX", 3)
    path = tmp_path / "registers.log"
    fill(path, 5)
    for life in range(2):
        store = RegisterStore(path)
        for number in range(3):
            assert store.apply(Prepare(f"junk{number}", (life + 1, "p"))).voted
        size = path.stat().st_size
        for refused in (Prepare("junk3", (1, "p")), Accept("junk4", (1, "p"), None)):
            with pytest.raises(Overloaded):
                store.apply(refused)
        assert path.stat().st_size == size
        assert store.slot("junk3") == Slot()
        assert store.apply(Prepare("file/1", (9 + life, "p"))).voted, "it has a value"
        store.close()
    store = RegisterStore(path)
    assert store.apply(Accept("junk0", (3, "p"), "x")).voted
    assert store.apply(Prepare("junk3", (1, "p"))).voted, "one has a value now"
    assert store.apply(Accept("new", (1, "p"), "x")).voted
    with pytest.raises(Overloaded):
        store.apply(Accept("new2", (1, "p"), None))
    store.close()


def test_a_failed_flush_is_a_failure_and_never_an_answer(machine: MachineDisk) -> None:
    store = RegisterStore(Path("/registers.log"))
    machine.faults = [Fault("fdatasync", error=errno.EIO)]
    with pytest.raises(DiskFailed):
        store.apply(Prepare("file", (1, "p")))
    assert store.slot("file") == Slot()
    with pytest.raises(DiskFailed, match="failed earlier"):
        store.apply(Prepare("file", (2, "p")))
    store.close()


def test_what_a_failed_sync_left_in_memory_is_durable_before_the_next_vote(machine: MachineDisk) -> None:
    """The page cache still shows the change to the next process, but no later sync of that file writes it."""
    path = Path("/registers.log")
    shown = 0
    for ballot in range(1, 21):
        with seam.use(seam.Seam(disk=machine.process("q"))):
            store = RegisterStore(path)
            machine.faults = [Fault("fdatasync", error=errno.EIO)]
            with pytest.raises(DiskFailed):
                store.apply(Prepare("file", (ballot, "p")))
            store.close()
            again = RegisterStore(path)
            found = again.slot("file")
            again.close()
        shown += found.promised == (ballot, "p")
        machine.crash("nothing")
        with seam.use(seam.Seam(disk=machine.process("r"))):
            reopened = RegisterStore(path)
            assert reopened.slot("file") == found
            reopened.close()
    assert shown, "no failed sync left anything in memory"


def test_a_log_that_cannot_be_rewritten_for_want_of_room_goes_on(
    machine: MachineDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(register_store, "REWRITE_BYTES_MIN", 256)
    machine.capacity_bytes = None
    machine.faults = [Fault("write", "*.new", error=errno.ENOSPC, times=1000)]
    path = Path("/registers.log")
    store = RegisterStore(path)
    for ballot in range(1, 500):
        assert store.apply(Prepare("file", (ballot, "p"))).voted
    store.close()
    assert machine.struck["write", errno.ENOSPC] > 10
    reopened = RegisterStore(path)
    assert reopened.slot("file").promised == (499, "p")
    reopened.close()


def test_a_store_that_was_closed_refuses_to_vote(tmp_path: Path) -> None:
    """A request that waited for a slow disk comes too late; a closed log is no fault of the disk."""
    store = RegisterStore(tmp_path / "registers.log")
    store.close()
    with pytest.raises(Unavailable, match="stopping"):
        store.apply(Prepare("r", (1, "p")))
    assert store.slot("r") == Slot()


def test_a_value_that_outgrew_the_log_is_refused_and_nothing_changes(tmp_path: Path) -> None:
    store = RegisterStore(tmp_path / "registers.log")
    store.apply(Prepare("file", (1, "p")))
    with pytest.raises(RecordTooLarge):
        store.apply(Accept("file", (1, "p"), "x" * register_log.LAYOUT.body_bytes_max))
    assert store.slot("file") == Slot((1, "p"))
    store.close()
    reopened = RegisterStore(tmp_path / "registers.log")
    assert reopened.slot("file") == Slot((1, "p"))
    reopened.close()


def test_a_good_record_far_behind_a_bad_one_is_found(tmp_path: Path) -> None:
    """Earlier, only the next 64 KiB were searched, and a longer value hid it: the log was cut off."""
    path = tmp_path / "registers.log"
    write_log(path, {"long": Slot((1, "p"), (1, "p"), "x" * 200_000), "file": Slot((7, "p"))})
    data = bytearray(path.read_bytes())
    data[1000] ^= 4
    path.write_bytes(data)
    with pytest.raises(Corrupt, match="good records behind"):
        RegisterStore(path)
    assert path.read_bytes() == data


def test_votes_survive_a_power_cut_at_every_call(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(register_store, "REWRITE_BYTES_MIN", 300)
    path = Path("/registers.log")
    answered = 0

    def vote() -> None:
        nonlocal answered
        answered = 0
        store = RegisterStore(path)
        for ballot in range(1, 40):
            assert store.apply(Accept("file", (ballot, "p"), "x" * 20 * ballot)).voted
            answered = ballot
        store.close()

    for moment in power_cuts(vote, seed=seed, lucks=2):
        store = RegisterStore(path)
        found = store.slot("file")
        store.close()
        assert answered <= found.accepted[0] <= answered + 1, str(moment)
        assert (found.value or "") == "x" * 20 * found.accepted[0], str(moment)


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from agent.common.register import Accept
from agent.wire.register.store import RegisterStore
store = RegisterStore(Path(sys.argv[1]))
for counter in range(1, 1_000_000):
    assert store.apply(Accept("file", (counter, "p"), "x" * (counter % 300))).voted
    print(counter, flush=True)
"""


def test_sigkill_in_a_write_loop_loses_nothing_that_was_answered(tmp_path: Path) -> None:
    path = tmp_path / "registers.log"
    for answers in (30, 100):
        command = [sys.executable, "-c", WRITE_FOR_EVER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY) as process:
            assert process.stdout is not None
            for _ in range(answers):
                process.stdout.readline()
            process.kill()
            lines = process.stdout.read().splitlines()
        answered = max([answers, *(int(line) for line in lines if line)])
        store = RegisterStore(path)
        assert store.slot("file").accepted[0] >= answered
        assert store.slot("file").value == "x" * (store.slot("file").accepted[0] % 300)
        store.close()
        path.unlink()
