"""The local cluster and ``fab`` on it, as a user meets them: every day, when things break, with bad input."""

from __future__ import annotations

import io
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import NameInvalid
from ops.cluster.connections import connected
from ops.local.cluster import SERVICES
from tests.integration.cluster import FAB, Ended, Sandbox
from tests.support import wait_until

pytestmark = pytest.mark.integration

NODES = 3


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A place for a cluster; whatever was started there is stopped."""
    place = Sandbox(tmp_path)
    yield place
    place.cluster.down()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster that tests share which leave it as it was."""
    place = Sandbox(tmp_path_factory.mktemp("shared"))
    try:
        place.cluster.up(NODES)
        place.wait_rested()
        yield place
    finally:
        place.cluster.down()


def _refused(ended: Ended, code: str, status: int, *words: str) -> None:
    """Checks that a command ended with one clear error: three lines, its code, its exit status."""
    lines = ended.err.strip().splitlines()
    assert ended.status == status, ended
    assert f"[{code}]" in lines[0], ended
    assert lines[-1].startswith("  next: "), ended
    assert len(lines) == 3, ended
    assert "Traceback" not in ended.err
    assert not ended.out
    for word in words:
        assert word in ended.err, ended


# Up and down


def test_up_status_down_and_up_again_with_the_old_data(sandbox: Sandbox) -> None:
    assert sandbox.fab("local.up", "--nodes", "3").status == 0
    found = sandbox.fab_json("status")["status"]
    assert [node["state"] for node in found["nodes"]] == ["up"] * NODES
    assert all(node["services"] == dict.fromkeys(SERVICES, True) for node in found["nodes"])
    assert found["leader"] in ("vm1", "vm2", "vm3")
    assert found["majority"] is True
    assert sandbox.fab("put", "-", "a/kept", stdin=b"acked\n").status == 0
    dry = sandbox.fab_json("local.down", "--wipe", "--dry-run")["would"]
    assert str(sandbox.folder) in dry
    assert all(node["state"] == "up" for node in sandbox.fab_json("status")["status"]["nodes"])
    ended = sandbox.fab("local.down")
    assert ended.status == 0
    assert "12 agents stopped" in ended.out
    assert sandbox.cluster.processes() == []
    again = sandbox.fab("local.down")
    assert (again.status, "nothing to stop" in again.out) == (0, True)
    _refused(sandbox.fab("status"), "NOT_RUNNING", 3, "fab local.up")

    assert sandbox.fab("local.up").status == 0
    assert sandbox.fab("get", "a/kept", "-").out == "acked\n"
    sandbox.cluster.down()
    assert sandbox.fab("local.up", "--nodes", "3", "--fresh").status == 0
    _refused(sandbox.fab("get", "a/kept", "-"), "NOT_FOUND", 1)
    assert sandbox.fab("local.down", "--wipe").status == 0
    assert not list(sandbox.folder.glob("vm*"))


def test_a_second_up_is_refused_and_harmless(running: Sandbox) -> None:
    before = [each.pid for each in running.cluster.processes()]
    agents = running.cluster.layout.state_path.read_bytes()
    _refused(running.fab("local.up", "--nodes", "5"), "ALREADY_RUNNING", 1, "fab local.down")
    assert set(before) <= {each.pid for each in running.cluster.processes()}
    assert running.cluster.layout.state_path.read_bytes() == agents


@pytest.mark.parametrize(("kind", "name"), [(socket.SOCK_STREAM, "TCP"), (socket.SOCK_DGRAM, "UDP")])
def test_a_port_in_use_is_named_before_anything_changes(
    sandbox: Sandbox, kind: socket.SocketKind, name: str
) -> None:
    peer = sandbox.cluster.layout.peers(NODES)[1]
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind((peer.address, peer.membership_port))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        ended = sandbox.fab("local.up", "--nodes", "3")
    _refused(ended, "PORT_IN_USE", 1, f"{peer.address}:7100", name, f"process {os.getpid()}")
    assert sandbox.cluster.processes() == []
    assert not list(sandbox.folder.glob("vm*"))


def test_other_voters_cannot_take_the_data_over(sandbox: Sandbox) -> None:
    sandbox.cluster.up(1)
    sandbox.cluster.down()
    _refused(sandbox.fab("local.up", "--nodes", "3"), "CONFLICT", 1, "--fresh")
    _refused(sandbox.fab("local.up", "--nodes", "-3"), "CONFIG_INVALID", 2)
    assert sandbox.cluster.names() == ["vm1"]


def test_an_agent_that_cannot_start_is_shown_with_its_log(sandbox: Sandbox) -> None:
    sandbox.cluster.layout.prepare(1)
    (sandbox.folder / "gossip.key").write_text("not a key\n")
    ended = sandbox.fab("local.up", "--nodes", "1")
    assert ended.status != 0
    assert "gossip.key" in ended.err
    assert "membership@vm1" in ended.err
    assert sandbox.cluster.processes() == []


