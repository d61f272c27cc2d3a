"""Root can partition the local cluster too, because each of its nodes has its own address."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.faults.loopback import LocalMachines
from ops.lab import host
from tests.integration.cluster import Sandbox
from tests.lab.sandbox import why_not
from tests.support import wait_until

pytestmark = [pytest.mark.lab, pytest.mark.timeout(120)]


def test_a_partition_of_the_local_cluster_stops_the_minority(tmp_path: Path) -> None:
    if reason := why_not():
        pytest.skip(reason)
    sandbox = Sandbox(tmp_path)
    assert sandbox.fab("local.up", "--nodes", "3").status == 0
    try:
        assert sandbox.fab("fault.partition", "--vms", "3").status == 0
        wait_until(lambda: not sandbox.cluster.members("vm3").majority, 20, "vm3 knows that it is alone")
        wait_until(lambda: _state(sandbox, "vm1", "vm3") == "down", 20, "the others have evicted vm3")
        assert sandbox.cluster.members("vm1").majority
        assert sandbox.fab("status").status == 0  # the operator is on both sides
        assert sandbox.fab("fault.heal").status == 0
        wait_until(lambda: _state(sandbox, "vm3", "vm3") == "up", 20, "vm3 is back")
        unsupported = sandbox.fab("fault.delay", "--ms", "5")
        assert (unsupported.status, "UNSUPPORTED" in unsupported.err) == (2, True)
        assert sandbox.fab("fault.loss", "--percent", "10").status == 0
        assert _rules(sandbox)
    finally:
        down = sandbox.fab("local.down")
    assert down.status == 0, down.err
    assert _rules(sandbox) == []


def _rules(sandbox: Sandbox) -> list[str]:
    prefix = LocalMachines(sandbox.inventory()).prefix
    return [line for line in host.run(["iptables", "--wait", "10", "-S"]).splitlines() if prefix in line]


def _state(sandbox: Sandbox, seen_by: str, node: str) -> str:
    entry = sandbox.cluster.members(seen_by).view.nodes.get(node)
    return entry.state if entry is not None else "unknown"
