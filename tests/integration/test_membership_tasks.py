"""The reports of ``fab`` about the membership of a running cluster, and its switches."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.cluster import NO_SPARES, Sandbox, shared
from tests.support import PATIENCE_S, wait_until

pytestmark = pytest.mark.integration

NAMES = ["vm1", "vm2", "vm3"]


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with shared(request, tmp_path_factory.mktemp("membership"), len(NAMES), **NO_SPARES) as place:
        yield place


def all_well(running: Sandbox) -> bool:
    """Tells whether all are alive, answer, and have their services; one may be suspected for a moment."""
    found = running.fab_json("members", "--vm", "2")["members"]
    return all(
        (m["state"], m["udp"], m["tcp"]) == ("alive", True, True)
        and (m["services"]["hydfs"], m["services"]["rainstorm"]) == ("up", "up")
        for m in found
    )


def test_members_show_services_and_reachability(running: Sandbox) -> None:
    wait_until(lambda: all_well(running), PATIENCE_S, "all members and services are known to be well")
    found = running.fab_json("members", "--vm", "2")
    assert found["self"] == "vm2"
    assert found["majority"] is True
    assert [m["name"] for m in found["members"]] == NAMES
    ended = running.fab("members")
    assert ended.status == 0
    assert ended.out.splitlines()[0].split()[:6] == [
        "name",
        "address",
        "state",
        "incarnation",
        "hydfs",
        "rainstorm",
    ]
    assert "<swim, suspect>" in ended.err


def test_lists(running: Sandbox) -> None:
    assert [m["name"] for m in running.fab_json("list-self", "--vm", "3")["members"]] == ["vm3"]
    assert sorted(m["name"] for m in running.fab_json("list-mem")["members"]) == NAMES
    ring = [m["ring_id"] for m in running.fab_json("list-mem-ids")["members"]]
    assert ring == sorted(ring)
    wait_until(
        lambda: running.fab_json("display-suspects")["suspects"] == [], PATIENCE_S, "nobody is suspected"
    )
    wait_until(
        lambda: running.fab("display-suspects").err.startswith("no member is suspected"),
        PATIENCE_S,
        "it is said in words",
    )
    why = running.fab_json("why", "--node", "2")
    assert [each["observer"] for each in why["observers"]] == NAMES
    assert any(entry["what"] == "join" for entry in why["observers"][0]["history"])


def test_switches(running: Sandbox) -> None:
    assert running.fab("switch", "--detector", "heartbeat").out.startswith("<heartbeat, suspect>")
    wait_until(
        lambda: running.fab("display-protocol", "--vm", "3").out == "<heartbeat, suspect>\n",
        PATIENCE_S,
        "vm3 follows",
    )
    assert running.fab("switch", "--detector", "swim").status == 0
    for arguments in (["switch"], ["switch", "--suspicion", "maybe"], ["switch", "--detector", "phi"]):
        ended = running.fab(*arguments)
        assert (ended.status, "[USAGE]" in ended.err) == (2, True), ended
    assert running.fab("drop", "--percent", "5", "--vm", "3").status == 0
    assert "vm3 drops 5 %" in running.fab("status").err
    assert running.fab("drop", "--percent", "0").status == 0
    assert "of its datagrams" not in running.fab("status").err
    assert running.fab("drop", "--percent", "101").status == 2


def test_leave_and_join(running: Sandbox) -> None:
    assert running.fab("leave", "--vm", "3").status == 0
    wait_until(
        lambda: [n["state"] for n in running.fab_json("status")["status"]["nodes"]] == ["up", "up", "down"],
        PATIENCE_S,
        "vm3 is out of the view",
    )
    assert running.fab("join", "--vm", "3").status == 0
    wait_until(
        lambda: [n["state"] for n in running.fab_json("status")["status"]["nodes"]] == ["up"] * 3,
        PATIENCE_S,
        "vm3 is back",
    )


def test_keys(running: Sandbox) -> None:
    before = running.fab_json("keys.list")["keys"]
    done = running.fab_json("keys.rotate")
    assert done["nodes"] == NAMES
    assert done["removed"] == [before[0]["in_use"]]
    assert {entry["in_use"] for entry in running.fab_json("keys.list")["keys"]} == {done["fingerprint"]}
    assert running.cluster.layout.folder.joinpath("gossip.key").stat().st_mode & 0o777 == 0o600