def test_an_interrupted_up_leaves_nothing_running(sandbox: Sandbox) -> None:
    with sandbox.start([FAB, "local.up", "--nodes", "3"]) as starting:
        wait_until(lambda: sandbox.cluster.processes(), 20, "a first agent")
        starting.send_signal(signal.SIGINT)
        assert starting.wait(20) != 0
    assert sandbox.cluster.processes() == []


# Broken nodes


def test_crash_pause_and_down_of_a_half_dead_cluster(sandbox: Sandbox) -> None:
    cluster = sandbox.cluster
    cluster.up(NODES)
    ended = sandbox.fab("fault.crash", "--vm", "3")
    assert ended.status == 0, ended
    assert cluster.processes("vm3") == []
    _refused(sandbox.fab("fault.crash", "--vm", "3"), "NOT_RUNNING", 3)
    wait_until(lambda: _state(sandbox, "vm3") == "down", 15, "the view shows vm3 down")
    found = sandbox.fab_json("status")["status"]
    assert found["nodes"][2]["services"] == dict.fromkeys(SERVICES, False)
    _refused(sandbox.fab("fault.start", "--vm", "1"), "ALREADY_RUNNING", 1)
    assert sandbox.fab("fault.start", "--vm", "vm03").status == 0
    wait_until(lambda: _state(sandbox, "vm3") == "up", 15, "the view shows vm3 up")

    assert sandbox.fab("fault.pause", "--vm", "2").status == 0
    assert all(each.process.status() == "stopped" for each in cluster.processes("vm2"))
    found = sandbox.fab_json("status")["status"]
    assert found["nodes"][1]["services"] == dict.fromkeys(SERVICES, False)
    assert sandbox.fab("fault.resume", "--vm", "2").status == 0
    wait_until(lambda: _state(sandbox, "vm2") == "up", 15, "the view shows vm2 up")

    # One agent killed, one node paused, the book-keeping lost: down still finds everything.
    cluster.processes("vm1")[0].process.kill()
    cluster.pause("vm3")
    cluster.layout.state_path.unlink()
    assert sandbox.fab("local.down").status == 0
    assert cluster.processes() == []


def _state(sandbox: Sandbox, node: str) -> str:
    return sandbox.cluster.members("vm1").view.nodes[node].state


# Files


def test_put_get_append_ls_store_list_delete(running: Sandbox, tmp_path: Path) -> None:
    data = bytes(range(256)) * 5000
    local = tmp_path / "data"
    local.write_bytes(data)
    assert running.fab("put", str(local), "f/data").status == 0
    assert running.fab("append", str(local), "f/data").status == 0
    back = tmp_path / "back"
    assert running.fab("get", "f/data", str(back)).status == 0
    assert back.read_bytes() == data + data
    stat = running.fab_json("ls", "f/data")
    assert stat["file"]["length"] == 2 * len(data)
    assert sorted(stat["file"]["blocks"][0]["replicas"]) == ["vm1", "vm2", "vm3"]
    assert set(stat["ring_ids"]) == {"vm1", "vm2", "vm3"}
    stored = running.fab_json("store", "--vm", "2")
    assert "f/data" in str(stored["blocks"]) or stat["file"]["file_id"] in str(stored["blocks"])
    assert [each["name"] for each in running.fab_json("list", "--prefix", "f/")["files"]] == ["f/data"]
    assert running.fab("delete", "f/data").status == 0
    assert running.fab_json("list", "--prefix", "f/")["files"] == []
    _refused(running.fab("get", "f/data", str(tmp_path / "gone")), "NOT_FOUND", 1)


def test_members_are_listed_by_ring_id(running: Sandbox) -> None:
    rings = [each["ring_id"] for each in running.fab_json("list-mem-ids")["members"]]
    assert rings == sorted(rings)
    assert len(rings) == NODES
    assert {each["state"] for each in running.fab_json("members")["members"]} == {"alive"}


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../b", "..", "a//b", "/a", "x" * 300, "bell\x07", "line\nbreak", "é" * 128]
)
def test_a_bad_name_is_refused(running: Sandbox, tmp_path: Path, name: str) -> None:
    local = tmp_path / "data"
    local.write_bytes(b"data")
    before = running.fab_json("list")["files"]
    _refused(running.fab("put", str(local), name), "NAME_INVALID", 2)
    assert running.fab_json("list")["files"] == before


def test_a_name_with_nul_is_refused(running: Sandbox) -> None:
    # No command line can carry a NUL; a program can.
    with connected(running.inventory()) as connections:
        with pytest.raises(NameInvalid):
            connections.hydfs().put("a\0b", io.BytesIO(b"data"))
        assert [each for each in connections.hydfs().list("") if "\0" in each.name] == []


def test_an_existing_name_is_refused_and_keeps_its_bytes(running: Sandbox) -> None:
    assert running.fab("put", "-", "once", stdin=b"first").status == 0
    _refused(running.fab("put", "-", "once", stdin=b"second"), "ALREADY_EXISTS", 1)
    assert running.fab("get", "once", "-").out == "first"
    assert running.fab("delete", "once").status == 0


