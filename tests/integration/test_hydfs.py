"""The store on five real nodes: acknowledged appends stay, once and in order, whatever is killed."""

from __future__ import annotations

import io
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pytest

from agent.common.errors import (
    NoMajority,
    RainStormError,
)
from agent.hydfs.client import AppendResult, HydfsClient
from tests.integration.hydfs_cluster import HydfsCluster
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


@pytest.fixture
def cluster() -> Iterator[HydfsCluster]:
    with HydfsCluster(5, membership=True) as found:
        found.start()
        yield found


@dataclass
class Writer:
    """Appends numbered lines to a file from a thread, with retries, through agents that are up."""

    cluster: HydfsCluster
    name: str
    ident: str
    size: int = 200
    acked: list[tuple[int, AppendResult]] = field(default_factory=list)
    errors: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"writer-{self.ident}")
        self._thread.start()

    def line(self, sequence: int) -> bytes:
        return f"{self.ident}:{sequence}:".encode().ljust(self.size - 1, b".") + b"\n"

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        assert not self.errors, self.errors

    def reach(self, count: int) -> None:
        target = len(self.acked) + count
        wait_until(
            lambda: len(self.acked) >= target or self.errors, PATIENCE_S, f"{target} appends of {self.ident}"
        )
        assert not self.errors, self.errors

    def _run(self) -> None:
        sequence = 0
        try:
            while not self._stopping.is_set():
                self.acked.append((sequence, self._append(sequence)))
                sequence += 1
        except BaseException as error:
            self.errors.append(error)

    def _append(self, sequence: int) -> AppendResult:
        last: RainStormError | None = None
        for attempt in range(20):
            up = sorted(self.cluster.processes)
            client = self.cluster.hydfs(up[attempt % len(up)])
            try:
                return client.append(
                    self.name, self.line(sequence), writer=self.ident, sequence=sequence, timeout_s=5.0
                )
            except RainStormError as error:
                if not error.retryable:
                    raise
                last = error
        raise AssertionError(f"append {sequence} of {self.ident} keeps failing: {last!r}")


def check_history(client: HydfsClient, writers: list[Writer]) -> None:
    """H1, H2, H4, H5, H6: every acked line once, at its offset, in its writer's order."""
    stat = client.stat(writers[0].name)
    data = bytes(client.read(writers[0].name, 0, stat.length))
    assert len(data) == stat.length
    for writer in writers:
        lines = [line + b"\n" for line in data.split(b"\n") if line.startswith(f"{writer.ident}:".encode())]
        sent = [writer.line(sequence) for sequence in range(len(lines))]
        assert lines == sent, f"{writer.ident}: lines lost, doubled or out of order"
        assert len(lines) >= len(writer.acked)
        for sequence, result in writer.acked:
            if result.offset >= 0:
                line = writer.line(sequence)
                assert data[result.offset : result.offset + len(line)] == line
                assert result.length == len(line)


def three_copies(client: HydfsClient, name: str, dead: Sequence[str]) -> Callable[[], bool]:
    def holds() -> bool:
        sealed = [block for block in client.stat(name).blocks if block.state == "sealed"]
        return all(len(block.replicas) == 3 and not set(dead) & set(block.replicas) for block in sealed)

    return holds


@pytest.mark.parametrize("victims", [(0,), (1,), (0, 2)], ids=["coordinator", "replica", "both"])
def test_kill_during_appends(cluster: HydfsCluster, victims: tuple[int, ...]) -> None:
    client = cluster.hydfs("vm1")
    client.create("log")
    writers = [Writer(cluster, "log", f"w{index}") for index in range(3)]
    try:
        writers[0].reach(30)
        replicas = client.stat("log").blocks[-1].replicas
        nodes = [replicas[index] for index in victims]
        for node in nodes:
            cluster.kill(node)
        for writer in writers:
            writer.reach(30)
    finally:
        for writer in writers:
            writer.stop()
    alive = cluster.hydfs(sorted(cluster.processes)[0])
    check_history(alive, writers)
    wait_until(three_copies(alive, "log", nodes), PATIENCE_S, "three copies again, none on a dead node")
    cluster.start(*nodes)
    stat = alive.stat("log")
    data = bytes(alive.read("log", 0, stat.length))
    cluster.check_copies(stat, data)
    check_history(cluster.hydfs(nodes[0]), writers)


