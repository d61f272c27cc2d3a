"""The store on five healthy nodes: files are created, appended to, read and deleted; mistakes are refused."""

from __future__ import annotations

import io
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest

from agent.common.errors import AlreadyExists, Conflict, NameInvalid, NotFound, ProtocolError, UsageError
from agent.hydfs.client import HydfsClient
from tests.integration.hydfs_cluster import HydfsCluster
from tests.support import PATIENCE_S, REPOSITORY, wait_until

pytestmark = pytest.mark.integration
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def five() -> Iterator[HydfsCluster]:
    """A cluster that the tests share, because none of them harms it; each uses its own file names."""
    with HydfsCluster(5, membership=True) as found:
        found.start()
        yield found


@pytest.fixture
def cluster(five: HydfsCluster) -> Iterator[HydfsCluster]:
    yield five
    five.hang_up()


def _check_what_tasks_may(task: HydfsClient) -> None:
    assert bytes(task.read("a/b.csv", 0, 100)) == b"hello world"
    wishes: list[Callable[[], object]] = [
        lambda: task.append("a/b.csv", b"!", writer="v", sequence=1),
        lambda: task.create("b"),
        lambda: task.delete("a/b.csv"),
        lambda: task.delete_prefix("a"),
        lambda: task.list(""),
    ]
    for wish in wishes:
        with pytest.raises(ProtocolError):
            wish()


def test_create_append_read_delete(cluster: HydfsCluster) -> None:
    one, other = cluster.hydfs("vm1"), cluster.hydfs("vm4", local=True)
    assert one.create("a/b.csv").length == 0
    with pytest.raises(AlreadyExists):
        other.create("a/b.csv")
    first = one.append("a/b.csv", b"hello ", writer="w", sequence=0)
    second = other.append("a/b.csv", b"world", writer="w", sequence=5, if_offset=6)
    assert (first.offset, first.copies, second.offset, second.length) == (0, 3, 6, 5)
    again = one.append("a/b.csv", b"world", writer="w", sequence=5, if_offset=6)
    assert (again.offset, again.length, again.duplicate) == (6, 5, True)
    assert one.append("a/b.csv", b"hello ", writer="w", sequence=0).duplicate
    with pytest.raises(Conflict) as conflict:
        one.append("a/b.csv", b"!", writer="v", sequence=0, if_offset=3)
    assert conflict.value.details["length"] == 11
    assert bytes(other.read("a/b.csv", 0, 100)) == b"hello world"
    assert bytes(other.read("a/b.csv", 4, 3)) == b"o w"
    assert bytes(other.read("a/b.csv", 11, 5)) == b""
    _check_what_tasks_may(cluster.hydfs("vm4", local=True, socket="task/hydfs"))
    stat = other.stat("a/b.csv")
    assert stat.length == 11
    assert len(set(stat.blocks[0].replicas)) == 3
    assert [found.name for found in one.list("a/")] == ["a/b.csv"]
    assert any(block.name == "a/b.csv" for block in one.store(stat.blocks[0].replicas[1]))
    one.delete("a/b.csv")
    for ask in (lambda: other.stat("a/b.csv"), lambda: other.read("a/b.csv", 0, 1)):
        with pytest.raises(NotFound):
            ask()
    with pytest.raises(NotFound):
        other.append("a/b.csv", b"late", writer="w", sequence=9)
    other.create("a/b.csv")
    assert bytes(one.read("a/b.csv", 0, 100)) == b""
    assert one.append("a/b.csv", b"new", writer="w", sequence=0).offset == 0
    assert bytes(one.read("a/b.csv", 0, 100)) == b"new"

    def old_blocks_gone() -> bool:
        return not any(block.file_id == stat.file_id for node in cluster.names for block in one.store(node))

    wait_until(old_blocks_gone, PATIENCE_S, "the deleted file's blocks are gone")


def test_bad_input_is_refused(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm2")
    for name in ("", "../x", "a//b", "nul\0", "x" * 300, "a/./b"):
        with pytest.raises(NameInvalid):
            client.put(name, io.BytesIO(b"x"))
    client.put("taken", io.BytesIO(b"x"))
    with pytest.raises(AlreadyExists):
        client.put("taken", io.BytesIO(b"y"))
    with pytest.raises(NotFound):
        client.get("missing", io.BytesIO())
    with pytest.raises(NotFound):
        client.append("missing", b"x", writer="w", sequence=0)
    with pytest.raises(UsageError):
        client.append("taken", b"x" * (2 * MIB + 1), writer="w", sequence=0)
    with pytest.raises(UsageError):
        client.append("taken", b"", writer="w", sequence=0)
    with pytest.raises(UsageError):
        client.store("vm9")


def test_put_then_append_spans_blocks(cluster: HydfsCluster) -> None:
    client = cluster.hydfs("vm3", local=True)
    data = random.Random(7).randbytes(20 * MIB + 12345)
    stat = client.put("big", io.BytesIO(data))
    assert [block.length for block in stat.blocks] == [8 * MIB, 8 * MIB, 4 * MIB + 12345]
    piece = random.Random(8).randbytes(2 * MIB)
    for sequence in range(6):
        assert client.append("big", piece, writer="w", sequence=sequence).offset == len(data)
        data += piece
    sink = io.BytesIO()
    assert cluster.hydfs("vm5").get("big", sink) == len(data)
    assert sink.getvalue() == data
    stat = client.stat("big")
    assert stat.length == len(data)
    assert bytes(client.read("big", 8 * MIB - 10, 20, file_id=stat.file_id)) == data[8 * MIB - 10 :][:20]
    cluster.check_copies(stat, data)
    client.put("empty", io.BytesIO(b""))
    assert client.stat("empty").length == 0
    assert client.delete_prefix("b") == 1


def test_one_of_two_puts_wins_and_a_dead_put_leaves_nothing(cluster: HydfsCluster) -> None:
    class Held(io.RawIOBase):
        """A source that shows its first piece and then waits."""

        def __init__(self) -> None:
            self.shown, self.release = threading.Event(), threading.Event()

        def read(self, size: int = -1) -> bytes:
            if not self.shown.is_set():
                self.shown.set()
                return b"x" * 1000
            self.release.wait(30)
            raise OSError("the source broke")

    source = Held()
    caught: list[BaseException] = []

    def work() -> None:
        try:
            cluster.hydfs("vm1").put("one", source)  # type: ignore[arg-type]
        except OSError as error:
            caught.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    assert source.shown.wait(PATIENCE_S)

    def second_is_refused() -> bool:
        try:
            cluster.hydfs("vm2").put("one", io.BytesIO(b"second"))
        except AlreadyExists:
            return True
        return False

    assert second_is_refused()
    with pytest.raises(NotFound):
        cluster.hydfs("vm2").stat("one")
    source.release.set()
    thread.join(PATIENCE_S)
    assert caught
    assert cluster.hydfs("vm2").put("one", io.BytesIO(b"second")).length == 6


def test_a_second_agent_on_the_same_folder_is_refused(cluster: HydfsCluster) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "agent", "hydfs", "--config", str(cluster.config_path("vm1"))],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=REPOSITORY,
        check=False,
    )
    assert second.returncode == 1
    assert "ALREADY_RUNNING" in second.stderr
    cluster.hydfs("vm1").create("still-works")
