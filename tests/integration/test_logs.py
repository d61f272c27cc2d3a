"""The logs agents of a local cluster: searches equal to grep's own, logs read and kept through crashes."""

from __future__ import annotations

import gzip
import os
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import UsageError
from agent.logs.messages import StartSearch
from ops.cluster import inventory
from ops.cluster.connections import Connections, connected
from ops.logs.follow import Following, Lines
from ops.logs.grep import ClusterSearch, NodeResult
from ops.machine import processes
from tests.integration.cluster import Sandbox
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NODES = ("vm1", "vm2", "vm3")
SETTINGS = {"logs": {"collect_interval_s": 0.1, "collect_delay_s": 0.1}, "rainstorm": {"spare_tasks": 0}}
# With this many back references grep tries every way to cut a line.
CATASTROPHE = r"^(.*)(.*)(.*)\3\2\1.\2..\3..\1$"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    place = Sandbox(tmp_path_factory.mktemp("logs"), **SETTINGS)
    try:
        place.cluster.up(len(NODES))
        yield place
    finally:
        place.cluster.down()


@pytest.fixture
def connections(running: Sandbox) -> Iterator[Connections]:
    with connected(running.inventory()) as found:
        yield found


def folder(running: Sandbox, node: str) -> Path:
    return running.cluster.layout.node_folder(node) / "logs"


def search(
    connections: Connections, nodes: Sequence[str] = NODES, *, collected: bool = False, **query: Any
) -> tuple[dict[str, bytes], dict[str, NodeResult]]:
    """Returns each node's output and result."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in query.items()}
    wanted = StartSearch(**{"search": "-", **fields, "pattern": query["pattern"].encode()})
    found = ClusterSearch(connections, nodes, wanted, collected=collected)
    output = dict.fromkeys(nodes, b"")
    for piece in found:
        output[piece.node] += piece.data
    if found.refused is not None:
        raise found.refused
    return output, {result.node: result for result in found.results}


def own_grep(path: Path, options: Sequence[str], pattern: str) -> bytes:
    """Returns grep's own output for one file, under its name."""
    command = ["grep", "-a", "-H", f"--label={path.name}", *options, "-e", pattern, "-"]
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, input=data, capture_output=True, env=environment, check=False).stdout


def awkward(rng: random.Random, lines: int) -> bytes:
    """Returns lines with every possible byte, very long ones, empty ones, and no line end at the end."""
    words = [
        b"error",
        b"Error",
        b"\xff\xfe",
        b"\0",
        b"\r",
        b"h\xc3\xa9",
        b"--",
        b"w:1:",
        b"awk.log-3-",
        b"",
        b" ",
    ]
    made = [b" ".join(rng.choices(words, k=rng.randrange(8))) for _ in range(lines)]
    made.insert(rng.randrange(lines), b"x" * 300_000 + b"error")
    made.append(b"error at the end")
    return b"\n".join(made)


