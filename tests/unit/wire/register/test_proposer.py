"""The voter's log: what survives a reopening, a torn tail, a flipped bit, a SIGKILL; and real voters."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import AlreadyExists, Corrupt, DiskFailed, DiskFull, NoMajority
from agent.common.register import Accept, Prepare, Read, Slot
from agent.wire.client import Client, Target
from agent.wire.register import store as register_store
from agent.wire.register.proposer import Registers, handlers
from agent.wire.register.store import RegisterStore
from agent.wire.server import Server
from tests.support import REPOSITORY, wait_until


def fill(path: Path, count: int = 5) -> None:
    store = RegisterStore(path)
    for index in range(count):
        assert store.apply(Prepare(f"file/{index}", (index + 1, "p"))).ok
        assert store.apply(Accept(f"file/{index}", (index + 1, "p"), {"n": index})).ok
    store.close()


def test_promises_and_values_survive_a_reopening(tmp_path: Path) -> None:
    path = tmp_path / "registers.log"
    fill(path)
    store = RegisterStore(path)
    assert store.slot("file/3") == Slot((4, "p"), (4, "p"), {"n": 3})
    assert not store.apply(Prepare("file/3", (4, "p"))).ok
    assert not store.apply(Accept("file/3", (3, "z"), "late")).ok
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
        assert store.apply(Accept("file/1", (2, "p"), "again")).ok
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
        assert store.apply(Accept(f"file/{index % 3}", (index, "p"), "x" * 100)).ok
    assert path.stat().st_size < 20_000
    store.close()
    reopened = RegisterStore(path)
    assert [reopened.slot(f"file/{index}").accepted[0] for index in range(3)] == [237, 238, 239]
    reopened.close()


def test_a_full_disk_refuses_a_vote_and_the_next_one_has_a_whole_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "registers.log"
    fill(path, 1)
    store, write = RegisterStore(path), os.write
    for room in (0, 7):

        def write_some(file: int, data: bytes, room: int = room) -> int:
            if not room:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(file, data[:room])

        monkeypatch.setattr(os, "write", write_some)
        with pytest.raises(DiskFull):
            store.apply(Prepare("file/1", (1, "p")))
        monkeypatch.undo()
        assert store.slot("file/1") == Slot(), "what is not durable is not remembered either"
    assert store.apply(Prepare("file/1", (2, "p"))).ok
    store.close()
    reopened = RegisterStore(path)
    assert reopened.slot("file/1") == Slot((2, "p"))
    reopened.close()


def test_a_failed_flush_is_a_failure_and_never_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(file: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    store = RegisterStore(tmp_path / "registers.log")
    monkeypatch.setattr(os, "fdatasync", fail)
    with pytest.raises(DiskFailed):
        store.apply(Prepare("file", (1, "p")))
    assert store.slot("file") == Slot()
    store.close()


def test_a_log_that_cannot_be_rewritten_for_want_of_room_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, slots: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "registers.log"
    monkeypatch.setattr(register_store, "REWRITE_BYTES_MIN", 256)
    monkeypatch.setattr(register_store, "write_log", full)
    store = RegisterStore(path)
    for ballot in range(1, 200):
        assert store.apply(Prepare("file", (ballot, "p"))).ok
    store.close()
    reopened = RegisterStore(path)
    assert reopened.slot("file").promised == (199, "p")
    reopened.close()


WRITE_FOR_EVER = """
import sys
from pathlib import Path
from agent.common.register import Accept
from agent.wire.register.store import RegisterStore
store = RegisterStore(Path(sys.argv[1]))
for counter in range(1, 1_000_000):
    assert store.apply(Accept("file", (counter, "p"), "x" * (counter % 300))).ok
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


class Voters:
    """Three real voters on Unix sockets."""

    def __init__(self, folder: Path) -> None:
        self.stores = [RegisterStore(folder / f"v{index}.log") for index in range(3)]
        self.targets: dict[str, Target] = {}
        self.servers: list[Server] = []
        for index, store in enumerate(self.stores):
            server = Server(f"v{index}", handlers(store, "view"))
            path = str(folder / f"v{index}.sock")
            server.listen_unix(path)
            self.servers.append(server)
            self.targets[f"v{index}"] = path

    def close(self) -> None:
        for server in self.servers:
            server.stop()
        for store in self.stores:
            store.close()


@pytest.fixture
def voters() -> Iterator[Voters]:
    with tempfile.TemporaryDirectory(prefix="rs-") as folder:
        found = Voters(Path(folder))
        yield found
        found.close()


def test_many_threads_change_one_register_and_nothing_is_lost(voters: Voters) -> None:
    client = Client(None)
    proposers = [Registers(f"p{index}", "view", client, voters.targets) for index in range(3)]

    def work(proposer: Registers, name: str) -> None:
        for number in range(10):
            mine = f"{name}.{number}"

            def change(value: Any, mine: str = mine) -> Any:
                ids = value or []
                return ids if mine in ids else [*ids, mine]

            assert mine in proposer.change("r", change, timeout_s=20.0)

    threads = [
        threading.Thread(target=work, args=(proposer, f"{index}.{turn}"))
        for index, proposer in enumerate(proposers)
        for turn in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(40)
    found = proposers[0].read("r")
    assert len(found) == len(set(found)) == 60
    assert proposers[0].keys("") == ["r"]
    for proposer in proposers:
        proposer.close()
    client.close()


def test_a_refusal_comes_back_and_without_a_majority_it_says_so(voters: Voters) -> None:
    client = Client(None)
    proposer = Registers("p", "view", client, voters.targets)

    def create(value: Any) -> Any:
        if value is not None:
            raise AlreadyExists("it exists")
        return "mine"

    assert proposer.change("r", create) == "mine"
    with pytest.raises(AlreadyExists):
        proposer.change("r", create)
    voters.servers[0].stop()
    assert proposer.read("r") == "mine"
    assert proposer.change("s", create) == "mine"
    voters.servers[1].stop()
    with pytest.raises(NoMajority):
        proposer.change("t", create, timeout_s=3.0)
    with pytest.raises(NoMajority):
        proposer.read("r", timeout_s=3.0)
    proposer.close()
    client.close()


def test_a_value_that_is_known_is_not_sent_again_and_a_newer_one_is(
    voters: Voters, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(None)
    writer, reader = (Registers(name, "view", client, voters.targets) for name in ("p", "q"))
    sent: list[bool] = []
    call = Client.call

    def counting(*arguments: Any, **options: Any) -> Any:
        found = call(*arguments, **options)
        if arguments[2] == "view.read":
            sent.append("value" in found.fields)
        return found

    monkeypatch.setattr(Client, "call", counting)
    for value in ("first", "second"):
        writer.change("r", lambda _, value=value: value)  # type: ignore[misc]
        assert [reader.read("r") for _ in range(3)] == [value] * 3
    wait_until(lambda: len(sent) == 18, 5.0, "all voters have answered")
    assert sent.count(True) <= 3 * 2 + 2, "of each value once from each voter, and answers that came late"
    reader.close()
    writer.close()
    client.close()
