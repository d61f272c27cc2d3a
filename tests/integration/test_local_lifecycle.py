"""The local cluster goes up and down, as a user sees it: with old data, taken ports, half-dead nodes."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ops.local.cluster import SERVICES
from tests.integration.cluster import FAB, Sandbox, check_refused
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NODES = 3


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A place for a cluster; whatever was started there is stopped."""
    place = Sandbox(tmp_path)
    yield place
    place.cluster.down()


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
    check_refused(sandbox.fab("status"), "NOT_RUNNING", 3, "fab local.up")

    assert sandbox.fab("local.up").status == 0
    assert sandbox.fab("get", "a/kept", "-").out == "acked\n"
    sandbox.cluster.down()
    assert sandbox.fab("local.up", "--nodes", "3", "--fresh").status == 0
    check_refused(sandbox.fab("get", "a/kept", "-"), "NOT_FOUND", 1)
    assert sandbox.fab("local.down", "--wipe").status == 0
    assert not list(sandbox.folder.glob("vm*"))


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
    check_refused(ended, "PORT_IN_USE", 1, f"{peer.address}:7100", name, f"process {os.getpid()}")
    assert sandbox.cluster.processes() == []
    assert not list(sandbox.folder.glob("vm*"))


def test_other_voters_cannot_take_the_data_over(sandbox: Sandbox) -> None:
    sandbox.cluster.up(1)
    sandbox.cluster.down()
    check_refused(sandbox.fab("local.up", "--nodes", "3"), "CONFLICT", 1, "--fresh")
    check_refused(sandbox.fab("local.up", "--nodes", "-3"), "CONFIG_INVALID", 2)
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
        wait_until(lambda: sandbox.cluster.processes(), PATIENCE_S, "a first agent")
        starting.send_signal(signal.SIGINT)
        assert starting.wait(PATIENCE_S) != 0
    assert sandbox.cluster.processes() == []


def test_crash_pause_and_down_of_a_half_dead_cluster(sandbox: Sandbox) -> None:
    cluster = sandbox.cluster
    cluster.up(NODES)
    ended = sandbox.fab("fault.crash", "--vm", "3")
    assert ended.status == 0, ended
    assert cluster.processes("vm3") == []
    check_refused(sandbox.fab("fault.crash", "--vm", "3"), "NOT_RUNNING", 3)
    wait_until(lambda: _state(sandbox, "vm3") == "down", PATIENCE_S, "the view shows vm3 down")
    found = sandbox.fab_json("status")["status"]
    assert found["nodes"][2]["services"] == dict.fromkeys(SERVICES, False)
    check_refused(sandbox.fab("fault.start", "--vm", "1"), "ALREADY_RUNNING", 1)
    assert sandbox.fab("fault.start", "--vm", "vm03").status == 0
    wait_until(lambda: _state(sandbox, "vm3") == "up", PATIENCE_S, "the view shows vm3 up")

    assert sandbox.fab("fault.pause", "--vm", "2").status == 0
    assert all(each.process.status() == "stopped" for each in cluster.processes("vm2"))
    found = sandbox.fab_json("status")["status"]
    assert found["nodes"][1]["services"] == dict.fromkeys(SERVICES, False)
    assert sandbox.fab("fault.resume", "--vm", "2").status == 0
    wait_until(lambda: _state(sandbox, "vm2") == "up", PATIENCE_S, "the view shows vm2 up")

    # One agent killed, one node paused, the book-keeping lost: down still finds everything.
    cluster.processes("vm1")[0].process.kill()
    cluster.pause("vm3")
    cluster.layout.state_path.unlink()
    assert sandbox.fab("local.down").status == 0
    assert cluster.processes() == []


def _state(sandbox: Sandbox, node: str) -> str:
    return sandbox.cluster.members("vm1").view.nodes[node].state
