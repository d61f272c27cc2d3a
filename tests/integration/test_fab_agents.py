"""Single agents of a running cluster: killed, started, restarted; and the reports of ``verify`` meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ops.cluster.connections import Connections, connected
from ops.local.cluster import SERVICES
from tests.integration.cluster import NO_SPARES, Sandbox, shared
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NAMES = ["vm1", "vm2", "vm3"]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A cluster for all tests; each test restarts the agents that it kills."""
    with shared(request, tmp_path_factory.mktemp("agents"), len(NAMES), **NO_SPARES) as place:
        yield place


def agents(place: Sandbox, node: str) -> dict[str, int]:
    """Returns the process id of each agent of a node."""
    found = {each.pid: each.process.cmdline() for each in place.cluster.processes(node)}
    return {words[3]: pid for pid, words in found.items() if words[2:3] == ["agent"]}


def owed(connections: Connections, *nodes: str) -> int:
    """Returns how many blocks lack a copy, or may, according to these nodes."""
    health = [connections.hydfs(node).health() for node in nodes]
    return sum(each.under_replicated + each.waiting for each in health)


def test_agents_are_killed_started_and_restarted(running: Sandbox) -> None:
    assert running.fab("verify", "--wait", "60").status == 0
    before = agents(running, "vm2")
    assert sorted(before) == sorted(SERVICES)
    dry = running.fab("kill-agent", "--vm", "2", "--service", "hydfs", "--dry-run")
    assert (dry.status, dry.out) == (0, "would send SIGKILL to hydfs of vm2\n")
    assert agents(running, "vm2") == before
    assert running.fab_json("kill-agent", "--vm", "2", "--service", "hydfs")["node"] == "vm2"
    again = running.fab("kill-agent", "--vm", "2", "--service", "hydfs")
    assert again.status == 3
    assert "fab start-agent --vm 2 --service hydfs" in again.err
    unsettled = running.fab("verify")
    assert unsettled.status == 4
    assert "vm2: view up, membership up, hydfs down" in unsettled.err
    assert running.fab("start-agent", "--vm", "2", "--service", "hydfs").status == 0
    settled = running.fab_json("verify", "--wait", "60")
    assert settled["settled"] is True
    assert settled["status"]["under_replicated"] == 0

    before = agents(running, "vm3")
    assert running.fab("restart-agent", "--vm", "3", "--service", "logs").status == 0
    after = agents(running, "vm3")
    assert sorted(after) == sorted(SERVICES)
    assert [service for service in SERVICES if after[service] != before[service]] == ["logs"]
    refused = running.fab("start-agent", "--vm", "3", "--service", "logs")
    assert refused.status == 1
    assert "[ALREADY_RUNNING]" in refused.err


def test_appends_go_on_with_a_store_less_than_copies_are_wanted(running: Sandbox) -> None:
    """New blocks avoid a store that is down on a live machine; otherwise each would be sealed in turn."""
    # A store whose disk is still new seals open blocks that it should have, which would be counted here.
    assert running.fab("verify", "--wait", "60").status == 0
    with connected(running.inventory()) as connections:
        connections.prefer("vm1")
        files = connections.hydfs()
        files.create("log")
        assert files.append("log", b"three\n", writer="test", sequence=1).copies == 3
        assert running.fab("kill-agent", "--vm", "3", "--service", "hydfs").status == 0
        assert files.append("log", b"two\n", writer="test", sequence=2).copies == 2
        blocks = len(files.stat("log").blocks)
        assert files.append("log", b"still two\n", writer="test", sequence=3).copies == 2
        assert len(files.stat("log").blocks) == blocks <= 4
        wait_until(lambda: owed(connections, "vm1", "vm2"), PATIENCE_S, "a third copy is owed")
        assert running.fab("start-agent", "--vm", "3", "--service", "hydfs").status == 0
        wait_until(
            lambda: not running.fab("verify").status, PATIENCE_S, "three stores serve and hold every block"
        )
        assert all(len(block.replicas) == 3 for block in files.stat("log").blocks)
        files.create("later")
        assert files.append("later", b"three again\n", writer="test", sequence=1).copies == 3


def test_the_courses_line_runs(running: Sandbox) -> None:
    rows = b"error,1\nerror,2\nok,3\nwarn,an error\n"
    assert running.fab("put", "-", "logs.csv", stdin=rows).status == 0
    ended = running.fab("rainstorm", "2 3 Filter error Count 0 logs.csv out.txt true true 1000 0.2 0.8")
    assert ended.status == 0
    assert "note: autoscaling is not supported yet" in ended.err
    output = running.fab("get", "out.txt", "-").out
    assert sorted(output.splitlines()) == ["error,2", "warn,1"]