@pytest.mark.parametrize(
    ("options", "pattern", "fields"),
    [
        ([], "error", {}),
        (["-i", "-n"], "ERROR", {"ignore_case": True, "line_numbers": True}),
        (["-v", "-c"], "error", {"invert": True, "count": True}),
        (["-F", "-n", "-C2"], "w:1:", {"fixed": True, "line_numbers": True, "context": 2}),
        (["-E", "-B1", "-A0"], "(Error|\\xff)$", {"extended": True, "before": 1, "after": 0}),
        (["-m3"], "--", {"max_count": 3}),
        (["-n", "-v", "-m", "40"], "^$", {"line_numbers": True, "invert": True, "max_count": 40}),
    ],
)
def test_a_search_prints_what_grep_prints(
    running: Sandbox,
    connections: Connections,
    seed: int,
    options: list[str],
    pattern: str,
    fields: dict[str, Any],
) -> None:
    names = ("awk.log.2.gz", "awk.log.1", "awk.log")
    for node in NODES:
        rng = random.Random(f"{seed}/{node}")
        for name in names:
            data = awkward(rng, 800)
            (folder(running, node) / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    output, results = search(connections, pattern=pattern, files=["awk.log*"], **fields)
    separator = b"--\n" if any(option[:2] in ("-A", "-B", "-C") for option in options) else b""
    for node in NODES:
        parts = [own_grep(folder(running, node) / name, options, pattern) for name in names]
        assert output[node] == separator.join(part for part in parts if part)
        assert results[node].complete
        assert results[node].files == len(names)
        assert results[node].lines == output[node].count(b"\n") > 0


def test_what_is_no_log_is_not_read_and_limits_are_named(
    running: Sandbox, connections: Connections, tmp_path: Path
) -> None:
    logs = folder(running, "vm1")
    (tmp_path / "secret").write_text("secret word\n")
    (logs / "link.log").symlink_to(tmp_path / "secret")
    os.mkfifo(logs / "pipe.log")
    letters = random.Random(1).choices("abcdefghij", k=2000)
    (logs / "slow.log").write_text("".join(letters) + "\n")
    output, results = search(connections, ["vm1"], pattern="secret word", files=["link.log", "pipe.log"])
    assert (output["vm1"], results["vm1"].files) == (b"", 0)

    _, results = search(
        connections, ["vm1"], pattern=CATASTROPHE, extended=True, files=["slow.log"], time_limit_s=0.5
    )
    assert results["vm1"].problems == ["cut after 0.5 s"]
    output, results = search(connections, ["vm2"], pattern="", files=["awk.log*"], output_bytes_max=5000)
    assert len(output["vm2"]) <= 5000
    assert output["vm2"].endswith(b"\n")
    assert "bytes of output" in results["vm2"].problems[0]
    for bad in ({"pattern": "\\("}, {"pattern": "x", "files": ["../node.yml"]}, {"pattern": "x" * 1_000_000}):
        with pytest.raises(UsageError):
            search(connections, **bad)
    _, results = search(connections, ["vm1"], pattern="root", system=["/etc/passwd"])
    assert "FORBIDDEN" in results["vm1"].state
    # A grep that was cut is gone.
    wait_until(lambda: not greps(running, "vm1"), PATIENCE_S, "no grep is left")


def greps(running: Sandbox, node: str) -> list[int]:
    return [each.pid for each in running.cluster.processes(node) if each.process.name() == "grep"]


def test_fab_grep_ends_like_grep(running: Sandbox) -> None:
    for node in NODES:
        (folder(running, node) / "day.log").write_bytes(
            b"".join(b"2026-11-20T10:%02d:00Z %s word\n" % (m, node.encode()) for m in range(0, 60, 10))
        )
    ended = running.fab(
        "grep",
        "-n",
        "word",
        "--files",
        "day.log",
        "--since",
        "2026-11-20T10:20",
        "--until=2026-11-20T10:40",
        "--merge",
    )
    assert ended.status == 0
    assert ended.out.splitlines() == [
        f"{node}:day.log:{number}:2026-11-20T10:{minute}:00Z {node} word"
        for number, minute in ((3, 20), (4, 30))
        for node in sorted(NODES, key=ended.out.index)
    ]
    assert ended.err.splitlines()[-1].split()[:4] == ["total", "6", "6", "3"]
    assert running.fab("grep", "no such word", "--files", "day.log").status == 1
    refused = running.fab("grep", "-E", "(", "--vm", "1")
    assert (refused.status, "[USAGE]" in refused.err) == (2, True)
    found = running.fab_json("grep", "vm2 word", "--files", "day.log", "-c")
    assert [each["matches"] for each in found["nodes"]] == [0, 6, 0]


class Restarter:
    """Kills a node's logs agent and starts it again."""

    def __init__(self, running: Sandbox, node: str) -> None:
        self._layout = running.cluster.layout
        self._running = running
        self._node = node

    def kill(self) -> None:
        for each in self._running.cluster.processes(self._node):
            if each.process.cmdline()[2:4] == ["agent", "logs"]:
                each.process.kill()
                each.process.wait(PATIENCE_S)

    def start(self) -> None:
        config, log = self._layout.config_path(self._node), self._layout.log_path(self._node, "logs")
        command = [sys.executable, "-m", "agent", "logs", "--config", str(config)]
        processes.start(command, self._layout.folder, self._node, log, inventory.REPOSITORY)


class Writer:
    """Appends numbered lines to a log and rotates it by renaming."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.written: list[str] = []

    def write(self, count: int) -> None:
        first = len(self.written)
        lines = [
            f"2026-11-20T10:00:00Z line {number:06d} {'x' * (number % 300)}"
            for number in range(first, first + count)
        ]
        with self.path.open("a") as file:
            file.write("".join(f"{line}\n" for line in lines))
        self.written += lines

    def rotate(self) -> None:
        for number in range(40, 0, -1):
            older = Path(f"{self.path}.{number}")
            if older.exists():
                older.rename(f"{self.path}.{number + 1}")
        self.path.rename(f"{self.path}.1")


def collected(connections: Connections, node: str, log: str) -> list[str]:
    hydfs = connections.hydfs()
    stats = sorted(hydfs.list(f".logs/{node}/{log}/"), key=lambda each: each.name)
    data = b"".join(bytes(hydfs.read(stat.name, 0, stat.length)) for stat in stats if stat.length)
    return data.decode().splitlines()


def test_following_and_collecting_lose_and_repeat_nothing(
    running: Sandbox, connections: Connections, seed: int
) -> None:
    rng = random.Random(seed)
    writer, agent = Writer(folder(running, "vm2") / "app.log"), Restarter(running, "vm2")
    following = Following(connections, ["vm2"], files=["app.log*"], tail=0, since=0.0, follow=True)
    followed: list[str] = []
    done = threading.Event()

    def read() -> None:
        for item in following:
            if isinstance(item, Lines):
                followed.extend(item.data.decode().splitlines())
            if done.is_set():
                return

    writer.write(10)
    reader = threading.Thread(target=read, name="test-follow")
    reader.start()
    pause = threading.Event()
    try:
        wait_until(
            lambda: len(collected(connections, "vm2", "app.log")) == 10,
            PATIENCE_S,
            "the first lines are collected",
        )
        for _ in range(4):
            agent.kill()
            agent.start()
            for _ in range(rng.randrange(3, 8)):
                writer.write(rng.randrange(1, 400))
                if rng.random() < 0.4:
                    writer.rotate()
                pause.wait(rng.random() * 0.3)  # the agent may die at any moment of its work
        wait_until(
            lambda: len(collected(connections, "vm2", "app.log")) >= len(writer.written),
            PATIENCE_S,
            "all is collected",
        )
        wait_until(lambda: len(followed) >= len(writer.written), PATIENCE_S, "all was followed")
    finally:
        done.set()
        writer.write(1)
        reader.join(PATIENCE_S)
        agent.kill()  # this test started it, not the cluster
    kept = collected(connections, "vm2", "app.log")
    for what, lines in (("collected", kept), ("followed", followed)):
        wanted = Counter(writer.written[:-1])
        found = Counter(line for line in lines if line != writer.written[-1])
        assert found == wanted, (
            f"{what}: lost {list(wanted - found)[:3]}, more than once {list(found - wanted)[:3]}"
        )
        assert lines[: len(writer.written) - 1] == writer.written[:-1], f"{what}: out of order"


def test_a_dead_node_is_named_and_searched_in_its_collection(
    running: Sandbox, connections: Connections
) -> None:
    Writer(folder(running, "vm3") / "last.log").write(50)
    wait_until(
        lambda: len(collected(connections, "vm3", "last.log")) == 50, PATIENCE_S, "the lines are collected"
    )
    running.cluster.crash("vm3")
    ended = running.fab("grep", "line 00004", "--files", "last.log")
    assert ended.status == 4
    assert "vm3: down, searched its collected logs" in ended.err
    assert len(ended.out.splitlines()) == 10
    assert all(line.startswith("vm3:last.log:2026") for line in ended.out.splitlines())
    again = running.fab("grep", "-c", "line", "--collected", "--vm", "3", "--files", "last.log")
    assert (again.status, again.out) == (0, "vm3:last.log:50\n")
