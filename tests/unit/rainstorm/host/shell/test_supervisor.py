"""Task processes: assignment, spares, messages that are refused, processes that do not read or end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agent.common.errors import NotFound
from agent.common.shell import network
from agent.rainstorm.host.shell import supervisor as module
from agent.rainstorm.host.shell.launcherlink import LOST
from agent.rainstorm.host.shell.supervisor import Key, TaskSupervisor
from agent.rainstorm.job.header import SourceHeader
from agent.rainstorm.messages.control import Assign, EpochWanted, Snapshot, TaskMessage, Trigger
from agent.rainstorm.messages.launcher import SpawnTask
from tests.support import wait_until
from tests.unit.rainstorm.host.shell.fakelauncher import FakeLauncher

KEY = ("j-1", "0.0")
HEADER = SourceHeader(("a",), 0, 0, (), 1, "id")
ASSIGN = Assign(*KEY, 1, {}, HEADER, False, b"", 0, False, (), True, {}, (0, 0))


class Node:
    """A supervisor with a launcher that starts nothing."""

    def __init__(self, folder: Path, spares: int = 0) -> None:
        self.launcher = FakeLauncher(folder)
        self.messages: list[tuple[Key, int, TaskMessage, bytes]] = []
        self.exits: list[tuple[Key, int, str]] = []
        self.supervisor = TaskSupervisor(
            "127.0.0.1",
            "hydfs.sock",
            folder / "tasks.log",
            self.launcher.path,
            False,
            spares,
            1 << 20,
            self._take,
            lambda key, generation, cause: self.exits.append((key, generation, cause)),
        )
        self.supervisor.start()

    def _take(self, key: Key, pid: int, message: TaskMessage, payload: Any) -> None:
        self.messages.append((key, pid, message, bytes(payload)))

    def close(self) -> None:
        """Ends everything."""
        self.supervisor.stop(5.0)
        self.launcher.close()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node without spares."""
    made = Node(tmp_path)
    yield made
    made.close()


def test_a_task_gets_a_process_and_its_messages_arrive(node: Node) -> None:
    """A fresh process is never told that it has the state already."""
    node.supervisor.assign(KEY, 1, False, ASSIGN)
    node.supervisor.tell(KEY, Trigger(1, 3, 2))
    node.supervisor.tell(("j-1", "9.9"), Trigger(1, 3, 2))
    task = node.launcher.task(1)
    assert task.request == SpawnTask(1, "127.0.0.1", "hydfs.sock", 1 << 20)
    task.hello(77)
    assert task.receive().header["in_place"] is False
    assert task.receive().header == {"type": "trigger", "generation": 1, "epoch": 3, "committed": 2}
    assert node.supervisor.running() == {KEY: 77}
    snapshot = Snapshot(1, 3, 2, False, {}, False, 1, 1)
    task.send(snapshot, b"stout")
    wait_until(lambda: node.messages, 5, "the snapshot arrives")
    assert node.messages == [(KEY, 77, snapshot, b"stout")]


def test_a_process_is_kept_in_place_and_replaced_otherwise(node: Node) -> None:
    """The end of a process that was replaced is not a failure of its task."""
    node.supervisor.assign(KEY, 1, False, ASSIGN)
    first = node.launcher.task(1)
    first.hello(1)
    first.receive()
    node.supervisor.assign(KEY, 2, True, replace(ASSIGN, generation=2))
    assert first.receive().header["in_place"] is True
    node.supervisor.assign(KEY, 3, False, replace(ASSIGN, generation=3))
    second = node.launcher.task(2)
    second.hello(2)
    assert second.receive().header["generation"] == 3
    wait_until(lambda: set(node.launcher.killed) == {1}, 5, "the first process is killed")
    assert node.exits == []
    assert node.supervisor.find(None, 2)[0] == KEY


def test_a_process_that_ends_is_reported_once(node: Node) -> None:
    """The report has the generation of its assignment; a task that was killed on purpose is not reported."""
    node.supervisor.assign(KEY, 4, False, ASSIGN)
    node.launcher.task(1).hello(1)
    wait_until(lambda: node.supervisor.running() == {KEY: 1}, 5, "it has said hello")
    node.launcher.end(1, "exited with status 3")
    wait_until(lambda: node.exits, 5, "the end is reported")
    assert node.exits == [(KEY, 4, "exited with status 3")]
    node.supervisor.assign(KEY, 5, True, ASSIGN)
    node.launcher.task(2).hello(2)
    node.supervisor.kill(KEY)
    node.supervisor.kill(KEY)
    wait_until(lambda: node.launcher.killed[-1:] == [2], 5, "it is killed")
    wait_until(lambda: not node.supervisor._all, 5, "the process is forgotten")
    assert len(node.exits) == 1
    with pytest.raises(NotFound, match=r"task 0\.0 does not run here"):
        node.supervisor.find("0.0", None)
    with pytest.raises(NotFound, match="process 7 does not run here"):
        node.supervisor.find(None, 7)


