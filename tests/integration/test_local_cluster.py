"""A running local cluster and ``fab``, as a user sees them: in daily use, and with bad input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.common.errors import NameInvalid
from ops.cluster.connections import connected
from tests.integration.cluster import NO_SPARES, Sandbox, check_refused, shared
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NODES = 3


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster that is shared by tests that do not change it."""
    with shared(request, tmp_path_factory.mktemp("shared"), NODES, **NO_SPARES) as place:
        yield place


def names(running: Sandbox) -> list[str]:
    """Returns the names of all files except collected logs, which appear by themselves."""
    with connected(running.inventory()) as connections:
        return [stat.name for stat in connections.hydfs().list("") if not stat.name.startswith(".logs/")]


def jobs(running: Sandbox) -> list[str]:
    """Returns the names of all jobs."""
    with connected(running.inventory()) as connections:
        return [job.job for job in connections.rainstorm().jobs()]


def test_a_second_up_is_refused_and_harmless(running: Sandbox) -> None:
    before = [each.pid for each in running.cluster.processes()]
    agents = running.cluster.layout.state_path.read_bytes()
    check_refused(running.fab("local.up", "--nodes", "5"), "ALREADY_RUNNING", 1, "fab local.down")
    assert set(before) <= {each.pid for each in running.cluster.processes()}
    assert running.cluster.layout.state_path.read_bytes() == agents


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
    check_refused(running.fab("get", "f/data", str(tmp_path / "gone")), "NOT_FOUND", 1)


def test_members_are_listed_by_ring_id(running: Sandbox) -> None:
    rings = [each["ring_id"] for each in running.fab_json("list-mem-ids")["members"]]
    assert rings == sorted(rings)
    assert len(rings) == NODES
    # A busy machine may have one suspected for a moment.
    wait_until(lambda: states(running) == {"alive"}, PATIENCE_S, "all are alive")


def states(running: Sandbox) -> set[str]:
    return {each["state"] for each in running.fab_json("members")["members"]}


@pytest.mark.parametrize(
    "name", ["../etc/passwd", "a/../b", "..", "a//b", "/a", "x" * 300, "bell\x07", "line\nbreak", "é" * 128]
)
def test_a_bad_name_is_refused(running: Sandbox, tmp_path: Path, name: str) -> None:
    local = tmp_path / "data"
    local.write_bytes(b"data")
    before = names(running)
    check_refused(running.fab("put", str(local), name), "NAME_INVALID", 2)
    assert names(running) == before


def test_a_name_with_nul_is_refused(running: Sandbox) -> None:
    # No command line can carry a NUL; a program can.
    with connected(running.inventory()) as connections:
        with pytest.raises(NameInvalid):
            connections.hydfs().put("a\0b", io.BytesIO(b"data"))
        assert [each for each in connections.hydfs().list("") if "\0" in each.name] == []


def test_an_existing_name_is_refused_and_keeps_its_bytes(running: Sandbox) -> None:
    assert running.fab("put", "-", "once", stdin=b"first").status == 0
    check_refused(running.fab("put", "-", "once", stdin=b"second"), "ALREADY_EXISTS", 1)
    assert running.fab("get", "once", "-").out == "first"
    assert running.fab("delete", "once").status == 0


@pytest.mark.parametrize("command", [("get", "no/such", "{local}"), ("ls", "no/such"), ("delete", "no/such")])
def test_a_missing_name_is_refused(running: Sandbox, tmp_path: Path, command: tuple[str, ...]) -> None:
    local = tmp_path / "local"
    words = [word.format(local=local) for word in command]
    check_refused(running.fab(*words), "NOT_FOUND", 1, "no/such")
    assert not list(tmp_path.iterdir())


def test_appending_to_a_missing_name_is_refused(running: Sandbox) -> None:
    check_refused(running.fab("append", "-", "no/such", stdin=b"data"), "NOT_FOUND", 1, "no/such")
    check_refused(running.fab("append", "-", "no/such"), "NOT_FOUND", 1, "no/such")
    assert not [name for name in names(running) if name.startswith("no/")]


def test_local_files_are_not_overwritten(running: Sandbox, tmp_path: Path) -> None:
    assert running.fab("put", "-", "g", stdin=b"new").status == 0
    local = tmp_path / "mine"
    local.write_bytes(b"mine")
    check_refused(running.fab("get", "g", str(local)), "ALREADY_EXISTS", 1, "--force")
    assert local.read_bytes() == b"mine"
    assert running.fab("get", "g", str(local), "--force").status == 0
    assert local.read_bytes() == b"new"
    check_refused(running.fab("put", str(tmp_path / "absent"), "h"), "NOT_FOUND", 1, "absent")
    assert running.fab("delete", "g").status == 0


# Words of a command line


def test_what_is_only_asked_for_is_not_done(running: Sandbox) -> None:
    keys = running.fab_json("keys.list")["keys"]
    assert keys[0]["in_use"] in running.fab("keys.rotate", "--dry-run").out
    assert running.fab_json("keys.list")["keys"] == keys
    assert running.fab("drop", "--percent", "100", "--dry-run").status == 0
    assert "of its datagrams" not in running.fab("verify", "--wait", "20").err


def test_an_unknown_node_is_refused(running: Sandbox) -> None:
    check_refused(running.fab("store", "--vm", "9"), "NOT_FOUND", 1, "vm1, vm2, vm3")
    check_refused(running.fab("kill-task", "--vm", "9"), "NOT_FOUND", 1, "vm1, vm2, vm3")
    check_refused(running.fab("kill-task"), "USAGE", 2, "--vm 3")
    check_refused(running.fab("kill-task", "--vm", "3"), "NOT_FOUND", 1, "fab list-tasks")


def test_a_wrong_inventory_is_refused(running: Sandbox, tmp_path: Path) -> None:
    check_refused(running.fab("status", "--inventory", str(tmp_path / "absent")), "CONFIG_INVALID", 2)


def test_a_cluster_of_which_nothing_answers(running: Sandbox, tmp_path: Path) -> None:
    text = running.cluster.layout.inventory_path.read_text()
    quiet = tmp_path / "inventory"
    for port in ("7100", "7101", "7102", "7103"):
        text = text.replace(f"_port: {port}", "_port: 1")
    quiet.write_text(text)
    check_refused(running.fab("status", "--inventory", str(quiet)), "UNREACHABLE", 3)
    check_refused(running.fab("list", "--inventory", str(quiet)), "UNREACHABLE", 3)
    check_refused(running.fab("jobs", "--inventory", str(quiet)), "UNREACHABLE", 3)


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
    before = jobs(running)
    ended = running.fab("submit-job", "--job", str(path))
    check_refused(ended, "JOB_INVALID", 2, says)
    assert jobs(running) == before


def test_a_job_on_a_missing_file_is_refused(running: Sandbox, tmp_path: Path) -> None:
    path = tmp_path / "job.yml"
    path.write_text(JOB)
    check_refused(running.fab("submit-job", "--job", str(path)), "NOT_FOUND", 1, "input")
    check_refused(
        running.fab("submit-job", "--job", str(tmp_path / "absent.yml")), "JOB_INVALID", 2, "absent.yml"
    )
    assert not [name for name in names(running) if name.startswith("output")]


def test_an_unknown_job_is_refused(running: Sandbox) -> None:
    check_refused(running.fab("job", "nothing"), "NOT_FOUND", 1, "fab jobs")
    check_refused(running.fab("cancel-job", "nothing"), "NOT_FOUND", 1, "fab jobs")