@pytest.mark.parametrize("command", [("get", "no/such", "{local}"), ("ls", "no/such"), ("delete", "no/such")])
def test_a_missing_name_is_refused(running: Sandbox, tmp_path: Path, command: tuple[str, ...]) -> None:
    local = tmp_path / "local"
    words = [word.format(local=local) for word in command]
    _refused(running.fab(*words), "NOT_FOUND", 1, "no/such")
    assert not list(tmp_path.iterdir())


def test_appending_to_a_missing_name_is_refused(running: Sandbox) -> None:
    _refused(running.fab("append", "-", "no/such", stdin=b"data"), "NOT_FOUND", 1, "no/such")
    _refused(running.fab("append", "-", "no/such"), "NOT_FOUND", 1, "no/such")
    assert running.fab_json("list", "--prefix", "no/")["files"] == []


def test_local_files_are_not_overwritten(running: Sandbox, tmp_path: Path) -> None:
    assert running.fab("put", "-", "g", stdin=b"new").status == 0
    local = tmp_path / "mine"
    local.write_bytes(b"mine")
    _refused(running.fab("get", "g", str(local)), "ALREADY_EXISTS", 1, "--force")
    assert local.read_bytes() == b"mine"
    assert running.fab("get", "g", str(local), "--force").status == 0
    assert local.read_bytes() == b"new"
    _refused(running.fab("put", str(tmp_path / "absent"), "h"), "NOT_FOUND", 1, "absent")
    assert running.fab("delete", "g").status == 0


# Words of a command line


def test_what_is_only_asked_for_is_not_done(running: Sandbox) -> None:
    keys = running.fab_json("keys.list")["keys"]
    assert keys[0]["in_use"] in running.fab("keys.rotate", "--dry-run").out
    assert running.fab_json("keys.list")["keys"] == keys
    assert running.fab("drop", "--percent", "100", "--dry-run").status == 0
    assert "of its datagrams" not in running.fab("verify", "--wait", "20").err


def test_an_unknown_node_is_refused(running: Sandbox) -> None:
    _refused(running.fab("store", "--vm", "9"), "NOT_FOUND", 1, "vm1, vm2, vm3")
    _refused(running.fab("kill-task", "--vm", "9"), "NOT_FOUND", 1, "vm1, vm2, vm3")
    _refused(running.fab("kill-task"), "USAGE", 2, "--vm 3")
    _refused(running.fab("kill-task", "--vm", "3"), "NOT_FOUND", 1, "fab list-tasks")


def test_a_wrong_inventory_is_refused(running: Sandbox, tmp_path: Path) -> None:
    _refused(running.fab("status", "--inventory", str(tmp_path / "absent")), "CONFIG_INVALID", 2)


def test_a_cluster_of_which_nothing_answers(running: Sandbox, tmp_path: Path) -> None:
    text = running.cluster.layout.inventory_path.read_text()
    quiet = tmp_path / "inventory"
    for port in ("7100", "7101", "7102", "7103"):
        text = text.replace(f"_port: {port}", "_port: 1")
    quiet.write_text(text)
    _refused(running.fab("status", "--inventory", str(quiet)), "UNREACHABLE", 3)
    _refused(running.fab("list", "--inventory", str(quiet)), "UNREACHABLE", 3)
    _refused(running.fab("jobs", "--inventory", str(quiet)), "UNREACHABLE", 3)


JOB = """
name: bad
source: {file: input}
stages: [{operator: identity, tasks: 1}]
sink: {file: output}
"""


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (JOB.replace("identity", "identify"), "did you mean 'identity'"),
        (JOB.replace("source: {file: input}\n", ""), "source"),
        (JOB.replace("tasks: 1", "tasks: -1"), "-1"),
        (JOB.replace("tasks: 1", "tasks: many"), "many"),
        ("- a list", "mapping"),
        ("a: [", "YAML"),
    ],
)
def test_a_bad_job_file_is_refused(running: Sandbox, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "job.yml"
    path.write_text(text)
    before = running.fab_json("jobs")["jobs"]
    ended = running.fab("submit-job", "--job", str(path))
    _refused(ended, "JOB_INVALID", 2, says)
    assert running.fab_json("jobs")["jobs"] == before


def test_a_job_on_a_missing_file_is_refused(running: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    path.write_text(JOB)
    _refused(running.fab("submit-job", "--job", str(path)), "NOT_FOUND", 1, "input")
    _refused(running.fab("submit-job", "--job", str(tmp_path / "absent.yml")), "JOB_INVALID", 2, "absent.yml")
    assert running.fab_json("list", "--prefix", "output")["files"] == []


def test_an_unknown_job_is_refused(running: Sandbox) -> None:
    _refused(running.fab("job", "nothing"), "NOT_FOUND", 1, "fab jobs")
    _refused(running.fab("cancel-job", "nothing"), "NOT_FOUND", 1, "fab jobs")