@pytest.mark.parametrize(
    "header",
    [
        {"t": "no such message"},
        {"no": "tag"},
        {"t": "snapshot", "generation": 1, "epoch": []},
        {"t": "epoch-wanted", "generation": -1, "done": False},
    ],
)
def test_an_invalid_message_ends_the_process_and_names_it(node: Node, header: dict[str, Any]) -> None:
    """Nothing of it reaches the core; the cause of the end names the problem."""
    node.supervisor.assign(KEY, 1, False, ASSIGN)
    task = node.launcher.task(1)
    task.hello(1)
    task.send(EpochWanted(1, False))
    task.send_header(header)
    wait_until(lambda: node.exits, 5, "the end is reported")
    assert node.exits[0][2].startswith("sent an invalid message: ")
    assert set(node.launcher.killed) == {1}
    assert [type(message) for _, _, message, _ in node.messages] == [EpochWanted]
    assert node.supervisor.refused == 1


def test_a_process_whose_first_message_is_no_hello_ends(node: Node) -> None:
    """A hello without a process id is refused as well."""
    node.supervisor.assign(KEY, 1, False, ASSIGN)
    node.launcher.task(1).send_header({"t": "hello"})
    wait_until(lambda: node.exits, 5, "the end is reported")
    assert "pid" in node.exits[0][2]


def test_a_process_that_does_not_read_its_commands_is_killed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither a full queue nor a full socket delays the caller."""
    monkeypatch.setattr(module, "SEND_TIMEOUT_S", 0.05)
    node.supervisor.assign(KEY, 1, False, replace(ASSIGN, identity=b"x" * 3_000_000))
    node.launcher.task(1).hello(1)
    wait_until(lambda: node.exits, 5, "it is killed")
    node.supervisor.assign(KEY, 2, False, ASSIGN)
    node.launcher.task(2)
    for number in range(module.COMMANDS_MAX + 1):
        node.supervisor.tell(KEY, Trigger(2, number, 0))
    wait_until(lambda: len(node.exits) == 2, 5, "it is killed")
    assert [cause.startswith("did not take ") for _, _, cause in node.exits] == [True, True]
    assert sorted(set(node.launcher.killed)) == [1, 2]


def test_a_launcher_that_never_reports_the_end_delays_it_only(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some time the process still counts as ended."""
    monkeypatch.setattr(module, "EXIT_TIMEOUT_S", 0.05)
    node.launcher.answers = False
    node.supervisor.assign(KEY, 1, False, ASSIGN)
    task = node.launcher.task(1)
    task.hello(1)
    task.connection.close()
    wait_until(lambda: node.exits, 5, "the end is reported")
    assert node.exits == [(KEY, 1, LOST)]


def test_without_descriptors_a_task_fails_instead_of_the_agent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leader tries again, here or elsewhere."""

    def full() -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(network, "pair", full)
    node.supervisor.assign(KEY, 3, False, ASSIGN)
    assert node.exits == [(KEY, 3, "cannot be started: [Errno 24] Too many open files")]
    assert node.supervisor.running() == {}


def test_spares_are_started_ahead_used_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spares start one after the other; one that fails does not stop the others."""
    monkeypatch.setattr(module, "REFILL_DELAY_S", 0.001)
    node = Node(tmp_path, spares=2)
    try:
        first = node.launcher.task(1)
        assert 2 not in node.launcher.tasks, "the second one waits for the first"
        first.hello(11)
        node.launcher.task(2).hello(12)
        node.supervisor.assign(KEY, 1, False, ASSIGN)
        assert first.receive().header["type"] == "assign"
        node.launcher.task(3).connection.close()
        node.launcher.end(3)
        wait_until(lambda: 4 in node.launcher.tasks, 5, "a spare that ended is replaced")
        node.launcher.end(2)
        wait_until(lambda: 2 not in node.supervisor._all, 5, "the end of a spare is noticed")
        assert node.exits == []
    finally:
        node.close()


def test_a_spare_that_cannot_be_started_is_tried_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread that starts them continues."""
    monkeypatch.setattr(module, "REFILL_DELAY_S", 0.001)
    pair, failures = network.pair, [OSError(24, "Too many open files")]

    def sometimes() -> Any:
        if failures:
            raise failures.pop()
        return pair()

    monkeypatch.setattr(network, "pair", sometimes)
    node = Node(tmp_path, spares=1)
    try:
        wait_until(lambda: not failures, 5, "the first attempt fails")
        node.supervisor._refill.set()
        node.launcher.task(1).hello(1)
    finally:
        node.close()