def test_hung_coordinator_does_not_stop_appends(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm1")
    client.create("log")
    client.append("log", b"first", writer="z", sequence=0)
    node = client.stat("log").blocks[-1].replicas[0]
    other = cluster.hydfs(next(name for name in cluster.names if name != node))
    cluster.processes[node].send_signal(signal.SIGSTOP)
    try:
        result = other.append("log", b"second", writer="z", sequence=1, timeout_s=10.0)
    finally:
        cluster.processes[node].send_signal(signal.SIGCONT)
    assert result.offset == 5
    assert result.copies == 3
    assert bytes(cluster.hydfs(node).read("log", 0, 100)) == b"firstsecond"


def test_all_nodes_killed_at_once_keep_everything(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm1")
    client.create("log")
    writer = Writer(cluster, "log", "w")
    writer.reach(50)
    writer.stop()
    client.put("file", io.BytesIO(b"y" * MIB))
    for name in list(cluster.names):
        cluster.kill(name)
    cluster.start()
    check_history(client, [writer])
    assert bytes(client.read("file", 0, 2 * MIB)) == b"y" * MIB
    assert client.append("log", b"more\n", writer="w", sequence=1000, timeout_s=20.0).copies == 3


def test_a_store_with_a_new_disk_does_not_say_that_nothing_was_written(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm1")
    marks = [cluster.data_dir(name) / "hydfs" / "new" for name in cluster.names]
    # A store whose disk is still new seals open blocks that it should have: there would be nothing to lose.
    wait_until(lambda: not any(mark.exists() for mark in marks), PATIENCE_S, "no disk is new any more")
    client.create("log")
    client.append("log", b"acknowledged", writer="w", sequence=0)
    assert [block.state for block in client.stat("log").blocks] == ["open"]
    lost, *others = client.stat("log").blocks[-1].replicas
    for name in (lost, *others):
        cluster.kill(name)
    # The voter keeps its memory here, so that the three voters that are up next have a majority.
    for part in ("blocks", "journal"):
        shutil.rmtree(cluster.data_dir(lost) / "hydfs" / part)
    cluster.start(lost)
    alive = cluster.hydfs(lost)
    with pytest.raises(RainStormError):
        alive.append("log", b"more", writer="w", sequence=1, timeout_s=3.0)
    cluster.start(*others)
    assert alive.append("log", b"more", writer="w", sequence=1, timeout_s=20.0).offset == len(b"acknowledged")
    assert bytes(alive.read("log", 0, 100)) == b"acknowledgedmore"
    wait_until(
        lambda: not (cluster.data_dir(lost) / "hydfs" / "new").exists(),
        PATIENCE_S,
        "the disk is no longer new",
    )


def test_damaged_sealed_block_is_replaced(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm1")
    stat = client.put("file", io.BytesIO(b"z" * (3 * MIB)))
    node = stat.blocks[0].replicas[0]
    path = cluster.data_dir(node) / "hydfs" / "blocks" / f"{stat.file_id}.0"
    cluster.kill(node)  # a copy is verified when it is first read after a start
    with open(path, "r+b") as file:
        file.seek(MIB)
        file.write(b"\0")
    cluster.start(node)
    assert bytes(cluster.hydfs(node).read("file", 0, 3 * MIB)) == b"z" * (3 * MIB)
    wait_until(
        lambda: path.exists() and path.read_bytes() == b"z" * (3 * MIB), PATIENCE_S, "a good copy is back"
    )


def _created(client: HydfsClient, name: str) -> bool:
    try:
        client.create(name)
    except NoMajority:
        return False
    return True


def test_copies_grow_with_the_cluster() -> None:
    with HydfsCluster(3, membership=True) as cluster:
        cluster.start("vm1", "vm2")
        client = cluster.hydfs("vm1")
        wait_until(lambda: _created(client, "log"), PATIENCE_S, "two of three voters found the cluster")
        assert client.append("log", b"two copies", writer="w", sequence=0, timeout_s=20.0).copies == 2
        cluster.start("vm3")
        wait_until(
            lambda: all(len(block.replicas) == 3 for block in client.stat("log").blocks),
            PATIENCE_S,
            "a third copy",
        )
        assert client.append("log", b"!", writer="w", sequence=1).copies == 3
        assert bytes(cluster.hydfs("vm3").read("log", 0, 100)) == b"two copies!"
